"""Charts as inline SVG: a few shapes that reports need, legible in light and dark, on paper and on a phone.

Colours are variables of :mod:`placement.pages`; text and axes take the page's own colour. Lines are labelled at
their end, so nobody has to look things up in a legend; names that are too long or too many for that stand below the
chart, each behind a piece of its line, where phones have them as well. Other names that have no room are cut, and whole
for who points at them. What a picture shows is also said in its label, for who cannot see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
WIDTH, HEIGHT = 720, 320
LEFT, TOP, BOTTOM = 64, 38, 54
"""Wide enough for a phone's larger letters: the unit stands above the highest tick, the axis' name below its ticks. Long
ticks take more at the left."""
TICK_LETTER = 13
"""Width of a letter of them."""
NAMES_BELOW = 24
"""Room at the right where the names of lines are below the chart."""
MAX_AT_ENDS = 240
"""More room than this names do not get at the right of a chart."""
ROW_LETTERS, HEAT_LETTERS = 38, 16
"""So many letters of a name have room on a phone above a row, and beside a row of a heat map."""
_HOST = re.compile(r"([\w-]+)(\.[\w-]+){2,}")


@dataclass(frozen=True)
class Line:
    """One series; None breaks the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def colour(i: int) -> str:
    """The i-th colour, for shapes."""
    return f"var(--c{i % COLOURS})"


def part_colour(i: int) -> str:
    """The i-th colour for parts of a bar, none of which is a series' own."""
    return f"var(--p{i % COLOURS})"


def ink(i: int) -> str:
    """The i-th colour as text can be read in."""
    return f"var(--t{i % COLOURS})"


def shortened(name: str, letters: int) -> str:
    """At most so many letters of a name. Hosts lose their domain, which is that of all; others differ at their ends.

    >>> shortened("ip-10-0-12-123.eu-central-1.compute.internal", 21)
    'ip-10-0-12-123…'
    >>> shortened("gke-prod-default-pool-1a2b3c4d-x7k2", 21)
    'gke-prod-d…b3c4d-x7k2'
    """
    if len(name) <= letters:
        return name
    host = _HOST.fullmatch(name)
    if host:
        return f"{host[1]}…" if len(host[1]) < letters else shortened(host[1], letters)
    half = (letters - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _cut(name: str, letters: int) -> str:
    """The inside of a text: so much of a name, all of it for who points at it."""
    short = shortened(name, letters)
    return escape(short) if short == name else f"<title>{escape(name)}</title>{escape(short)}"


def dashes(i: int, equal: int = 0) -> str:
    """What tells lines apart that share a colour, or that lie on ``equal`` earlier ones, which then show in the gaps."""
    if equal:
        return f' stroke-dasharray="{24 // (equal + 1)} {24 - 24 // (equal + 1)}"'
    return f' stroke-dasharray="{8 - 2 * (i // COLOURS % 3)} 4"' if i >= COLOURS else ""


def ticks(low: float, high: float, num: int = 5) -> list[tuple[float, str]]:
    """Round numbers that span a range, and how they are written: with as many decimals as their step has."""
    if high <= low:
        return [(low, _number(low))]
    rough = (high - low) / num
    power = 10.0 ** int(f"{rough:e}".split("e")[1])
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = -(-low // step) * step
    decimals = next((d for d in range(12) if abs(round(step, d) - step) < 1e-6 * step), 12)
    values = [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]
    return [(value, f"{value:,.{decimals}f}") for value in values]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _frame(title: str, said: Sequence[str], body: Sequence[str], height: int = HEIGHT, extra: str = "") -> str:
    """A picture; ``said`` is what it shows in words."""
    label = escape(f"{title}: {'; '.join(said)}" if said else title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}" preserveAspectRatio="xMidYMid meet"{extra}>'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _axes(
    xs: tuple[float, float], ys: tuple[float, float], x_label: str, y_label: str, right: float
) -> tuple[list[str], Callable[[float], float], Callable[[float], float]]:
    """Grid and names; where an x is, and a y."""
    marks = ticks(*ys)
    left = max(LEFT, 16 + TICK_LETTER * max((len(text) for _, text in marks), default=0))
    width, height = WIDTH - left - right, HEIGHT - TOP - BOTTOM
    kx, ky = width / ((xs[1] - xs[0]) or 1), height / ((ys[1] - ys[0]) or 1)

    def at_x(x: float) -> float:
        return left + (x - xs[0]) * kx

    def at_y(y: float) -> float:
        return TOP + height - (y - ys[0]) * ky

    body = []
    for tick, text in marks:
        y = at_y(tick)
        body.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in ticks(*xs, num=6):
        body.append(f'<text class="tick" x="{at_x(tick):.1f}" y="{HEIGHT - 32}" text-anchor="middle">{text}</text>')
    body.append(
        f'<text class="axis" x="{left + width / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    body.append(f'<text class="axis" x="4" y="18">{escape(y_label)}</text>')
    return body, at_x, at_y


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, y_label: str, from_zero: bool = False) -> str:
    """Lines over a common axis, each labelled at its end; below the chart where that has no room."""
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if y is not None]
    if not points:
        return ""
    xs = (min(p[0] for p in points), max(p[0] for p in points))
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    low = 0.0 if from_zero else low
    pad = (high - low) * 0.05 or 1.0
    ys = (low if from_zero else low - pad, high + pad)
    room = 16 + 8.6 * max(len(line.name) for line in lines)
    bare = room > MAX_AT_ENDS or 15 * len(lines) > HEIGHT - TOP - BOTTOM
    right = NAMES_BELOW if bare else room
    body, at_x, at_y = _axes(xs, ys, x_label, y_label, right)
    ends: list[tuple[float, int, str]] = []
    said, names = [], []
    for i, line in enumerate(lines):
        path, pen = [], "M"
        equal = sum((list(e.x), list(e.y)) == (list(line.x), list(line.y)) for e in lines[:i])
        look = f'fill="none" stroke="{colour(i)}" stroke-width="2"{dashes(i, equal)} stroke-linecap="round"'
        piece = f'<svg viewBox="0 0 36 8"><path d="M0,4H36" {look}/></svg>'
        names.append(f'<span style="color:{ink(i)}">{piece}{escape(line.name)}</span>')
        last = None
        for x, y in zip(line.x, line.y, strict=True):
            if y is None:
                pen = "M"
                continue
            last = at_y(y)
            path.append(f"{pen}{at_x(x):.1f},{last:.1f}{'h0' * (pen == 'M')}")  # one alone is a dot
            pen = "L"
        body.append(f'<path d="{"".join(path)}" {look}><title>{escape(line.name)}</title></path>')
        if last is not None:
            ends.append((last, i, line.name))
            said.append(f"{line.name} ends at {_number(next(y for y in reversed(line.y) if y is not None))}")
    grow = f' style="--grow:{100 * WIDTH / (WIDTH - right + NAMES_BELOW):.0f}%"'
    svg = (
        _frame(title, said, body, extra=' class="bare"')
        if bare
        else _frame(title, said, body + _end_labels(ends, WIDTH - right + 8), extra=grow)
    )
    return f'<div class="lines">{svg}<div class="names" aria-hidden="true">{"".join(names)}</div></div>'


