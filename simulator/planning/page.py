"""A plan as one HTML file: what it gains in a sentence, the nodes before and after as a picture, and its steps.

Self-contained: inline style and SVG, no script, no network; it looks as the other pages do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from placement import pages
from placement.pages import coded
from placement.planning.cluster import Cluster
from placement.planning.make import SaleShape
from placement.planning.plans import ROUNDING, Action, Ending, Plan, Step
from placement.rates import HOURS_A_MONTH
from placement.resources import CPU, GPU_SHARE, MEMORY
from simulator.charts import shortened

NAMES = 3
"""Pods that :func:`brief` names where it counts the rest."""
MAX_NODES = 300
"""Rows of the picture; larger clusters show the nodes that change most."""
BAR, ROW, LEFT, NUMBERS = 150, 18, 160, 80
NAME_LETTERS = 22
POD_ACTIONS, NODE_ACTIONS = (Action.PLACE, Action.MOVE, Action.EVICT), (Action.CORDON, Action.DELETE)
TITLES = {CPU: "CPU", MEMORY: "Memory", GPU_SHARE: "GPU"}

NEXT = (
    "Next: plan again with `-o json > plan.json`; `ullage plan apply plan.json` says whether every step would still fit, "
    "and only with `--yes` it acts."
)
PLAN_STYLE = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 20px 32px; }
.pair h3 { margin: 0 0 4px; } svg.nodes text { font-size: 12px; } svg.nodes .gone { fill: var(--soft); }
tbody th { white-space: nowrap; } table.words td:last-child { min-width: 5em; } table.words td:nth-child(3) { min-width: 7em; }
.key { display: flex; flex-wrap: wrap; gap: 2px 18px; color: var(--soft); font-size: 14px; margin: 0 0 12px; }
.key i { display: inline-block; height: 12px; margin-right: 6px; vertical-align: -1px; background: var(--c2); width: 18px; }
.key i.was { background: var(--c1); width: 3px; }
"""


def headline(plan: Plan) -> str:
    """What the plan does and how good it is, in words."""
    if plan.ending == Ending.INFEASIBLE:
        bound = "it cannot be done, for the reasons given (infeasible)"
    elif "in_no_model" in plan.details:
        bound = "the model does not cover who waits, for the reasons given"
    elif plan.gap_share is None:
        bound = f"no bound is known ({plan.ending})"
    elif plan.gap_share > ROUNDING:
        bound = f"at most {100 * plan.gap_share:.3g} % from the best possible ({plan.ending})"
    else:
        bound = "nothing better exists"
    money = {"consolidate": "saves ", "purchase": "costs "}.get(plan.kind, "")
    value = f"{plan.value:g} {plan.unit}"
    if "pending_before" in plan.details:
        waited = plan.details["pending_before"] + plan.details["left_out"]
        value = f"places {plan.details['placed']:,g} of {_many(round(waited), 'pending pod')}"
    if plan.usd_per_hour == 0 and plan.kind == "consolidate":
        value = "saves nothing"
    elif plan.usd_per_hour is not None:
        value = f"{money}{plan.usd_per_hour:,.2f} USD per hour ({plan.usd_per_hour * HOURS_A_MONTH:,.0f} a month)"
    payback = f", paid back in {plan.payback_s / 60:.0f} minutes" if plan.payback_s is not None else ""
    return f"{plan.kind}: {value}{payback}; {bound}. {deeds(plan)}."


def deeds(plan: Plan) -> str:
    """What there is to do, counted: ``Move 5 pods, cordon and delete 15 nodes``."""
    count = {action: plan.count(action) for action in Action}
    counts = [f"{action} {_many(count[action], 'pod')}" for action in POD_ACTIONS if count[action]]
    if count[Action.CORDON] and count[Action.CORDON] == count[Action.DELETE]:
        counts.append(f"cordon and delete {_many(count[Action.CORDON], 'node')}")
    else:
        counts += [f"{action} {_many(count[action], 'node')}" for action in NODE_ACTIONS if count[action]]
    bought = Counter(step.name for step in plan.steps if step.action == Action.BUY)
    counts += [f"buy {number} × {shape}" for shape, number in bought.most_common()]
    said = ", ".join(counts) or "no steps"
    return said[:1].upper() + said[1:]


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def further(plan: Plan) -> str:
    """How good the plan is in what comes after its value, in words; empty where there is nothing of the kind."""
    return _displaced(plan) or _wishes(plan)


