"""Demand to come: forecasts of the past, what they stand on, and purchases made for them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.planning.cluster import Cluster
from placement.planning.expected import DAY_S, WEEK_S, PodHistory, Rung, expect, least_windows
from placement.planning.foresight import foresee, worth_of
from placement.planning.growth import Growth, grown, growth_of
from placement.planning.snapshots import SnapshotFile
from placement.pods import Pod, PodSpec
from placement.rates import Rates
from placement.state import ClusterState
from scheduler.cli.cluster import Live
from simulator.cli.plan import plan as plan_group
from simulator.cost import read_price_book
from simulator.planning.foresight import Judging, history_of, judged, last_seen
from simulator.planning.selling import for_sale
from simulator.planning.snapshots import write_snapshot
from simulator.traces.recorded import trace_of_recording
from simulator.traces.trace import NEVER, Trace
from tests.api_server import api_server, kubeconfig, node_object, pod_object
from tests.plan_objects import node, pod, taken
from tests.test_prometheus import fake_prometheus

HOUR = 3600


def history(
    pods: list[tuple[int, int, int]], now_s: int, *, since_s: int = 0, worth: tuple[float, ...] = (1.0, 2.5)
) -> PodHistory:
    """Of (arrival, end, class)."""
    columns = np.array(pods, np.int64).reshape(-1, 3).T
    return PodHistory(now_s, since_s, columns[0], columns[1], columns[2], np.array(worth))


@st.composite
def histories(draw: st.DrawFn) -> PodHistory:
    now = draw(st.integers(40, 90))
    pods = []
    for _ in range(draw(st.integers(1, 25))):
        arrival = draw(st.integers(0, now))
        end = draw(st.one_of(st.just(-1), st.integers(arrival, now)))
        pods.append((arrival, end, draw(st.integers(0, 1))))
    return history(pods, now)


def running(seen: PodHistory, time_s: int) -> np.ndarray:
    """``(C,)`` pods at a moment, one by one."""
    count = np.zeros(len(seen.worth), np.int64)
    for arrival, end, c in zip(seen.arrival_s, seen.end_s, seen.classes, strict=True):
        count[c] += arrival <= time_s and not 0 <= end <= time_s
    return count


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 60), st.integers(1, 30))
def test_rises_are_those_of_looking_at_every_second(seen: PodHistory, start: int, span: int) -> None:
    start = min(start, seen.now_s - 1)
    seconds = range(start, min(start + span, seen.now_s) + 1)
    demand = [float(seen.worth @ running(seen, t)) for t in seconds]
    assert seen.demand(start) == pytest.approx(demand[0])
    # who ends and who arrives in one second are two steps: the peak between them is that of all who have arrived
    assert seen.peak(start, span) >= max(demand) - demand[0] - 1e-9
    rise = seen.rise(start, span)
    assert seen.worth @ rise == pytest.approx(seen.peak(start, span))
    assert (running(seen, start) + rise >= 0).all()
    assert (seen.count == running(seen, seen.now_s)).all()


@settings(max_examples=200, deadline=None)
@given(histories(), st.integers(2, 20), st.sampled_from([0.3, 0.5, 0.8, 0.9]))
def test_a_forecast_leaves_nobody_negative_and_its_worth_is_its_peak(
    seen: PodHistory, span: int, quantile: float
) -> None:
    made = expect(seen, span, quantile)
    assert made.peak >= 0
    assert made.held <= made.tested
    assert made.level == pytest.approx(float(seen.worth @ seen.count))
    assert all(0 < share <= 1 for share in made.use)
    assert list(made.use) == sorted(made.use, reverse=True)
    if made.rung in (Rung.WEEK, Rung.DAY, Rung.RECENT):
        assert seen.worth @ made.rise == pytest.approx(made.peak)
        assert made.windows >= least_windows(quantile)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_that_comes_later_changes_a_forecast(data: st.DataObject) -> None:
    later = data.draw(st.integers(41, 90))
    pods = [
        (data.draw(st.integers(0, later)), data.draw(st.integers(1, 40))) for _ in range(data.draw(st.integers(2, 20)))
    ]
    spec = PodSpec(request=(("cpu", 1000),))
    nodes = [NodeSpec("n", (("cpu", 1000), ("pods", 9)))]

    def trace(until: int) -> Trace:
        rows = [(f"p{i}", spec, a, a + d if a + d <= until else NEVER) for i, (a, d) in enumerate(pods) if a <= until]
        return Trace.of("t", nodes, [("first", spec, 0, NEVER), *rows])

    worth = np.ones(1)
    short, whole = (expect(history_of(t, 40, worth), 5, 0.5) for t in (trace(40), trace(later)))
    assert (short.rise == whole.rise).all()
    assert replace(short, rise=whole.rise) == whole


def daily(days: int, now_hour: int = 9) -> PodHistory:
    """Ten pods come at ten o'clock each day and leave at noon; on the first day of a week, twenty."""
    pods = []
    for day in range(days + 1):
        number = 20 if day % 7 == 0 else 10
        begin = day * DAY_S + 10 * HOUR
        if begin <= days * DAY_S + now_hour * HOUR:
            pods += [(begin, begin + 2 * HOUR, 0)] * number
    now = days * DAY_S + now_hour * HOUR
    return history([(a, e if e <= now else -1, c) for a, e, c in pods], now)