def reliability_chart(title: str, points: Sequence[Sequence[float]], *, x_label: str, y_label: str) -> str:
    """A card with the line of a model, beside one whose promises are kept exactly; nothing where it has no two points."""
    if len(points) < 2:
        return ""
    x = [point[0] for point in points]
    lines = [Line("model", x, [point[1] for point in points]), Line("ideal", x, x)]
    return f'<div class="card">{line_chart(title, lines, x_label=x_label, y_label=y_label)}</div>'


def heat_map(
    title: str, names: Sequence[str], x: Sequence[float], rows: Sequence[Sequence[float | None]], *, x_label: str
) -> str:
    """One row per name, one cell per moment, the darker the higher the share (0–1); above 1 in the second colour."""
    if not names or not x:
        return ""
    left, row, top = 240, 26, 8
    width, height = WIDTH - left - 24, top + row * len(names) + 84
    step = width / len(x)
    body = []
    for i, (name, values) in enumerate(zip(names, rows, strict=True)):
        y = top + row * i
        body.append(
            f'<text class="tick" x="{left - 8}" y="{y + 18}" text-anchor="end">{_cut(name, HEAT_LETTERS)}</text>'
        )
        for j, value in enumerate(values):
            if value is None:
                continue
            fill, opacity = (colour(1), 1.0) if value > 1 else (colour(0), 0.06 + 0.94 * max(value, 0.0))
            body.append(
                f'<rect x="{left + j * step:.1f}" y="{y}" width="{step + 0.3:.1f}" height="{row - 2}" fill="{fill}" '
                f'fill-opacity="{opacity:.2f}"/>'
            )
    base = top + row * len(names)
    for tick, text in ticks(min(x), max(x), 6):
        at = left + (tick - min(x)) / ((max(x) - min(x)) or 1) * (width - step)
        body.append(f'<text class="tick" x="{at:.1f}" y="{base + 22}" text-anchor="middle">{text}</text>')
    body.append(
        f'<text class="axis" x="{left + width / 2}" y="{base + 46}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for k, (share, text) in enumerate(((0.1, "10 %"), (0.5, "50 %"), (1.0, "100 %"), (1.1, "above"))):
        fill, opacity = (colour(1), 1.0) if share > 1 else (colour(0), 0.06 + 0.94 * share)
        at = left + 120 * k
        body.append(
            f'<rect x="{at}" y="{base + 62}" width="12" height="12" fill="{fill}" fill-opacity="{opacity:.2f}"/>'
        )
        body.append(f'<text class="tick" x="{at + 18}" y="{base + 73}">{text}</text>')
    hot = {name: sum(v is not None and v > 1 for v in values) for name, values in zip(names, rows, strict=True)}
    said = [f"{name} above 100 % at {count} of {len(x)} moments" for name, count in hot.items() if count]
    return _frame(title, said or ["no node above 100 %"], body, height)


@dataclass(frozen=True)
class Spot:
    """One point of a frontier and what a reader who points at it is told."""

    x: float
    y: float
    note: str


@dataclass(frozen=True)
class Spots:
    """The points of one setting: loose ones (one a seed), and paths along one knob, joined in the order given."""

    name: str
    loose: Sequence[Spot]
    paths: Sequence[Sequence[Spot]] = ()
    """One a seed."""

    @property
    def spots(self) -> list[Spot]:
        """All of them."""
        return [*self.loose, *self.joined]

    @property
    def joined(self) -> list[Spot]:
        """Those of all paths."""
        return [spot for path in self.paths for spot in path]


def frontier_chart(title: str, groups: Sequence[Spots], *, x_label: str, y_label: str, mark_x: float) -> str:
    """Risk against cost: a dot per seed, small dots joined along a knob; a dashed line at the budget.

    Groups that share a colour differ: those after the first with it have rings and dashed lines.
    """
    points = [p for g in groups for p in g.spots]
    if not points:
        return ""
    most = max(mark_x, *(p.x for p in points))
    low, high = min(p.y for p in points), max(p.y for p in points)
    pad = (high - low) * 0.08 or 1.0
    xs, ys = (0.0, most * 1.05 or 1.0), (low - pad, high + pad)
    body, at_x, at_y = _axes(xs, ys, x_label, y_label, NAMES_BELOW)
    x, floor = at_x(mark_x), HEIGHT - BOTTOM
    body.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}" stroke-dasharray="4 4"/>')
    legend = []
    for i, group in enumerate(groups):
        look = f'fill="{colour(i)}" fill-opacity="0.75"'
        if i >= COLOURS:
            look = f'fill="var(--card)" stroke="{colour(i)}" stroke-width="1.5"'
        for spots in group.paths:
            path = "L".join(f"{at_x(p.x):.1f},{at_y(p.y):.1f}" for p in spots)
            body.append(f'<path d="M{path}" fill="none" stroke="{colour(i)}" stroke-width="1.5"{dashes(i)}/>')
        for spots, radius in ((group.joined, 2.5), (group.loose, 4.5)):
            body += [
                f'<circle cx="{at_x(p.x):.1f}" cy="{at_y(p.y):.1f}" r="{radius}" {look}>'
                f"<title>{escape(f'{group.name}: {p.note}')}</title></circle>"
                for p in spots
            ]
        y = HEIGHT + 20 + 24 * i
        legend.append(f'<circle cx="{LEFT + 4}" cy="{y - 5}" r="4" {look}/>')
        legend.append(f'<text class="tick" x="{LEFT + 16}" y="{y}">{escape(group.name)}</text>')
    said = [
        f"{g.name} {_number(min(p.x for p in spots))} to {_number(max(p.x for p in spots))} {x_label}, "
        f"{_number(min(p.y for p in spots))} to {_number(max(p.y for p in spots))} {y_label}"
        for g in groups
        if (spots := g.spots)
    ]
    return _frame(title, said, body + legend, HEIGHT + 24 * len(groups) + 12)