def _displaced(plan: Plan) -> str:
    """How many running pods a rescue displaces, and whether fewer would do."""
    bound = plan.details.get("displaced_bound")
    if bound is None or not (displaced := plan.details["moves"] + plan.details["evictions"]):
        return ""
    best = "fewer would not do" if bound == displaced else f"at least {bound:,g} must be"
    best = f"with these many pods placed {best}" if bound else "whether fewer would do is not known"
    are = "is" if displaced == 1 else "are"
    return f"{_many(round(displaced), 'running pod')} {are} displaced; {best}."


def _wishes(plan: Plan) -> str:
    """How much of the pods' soft wishes a batch meets."""
    met, bound = (plan.details.get(f"wishes_met_share{end}") for end in ("", "_bound"))
    if met is None or bound is None or not plan.value:
        return ""
    best = "no more is possible" if bound == met else f"at most {100 * bound:.4g} % is possible"
    return f"{100 * met:.4g} % of the soft wishes are met; with these many pods placed {best}."


def target(step: Step) -> str:
    """Where a step leads, with the devices that its pod gets there."""
    return f"{step.target} (GPU {step.devices})" if step.devices else step.target


def brief(reasons: Sequence[str]) -> list[str]:
    """Reasons for a terminal: what is said of many pods is said once, with the first few names."""
    lines = []
    for what, names in _alike(reasons):
        if len(names) > NAMES:
            what += f" ({', '.join(names[:NAMES])} and {len(names) - NAMES} more; -o json names all)"
        elif names:
            what += f" ({', '.join(names)})"
        lines.append(what)
    return lines


