"""What shadow mode saw: how often kube-scheduler chose as we would, and what the difference would have been worth.

The comparison is one step deep. Every choice of ours was made in the world that kube-scheduler's earlier choices had
left, so it says what *that* choice would have changed, not where a cluster run by us would stand; for that, replay
the log (`ullage bundle`, then `ullage simulate`). Uncertainty comes from a moving-block bootstrap over decisions in
order (Künsch 1989), because neighbouring decisions are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from placement import pages
from placement.pages import coded
from placement.rates import HOURS_A_MONTH, RATES
from placement.resources import BoolArray, FloatArray, format_amount
from scheduler.explain import when
from scheduler.records import IDLE, Fleet, Record, RecordReader

RESAMPLES = 1000
KUBE, LOG = "kube-scheduler", "the log"
FEW = 100
"""Below so many settled pods a report says that it proves nothing."""


@dataclass(frozen=True)
class NodePrices:
    """USD an hour by what a node offers; the defaults are OpenCost's (configs/default.json)."""

    core_usd: float = RATES.cpu
    gib_usd: float = RATES.memory_gib
    gpu_usd: float = RATES.gpu

    def of(self, fleet: Fleet, node: str) -> float:
        """USD an hour of one node."""
        row = fleet.row_of[node]
        cores, gib = float(fleet.cpu[row]) / 1000, float(fleet.memory[row]) / 2**30
        return cores * self.core_usd + gib * self.gib_usd + int(fleet.gpus[row]) * self.gpu_usd


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def text(self, form: str = "{:+,.1f}") -> str:
        """For people."""
        return f"{form.format(self.value)} (95 %: {form.format(self.low)} to {form.format(self.high)})"


UNKNOWN = Interval(0, 0, 0)
NAMED = 10
"""Differences that are shown one by one."""


@dataclass
class Pod:
    """What is compared about one pod."""

    record: Record
    opened_ours: bool = False
    """Our node held nothing but daemons before."""
    opened_theirs: bool = False
    usd_ours: float = 0.0
    """USD an hour of an idle node that this choice put to use; 0 if the node was in use already."""
    usd_theirs: float = 0.0


@dataclass
class Shadow:
    """The report's content."""

    records: int = 0
    pods: int = 0
    from_s: float = 0.0
    to_s: float = 0.0
    placer: str = KUBE
    """Whose choices ours are compared with."""
    in_shadow: bool = False
    """Every decision was made in mode ``shadow``."""
    agreed: int = 0
    differed: int = 0
    ours_only: int = 0
    """We had a node, the pod was not seen bound."""
    theirs_only: int = 0
    """We had none, the pod was bound."""
    neither: int = 0
    agreement: Interval = UNKNOWN
    nodes_fewer: Interval = UNKNOWN
    """Idle nodes that kube-scheduler put to use less those that we would have, over the whole time."""
    busy_hours: float = 0.0
    """Mean time until a node that was put to use was idle again."""
    usd_a_month: Interval = UNKNOWN
    allocation: dict[str, int] = field(default_factory=dict)
    """Requests of pods that only we placed less those that only kube-scheduler placed."""
    by_strategy: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    is_guessed: bool = False
    """USD are at rates that nobody gave."""

    @property
    def is_little(self) -> bool:
        """Whether there is too little to judge by."""
        return self.agreed + self.differed < FEW

    def headline(self) -> str:
        """The result in one sentence."""
        settled = self.agreed + self.differed
        if not self.records:
            return "No decision is recorded that matches: nothing to compare. Does a scheduler call us? Ask `ullage doctor`."
        if not settled:
            return "No pod with a choice of ours has been seen bound yet: nothing to compare."
        start = f"Ullage agreed with {self.placer} on {100 * self.agreement.value:.0f} % of {_pods(settled)}"
        if self.is_little:
            return f"{start}; too few to judge (below {FEW})."
        if not self.usd_a_month.is_clear:
            return f"{start}; no clear difference in nodes put to use."
        word = "less" if self.usd_a_month.value > 0 else "more"
        return f"{start}; its choices would have cost about {abs(self.usd_a_month.value):,.0f} USD a month {word}."

    def limits(self) -> str:
        """What the comparison does not say."""
        steps = f"One step deep: each choice is judged in the world that {self.placer}'s earlier choices left. "
        of_log = "In a log, what wrote it bound the pods: in a replay's, its own strategy, which agrees with itself. "
        return f"{steps}{of_log if self.placer == LOG else ''}{PRICED}{GUESSED if self.is_guessed else ''}."

    def next_step(self) -> str:
        """What to do with the result; empty where there is none."""
        if not self.in_shadow or not self.agreed + self.differed:
            return ""
        if self.is_little:
            return "Next: leave it in shadow until there are more pods."
        return (
            "Next: `ullage explain decision/ID` says why; `kubectl label namespace NS ullage.dev/mode=score` gives it one "
            "voice among kube-scheduler's own in one namespace, `=off` takes it back."
        )

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "apiVersion": "ullage.dev/v1",
            "kind": "ShadowReport",
            "headline": self.headline(),
            "from": when(self.from_s),
            "to": when(self.to_s),
            "records": self.records,
            "pods": self.pods,
            "outcomes": {
                "agreed": self.agreed,
                "differed": self.differed,
                "ours_only": self.ours_only,
                "theirs_only": self.theirs_only,
                "neither": self.neither,
            },
            "agreement_share": self.agreement._asdict(),
            "nodes_fewer": self.nodes_fewer._asdict(),
            "usd_a_month": self.usd_a_month._asdict(),
            "busy_hours": self.busy_hours,
            "allocation": self.allocation,
            "strategies": self.by_strategy,
            "examples": self.examples,
            "limits": self.limits(),
        }