def _end_labels(ends: list[tuple[float, int, str]], x: float) -> list[str]:
    """Names at the right, pushed apart so that none covers another; up, where there is no room below."""
    body, below = [], -1e9
    lowest = max((y for y, _, _ in ends), default=0.0)
    crowd = sum(y > lowest - 15 for y, _, _ in ends)
    shift = max(0.0, lowest + 15 * (crowd - 1) - (HEIGHT - BOTTOM))
    for y, i, name in sorted(ends):
        at = max(min(y, HEIGHT - BOTTOM) - shift, below + 15, TOP + 6)
        below = at
        body.append(f'<text class="name" x="{x:.1f}" y="{at + 4:.1f}" style="fill:{ink(i)}">{escape(name)}</text>')
    return body


def dot_chart(
    title: str, groups: Sequence[tuple[str, Sequence[float]]], *, x_label: str, mark_x: float | None = None
) -> str:
    """One row per group, its name and mean above it, a dot per value, a bar at the mean; a dashed line at ``mark_x``."""
    values = [v for _, vs in groups for v in vs]
    if not values:
        return ""
    marks = [] if mark_x is None else [mark_x]
    low, high = min(values + marks), max(values + marks)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    left, right, row, top = 16, 24, 48, 6
    height = top + row * len(groups) + 56
    k = (WIDTH - left - right) / (high - low)
    decimals = 2 if high < 100 else 1 if high < 1000 else 0
    unit = " %" if "%" in x_label else ""
    body, said = [], []
    for tick, text in ticks(low, high, 6):
        x = left + (tick - low) * k
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 50}"/>')
        body.append(f'<text class="tick" x="{x:.1f}" y="{height - 32}" text-anchor="middle">{text}</text>')
    for at in marks:
        x = left + (at - low) * k
        body.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 50}" stroke-dasharray="4 4"/>'
        )
    for i, (name, vs) in enumerate(groups):
        y = top + row * i + 34
        body.append(f'<text class="name" x="0" y="{y - 17}">{_cut(name, ROW_LETTERS)}</text>')
        if not vs:
            continue
        for v in vs:
            body.append(
                f'<circle cx="{left + (v - low) * k:.1f}" cy="{y}" r="5" fill="{colour(i)}" fill-opacity="0.45"/>'
            )
        mean = sum(vs) / len(vs)
        x = left + (mean - low) * k
        body.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 11}" stroke="{colour(i)}" stroke-width="3">'
            f"<title>{escape(name)}: {mean:,.2f}</title></line>"
        )
        body.append(f'<text class="name" x="{WIDTH}" y="{y - 17}" text-anchor="end">{mean:,.{decimals}f}{unit}</text>')
        said.append(f"{name} {mean:,.2f} ({min(vs):,.2f} to {max(vs):,.2f})")
    body.append(f'<text class="axis" x="{WIDTH / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    return _frame(title, said, body, height)


def bar_chart(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, unit: str) -> str:
    """Stacked horizontal bars with their parts named below: cost split, reasons, causes."""
    parts = list(dict.fromkeys(name for _, stack in groups for name, value in stack if value))
    most = max((sum(v for _, v in stack) for _, stack in groups), default=0.0)
    if not most:
        return ""
    right, row, top = 200, 48, 6
    height = top + row * len(groups) + 28 * len(parts) + 12
    k = (WIDTH - right) / most
    body, said = [], []
    for i, (name, stack) in enumerate(groups):
        y, x = top + row * i, 0.0
        body.append(f'<text class="name" x="0" y="{y + 16}">{_cut(name, ROW_LETTERS)}</text>')
        for part, value in stack:
            if not value:
                continue
            body.append(
                f'<rect x="{x:.1f}" y="{y + 23}" width="{value * k:.1f}" height="18" rx="2" '
                f'fill="{part_colour(parts.index(part))}"><title>{escape(part)}: {_number(value)} {escape(unit)}</title></rect>'
            )
            x += value * k
        total = f"{_number(sum(v for _, v in stack))} {unit}"
        body.append(f'<text class="tick" x="{x + 8:.1f}" y="{y + 37}">{escape(total)}</text>')
        said.append(f"{name} {total} ({', '.join(f'{part} {_number(value)}' for part, value in stack if value)})")
    for i, part in enumerate(parts):
        y = top + row * len(groups) + 24 + 28 * i
        body.append(f'<rect x="0" y="{y - 11}" width="12" height="12" rx="2" fill="{part_colour(i)}"/>')
        body.append(f'<text class="tick" x="20" y="{y}">{escape(part)}</text>')
    return _frame(title, said, body, height)
