"""The page of ``ullage reproduce fgd-atc23``: GPU allocation by policy on each of the paper's pod lists."""

from __future__ import annotations

from typing import Any

from placement.pages import Best
from simulator.charts import Line, line_chart
from simulator.report import Section, Table, render_page


def headline(result: dict[str, Any]) -> str:
    """What `ullage reproduce fgd-atc23` found, in words."""
    wins, parts = result["priced"], []
    if result["deterministic"]:
        parts.append(
            f"{result['exact']} of {result['deterministic']} deterministic experiments equal the published tables at all "
            "131 points."
        )
    if wins["pairs"]:
        parts.append(
            f"`priced` beats FGD in {wins['wins']} of {wins['pairs']} pairs of trace and seed, by {wins['mean_gain']:.2f} "
            f"points on average and {wins['min_gain']:.2f} at least."
        )
    return " ".join(parts) or "GPU allocation by policy."


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def report(result: dict[str, Any], command: str) -> str:
    """The page of `ullage reproduce fgd-atc23`."""
    results = result["results"]
    policies = list(next(iter(results.values())))
    rows = []
    for trace, by_policy in results.items():
        best = max(by_policy[p]["130"] or 0.0 for p in policies)
        texts = {p: f"{_two(by_policy[p]['100'])} / {_two(by_policy[p]['130'])}" for p in policies}
        rows.append([trace, *(Best(text) if by_policy[p]["130"] == best else text for p, text in texts.items())])
    sections = [
        Section(
            "GPU allocation, %",
            "When 100 % / 130 % of the GPUs have been asked for; mean of ten seeds.",
            Table(["trace", *policies], rows),
        )
    ]
    for trace in results:
        lines = []
        for policy in policies:
            curve = result["curves"][f"{trace}/{policy}"]
            points = [(k, v) for k, v in enumerate(curve) if k >= 70]
            lines.append(Line(policy, [p[0] for p in points], [p[1] for p in points]))
        chart = line_chart(trace, lines, x_label="GPU asked for, %", y_label="GPU allocated, %")
        sections.append(Section(trace, svg=chart))
    facts = [
        ("experiments", str(result["experiments"])),
        ("decisions", f"{result['decisions']:,}"),
        *(
            [("Random, largest difference of means", f"{result['random_max_abs_diff']} points")]
            if "random" in policies
            else []
        ),
        ("time", f"{result['wall_s']} s, {result['cpu_s']} s of CPU"),
        ("node order", result["node_order"]),
        ("delivery", result["delivery"]),
    ]
    return render_page("Ullage · FGD, USENIX ATC'23", headline(result), sections, command, facts)
