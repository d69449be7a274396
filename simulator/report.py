"""The report: one self-contained HTML file, no network, light and dark, readable on a phone and on paper.

The same :class:`~simulator.comparison.Comparison` is also given as Markdown; JSON is its document as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from placement import pages
from placement.pages import Best
from placement.rates import HOURS_A_MONTH, RATES
from simulator.charts import Line, bar_chart, dot_chart, heat_map, line_chart
from simulator.comparison import LOWER_IS_BETTER, Comparison, OnTrace, Row
from simulator.output import markdown
from simulator.traces.trace_facts import duration


@dataclass(frozen=True)
class Table:
    """Heads and rows, whose first cell is their name; ``words`` are read from the left and may wrap."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Section:
    """A title, a sentence, and a table or a picture."""

    title: str
    lead: str = ""
    table: Table | None = None
    svg: str = ""
    terms: Sequence[tuple[str, str]] = ()
    """Words of the table or picture and what they mean, folded away."""
    folded: str = "What the rows and columns mean"
    """What is folded away."""


COLUMNS: tuple[tuple[str, str, float, int, bool], ...] = (
    ("gpu_allocated_share", "GPU allocated %", 100, 2, True),
    ("cpu_allocated_share", "CPU allocated %", 100, 2, True),
    ("memory_allocated_share", "Memory allocated %", 100, 2, True),
    ("gpu_hours", "GPU-hours", 1, 0, True),
    ("empty_nodes_mean", "Empty nodes", 1, 1, True),
    ("fragmented_gpu_share_end", "Fragmented GPU %", 100, 2, False),
    ("pending_s_p50", "Wait p50", 1, 0, False),
    ("pending_s_p95", "Wait p95", 1, 0, False),
    ("pending_s_p99", "Wait p99", 1, 0, False),
    ("placed", "Pods placed", 1, 0, True),
    ("evictions", "Pods evicted", 1, 0, False),
    ("lost_pod_hours", "Pod-hours repeated", 1, 1, False),
    ("node_hours", "Node-hours", 1, 0, False),
    ("usd_per_month", "USD a month", 1, 0, False),
    ("over_cpu_share", "Node-time over CPU %", 100, 3, False),
    ("over_memory_share", "Node-time over memory %", 100, 3, False),
    ("oom_kills", "OOM kills", 1, 1, False),
    ("throttled_core_hours", "Throttled core-hours", 1, 1, False),
    ("reclaimed_core_hours", "Core-hours on reclaimed", 1, 0, True),
)
"""Metric, head, factor, decimals, whether more is better. Waits, in seconds, are shown in the unit that suits them."""


MEANINGS = {
    "gpu_allocated_share": "Of the GPU time that the fleet offered, what running pods had asked for.",
    "cpu_allocated_share": "The same of CPU time.",
    "memory_allocated_share": "The same of memory.",
    "gpu_hours": "GPU time given to pods: the work that got done.",
    "empty_nodes_mean": "Nodes on which nothing ran, on average over time: they could be switched off.",
    "fragmented_gpu_share_end": "Free GPU that an average pod could not use where it lies, at the end (FGD's measure).",
    "pending_s_p50": "Half of the placed pods waited at most so long from arrival to their first node.",
    "pending_s_p95": "95 % of the placed pods waited at most so long from arrival to their first node.",
    "pending_s_p99": "99 % of the placed pods waited at most so long from arrival to their first node.",
    "placed": "Pods that found a node at least once, those of a warm-up included.",
    "evictions": "Times that a pod lost its node: to a more important pod, a failure, an interruption or a move.",
    "lost_pod_hours": "What evicted pods had done and had to do again.",
    "node_hours": "Nodes × hours in the measured time.",
    "usd_per_month": "What those nodes cost, scaled to 730 hours.",
    "over_cpu_share": "Node-time in which pods wanted more CPU than the node has, and were throttled.",
    "over_memory_share": "Node-time in which pods used more memory than the node has.",
    "oom_kills": "Pods that kubelet killed for memory.",
    "throttled_core_hours": "CPU time that pods wanted and did not get; not part of any cost.",
    "reclaimed_core_hours": "CPU time given to batch pods out of what others had asked for and not used.",
}
"""What a reader may ask of a column."""