def test_the_hour_counts_and_with_enough_weeks_the_weekday() -> None:
    weekly = expect(daily(7 * 9), 3 * HOUR, 0.5)
    assert (weekly.rung, weekly.rise.tolist()) == (Rung.WEEK, [20, 0])
    assert (weekly.held, weekly.tested) == (7, 7)
    tuesday = expect(daily(8), 3 * HOUR, 0.5)
    assert (tuesday.rung, tuesday.rise.tolist()) == (Rung.DAY, [10, 0])
    assert expect(daily(15), 3 * HOUR, 0.5).rung == Rung.WEEK
    evening = expect(daily(8, now_hour=20), 3 * HOUR, 0.5)
    assert (evening.rung, evening.peak) == (Rung.DAY, 0.0)
    sure = expect(daily(12), 3 * HOUR, 0.9)
    assert (sure.rung, sure.rise.tolist()) == (Rung.DAY, [20, 0])


def test_the_rungs_are_gone_down_one_by_one_as_history_gets_shorter() -> None:
    pods = [(t, t + HOUR, 0) for t in range(0, 30 * DAY_S, 200)]

    def rung(length_s: int, quantile: float, span_s: int = HOUR) -> Rung:
        now = 30 * DAY_S
        seen = [(a, e if e <= now else -1, c) for a, e, c in pods if a >= now - length_s]
        return expect(history(seen, now, since_s=now - length_s), span_s, quantile).rung

    assert rung(4 * WEEK_S, 0.7) == Rung.WEEK
    assert rung(4 * WEEK_S, 0.9) == Rung.DAY
    assert rung(5 * DAY_S, 0.9) == Rung.RECENT
    assert rung(2 * HOUR, 0.9) == Rung.ARRIVALS
    assert rung(3 * HOUR, 0.9, DAY_S) == Rung.ARRIVALS
    assert rung(2 * HOUR, 0.9, DAY_S) == Rung.NOTHING, "two hours tell nothing of a day"


def test_arrivals_times_lifetimes_is_the_number_that_a_steady_stream_holds() -> None:
    """Twelve an hour that live two hours: 24 at a time, whatever the first hour shows."""
    now = 4 * HOUR
    pods = [(t, t + 2 * HOUR if t + 2 * HOUR <= now else -1, 0) for t in range(1, now, 300)]
    made = expect(history(pods, now, worth=(1.0, 1.0)), DAY_S, 0.5)
    assert made.rung == Rung.ARRIVALS
    assert abs(int(made.rise[0])) <= 1
    young = [(t, -1, 0) for t in range(1, HOUR, 100)]
    grows = expect(history(young, HOUR, worth=(1.0, 1.0)), 2 * HOUR, 0.9)
    assert grows.rung == Rung.ARRIVALS
    assert 70 <= grows.rise[0] <= 80, "nobody was seen to end, so all stay and 36 an hour come"


