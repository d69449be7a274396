"""A plan as one HTML file: what it gains in a sentence, the nodes before and after as a picture, and its steps.

Self-contained: inline style and SVG, no script, no network; light and dark by the reader's preference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from placement.plans import Action, Ending, Plan, Step
from placement.problems import Cluster
from placement.resources import CPU, MEMORY

NAMES = 3
"""Pods that :func:`brief` names where it counts the rest."""
ROUNDING = 1e-6
"""A certified gap below this share is none."""
MAX_NODES = 300
"""Rows of the picture; larger clusters show the nodes that change most."""
BAR, ROW, LEFT = 220, 16, 170

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#6a737d;--paper:#fff;--line:#d8dee4;--a:#8aa9c9;--b:#2f6f4f;--c:#b5533c}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--paper:#0d1117;--line:#30363d;--a:#4d6a8a;--b:#5fae85;--c:#d98470}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid var(--line)}
h1{font-size:1.5rem;line-height:1.3}.soft{color:var(--soft)}.steps{overflow-x:auto}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem 2rem}
svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:11px}
"""


def headline(plan: Plan) -> str:
    """What the plan does and how good it is, in words."""
    if plan.ending == Ending.INFEASIBLE:
        bound = "it cannot be done"
    elif plan.gap_share is None:
        bound = "no bound is known"
    elif plan.gap_share > ROUNDING:
        bound = f"at most {100 * plan.gap_share:.3g} % from the best possible"
    else:
        bound = "nothing better exists"
    money = {
        "consolidate": "saves {:.2f} USD per hour",
        "purchase": "costs {:.2f} USD per hour",
    }.get(plan.kind, "{:.2f} USD per hour")
    value = f"{plan.value:g} {plan.unit}" if plan.usd_per_hour is None else money.format(plan.usd_per_hour)
    payback = f", paid back in {plan.payback_s / 60:.0f} minutes" if plan.payback_s is not None else ""
    counts = [f"{n} × {action}" for action in Action if action != Action.BUY and (n := plan.count(action))]
    bought = Counter(step.name for step in plan.steps if step.action == Action.BUY)
    counts += [f"buy {number} × {shape}" for shape, number in bought.most_common()]
    return f"{plan.kind}: {value}{payback}; {bound} ({plan.ending}). {', '.join(counts) or 'Nothing to do'}."


def wishes(plan: Plan) -> str:
    """How much of the pods' soft wishes a batch meets, in words; empty where there are none."""
    met, bound = (plan.details.get(f"wishes_met_share{end}") for end in ("", "_bound"))
    if met is None or bound is None:
        return ""
    best = "no more is possible" if bound == met else f"at most {100 * bound:.4g} % is possible"
    return f"{100 * met:.4g} % of the soft wishes are met; with these many pods placed {best}."


def target(step: Step) -> str:
    """Where a step leads, with the devices that its pod gets there."""
    return f"{step.target} (GPU {step.devices})" if step.devices else step.target


def brief(reasons: Sequence[str]) -> list[str]:
    """Reasons for a terminal: what is said of many pods is said once, with the first few names."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        pod = re.match(r"pod (\S+(?: \(expected \d+\))?) (.+)", reason)
        alike.setdefault(pod[2] if pod else reason, []).append(pod[1] if pod else "")
    lines = []
    for what, names in alike.items():
        if names == [""] or len(names) <= NAMES:
            lines += [f"pod {name} {what}" if name else what for name in names]
        else:
            named = f"{', '.join(names[:NAMES])} and {len(names) - NAMES} more"
            lines.append(f"{len(names)} pods, each {what} ({named}; -o json names all)")
    return lines


def _shares(cluster: Cluster, where: Mapping[str, str], resource: str) -> dict[str, float]:
    """Allocated share of a resource per node, for pods on the nodes that ``where`` says."""
    specs = {uid: r.spec for uid, r in cluster.state.residents.items()} | {p.uid: p.spec for p in cluster.pending}
    taken = dict.fromkeys(cluster.node_names(), 0)
    for uid, home in where.items():
        taken[home] += specs[uid].amount(resource)
    nodes = cluster.state.nodes
    offered = {name: node.amounts.get(resource, 0) for name in taken if (node := nodes[cluster.state.row_of[name]])}
    return {name: amount / offered[name] if offered[name] else 0.0 for name, amount in taken.items()}


def _after(cluster: Cluster, plan: Plan) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Who runs where before and after the plan, and the nodes that are gone."""
    before = {uid: cluster.state.name(r.row) for uid, r in cluster.state.residents.items()}
    after = dict(before)
    gone = set()
    for step in plan.steps:
        if step.action == Action.DELETE:
            gone.add(step.source)
        elif step.action == Action.EVICT:
            after.pop(step.pod, None)
        elif step.action in (Action.MOVE, Action.PLACE):
            after[step.pod] = step.target
    return before, {uid: node for uid, node in after.items() if node not in gone}, gone


