"""The page of ``ullage reproduce placement``: what each strategy costs under each mechanism, and at which risk."""

from __future__ import annotations

import math
from typing import Any

from placement.pages import Best
from placement.strategies import STRATEGIES
from simulator.charts import Spot, Spots, dot_chart, frontier_chart
from simulator.report import Section, Table, render_page
from simulator.reproduce.placement import BUDGET, Cell, summary

TO_BEST_FIT = "to best fit"
"""Column of the table that is marked."""
TITLES = {
    "none": "Without overcommit",
    "rightsized": "Requests lowered at admission (rightsized)",
    "reclaimed": "Unused capacity lent to batch pods (reclaimed)",
}


def frontier(rows: list[dict[str, Any]], mechanism: str) -> list[Spots]:
    """Node-time over CPU in % against USD in % of plain best fit on the same seed, for each cell of a mechanism."""
    base = {r["seed"]: r["usd"] for r in rows if (r["strategy"], r["mechanism"]) == ("best-fit", "none")}
    mine = [r for r in rows if r["mechanism"] == mechanism and r["seed"] in base]
    groups = []
    for cell in dict.fromkeys(Cell(r["strategy"], mechanism, r["sized_by"]) for r in mine):
        of_cell = [r for r in mine if (r["strategy"], r["sized_by"]) == (cell.strategy, cell.sized_by)]

        def spot(row: dict[str, Any]) -> Spot:
            usd = 100 * row["usd"] / base[row["seed"]]
            note = (
                f"seed {row['seed']}, requests x {row['scale']:g}, {row['usd']:,.0f} USD, {row['nodes_mean']:.1f} nodes"
            )
            return Spot(100 * row["over_cpu_guaranteed_share"], usd, note)

        scaled = sorted({r["seed"] for r in of_cell if r["scale"] != 1})
        by_scale = sorted(of_cell, key=lambda r: float(r["scale"]))
        paths = [[spot(r) for r in by_scale if r["seed"] == seed] for seed in scaled]
        loose = [spot(r) for r in of_cell if r["scale"] == 1]
        groups.append(Spots(cell.name.replace(f", {mechanism}", ""), loose, paths))
    return groups


def _costs(title: str, groups: list[Spots]) -> Section:
    """Cost and risk of a mechanism; cost alone where no node was ever over its CPU."""
    cost = "USD, % of plain best fit"
    if not any(spot.x for group in groups for spot in group.spots):
        lead = "A dot is one seed, the bar their mean. No guaranteed pod was ever on a node over its CPU."
        values = [(group.name, [spot.y for spot in group.loose]) for group in groups]
        return Section(title, lead, svg=dot_chart(title, values, x_label=cost))
    lead = (
        "A dot is one seed. Small joined dots are one seed as its CPU requests are scaled by .6 to 1.6. "
        "Left of the dashed line the budget of 1 % of node-time over CPU holds; lower is cheaper."
    )
    risk = "node-time over CPU (guaranteed pods), %"
    return Section(title, lead, svg=frontier_chart(title, groups, x_label=risk, y_label=cost, mark_x=100 * BUDGET))


def counts(line: dict[str, Any], lines: list[dict[str, Any]]) -> bool:
    """Whether a line's USD can be held against others': within the budget, and no fewer pods placed than by best fit."""
    asked = next((other["placed"] for other in lines if other["cell"] == "best-fit"), 0.0)
    return bool(line["within_budget"] and line["placed"] >= asked and math.isfinite(line["usd_to_best_fit"]))


def headline(lines: list[dict[str, Any]]) -> str:
    """Who is cheapest within the budget, with overcommit and without, of the summary's lines that did all the work."""
    priced = [line for line in lines if line["scale"] == 1 and counts(line, lines)]
    if not priced:
        return "No strategy keeps the budget of node-time over CPU beside plain best fit."
    plain = [line for line in priced if line["cell"] in STRATEGIES]
    found = [_cheapest(priced)]
    if plain and (without := _cheapest(plain)) != found[0]:
        found.append(f"without overcommit {without}")
    return f"Within the budget of {100 * BUDGET:g} % of node-time over CPU, {'; '.join(found)}."


def _cheapest(lines: list[dict[str, Any]]) -> str:
    best = min(lines, key=lambda line: float(line["usd_to_best_fit"]))
    percent = f"{100 * best['usd_to_best_fit']:.1f}"
    if best["cell"] == "best-fit" or percent == "100.0":
        return "nothing is cheaper than plain best fit"
    return f"{best['cell']} is cheapest, at {percent} % of plain best fit's USD"


def report(rows: list[dict[str, Any]]) -> str:
    """A page with a cost–risk frontier for each mechanism, and in numbers."""
    lines = summary(rows)
    least = min((line["usd_to_best_fit"] for line in lines if counts(line, lines)), default=math.nan)
    as_asked, scaled = [], []
    for line in lines:
        is_best = counts(line, lines) and line["usd_to_best_fit"] == least
        shown = _shown(line)
        cells = [Best(text) if is_best and head == TO_BEST_FIT else text for head, text in shown.items()]
        if line["scale"] == 1:
            as_asked.append(cells)
        else:
            scaled.append([cells[0], f"{line['scale']:g}", *cells[1:]])
    heads = tuple(_shown(lines[0]))
    seeds = max(line["seeds"] for line in lines)
    sections = [_costs(title, frontier(rows, mechanism)) for mechanism, title in TITLES.items()]
    sections.append(
        Section(
            "Means over seeds",
            f"{seeds} seed{'s' * (seeds > 1)}. The cheapest that keeps the budget and places as many pods as best fit is marked.",
            Table(heads, as_asked),
        )
    )
    if scaled:
        table = Table((heads[0], "CPU ×", *heads[1:]), scaled)
        sections.append(Section("The same with requests scaled", "The joined dots above.", table))
    again = "ullage reproduce placement --data DIR --report FILE"
    return render_page("Ullage · placement with real use", headline(lines), sections, again)


def _shown(line: dict[str, Any]) -> dict[str, str]:
    """What the tables show of a line, by head."""
    return {
        "strategy and mechanism": line["cell"],
        "nodes": f"{line['nodes_mean']:.1f}",
        "USD": f"{line['usd']:,.0f}",
        TO_BEST_FIT: f"{line['usd_to_best_fit']:.2f}",
        "over CPU, %": f"{100 * line['over_cpu_guaranteed_share']:.2f}",
        "most, %": f"{100 * line['over_high']:.2f}",
        "OOM kills": f"{line['oom_kills']:.1f}",
        "placed": f"{line['placed']:,.0f}",
        "in budget": "yes" if line["within_budget"] else "no",
    }