def _alike(reasons: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each reason; what is said of many pods once, and beside it all their names."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for reason in reasons:
        pod = re.match(r"pod ([^\s:]+(?: \(expected \d+\))?)(:?) (.+)", reason)
        what, name = (f"{pod[2] or ', each'} {pod[3]}", pod[1]) if pod else (reason, "")
        alike.setdefault(what, []).append((name, reason))
    found: list[tuple[str, list[str]]] = []
    for what, said in alike.items():
        names = [name for name, _ in said if name]
        found += [(f"{len(names)} pods{what}", names)] if len(names) > 1 else [(reason, []) for _, reason in said]
    return found


def _notes(reasons: Sequence[str]) -> str:
    """The reasons as a list; many names are folded away."""
    items = []
    for what, names in _alike(reasons):
        named = escape(", ".join(names))
        folded = f" ({named})" if names else ""
        if len(names) > NAMES:
            folded = f"<details><summary>their names</summary>{named}</details>"
        items.append(f"<li>{coded(what)}{folded}</li>")
    return pages.section("Notes", f"<ul>{''.join(items)}</ul>") if items else ""


def _shares(cluster: Cluster, where: Mapping[str, str], resource: str) -> dict[str, float]:
    """Allocated share of a resource per node that offers it, for pods on the nodes that ``where`` says."""
    specs = {uid: r.spec for uid, r in cluster.state.residents.items()} | {p.uid: p.spec for p in cluster.pending}
    taken = dict.fromkeys(cluster.node_names(), 0)
    for uid, home in where.items():
        taken[home] += specs[uid].amount(resource)
    nodes = cluster.state.nodes
    offered = {name: node.amounts.get(resource, 0) for name in taken if (node := nodes[cluster.state.row_of[name]])}
    return {name: amount / offered[name] for name, amount in taken.items() if offered[name]}


def _after(cluster: Cluster, plan: Plan) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Who runs where before and after the plan, and the nodes that are gone."""
    before = {uid: cluster.state.names[r.row] for uid, r in cluster.state.residents.items()}
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


def step_rows(plan: Plan) -> list[dict[str, Any]]:
    """Steps for people, with equal keys; what is bought alike is one row, and so is an empty node that goes."""
    rows: list[dict[str, Any]] = []
    start = 0
    while start < len(plan.steps):
        step, end = plan.steps[start], start + 1
        action = str(step.action)
        after = plan.steps[end] if end < len(plan.steps) else step
        if step.action == Action.CORDON and (after.action, after.source) == (Action.DELETE, step.source):
            action, end = "cordon, delete", end + 1
        elif step.action == Action.BUY:
            while end < len(plan.steps) and (plan.steps[end].action, plan.steps[end].name) == (step.action, step.name):
                end += 1
        what, to = step.name or step.pod, target(step)
        number: int | str = end
        if end - start > 1:
            number = f"{start + 1}–{end}"
            if step.action == Action.BUY:
                what, to = f"{end - start} × {what}", f"{to} … {target(plan.steps[end - 1])}"
        row: dict[str, Any] = {"step": number, "action": action}
        row |= {"shape": what} if plan.kind == "purchase" else {"pod": what, "from": step.source}
        rows.append(row | {"to": to})
        start = end
    return rows


def picture(cluster: Cluster, plan: Plan) -> str:
    """A panel per resource: one row per node, allocated before (line) and after (bar)."""
    before, after, gone = _after(cluster, plan)
    offers = {name for node in cluster.state.nodes if node is not None for name, n in node.amounts.items() if n}
    resources = [CPU, MEMORY, *sorted(name for name in offers if name == GPU_SHARE or name.endswith("/gpu"))]
    old = {r: _shares(cluster, before, r) for r in resources}
    new = {r: _shares(cluster, after, r) for r in resources}
    change = {n: sum(abs(new[r].get(n, 0.0) - old[r].get(n, 0.0)) for r in resources) for n in old[CPU]}
    most = sorted(change, key=lambda n: (-change[n], n))[:MAX_NODES]
    changing = {n for n in change if n in gone or change[n]}
    empty = {n for n in gone if not change[n]}

    def panels(names: Sequence[str]) -> str:
        return "".join(_panel(r, [n for n in names if n in old[r]], old[r], new[r], gone) for r in resources)

    few = f" Shown are the {MAX_NODES} that change most." if len(change) > MAX_NODES else ""
    lead = f"{_many(len(changing), 'node')} of {len(change):,} {'changes' if len(changing) == 1 else 'change'}.{few}"
    lead += " Bars are the share of what a node offers that pods have asked for; a full one is 100 %."
    folded = [("nodes that go, empty already", empty), ("nodes that stay as they are", change.keys() - changing)]
    rest = "".join(
        f"<details><summary>The {title}</summary><div class='pair'>{panels(names)}</div></details>"
        for title, which in folded
        if (names := sorted(which.intersection(most)))
    )
    key = '<p class="key"><span><i class="was"></i>before</span><span><i></i>after</span></p>'
    changed = f'<div class="pair">{panels(sorted(n for n in most if n in changing - empty))}</div>'
    return pages.section("Nodes before and after", f'<div class="card">{key}{changed}{rest}</div>', lead=lead)


def _panel(
    resource: str, names: Sequence[str], old: Mapping[str, float], new: Mapping[str, float], gone: set[str]
) -> str:
    """One resource, for the nodes that offer it; two stand side by side where the page is wide."""
    if not names:
        return ""
    title = TITLES.get(resource, resource)
    said = [f"{n} {100 * old[n]:.0f} % to {100 * new[n]:.0f} %" for n in names if old[n] != new[n] or n in gone]
    label = f"{title} allocated, before and after: {'; '.join(said) or 'no node changes'}"
    parts = [
        f"<div><h3>{escape(title)} allocated</h3>",
        f'<svg class="nodes" viewBox="0 0 {LEFT + BAR + NUMBERS} {ROW * len(names)}" role="img" aria-label="{escape(label)}">',
    ]
    for i, name in enumerate(names):
        y = i * ROW + 2
        share, was = min(new[name], 1.0), min(old[name], 1.0)
        mark, look = (" (goes)", ' class="gone"') if name in gone else ("", "")
        short = shortened(name, NAME_LETTERS - len(mark))
        parts.append(f"<g><title>{escape(name)}: {100 * old[name]:.0f} % before, {100 * new[name]:.0f} % after</title>")
        parts.append(f'<text x="0" y="{y + 10}"{look}>{escape(short)}{mark}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{BAR}" height="12" fill="var(--line)" opacity=".6"/>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{share * BAR:.1f}" height="12" fill="var(--c2)"/>')
        x = LEFT + max(was * BAR - 1, 0)
        percent = f"{100 * new[name]:.0f} %"
        if old[name] != new[name] or name in gone:
            parts.append(f'<rect x="{x:.1f}" y="{y - 1}" width="3" height="14" fill="var(--c1)"/>')
            percent = f"{100 * old[name]:.0f} → {percent}"
        parts.append(f'<text x="{LEFT + BAR + NUMBERS}" y="{y + 10}" text-anchor="end"{look}>{percent}</text></g>')
    return "\n".join([*parts, "</svg></div>"])


def _shopping(plan: Plan, sold: Sequence[SaleShape]) -> str:
    """What is bought at which price, a row a shape; empty where nothing is."""
    number = Counter(step.name for step in plan.steps if step.action == Action.BUY)
    bought = [shape for shape in sold if number[shape.name]]
    if not bought:
        return ""
    rows = []
    for shape in bought:
        usd, of_all = shape.usd_per_hour, number[shape.name] * shape.usd_per_hour
        month = of_all * HOURS_A_MONTH
        rows.append((shape.name, f"{number[shape.name]:,}", f"{usd:,.4f}", f"{of_all:,.2f}", f"{month:,.0f}"))
    heads = ("shape", "nodes", "USD an hour each", "USD an hour", "USD a month")
    left = len(sold) - len(bought)
    others = f" {_many(left, 'other shape')} {'was' if left == 1 else 'were'} for sale." if left else ""
    risk = sum(number[shape.name] * shape.interruption_usd_per_hour for shape in bought)
    risks = f" Interruptions of spot nodes are expected to cost {risk:,.2f} USD an hour besides." if risk else ""
    lead = f"A month has {HOURS_A_MONTH} hours.{risks}{others}"
    title = "What is bought"
    return pages.section(title, pages.table(heads, rows, label=title), lead=lead)


def page(cluster: Cluster, plan: Plan, *, sold: Sequence[SaleShape] = (), command: str = "") -> str:
    """The whole file; ``sold`` are the shapes that a purchase chose from, ``command`` plans the same again."""
    rows = step_rows(plan)
    cells = [[str(cell) for cell in row.values()] for row in rows]
    bound = "unknown" if plan.bound is None else f"{plan.bound:g}"
    may_apply = bool(plan.steps) and not plan.count(Action.BUY)
    parts = [
        f'<p class="lead">Planned in {plan.time_s:.2f} s; value {plan.value:g}, bound {bound} {escape(plan.unit)}.',
        f"{further(plan)} Nothing has been changed: a plan is a proposal.</p>",
        picture(cluster, plan) if may_apply else "",
        _shopping(plan, sold),
        _notes(plan.reasons),
        pages.section(
            "Steps", pages.table(list(rows[0]), cells, label="Steps", words=True) if rows else "<p>None.</p>"
        ),
    ]
    says = headline(plan).removeprefix(f"{plan.kind}: ")
    next_step = NEXT if may_apply else ""
    return pages.page(
        f"Ullage · plan · {plan.kind}", says, parts, command=command, next_step=next_step, style=PLAN_STYLE
    )