PRICES = "what a trace itself keeps, else OpenCost's default rates, not what you pay; --prices FILE tells that"
UNITS = {
    "usd_per_month": "USD a month",
    "gpu_allocated_share": "GPU allocated, %",
    "gpu_allocated_share_end": "GPU allocated at the end, %",
    "cpu_allocated_share": "CPU allocated, %",
    "cpu_allocated_share_end": "CPU allocated at the end, %",
}
"""What the axis of a primary metric is called."""


ALWAYS = {"over_cpu_share", "oom_kills", "throttled_core_hours"}
"""Shown though all are zero: that nothing was contended is a result."""


USE = (
    (
        "Contention",
        "Share of nodes whose pods want more CPU than the node has, first seed.",
        "Contention",
        "over_cpu_share",
        100,
        "of nodes, %",
    ),
    (
        "Throttled",
        "Cores that pods wanted and did not get. Not part of any cost above.",
        "Throttled",
        "throttled_cores",
        1.0,
        "cores",
    ),
    ("Out of memory", "Pods killed by kubelet on nodes over their memory.", "OOM kills", "oom_kills", 1.0, "kills"),
)
"""Contention over time: title, sentence, title of the picture, column, factor, unit."""


MAX_COLUMNS = 8
"""More strategies than this are rows of the table, not columns."""


def render_page(
    title: str,
    headline: str,
    sections: Sequence[Section],
    command: str,
    facts: Sequence[tuple[str, str]] = (),
    next_step: str = "",
) -> str:
    """The HTML of a page of sections."""
    parts = [_section(f"s{i}", section) for i, section in enumerate(sections)]
    if len(sections) > 3:
        parts.insert(0, pages.contents((f"s{i}", section.title) for i, section in enumerate(sections)))
    return pages.page(title, headline, parts, command=command, facts=facts, next_step=next_step)


def _section(place: str, section: Section) -> str:
    body = f'<div class="card">{section.svg}</div>'
    if (of := section.table) is not None:
        body = pages.table(of.heads, of.rows, label=section.title, words=of.words)
    terms = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in section.terms)
    if terms:
        body += f"<details><summary>{escape(section.folded)}</summary><dl>{terms}</dl></details>"
    return pages.section(section.title, body, lead=section.lead, place=place)


def to_html(comparison: Comparison) -> str:
    """The whole report."""
    sections: list[Section] = []
    for trace in comparison.traces:
        sections += _sections(comparison, trace)
    return render_page(
        "Ullage · comparison" if len(comparison.summary) > 1 else "Ullage · replay",
        comparison.headline,
        [*(s for s in sections if s.table or s.svg), _compared(comparison)],
        comparison.command,
        _facts(comparison),
        "Next: change a strategy (`ullage strategies show priced > mine.toml`, then `-s mine.toml`), or see what one would "
        "change in your cluster (`ullage serve`: shadow by default, it only watches).",
    )


def _compared(comparison: Comparison) -> Section:
    """What each strategy is."""
    found = {row["strategy"]: row["strategy_description"] for row in comparison.rows}
    return Section(
        "What was compared" if len(found) > 1 else "The strategy",
        "`ullage strategies describe NAME` tells what one adds up, `ullage strategies show NAME` writes it as a file to "
        "change.",
        Table(["strategy", "what it is"], [[name, said or "–"] for name, said in found.items()], words=True),
    )


def _worth(comparison: Comparison) -> list[tuple[str, str]]:
    """How a share of the fleet became USD in the headline."""
    if ", worth " not in comparison.headline:
        return []
    kinds = dict.fromkeys(trace.metric.startswith("gpu") for trace in comparison.traces)
    priced = [(RATES.gpu, "GPUs") if is_gpu else (RATES.cpu, "cores") for is_gpu in kinds]
    return [
        ("worth", f"points × {what} of the fleet × {rate:g} USD an hour × {HOURS_A_MONTH} hours")
        for rate, what in priced
    ]