PRICED = "USD assumes that an idle node is switched off and that nodes stay in use as long as they were seen to"
GUESSED = (
    ", at OpenCost's default rates, not at what you pay (--usd-per-core-hour, --usd-per-gib-hour, --usd-per-gpu-hour)"
)


def compare(reader: RecordReader, records: Iterable[Record], prices: NodePrices, seed: int = 0) -> Shadow:
    """Compare the last decision about each pod with where it was bound. ``records`` come oldest first."""
    shadow = Shadow(is_guessed=prices == NodePrices())
    last: dict[str, Pod] = {}
    busy, modes = BusyTimes(), set[str]()
    for record in records:
        if not shadow.records:
            shadow.from_s = record.asked_s
        shadow.records += 1
        shadow.to_s = record.asked_s
        modes.add(record.mode)
        shadow.by_strategy[record.strategy] = shadow.by_strategy.get(record.strategy, 0) + 1
        fleet = reader.fleet(record.fleet)
        last[record.uid] = _pod(record, fleet, prices)
        if fleet is not None:
            busy.see(record, fleet)
        record.masks, record.top = {}, []  # most of a record, and the last one about every pod is kept
    pods = list(last.values())
    shadow.pods = len(pods)
    shadow.in_shadow = modes == {"shadow"}
    if "log" in modes:
        shadow.placer = LOG if modes == {"log"} else f"{KUBE} or {LOG}"
    shadow.busy_hours = busy.mean_s(shadow.to_s) / 3600
    _count(shadow, pods)
    _estimate(shadow, [p for p in pods if p.record.agrees is not None], seed)
    shadow.examples = list(_examples(pods))
    return shadow


def _pod(record: Record, fleet: Fleet | None, prices: NodePrices) -> Pod:
    pod = Pod(record)
    if fleet is None or record.agrees is None:
        return pod
    assert record.final_node is not None
    pod.opened_ours = record.was_idle(fleet, record.node) is True
    pod.opened_theirs = record.was_idle(fleet, record.final_node) is True
    pod.usd_ours = prices.of(fleet, record.node) if pod.opened_ours else 0.0
    pod.usd_theirs = prices.of(fleet, record.final_node) if pod.opened_theirs else 0.0
    return pod