def picture(cluster: Cluster, plan: Plan) -> str:
    """CPU and memory, a panel each: one row per node, allocated before (thin) and after (thick)."""
    before, after, gone = _after(cluster, plan)
    old = {r: _shares(cluster, before, r) for r in (CPU, MEMORY)}
    new = {r: _shares(cluster, after, r) for r in (CPU, MEMORY)}
    change = {n: abs(new[CPU][n] - old[CPU][n]) + abs(new[MEMORY][n] - old[MEMORY][n]) for n in old[CPU]}
    names = sorted(sorted(change, key=lambda n: (-change[n], n))[:MAX_NODES])
    return f'<div class="pair">{"".join(_panel(r, names, old[r], new[r], gone) for r in (CPU, MEMORY))}</div>'


def _panel(
    resource: str, names: Sequence[str], old: Mapping[str, float], new: Mapping[str, float], gone: set[str]
) -> str:
    """SVG of one resource; two stand side by side where the page is wide."""
    size = f"0 0 {LEFT + BAR} {24 + ROW * len(names)}"
    parts = [f'<svg viewBox="{size}" role="img" aria-label="{resource} of nodes before and after">']
    parts.append(f'<text x="0" y="13">{resource} allocated: before (line), after (bar)</text>')
    for i, name in enumerate(names):
        y = 24 + i * ROW
        share, was = min(new[name], 1.0), min(old[name], 1.0)
        mark = " (goes)" if name in gone else ""
        parts.append(f'<text x="0" y="{y + 9}">{escape(name[:22])}{mark}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{BAR}" height="11" fill="var(--line)" opacity=".45"/>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{share * BAR:.1f}" height="11" fill="var(--b)"/>')
        x = LEFT + max(was * BAR - 1, 0)
        parts.append(f'<rect x="{x:.1f}" y="{y - 1}" width="2" height="13" fill="var(--c)"/>')
    return "\n".join([*parts, "</svg>"])


def page(cluster: Cluster, plan: Plan) -> str:
    """The whole file."""
    rows = "\n".join(
        f"<tr><td>{i}</td><td>{step.action}</td><td>{escape(step.name or step.pod)}</td>"
        f"<td>{escape(step.source)}</td><td>{escape(target(step))}</td></tr>"
        for i, step in enumerate(plan.steps, 1)
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in plan.reasons)
    bound = "unknown" if plan.bound is None else f"{plan.bound:g}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Ullage plan: {plan.kind}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(headline(plan))}</h1>",
        f'<p class="soft">Planned in {plan.time_s:.2f} s; value {plan.value:g}, bound {bound} {escape(plan.unit)}.',
        f"{wishes(plan)} Nothing has been changed: a plan is a proposal.</p>",
        "" if plan.count(Action.BUY) else picture(cluster, plan),
        f"<h2>Notes</h2><ul>{reasons}</ul>" if reasons else "",
        "<h2>Steps</h2><div class='steps'><table>",
        "<thead><tr><th>#</th><th>action</th><th>pod or shape</th><th>from</th><th>to</th></tr></thead>",
        f"<tbody>{rows}</tbody></table></div></body></html>",
    ]
    return "\n".join(parts)
