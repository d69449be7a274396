"""The frame, the tables and the look that every HTML page shares: no network, light and dark, readable on a phone and on
paper.

Colours of series are variables, and a strategy has the same one on all of a page: ``--c0`` … ``--c7`` for shapes (the
Okabe–Ito palette, which stays apart for colour-blind readers, two of them darkened to a contrast of 3 on white, and grey)
and ``--t0`` … ``--t7`` for text (a contrast of 4.5 or more on the card, as WCAG asks); in the dark both are the same,
brighter ones. ``--p0`` … ``--p7`` are other, muted ones for the parts that a bar is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

SHAPES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C68800", "#3A9CD2", "#1b1f24", "#8A8A8A")
TEXTS = ("#0072B2", "#B54F00", "#007A59", "#A8487F", "#8F6200", "#1F77A8", "#1b1f24", "#666666")
DARK = ("#4DA3E0", "#F08A3C", "#2BC79A", "#E39AC6", "#F0B429", "#7CC7F2", "#e8eaed", "#A8A8A8")
PARTS = ("#4B5D78", "#9A7FB8", "#7A6A4F", "#5F97A0", "#8F8754", "#2F3A44", "#84909E", "#6B3F69")
DARK_PARTS = ("#8FA3C4", "#C2A8E0", "#B8A582", "#93C4CB", "#CFC68C", "#D5DCE3", "#AAB6C4", "#B07CAE")
PAPER, CARD, INK, SOFT, MARK, WASH = "#fcfcfa", "#ffffff", "#1b1f24", "#5b6470", "#0072b2", "#eef5fa"
DARK_PAPER, DARK_CARD, DARK_INK = "#14171a", "#1c2024", "#e8eaed"
DARK_SOFT, DARK_MARK, DARK_WASH = "#a3adb8", "#6cb8e6", "#1d2a33"
LONG = 24
"""Letters of the name of a row beyond which it wraps."""


def _variables(shapes: tuple[str, ...], texts: tuple[str, ...], parts: tuple[str, ...]) -> str:
    return ";".join(
        f"--{kind}{i}:{c}" for kind, row in zip("ctp", (shapes, texts, parts), strict=True) for i, c in enumerate(row)
    )


STYLE = f"""html {{ color-scheme: light dark; }}
:root {{ --ink: {INK}; --soft: {SOFT}; --paper: {PAPER}; --card: {CARD}; --line: #e3e5e8; --mark: {MARK}; --wash: {WASH};
  --shade: #0003;
  {_variables(SHAPES, TEXTS, PARTS)} }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --ink: {DARK_INK}; --soft: {DARK_SOFT}; --paper: {DARK_PAPER}; --card: {DARK_CARD}; --line: #32383f;
    --shade: #000c; --mark: {DARK_MARK}; --wash: {DARK_WASH}; {_variables(DARK, DARK, DARK_PARTS)} }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }}
main {{ max-width: 980px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 15px; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); margin: 0 0 12px;
  font-weight: 600; }}
.headline {{ font-size: clamp(22px, 3.4vw, 32px); line-height: 1.3; margin: 0 0 20px; font-weight: 600; text-wrap: balance; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 15px; }}
a {{ color: var(--mark); text-underline-offset: 3px; }}
h2 {{ font-size: 20px; margin: 44px 0 6px; scroll-margin-top: 12px; }}
h3 {{ font-size: 16px; margin: 28px 0 6px; }}
p.lead {{ color: var(--soft); margin: 0 0 14px; max-width: 70ch; }}
section {{ break-inside: avoid; }}
.card {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; overflow-x: auto;
  margin-bottom: 12px; }}
.card:has(table) {{ background: linear-gradient(to right, var(--card) 30%, transparent) left / 40px 100%,
  linear-gradient(to left, var(--card) 30%, transparent) right / 40px 100%,
  linear-gradient(to right, var(--shade), transparent) left / 12px 100%,
  linear-gradient(to left, var(--shade), transparent) right / 12px 100%, var(--card);
  background-attachment: local, local, scroll, scroll, local; background-repeat: no-repeat; }}