class BusyTimes:
    """How long nodes that were put to use stayed in use, by the idle masks of later records."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._ended: list[float] = []

    def see(self, record: Record, fleet: Fleet) -> None:
        """Note which nodes are idle again, and the one that this pod put to use."""
        idle = record.masks.get(IDLE)
        if idle is None:
            return
        for node in [n for n in self._since if record.was_idle(fleet, n)]:
            self._ended.append(record.asked_s - self._since.pop(node))
        final = record.final_node
        if final and final not in self._since and record.was_idle(fleet, final):
            self._since[final] = record.asked_s

    def mean_s(self, now_s: float) -> float:
        """Mean seconds; times that have not ended count up to now, so this is rather too short."""
        times = self._ended + [now_s - since for since in self._since.values()]
        return sum(times) / len(times) if times else 0.0


def _count(shadow: Shadow, pods: list[Pod]) -> None:
    for pod in pods:
        record = pod.record
        sign = 0
        if record.agrees is not None:
            shadow.agreed += int(record.agrees)
            shadow.differed += int(not record.agrees)
        elif record.node:
            shadow.ours_only, sign = shadow.ours_only + 1, 1
        elif record.final_node:
            shadow.theirs_only, sign = shadow.theirs_only + 1, -1
        else:
            shadow.neither += 1
        for name, amount in record.request.items() if sign else ():
            if isinstance(amount, int) and name != "priority":
                shadow.allocation[name] = shadow.allocation.get(name, 0) + sign * amount


def _estimate(shadow: Shadow, settled: list[Pod], seed: int) -> None:
    if not settled:
        return
    agreed = np.array([p.record.agrees for p in settled], np.bool_)
    nodes = np.array([int(p.opened_theirs) - int(p.opened_ours) for p in settled], np.float64)
    usd = np.array([p.usd_theirs - p.usd_ours for p in settled], np.float64)
    days_s = max(shadow.to_s - shadow.from_s, 1.0)
    # One avoided opening saves its node's price for as long as nodes stay in use; scaled from the time seen to a month.
    monthly = usd * len(settled) * shadow.busy_hours * (HOURS_A_MONTH * 3600 / days_s)
    shadow.agreement = wilson(agreed)
    shadow.nodes_fewer, shadow.usd_a_month = _intervals((nodes * len(settled), monthly), np.random.default_rng(seed))


def _intervals(series: Sequence[FloatArray], rng: np.random.Generator) -> list[Interval]:
    """Of each one's mean, by a circular moving-block bootstrap in blocks of about √n, one sample at a time: there may be a
    million pods."""
    number = len(series[0])
    length = max(1, math.isqrt(number))
    means: list[list[float]] = []
    for starts in rng.integers(0, number, (RESAMPLES, -(-number // length))):
        picks = ((starts[:, None] + np.arange(length)) % number).ravel()[:number]
        means.append([values[picks].mean() for values in series])
    lows, highs = np.quantile(means, (0.025, 0.975), axis=0)
    return [Interval(float(v.mean()), float(lo), float(hi)) for v, lo, hi in zip(series, lows, highs, strict=True)]


def wilson(agreed: BoolArray) -> Interval:
    """Share of True with Wilson's score interval (1927)."""
    n, z = len(agreed), 1.96
    share = float(agreed.mean())
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _examples(pods: list[Pod]) -> Iterator[dict[str, Any]]:
    """Differences that are worth most, either way; those worth nothing are left out."""
    differing = [p for p in pods if p.record.agrees is False and p.usd_theirs != p.usd_ours]
    differing.sort(key=lambda p: (-abs(p.usd_theirs - p.usd_ours), p.record.asked_s))
    for pod in differing[:NAMED]:
        record = pod.record
        yield {
            "pod": f"{record.namespace}/{record.name}",
            "ours": record.node,
            "theirs": record.final_node,
            "usd_an_hour": round(pod.usd_theirs - pod.usd_ours, 4),
            "decision": record.id,
        }


# ── for people ────────────────────────────────────────────────────────────────────────────────


def _pods(number: int) -> str:
    return f"{number:,} pod{'s' * (number != 1)}"