def _same_costs(comparison: Comparison) -> list[tuple[str, str]]:
    """What every strategy cost alike, where the fleet is not theirs to choose."""
    facts = []
    for trace in comparison.traces:
        costs = [row["metrics"]["usd"] for row in trace.rows]
        if len(costs) > 1 and min(costs) == max(costs) > 0:
            facts.append(("cost", f"{costs[0]:,.0f} USD on {trace.trace} with each strategy: the fleet is the same"))
    return facts


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    rows, versions = comparison.rows, comparison.document()["versions"]
    strategies = dict.fromkeys(f"{r['strategy']} {r['strategy_digest']}" for r in rows)
    traces = dict.fromkeys(f"{r['trace']} {r['trace_digest']}" for r in rows)
    notes = dict.fromkeys(note for r in rows for note in r.get("trace_notes", ()))
    return [
        ("seeds", ", ".join(str(s) for s in comparison.question.seeds)),
        ("deliveries", ", ".join(comparison.question.deliveries)),
        ("prices", PurePath(comparison.question.prices).name or PRICES),
        ("strategies", "; ".join(strategies)),
        ("traces", "; ".join(traces)),
        *_worth(comparison),
        *_same_costs(comparison),
        *((("notes", "; ".join(notes)),) if notes else ()),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
    ]


class _Curves:
    """Columns of several runs over their ``time_s``, on an axis of hours or, where runs are long, of days."""

    def __init__(self, columns: dict[str, dict[str, Any]], last_s: float) -> None:
        self.columns, self.last_s = columns, last_s
        self.scale, self.axis = (24.0, "days") if last_s > 72 * 3600 else (1.0, "hours")

    def times(self, time_s: Sequence[float]) -> list[float]:
        """Seconds on the axis."""
        return [t / 3600 / self.scale for t in time_s]

    def of(self, key: str, factor: float = 1.0) -> list[Line]:
        """One column of every run."""
        return [Line(n, self.times(c["time_s"]), _scaled(c[key], factor)) for n, c in self.columns.items()]

    def chart(self, title: str, lines: list[Line], y_label: str, *, from_zero: bool = False) -> str:
        """Lines over time."""
        return line_chart(title, lines, x_label=self.axis, y_label=y_label, from_zero=from_zero)


def _sections(comparison: Comparison, trace: OnTrace) -> list[Section]:
    question, rows, names = trace.question, trace.rows, list(trace.cells)
    where = f" · {trace.trace}" if len(question.traces) > 1 else ""
    first = {name: cells[0] for name, cells in trace.cells.items()}
    lines = trace.summary(comparison.metric)
    series = {n: r["series"] for n, r in first.items()}
    curves = _Curves(series, max((max(c["time_s"], default=0) for c in series.values()), default=0))
    gpu = any(r["metrics"]["gpu_allocated_share"] for r in rows)
    marked = ["means over seeds"] * (len(question.seeds) > 1) + ["the best is marked"] * (len(names) > 1)
    hours = duration(3600 * (rows[0]["metrics"]["hours"] or 0))
    lead = f"{rows[0]['metrics']['pods']:,} pods arrived; measured over {hours}"
    what = "GPUs" if gpu else "cores"
    seeds = _seeds_section(trace, where)
    numbers = Section(
        f"{'Side by side' if len(names) > 1 else 'In numbers'}{where}",
        f"{'; '.join([lead, *marked])}.",
        _turned(_table(lines)),
        terms=_glossary(lines),
    )
    over_time = Section(
        f"Over time{where}",
        f"Share of {what} allocated, first seed.",
        svg=curves.chart(
            "Allocation over time", curves.of("gpu_share" if gpu else "cpu_share", 100), f"{what} allocated, %"
        ),
    )
    return [
        *((seeds, numbers, over_time) if seeds.svg else (over_time, numbers)),  # a picture first
        *(_gpu_sections(first, curves, where) if gpu else ()),
        *_node_sections(curves, where),
        *_cost_sections(first, rows, where),
        *_use_sections(first, curves, where),
        _unplaced_section(first, where),
    ]