@pytest.mark.parametrize(("span", "quantile"), [(0, 0.5), (-1, 0.5), (60, 0.0), (60, 1.0)])
def test_spans_and_quantiles_that_make_no_sense_are_refused(span: int, quantile: float) -> None:
    with pytest.raises(ConfigError):
        expect(daily(1), span, quantile)
    with pytest.raises(ConfigError, match="after now"):
        history([(5, -1, 0)], 4)
    with pytest.raises(ConfigError, match="for every pod"):
        replace(daily(1), end_s=np.zeros(0, np.int64))


# ── what is bought for it ─────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(-5, 9), min_size=1, max_size=4), st.lists(st.floats(0.1, 1.0), min_size=1, max_size=4))
def test_growth_comes_in_lots_that_add_up(rise: list[int], lots: list[float]) -> None:
    specs = [PodSpec(request=(("cpu", 1000 + i),)) for i in range(len(rise))]
    found = growth_of(specs, np.array(rise), np.array(sorted(lots, reverse=True)))
    assert all(g.pods for g in found)
    for spec, n in zip(specs, rise, strict=True):
        assert sum(g.pods for g in found if g.spec == spec) == n
        assert all(g.use_share in (*lots, 1.0) for g in found if g.spec == spec)


WEB = PodSpec(request=(("cpu", 1000),), namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4")
JOB = PodSpec(request=(("cpu", 2000),), namespace="shop", owner="Job/j-1")


def small_cluster(*pending: Pod) -> Cluster:
    """Two nodes of four cores; three web pods run on the first."""
    state = ClusterState()
    for name in ("a", "b"):
        state.add_node(NodeSpec(name, (("cpu", 4000), ("pods", 10))))
    for i in range(3):
        state.bind(f"web-{i}", WEB, "a")
    return Cluster(state, pending)


def test_who_fits_needs_no_node_and_who_leaves_makes_room() -> None:
    later = replace(WEB, owner="ReplicaSet/web-6d5f7b8c99")
    waiting = Pod("w", "w", JOB)
    cluster, use, housed = grown(small_cluster(waiting), [Growth(later, -2), Growth(JOB, 4, 0.25)])
    assert set(cluster.state.residents) >= {"web-0", "w"}, "the youngest leave first, pending pods come first"
    assert not {"web-1", "web-2"} & set(cluster.state.residents)
    assert (housed, len(cluster.pending)) == (3, 2)
    assert {use[p.uid] for p in cluster.pending} == {0.25}
    assert (cluster.free() >= 0).all()


BURST = PodSpec(request=(("cpu", 3000), ("memory", 1 << 30)), owner="Job/burst")
NINE = 11 * DAY_S + 9 * HOUR


def bursts(days: int, until_s: int | None = None) -> Trace:
    """One pod of three cores runs all the time; at ten each day six more come for two hours."""
    nodes = [NodeSpec("n", (("cpu", 64_000), ("memory", 64 << 30), ("pods", 20)))]
    pods = [("base", BURST, 0, NEVER)]
    for day in range(days):
        at = day * DAY_S + 10 * HOUR
        pods += [(f"burst-{day}-{i}", BURST, at, at + 2 * HOUR) for i in range(6)]
    if until_s is not None:
        pods = [p for p in pods if p[2] <= until_s] + [("last", BURST, until_s, NEVER)]
    return Trace.of("bursts", nodes, pods)


def test_a_purchase_ahead_buys_before_the_pods_are_there(tmp_path: Path) -> None:
    snapshot, past = tmp_path / "now.json", tmp_path / "past.ullage"
    write_snapshot(taken(node("n1", cpu=8), pod("x-1", "1", "n1")), snapshot)
    bursts(12, NINE).save(past)
    words = ["purchase", "--snapshot", str(snapshot), "--history", str(past), "--time", "1", "-o", "json", "--ahead"]

    def reasons_and_steps(ahead: str) -> tuple[str, int]:
        result = CliRunner().invoke(plan_group, [*words, ahead], catch_exceptions=False)
        made = json.loads(result.stdout)
        return " ".join(made["reasons"]), len(made["steps"])

    why, bought = reasons_and_steps("2h")
    assert "6 pods more" in why
    assert "windows of the same hour" in why
    assert "2 pods find room on the nodes that are there" in why
    assert bought == 1, "four of three cores fit on one machine of sixteen"
    why, bought = reasons_and_steps("30m")
    assert bought == 0, "until half past nine nobody comes"
    assert "the nodes that are there are enough" in why


def test_without_history_a_purchase_says_so_and_buys_for_who_is_pending(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_snapshot(taken(node("n1", cpu=1), pod("w-1", "3")), path)
    words = ["purchase", "--snapshot", str(path), "--time", "1", "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, [*words, "--ahead", "1d"], catch_exceptions=False).stdout)
    assert "no history" in made["reasons"][0]
    assert len(made["steps"]) == 1
    with pytest.raises(ConfigError, match="one history"):
        CliRunner().invoke(
            plan_group, ["purchase", "demo", "--ahead", "1h", "--history", "demo"], catch_exceptions=False
        )
    for span in ("soon", "-3h", "0", "1e99d", "nan"):
        assert CliRunner().invoke(plan_group, [*words, "--ahead", span]).exit_code == 2


def test_a_live_purchase_takes_its_history_from_prometheus() -> None:
    asked = []

    class Cluster:
        def snapshot(self, kubeconfig: str | None, context: str | None) -> SnapshotFile:
            return taken(node("n1", cpu=1), pod("w-1", "3"))

        def recording(self, kubeconfig: str | None, context: str | None, prometheus: str, days: float) -> Trace:
            asked.append((prometheus, days))
            return bursts(12, NINE)

    words = ["purchase", "--live", "--ahead", "2h", "-p", "http://h:9090", "--days", "14", "--time", "1", "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, words, obj=Cluster(), catch_exceptions=False).stdout)
    assert asked == [("http://h:9090", 14.0)]
    assert "6 pods more" in made["reasons"][0]
    assert len(made["steps"]) == 2, "one pending and six expected, five on a machine of sixteen cores"


async def test_the_live_side_reads_cluster_and_history_for_a_purchase(tmp_path: Path) -> None:
    async with fake_prometheus() as prometheus, api_server() as api:
        api.put("nodes", node_object("a"))
        api.put("pods", pod_object("web-a", namespace="shop"))
        prometheus.pods = {"web-a": lambda _t: 0.5}
        words = ["purchase", "--live", "--kubeconfig", kubeconfig(api.port, tmp_path), "--time", "1", "-o", "json"]
        words += ["--ahead", "1h", "--quantile", "0.5", "--days", "0.5", "-p", f"http://127.0.0.1:{prometheus.port}"]
        live = Live(lambda: trace_of_recording)
        done = await asyncio.to_thread(CliRunner().invoke, plan_group, words, obj=live, catch_exceptions=False)
    made = json.loads(done.stdout)
    assert made["steps"] == []
    said = " ".join(made["reasons"])
    assert "recent windows" in said
    assert "0 pods more" in said
    assert "1 pods find room" in said


def test_a_forecast_is_judged_beside_its_rivals() -> None:
    rows = judged(bursts(20), Judging(3 * HOUR, 0.5, DAY_S, 12 * DAY_S + 9 * HOUR, 19 * DAY_S))
    by_method = {row["method"]: row for row in rows}
    assert by_method["expected"]["pinball_cores"] == by_method["oracle"]["pinball_cores"] == 0
    assert by_method["last"]["pinball_cores"] == pytest.approx(0.5 * 18)
    assert by_method["last"]["covered"] == 0
    assert by_method["day-max"]["covered"] == 1
    for exact in ("day-rise", "last, times", "last, plus", "trend, times"):
        assert by_method[exact]["pinball_cores"] == 0, "every day is like the one before"
    with pytest.raises(ConfigError, match=r"needs 75 h \(--since and --ahead\), and 48 h are looked at"):
        judged(bursts(2), Judging(3 * HOUR, 0.5, DAY_S, 3 * DAY_S, 2 * DAY_S))
    with pytest.raises(ConfigError, match="no pod arrives"):
        judged(
            Trace.of("empty", [NodeSpec("n", (("cpu", 1),))], []), Judging(3 * HOUR, 0.5, DAY_S, 3 * DAY_S, 2 * DAY_S)
        )
    with pytest.raises(ConfigError, match="nothing can be expected"):
        history_of(bursts(2), -1, np.ones(1))


def test_no_rival_looks_ahead() -> None:
    """A pod comes each hour; after the last forecast nobody else, or many."""
    hours = 50
    slowly = [(f"p{hour}", BURST, hour * HOUR, NEVER) for hour in range(hours + 1)]
    many = [(f"q{i}", BURST, hours * HOUR + 60, NEVER) for i in range(9)]
    later = [("end", BURST, (hours + 9) * HOUR, NEVER)]
    judging = Judging(3 * HOUR, 0.99, HOUR, (hours - 1) * HOUR, (hours + 3) * HOUR)
    said = []
    for pods in (slowly + later, slowly + many + later):
        rows = judged(Trace.of("t", bursts(1).nodes, pods), judging)
        said.append({row["method"]: row["cores_forecast"] for row in rows})
    assert said[0].pop("oracle") != said[1].pop("oracle")
    assert said[0] == said[1]


def test_a_minute_ahead_in_a_long_history_is_looked_at_ten_thousand_times_at_most() -> None:
    """As many windows as begin six times a minute in four weeks would take hours to hold against each other."""
    trace = bursts(30)
    history = history_of(trace, 29 * DAY_S, worth_of(trace.specs, Rates()))
    found = expect(history, 60, 0.99)
    assert found.rung == Rung.RECENT
    assert 9_000 < found.windows <= 10_001
    assert found.held == found.tested > 9_000


def test_how_sure_a_forecast_is_is_said() -> None:
    trace = bursts(30)
    worth = worth_of(trace.specs, Rates())
    seen = foresee(history_of(trace, 29 * DAY_S + 9 * HOUR, worth), trace.specs, 2 * HOUR, 0.5)
    assert "earlier forecasts made like this were not exceeded" in seen.words[-1]
    new = foresee(history_of(trace, 3 * HOUR, worth), trace.specs, DAY_S, 0.5)
    assert new.growth == ()
    assert "not enough history" in new.words[0]
    week = history_of(trace, 29 * DAY_S + 9 * HOUR, worth, days=7)
    assert str(Rung.DAY) in foresee(week, trace.specs, 2 * HOUR, 0.5).words[1], "only the last days count"
    assert (week.count == history_of(trace, 29 * DAY_S + 9 * HOUR, worth).count).all(), "who runs is known all the same"
    assert last_seen(trace) == 29 * DAY_S + 12 * HOUR


# ── what is for sale ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_price_book_sells_reservations_and_gives_away_what_is_reserved_and_unused(tmp_path: Path) -> None:
    book = tmp_path / "prices.csv"
    book.write_text(
        "name,cores,gib,usd_per_hour,spot_usd_per_hour,limit,reserved_usd_per_hour,term_hours,reserved_limit,reserved_owned\n"
        "m,8,32,1.0,0.3,5,0.6,8760,2,3\n"
        "n,16,64,2.0,,,,,,\n",
        encoding="utf-8",
    )
    runs = [NodeSpec("x", (("cpu", 1),), shape="m"), NodeSpec("y", (("cpu", 1),), shape="m", spot=True)]
    sold = for_sale(read_price_book(book), runs, spot=True, risk=0.1)
    assert [(s.name, s.usd_per_hour, s.limit, s.term_hours, s.pool) for s in sold] == [
        ("m", 1.0, 5, 0.0, "m"),
        ("m (spot)", 0.3, 5, 0.0, "m"),
        ("m (reserved)", 0.6, 2, 8760.0, ""),
        ("m (reserved, unused)", 0.0, 2, 0.0, ""),
        ("n", 2.0, None, 0.0, ""),
    ]
    assert [s.interruption_usd_per_hour for s in sold if s.spot] == [0.1]


@pytest.mark.parametrize(
    ("hours", "kinds"), [("100", {"m", "m (reserved, unused)"}), ("8000", {"m (reserved)", "m (reserved, unused)"})]
)
def test_a_purchase_reserves_what_runs_long_enough(hours: str, kinds: set[str], tmp_path: Path) -> None:
    book, path = tmp_path / "prices.csv", tmp_path / "c.json"
    book.write_text(
        "name,cores,gib,usd_per_hour,reserved_usd_per_hour,term_hours,reserved_owned\nm,8,32,1.0,0.6,8760,1\n",
        encoding="utf-8",
    )
    write_snapshot(taken(node("n1", cpu=1), *(pod(f"w-{i}", "5") for i in range(3))), path)
    words = [
        "purchase",
        "--snapshot",
        str(path),
        "--time",
        "1",
        "--prices",
        str(book),
        "--hours-of-use",
        hours,
        "-o",
        "json",
    ]
    made = json.loads(CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout)
    assert {step["name"] for step in made["steps"]} == kinds
    assert made["ending"] == "optimal"
    if "m (reserved)" in kinds:
        assert made["details"]["committed_usd"] == pytest.approx(2 * 0.6 * 8760)
        assert any("by the hour it would cost as much after 5,256 h" in reason for reason in made["reasons"])


def test_a_purchase_that_cannot_be_still_says_what_was_left_out_and_expected(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_snapshot(taken(node("n1", cpu=1), pod("w", "5000")), path)
    words = ["purchase", "--snapshot", str(path), "--ahead", "1h", "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout)
    assert made["ending"] == "infeasible"
    assert "no history, so nothing is expected" in made["reasons"][0]
    assert "fits on no shape for sale" in made["reasons"][1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("purchase --hours-of-use 100", "nothing is for sale reserved"),
        ("purchase --spot --interruptions 1e300 --usd-per-interruption 1e300", "are inf USD an hour; give a rate"),
    ],
)
def test_an_option_that_changes_nothing_or_makes_no_sense_is_refused(words: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_snapshot(taken(node("n1", cpu=1), pod("w", "5")), path)
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(plan_group, [*words.split(), "--snapshot", str(path)], catch_exceptions=False)


def test_pods_marked_never_to_be_interrupted_get_no_spot(tmp_path: Path) -> None:
    book, path = tmp_path / "prices.csv", tmp_path / "c.json"
    book.write_text("name,cores,gib,usd_per_hour,spot_usd_per_hour\nm,8,32,1.0,0.1\n", encoding="utf-8")
    marked: dict[str, Any] = {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}}
    write_snapshot(taken(node("n1", cpu=1), pod("a-1", "5"), pod("b-1", "5", **marked)), path)
    words = ["purchase", "--snapshot", str(path), "--time", "1", "--prices", str(book), "--spot", "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout)
    assert sorted(step["name"] for step in made["steps"]) == ["m", "m (spot)"]