def _rows(shadow: Shadow) -> list[tuple[str, str]]:
    if not shadow.records:
        return []
    value, low, high = (100 * share for share in shadow.agreement)
    lines = [
        ("time", f"{when(shadow.from_s)} to {when(shadow.to_s)}"),
        ("decisions", f"{shadow.records:,} about {_pods(shadow.pods)}, by {', '.join(shadow.by_strategy) or 'nobody'}"),
        ("agreed", f"{_pods(shadow.agreed)}: {value:.1f} % (95 %: {low:.1f} % to {high:.1f} %)"),
        ("differed", _pods(shadow.differed)),
        ("only we had a node", f"{_pods(shadow.ours_only)}, not seen bound"),
        (f"only {shadow.placer} had", _pods(shadow.theirs_only)),
        ("nobody had", _pods(shadow.neither)),
        ("idle nodes put to use, fewer with us", shadow.nodes_fewer.text()),
        ("a node put to use stays in use for", f"{shadow.busy_hours:,.2f} hours"),
        ("USD a month, less with us", shadow.usd_a_month.text("{:+,.0f}")),
    ]
    if shadow.allocation:
        more = (
            f"{name} {'+' * (amount >= 0)}{format_amount(amount, name)}" for name, amount in shadow.allocation.items()
        )
        lines.append(("requests, more with us", ", ".join(more)))
    return lines


def to_text(shadow: Shadow) -> str:
    """The report for a terminal."""
    rows = _rows(shadow)
    width = max((len(name) for name, _ in rows), default=0)
    lines = [shadow.headline(), "", *(f"  {name.ljust(width)}  {text}" for name, text in rows)]
    if shadow.examples:
        lines += ["", "  differences worth most (ullage explain decision/ID):"]
        lines += [
            f"    {e['decision']:<18} {e['pod']}: {e['ours']} instead of {e['theirs']} ({e['usd_an_hour']:+.3f} USD/h)"
            for e in shadow.examples
        ]
    ends = [f"  {text}" for text in (shadow.limits(), shadow.next_step()) if text]
    return "\n".join([*lines, "", *ends, ""])


_STYLE = """
.bar { display: flex; height: 24px; border-radius: 4px; overflow: hidden; margin-bottom: 10px; }
.bar span { display: block; min-width: 2px; }
.key { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0; padding: 0; list-style: none; font-size: 14px; }
.key i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
"""


def to_html(shadow: Shadow, command: str) -> str:
    """The report as one self-contained file, in the look of the other pages."""
    parts = [f'<p class="lead">{coded(shadow.limits())}</p>']
    if rows := _rows(shadow):
        title = "What was seen"
        parts.append(pages.section(title, _bar(shadow), pages.table((), rows, label=title, words=True)))
    if shadow.examples:
        title, heads = "Differences worth most", ("pod", "ours", f"{shadow.placer}'s", "USD/h less with us", "decision")
        lines = [(e["pod"], e["ours"], e["theirs"], f"{e['usd_an_hour']:+.3f}", e["decision"]) for e in shadow.examples]
        table = pages.table(heads, lines, label=title, words=True)
        parts.append(pages.section(title, table, lead="Ask `ullage explain decision/ID` why."))
    name, next_step = "Ullage · shadow report", shadow.next_step()
    return pages.page(name, shadow.headline(), parts, command=command, next_step=next_step, style=_STYLE)


def _bar(shadow: Shadow) -> str:
    """What became of the pods: a bar, and its key with the counts."""
    parts = (
        ("agreed", shadow.agreed, "c2"),
        ("differed", shadow.differed, "c1"),
        ("only we had a node", shadow.ours_only, "c0"),
        (f"only {shadow.placer} had", shadow.theirs_only, "c4"),
        ("nobody had", shadow.neither, "c7"),
    )
    seen = [(f"{name}: {_pods(count)}", count, colour) for name, count, colour in parts if count]
    if not seen:
        return ""
    spans = "".join(f'<span style="flex:{count};background:var(--{colour})"></span>' for _, count, colour in seen)
    key = "".join(f'<li><i style="background:var(--{colour})"></i>{text}</li>' for text, _, colour in seen)
    said = "; ".join(text for text, _, _ in seen)
    return (
        f'<div class="card"><div class="bar" role="img" aria-label="{said}">{spans}</div>'
        f'<ul class="key">{key}</ul></div>'
    )
