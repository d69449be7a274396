"""`ullage trace`: what it makes out of a trace, and what it refuses to make."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from placement.log import POD_RELEASED, Event
from placement.nodes import NodeSpec
from placement.pods import GpuRequest, NodeRules, PodSpec, Toleration
from placement.resources import CPU, GPU_SHARE, MEMORY
from simulator.cli.plan import plan as plan_group
from simulator.cli.trace import trace as trace_group
from simulator.compare import compare
from simulator.comparison import Question
from simulator.planning.trace_snapshot import snapshot_of_trace
from simulator.traces.churn import Churn, resample
from simulator.traces.lanl import FILE, NEEDED
from simulator.traces.sources import open_trace
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import Manifest, NodeEvent, Trace, TraceError, Usage
from simulator.traces.trace_facts import facts_of, rows_of
from simulator.traces.validate import fixed, validate

POD = PodSpec(((CPU, 1000), (MEMORY, 1 << 30)))
NODES = [NodeSpec(name, ((CPU, 4000), (MEMORY, 16 << 30))) for name in ("a", "b")]


def run(*words: object) -> str:
    result = CliRunner().invoke(trace_group, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.fixture
def lanl(tmp_path: Path) -> Path:
    """One machine that fails a minute after the record begins, for a minute, and another one after that."""
    rows = ["18,0,01/01/2000 00:00,01/01/2000 00:01", "18,1,01/01/2000 00:01,01/01/2000 00:02"]
    with gzip.open(tmp_path / FILE, "wt", encoding="latin-1") as file:
        file.write("\n".join([",".join(NEEDED), *rows]) + "\n")
    return tmp_path


def test_recorded_failures_begin_with_the_trace_and_leave_its_own_events_alone(tmp_path: Path, lanl: Path) -> None:
    own = [NodeEvent(550, "remove", "b"), NodeEvent(550, "add", "b"), NodeEvent(600, "remove", "b")]
    late = Trace.of("late", NODES, [("p", POD, 500, 500), ("q", POD, 500, 900)], failures=own)
    late.save(tmp_path / "late.ullage")
    said = run("fail", tmp_path / "late.ullage", tmp_path / "failing.ullage", "--lanl", lanl)
    failing = Trace.load(tmp_path / "failing.ullage")
    # both recorded machines fall on the only node that has no events of its own, and their outages touch
    assert list(failing.failures) == [
        NodeEvent(500, "fail", "a"),
        *own,
        NodeEvent(620, "repair", "a"),
    ]
    assert "2 failures and repairs, beside 3 events that the trace had" in said


def test_failures_where_every_node_has_events_of_its_own_are_refused(tmp_path: Path, lanl: Path) -> None:
    own = [NodeEvent(5, "fail", "a"), NodeEvent(9, "fail", "b")]
    Trace.of("failing", NODES, [("p", POD, 0, 60)], failures=own).save(tmp_path / "t.ullage")
    with pytest.raises(ConfigError, match="every node has events of its own"):
        run("fail", tmp_path / "t.ullage", tmp_path / "out.ullage", "--lanl", lanl)


def test_changes_of_one_second_stay_in_their_order_when_changes_are_sorted() -> None:
    events = [NodeEvent(9, "remove", "b"), NodeEvent(9, "add", "b"), NodeEvent(5, "fail", "a")]
    mended, _ = fixed(Trace.of("t", NODES, [("p", POD, 0, 60)], failures=events))
    assert list(mended.failures) == [events[2], *events[:2]]


def test_failures_of_a_trace_without_pods_are_refused(tmp_path: Path, lanl: Path) -> None:
    Trace.of("none", NODES, []).save(tmp_path / "none.ullage")
    with pytest.raises(ConfigError, match="holds no pods, so failures would befall nobody"):
        run("fail", tmp_path / "none.ullage", tmp_path / "out.ullage", "--lanl", lanl)


def test_a_clock_that_begins_too_early_is_named_and_moved() -> None:
    trace = Trace.of("early", NODES, [("p", POD, 0, 60), ("q", POD, 90, -1)], failures=[NodeEvent(30, "fail", "a")])
    pods = replace(trace.pods, arrival_s=trace.pods.arrival_s - 100, departure_s=np.array([-40, -1]))
    early = trace.but(manifest=Manifest("early", begins_s=2_000_000_000), pods=pods)
    with pytest.raises(TraceError, match=r"pod p \(row 0\): arrival_s=-100 is before second 0; .*--fix"):
        early.check()
    assert "T021" in {finding.code for finding in validate(early)}
    mended, codes = fixed(early)
    assert codes[0] == "T021"
    mended.check()
    assert mended.pods.arrival_s.tolist() == [0, 90]
    assert mended.pods.departure_s.tolist() == [60, -1]
    assert mended.failures == (NodeEvent(130, "fail", "a"),)
    assert mended.manifest.begins_s == 2_000_000_000 - 100


def test_a_snapshot_of_a_trace_holds_every_pod_of_gangs_that_wait() -> None:
    big = PodSpec(((CPU, 3000), (MEMORY, 1 << 30)))
    pods = [
        ("runs", big, 0, -1),
        *((f"g-{i}", big, 10, -1) for i in range(3)),
        ("half", big, 20, -1),
        ("late", big, 90, -1),
    ]
    trace = Trace.of("gang", NODES, pods)
    trace = trace.but(pods=replace(trace.pods, gang=np.array([-1, 0, 0, 0, 1, 1])))
    taken = snapshot_of_trace(trace, strategy="best-fit", at_s=50, seed=0)
    waiting = {pod.uid: pod for pod in taken.pods if not pod.node}
    gangs = {uid: (taken.specs[pod.spec].gang, taken.specs[pod.spec].gang_size) for uid, pod in waiting.items()}
    assert gangs == {**{f"g-{i}": ("trace/0", 3) for i in range(3)}, "half": ("trace/1", 2)}
    assert {uid: pod.waits for uid, pod in waiting.items() if pod.waits} == {
        "half": "others of its gang have not arrived"
    }


def test_a_replays_log_is_a_trace_of_the_same_calendar(tmp_path: Path) -> None:
    trace = Trace.of("week", NODES, [("p", POD, 0, 60), ("q", POD, 90, 400), ("r", POD, 500, -1)])
    trace.but(manifest=replace(trace.manifest, begins_s=2_000_000_000)).save(tmp_path / "week.ullage")
    compare(Question((str(tmp_path / "week.ullage"),), ("best-fit",)), jobs=1, log=str(tmp_path / "log"))
    run("from-log", tmp_path / "log", tmp_path / "again.ullage")
    again = Trace.load(tmp_path / "again.ullage")
    assert again.manifest.begins_s == 2_000_000_000
    assert (again.manifest.source, again.manifest.notes) == ("ullage-log", ("made from a live log",))
    refused = CliRunner().invoke(trace_group, ["from-log", str(tmp_path / "log"), "demo"])
    assert refused.exit_code == 2
    assert "call the file demo.ullage" in refused.stderr
    assert again.pods.name.tolist() == ["p", "q", "r"]
    assert again.pods.arrival_s.tolist() == [0, 90, 500]
    assert again.pods.departure_s.tolist() == [60, 400, -1]
    assert again.nodes == trace.nodes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "name,cores,gib,usd_per_hour,reserved_usd_per_hour\nmine,4,16,3.5,2\n"),
        ("p.csv", "InstanceType,MarketPriceHourly\nm5.large,0.1\n"),
        ("p.json", '{"CPU": 0.02}'),
    ],
)
def test_prices_that_a_trace_does_not_keep_are_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    said = run("convert", "demo", tmp_path / "t.ullage", "--prices", tmp_path / name)
    assert "neither rates, prices of other instance types nor reservations" in said


def test_prices_that_a_trace_keeps_are_those_that_it_is_replayed_at(tmp_path: Path) -> None:
    source, target, prices = tmp_path / "t.ullage", tmp_path / "priced.ullage", tmp_path / "p.csv"
    Trace.of("t", [], [("p", POD, 0, 600), ("q", POD, 300, -1)]).save(source)
    prices.write_text("name,cores,gib,usd_per_hour\nmine,4,16,3.5\n")
    assert "note:" not in run("convert", source, target, "--prices", prices)
    question = Question((str(target),), ("best-fit",), fleet="elastic")
    kept, given = (compare(q, jobs=1).rows[0] for q in (question, replace(question, prices=str(prices))))
    assert kept["peak_nodes"] == {"mine": 1}
    assert kept["metrics"] == given["metrics"]
    told = CliRunner().invoke(plan_group, ["fleet", str(target), "--time", "1", "-o", "json"], catch_exceptions=False)
    assert json.loads(told.stdout)["nodes"] == "1xmine"


def test_what_cannot_befall_a_node_is_named_and_left_out(tmp_path: Path) -> None:
    trace = Trace.of("t", NODES, [("p", POD, 0, 60)], failures=[NodeEvent(5, "fail", "a")])
    odd = trace.but(failures=(NodeEvent(5, "fail", "a"), NodeEvent(9, "explode", "b")))
    odd.save(tmp_path / "odd.ullage")
    with pytest.raises(TraceError, match="second 9 of node b: 'explode' is none of fail, repair"):
        Trace.load(tmp_path / "odd.ullage")
    said = run("validate", tmp_path / "odd.ullage", "--fix", tmp_path / "even.ullage")
    assert "mended T022" in said
    assert Trace.load(tmp_path / "even.ullage").failures == trace.failures


def test_a_trace_is_cut_by_spans_of_its_clock(tmp_path: Path) -> None:
    trace = Trace.of("t", NODES, [(f"p{i}", POD, i * 1800, 9000) for i in range(5)])
    trace.save(tmp_path / "t.ullage")
    run("slice", tmp_path / "t.ullage", tmp_path / "cut.ullage", "--from", "1h", "--to", "7200")
    assert list(Trace.load(tmp_path / "cut.ullage").pods.name) == ["p2", "p3"]
    run("slice", tmp_path / "t.ullage", tmp_path / "cut.ullage", "--from", "0", "--to", "30m")
    assert list(Trace.load(tmp_path / "cut.ullage").pods.name) == ["p0"]


def test_a_cut_trace_has_the_classes_of_its_pods_alone(tmp_path: Path) -> None:
    large, small = (replace(POD, request=((CPU, cores * 1000),)) for cores in (9, 1))
    trace = Trace.of("t", NODES, [("p", large, 0, 60), ("q", POD, 1, 60), ("r", small, 2, 60), ("s", POD, 3, 60)])
    trace.save(tmp_path / "t.ullage")
    run("slice", tmp_path / "t.ullage", tmp_path / "cut.ullage", "--from", "1")
    part = Trace.load(tmp_path / "cut.ullage")
    assert [part.specs[c] for c in part.pods.spec] == [POD, small, POD]
    assert facts_of(part)["pods"]["classes"] == 2
    assert not any(finding.code == "T005" for finding in validate(part)), "nobody asks for nine cores"


@pytest.mark.parametrize(("pod", "cpu", "memory"), [(1, 10, 1), (-1, 10, 1), (0, -10, 1), (0, -1, -1), (0, 1, -2)])
def test_usage_that_cannot_be_is_refused_by_row(pod: int, cpu: int, memory: int) -> None:
    trace = Trace.of("t", NODES, [("p", POD, 0, 60)])
    usage = Usage(np.array([0, pod]), np.array([0, 30]), np.array([10, cpu]), np.array([1, memory]))
    with pytest.raises(TraceError, match=f"usage row 1: pod={pod}, .*cpu_millicores={cpu}, .* cannot be"):
        trace.but(usage=usage).check()


def test_pods_of_no_class_and_out_of_order_are_refused() -> None:
    trace = Trace.of("t", NODES, [("p", POD, 0, 60), ("q", POD, 1, 60)])
    with pytest.raises(TraceError, match="names a class that is not there"):
        trace.but(pods=replace(trace.pods, spec=np.array([0, 1]))).check()
    with pytest.raises(TraceError, match="not in order of arrival"):
        trace.but(pods=replace(trace.pods, arrival_s=np.array([1, 0]))).check()


def test_pods_that_arrive_at_once_have_no_rate() -> None:
    facts = facts_of(Trace.of("t", NODES, [("p", POD, 7, 60), ("q", POD, 7, 60)]))
    assert facts["arrivals"] == {"first_s": 7, "last_s": 7, "per_hour": None}
    assert {"what": "arrivals", "value": "all in second 7"} in rows_of(facts)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("dmeo", "did you mean 'demo'?"),
        ("opneb", "did you mean 'openb'?"),
        ("openb", "openb:PATH"),
        ("mien.ullage", "did you mean 'mine.ullage'?"),
        ("xyz", "give a path or `demo`"),
    ],
)
def test_a_misspelt_trace_is_told_what_may_have_been_meant(
    text: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.ullage").touch()
    with pytest.raises(ConfigError, match="no such file; ") as refused:
        open_trace(text)
    assert str(refused.value).endswith(hint)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("demo", "ullage trace info demo"),
        ("dmeo", "ullage trace info demo"),
        ("openb:x", "ullage trace info openb:x"),
        ("xyz", "No such command 'xyz'."),
    ],
)
def test_a_trace_in_place_of_a_command_is_told_how_to_be_looked_at(word: str, says: str) -> None:
    refused = CliRunner().invoke(trace_group, [word])
    assert refused.exit_code == 2
    assert refused.stderr.rstrip().endswith(says)


GPU_POD, OTHER = PodSpec(((CPU, 100),), GpuRequest(1, 500)), PodSpec(((CPU, 200),), GpuRequest(2))
GPU_NODES = [NodeSpec(name, ((CPU, 4000), (MEMORY, 16 << 30)), num_gpus=4) for name in ("a", "b")]


def with_lives(nodes: list[NodeSpec]) -> Trace:
    lives = [
        ("p", GPU_POD, 0, 600),
        ("q", OTHER, 5, 305),
        ("r", OTHER, 9, 100_009),
        ("s", POD, 10, 1010),
        ("t", POD, 9, -1),
    ]
    trace = Trace.of("lives", nodes, lives)
    usage = Usage(np.array([0, 4]), np.array([60, 60]), np.array([5, 5]), np.array([5, 5]))
    return trace.but(usage=usage, events=(Event(0, POD_RELEASED, "p", "a"),))


def test_a_resampled_trace_offers_the_load_it_was_asked_for_from_the_first_second_on(tmp_path: Path) -> None:
    with_lives(GPU_NODES).save(tmp_path / "lives.ullage")
    run("churn", tmp_path / "lives.ullage", tmp_path / "churn.ullage", "--load", "1.5", "--lifetimes", "40")
    trace = Trace.load(tmp_path / "churn.ullage")
    assert (len(trace.usage.pod), trace.events) == (0, ()), "of pods that are not there any more"
    pods = trace.pods
    life = pods.departure_s - pods.arrival_s
    assert life.min() >= 1
    assert life.max() <= 86_400
    mean_s = (600 + 300 + 86_400 + 1000) / 4
    gpu = np.array([spec.amount(GPU_SHARE) for spec in trace.specs])[pods.spec]
    offered = 8 * 1000 * 40 * mean_s
    new = pods.arrival_s > 0
    assert (gpu * life)[new].sum() / offered == pytest.approx(1.5, rel=0.1)
    for at_s in (0, 20 * mean_s):  # in a steady state as much is there at any time
        here = (pods.arrival_s <= at_s) & (pods.departure_s > at_s)
        assert gpu[here].sum() / 8000 == pytest.approx(1.5, rel=0.75)
    assert set(life[new].tolist()) == {600, 300, 86_400, 1000}
    assert {"p", "t"}.isdisjoint(pods.name.tolist())


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (with_lives([]), "its fleet has no GPU"),
        (with_lives(NODES), "its fleet has no GPU"),
        (Trace.of("lives", GPU_NODES, [("p", POD, 0, 60), ("q", GPU_POD, 5, -1)]), "no pod that ends asks for a GPU"),
        (Trace.of("lives", GPU_NODES, [("q", GPU_POD, 5, -1)]), "no pod has a lifetime"),
    ],
)
def test_churn_without_gpu_time_is_refused(trace: Trace, message: str) -> None:
    with pytest.raises(ConfigError, match=f"trace lives: {message}"):
        resample(trace, Churn())


def test_a_steady_state_of_more_pods_than_any_machine_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"would make .* pods, more than 10,000,000; give a smaller load"):
        resample(with_lives(GPU_NODES), Churn(mean_lifetimes=1e30))
    tiny = PodSpec(((CPU, 1),), GpuRequest(1, 1))
    filled = Trace.of("filled", GPU_NODES, [("p", tiny, 0, 600)]).but(nodes=tuple(1000 * GPU_NODES))
    with pytest.raises(ConfigError, match="would make 8e\\+07 pods, more"):
        resample(filled, Churn(load=10, mean_lifetimes=1e-9))


def test_what_is_made_up_of_next_to_nothing_is_empty_or_refused() -> None:
    assert len(synthesise(Recipe(days=1e-9, usage=True)).pods) == 0
    with pytest.raises(ConfigError, match="no owner asks for a GPU"):
        synthesise(Recipe(seed=17, owners=1))


@pytest.mark.parametrize(("tolerated", "number"), [("NoExecute", 0), ("NoSchedule", 1)])
def test_what_admission_has_every_pod_tolerate_is_no_rule_of_its_own(tolerated: str, number: int) -> None:
    rules = NodeRules(tolerations=(Toleration("node.kubernetes.io/not-ready", "Exists", "", tolerated),))
    facts = facts_of(Trace.of("t", NODES, [("p", replace(POD, node_rules=rules), 7, 60)]))
    assert facts["pods"]["with_rules"] == number