:focus-visible {{ outline: 2px solid var(--mark); outline-offset: 2px; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }}
th, td {{ text-align: right; padding: 7px 7px; border-bottom: 1px solid var(--line); white-space: nowrap; }}
thead th {{ color: var(--soft); font-weight: 600; font-size: 13px; }}
tbody th {{ font-weight: 400; }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--card); }}
th.long {{ white-space: normal; overflow-wrap: anywhere; min-width: 12em; }}
tbody tr:last-child > * {{ border-bottom: 0; }}
td.best {{ background: var(--wash); color: var(--mark); font-weight: 700; }}
tr.best > * {{ font-weight: 600; background: var(--wash); }}
table.words th, table.words td {{ text-align: left; }}
table.words td {{ white-space: normal; overflow-wrap: anywhere; min-width: 5em; }}
table.words td:last-child {{ min-width: 12em; }} table.words th:first-child {{ white-space: normal; }}
details {{ font-size: 15px; margin: 0 0 12px; }} summary {{ color: var(--mark); cursor: pointer; }}
details dl {{ margin-top: 8px; }} .card > details {{ margin-top: 16px; }}
svg {{ width: 100%; height: auto; display: block; }}
svg text {{ fill: var(--ink); font-size: 13px; }}
svg text.tick, svg text.axis {{ fill: var(--soft); font-size: 12px; }}
svg text.name {{ font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }}
svg .grid {{ stroke: var(--line); stroke-width: 1; }}
svg .mark {{ stroke: var(--soft); stroke-width: 1.5; }}
footer {{ margin-top: 56px; padding-top: 20px; border-top: 1px solid var(--line); color: var(--soft); font-size: 14px; }}
.option {{ white-space: nowrap; }}
code {{ font: .9em/1.6 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }}
dt {{ color: var(--soft); }} dd {{ margin: 0; overflow-wrap: anywhere; }}
.names {{ display: none; flex-wrap: wrap; gap: 2px 14px; margin-top: 6px; font-size: 14px; font-weight: 600; }}
.lines .names svg {{ display: inline-block; width: 36px; margin-right: 5px; vertical-align: middle; }}
.lines:has(svg.bare) .names {{ display: flex; }}
@media (max-width: 560px) {{ svg text, svg text.tick, svg text.axis {{ font-size: 23px; }} .lines {{ overflow: hidden; }}
  .lines svg {{ width: var(--grow, 100%); }} .lines svg text.name {{ display: none; }} .names {{ display: flex; }}
  main {{ padding: 24px 14px 48px; }} .card {{ padding: 10px; }} dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom: 8px; }}
  th:first-child {{ white-space: normal; min-width: 8em; }} .words th:first-child {{ min-width: 0; }} }}
@media print {{ body {{ background: #fff; }} .card {{ border-color: #bbb; }} main {{ max-width: none; padding: 0; }}
  nav {{ display: none; }} }}
"""


def coded(text: str) -> str:
    """A sentence as HTML; what stands between backticks is code, a % stays with its number, an option is not broken."""
    text = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", escape(text, quote=False))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _whole_options(text))


def _whole_options(text: str) -> str:
    """HTML in which no line ends after the dashes of an option."""
    return re.sub(r"(?<![\w-])--[a-z][a-z-]*", r'<span class="option">\g<0></span>', text)


class Best(str):
    """A cell that is marked; as the name of a row, all of the row."""

    __slots__ = ()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, words: bool = False) -> str:
    """A card with a table. The first cell of a row is its name; ``words`` are read from the left and may wrap."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr{_mark(name)}>{_name(name)}{''.join(map(_cell, cells))}</tr>" for name, *cells in rows)
    return (
        f'<div class="card" role="region" tabindex="0" aria-label="{escape(label)}"><table{_class("words", words)}>'
        f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div>"
    )


def _class(name: str, applies: bool) -> str:
    return f' class="{name}"' if applies else ""


def _mark(text: str) -> str:
    return _class("best", isinstance(text, Best))


def _name(text: str) -> str:
    """The name of a row; a long one wraps, or it would leave no room for what the row says."""
    return f'<th scope="row"{_class("long", len(text) > LONG)}>{escape(text)}</th>'


def _cell(text: str) -> str:
    return f"<td{_mark(text)}>{escape(text)}</td>"


def section(title: str, *parts: str, lead: str = "", place: str = "") -> str:
    """A part of a page under a heading, with a sentence; ``place`` is the id that links lead to."""
    named = f' id="{place}"' if place else ""
    said = f'<p class="lead">{coded(lead)}</p>' if lead else ""
    return f'<section aria-label="{escape(title)}"><h2{named}>{escape(title)}</h2>{said}{"".join(parts)}</section>'


def page(
    title: str,
    headline: str,
    parts: Iterable[str],
    *,
    command: str,
    next_step: str = "",
    facts: Iterable[tuple[str, str]] = (),
    style: str = "",
) -> str:
    """A whole page: what was found in a sentence, its parts, what to do next, and how to make it again."""
    known = "".join(f"<dt>{escape(name)}</dt><dd>{_whole_options(escape(value))}</dd>" for name, value in facts)
    ends = [
        f"<p>{coded(next_step)}</p>" if next_step else "",
        f"<p>Repeat it:</p>\n<p><code>{_whole_options(escape(command))}</code></p>" if command else "",
        f"<dl>{known}</dl>" if known else "",
    ]
    lines = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>",
        f'<h1>{escape(title)}</h1>\n<p class="headline">{coded(headline[:1].upper() + headline[1:])}</p>',
        *parts,
        *(["<footer>", *ends, "</footer>"] if any(ends) else []),
        "</main>\n</body>\n</html>",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def contents(links: Iterable[tuple[str, str]]) -> str:
    """Ways to the parts of a page: their ids, and what they are called."""
    ways = "".join(f'<a href="#{escape(place)}">{escape(name)}</a>' for place, name in links)
    return f'<nav aria-label="Contents">{ways}</nav>'