def _seeds_section(trace: OnTrace, where: str) -> Section:
    main, seeds = trace.metric, trace.question.seeds
    factor = 1.0 if main in LOWER_IS_BETTER else 100.0
    spread = [(name, [factor * value for value in trace.values(name, main)]) for name in trace.cells]
    return Section(
        f"Every seed{where}",
        "A dot is one seed; the bar and the number are their mean. Dots that lie on top of each other are runs that chose "
        "alike."
        if len(seeds) > 1
        else "One seed only: with `--seeds 5` the spread would tell how much of this is chance.",
        svg=dot_chart("Spread over seeds", spread, x_label=UNITS[main]) if max(len(spread), len(seeds)) > 1 else "",
    )


def _gpu_sections(first: dict[str, Row], curves: _Curves, where: str) -> list[Section]:
    """What became of GPUs."""
    arrivals = [
        Line(n, [100 * (x or 0) for x in r["series"]["arrived_gpu_share"]], _scaled(r["series"]["gpu_share"], 100))
        for n, r in first.items()
    ]
    causes = [(n, [(cause, 100 * share) for cause, share in r["fragments"].items()]) for n, r in first.items()]
    grows = all(a <= b for line in arrivals for a, b in pairwise(line.x))  # not where the fleet grows and shrinks
    return [
        Section(
            f"Against what arrived{where}",
            "GPU share allocated when so much has been asked for in all; above 100 % not everything can fit at once.",
            svg=line_chart(
                "Allocation over arrivals", arrivals, x_label="GPU asked for so far, %", y_label="GPUs allocated, %"
            ),
        )
        if grows
        else Section(""),
        Section(
            f"Fragmentation{where}",
            "Free GPU that an average pod could not use where it lies (FGD's measure), share of all GPUs.",
            svg=curves.chart("Fragmentation", curves.of("fragmented_gpu_share", 100), "of all GPUs, %", from_zero=True),
        ),
        Section(
            f"Why GPU is fragmented{where}",
            "The fragments at the end of the first seed by what an average pod lacks there, share of all GPUs.",
            svg=bar_chart("Fragmentation by cause", causes, unit="% of GPUs"),
        ),
    ]


def _node_sections(curves: _Curves, where: str) -> list[Section]:
    """Nodes in use."""
    busy = [
        Line(n, curves.times(c["time_s"]), [a - b for a, b in zip(c["nodes"], c["empty_nodes"], strict=True)])
        for n, c in curves.columns.items()
    ]
    return [
        Section(
            f"Nodes{where}",
            "Nodes in the fleet less the empty ones: what could not be switched off.",
            svg=curves.chart("Nodes in use", busy, "nodes"),
        )
    ]


def _cost_sections(first: dict[str, Row], rows: Sequence[Row], where: str) -> list[Section]:
    """What nodes cost; equal bars of one colour tell nothing."""
    if len({r["metrics"]["usd"] for r in rows}) == 1 and not rows[0]["metrics"]["usd_spot"]:
        return []
    kinds = ("on_demand", "spot")
    costs = {n: {kind: r["metrics"][f"usd_{kind}"] for kind in kinds} for n, r in first.items()}
    months = [(n, [(kind.replace("_", " "), usd) for kind, usd in cost.items() if usd]) for n, cost in costs.items()]
    return [
        Section(
            f"What it cost{where}",
            "First seed, over the measured time; the price book's USD.",
            svg=bar_chart("Cost", months, unit="USD"),
        )
    ]


def _unplaced_section(first: dict[str, Row], where: str) -> Section:
    failed = [(n, sorted(r["metrics"]["unplaced"].items(), key=lambda i: -i[1])) for n, r in first.items()]
    shown = [(n, [*f[:4], *([("other reasons", sum(v for _, v in f[4:]))] if f[4:] else [])]) for n, f in failed]
    named = [(n, ", ".join(r["metrics"]["unplaced_pods"])) for n, r in first.items() if r["metrics"]["unplaced_pods"]]
    return Section(
        f"Who found no place, and why{where}",
        "Pods of the first seed that had not been placed when it ended, by the rule that kept them off most nodes. "
        "`ullage simulate --log DIR` keeps every decision for `ullage explain`.",
        terms=named,
        folded="The first of them",
        svg=bar_chart("Unplaced pods", [(n, [(k, float(v)) for k, v in f]) for n, f in shown], unit="pods"),
    )


def _use_sections(first: dict[str, Row], curves: _Curves, where: str) -> list[Section]:
    """Contention over time, and who ran hot, of replays with real use."""
    used = {n: r["use"] for n, r in first.items() if "use" in r}
    if not used:
        return []
    curves = _Curves(used, curves.last_s)
    sections = [
        Section(
            f"{title}{where}",
            lead,
            svg=curves.chart(chart, curves.of(key, factor), unit, from_zero=True),
        )
        for title, lead, chart, key, factor, unit in USE
        if any(any(u[key]) for u in used.values())
    ]
    for n, u in used.items():
        heat = u["map"]
        sections.append(
            Section(
                f"Hot nodes · {n}{where}",
                "The nodes that ran hottest: share of their CPU that pods wanted, by time; above 100 % in the second colour.",
                svg=heat_map(
                    f"Hot nodes of {n}",
                    heat["nodes"],
                    curves.times(heat["time_s"]),
                    heat["cpu_share"],
                    x_label=curves.axis,
                ),
            )
        )
    return sections


def _scaled(values: Sequence[float | None], factor: float) -> list[float | None]:
    return [None if v is None else factor * v for v in values]


def _shown(lines: Sequence[Row]) -> list[tuple[str, str, float, int, bool]]:
    """Columns that say something of these lines."""
    return [c for c in COLUMNS if any(line[c[0]] or (c[0] in ALWAYS and line[c[0]] is not None) for line in lines)]


def _glossary(lines: Sequence[Row]) -> list[tuple[str, str]]:
    """What the shown columns mean."""
    return [(head, MEANINGS[key]) for key, head, *_ in _shown(lines) if key in MEANINGS]


def _table(lines: Sequence[Row]) -> Table:
    used = _shown(lines)
    rows = []
    for line in lines:
        cells: list[str] = [line["strategy"]]
        for key, _, factor, decimals, more in used:
            values = [x[key] for x in lines if x[key] is not None]
            texts = {value: _text(key, factor * value, decimals) for value in values}  # who looks alike is as good
            best, differ = texts[max(values) if more else min(values)], len(set(texts.values())) > 1
            value = line[key]
            text = "–" if value is None else texts[value]
            is_best = differ and text == best
            if key == line["metric"] and value is not None and line["sd"]:
                text += f" ± {factor * line['sd']:,.{decimals}f}"
            cells.append(Best(text) if is_best else text)
        rows.append(cells)
    return Table(["strategy", *(c[1] for c in used)], rows)


def _text(key: str, value: float, decimals: int) -> str:
    """A value of the table, in words where it is a time."""
    return duration(value) if key.startswith("pending_s") else f"{value:,.{decimals}f}"


def _turned(table: Table) -> Table:
    """A row per metric where that is the narrower way: phones scroll down, not sideways."""
    if len(table.rows) >= min(len(table.heads), MAX_COLUMNS):
        return table
    heads, *rows = zip(table.heads, *table.rows, strict=True)
    return Table(heads, rows)


def to_markdown(comparison: Comparison) -> str:
    """The same for a pull request."""
    parts = [f"**{comparison.headline}**", ""]
    for trace in comparison.traces:
        table = _table(trace.summary(comparison.metric))
        rows = [
            dict(zip(table.heads, [f"**{c}**" if isinstance(c, Best) else c for c in row], strict=True))
            for row in table.rows
        ]
        parts += [f"### {trace.trace}", "", markdown(rows), ""]
    parts += ["```", comparison.command, "```", ""]
    parts += [f"- {name}: {value}" for name, value in _facts(comparison)]
    return "\n".join(parts) + "\n"
