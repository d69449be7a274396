"""A service's log becomes a trace and a bundle, and both can be replayed."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from placement import log, log_lines
from placement.errors import ConfigError
from placement.learning.lifetime_history import ALL
from placement.log import Asked, Event
from placement.log_lines import LineWriter, checkpoint_events
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU
from placement.state import ClusterState
from placement.strategies import STRATEGIES, strategy_to_toml
from scheduler import eventlog
from scheduler.__main__ import root
from scheduler.cli import progress
from scheduler.errors import RecordError
from scheduler.eventlog import DiskLog
from scheduler.metrics import Metrics
from scheduler.records import Query, RecordReader
from scheduler.settings import LogSettings
from simulator.learning.lifetime_samples import _Teller
from simulator.output import untold
from simulator.replay import Replay
from simulator.traces.from_log import trace_of
from simulator.traces.trace import NEVER, TraceError

BEGINS_S = 1_900_000_000
SPEC = PodSpec(request=((CPU, 1000),))


def lived(folder: Path, *, decides: bool = False) -> Path:
    """A log of ten pods on two nodes, one of which joins late and one pod of which leaves; with or without decisions."""
    disk = DiskLog(LogSettings(folder=str(folder)), Metrics(), "test")
    state = ClusterState(events=disk)
    strategy = STRATEGIES["first-fit"]
    disk.attach(state, [strategy], begins_unix_s=BEGINS_S)
    state.add_node(NodeSpec("a", ((CPU, 6000),)))
    for i in range(10):
        if i == 5:
            state.add_node(NodeSpec("b", ((CPU, 6000),)), time_s=i)
        decision = strategy.decide(state.snapshot(), SPEC)
        if decides:
            asked = Asked(strategy.digest, SPEC, 0, None)
            disk.append(Event(i, log.DECISION, f"u{i}", str(decision.node), decision.devices, asked))
        state.bind(f"u{i}", SPEC, decision.node, decision.devices, time_s=i)
    state.release("u3", time_s=20)
    disk.close()
    return folder


def test_a_row_that_was_free_when_a_log_begins_is_no_node_of_its_trace() -> None:
    state = ClusterState()
    for name in "abc":
        state.add_node(NodeSpec(name, ((CPU, 6000),)))
    state.bind("u", SPEC, "b", time_s=5)
    state.remove_node("a")
    trace = trace_of(checkpoint_events(state, 100), "late")
    assert trace.pods.arrival_s.tolist() == [100], "whenever the pod came, the trace begins with the log"
    assert [node.name for node in trace.nodes] == ["b", "c"]
    assert not trace.failures


def test_a_trace_from_a_log_has_its_pods_nodes_and_times(tmp_path: Path) -> None:
    target = tmp_path / "live.ullage"
    result = CliRunner().invoke(root, ["trace", "from-log", str(lived(tmp_path / "log")), str(target)])
    assert result.exit_code == 0, result.output
    from simulator.traces.sources import open_trace

    found = open_trace(str(target))
    assert found.manifest.begins_s == open_trace(f"ullage-log:{tmp_path / 'log'}").manifest.begins_s == BEGINS_S
    assert len(found.pods) == 10
    assert found.pods.arrival_s.tolist() == list(range(10))
    assert sorted(d for d in found.pods.departure_s.tolist() if d >= 0) == [20]
    assert {n.name for n in found.nodes} == {"a", "b"}
    outcome = Replay(found, STRATEGIES["first-fit"]).run()
    assert outcome.num_placed == 10


def test_a_log_without_pods_is_one_sentence() -> None:
    with pytest.raises(TraceError, match="0 nodes and 0 pods"):
        trace_of([Event(0, "namespace", "x")], "empty")


def test_a_bundle_verifies_and_becomes_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TELL_S", 0)
    runner = CliRunner()
    target = tmp_path / "bundle.tar.gz"
    packed = runner.invoke(root, ["bundle", str(lived(tmp_path / "log")), "-o", str(target)])
    assert packed.exit_code == 0, packed.output
    assert packed.stderr == f"{target}: 1 log segment; repeat it: ullage bundle {target} --verify\n"
    verified = runner.invoke(root, ["bundle", "--verify", str(target)])
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["different"] == 0
    assert re.search(r"s  0 of \d+ events\n", verified.stderr), "long ones say how far they are"
    made = runner.invoke(root, ["trace", "from-log", str(target), str(tmp_path / "t.ullage")])
    assert made.exit_code == 0, made.output


def test_a_segment_that_is_compressed_while_it_is_packed_is_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_folder, target = lived(tmp_path / "log"), tmp_path / "bundle.tar.gz"
    (plain,) = files = log_lines.segments(log_folder)
    eventlog._compress(plain)
    with monkeypatch.context() as patch:
        patch.setattr(log_lines, "segments", lambda folder: files)
        assert CliRunner().invoke(root, ["bundle", str(log_folder), "-o", str(target)]).exit_code == 0
    verified = CliRunner().invoke(root, ["bundle", "--verify", str(target)])
    assert verified.exit_code == 0, verified.output


@pytest.mark.parametrize("delivery", ["decide", "score"])
def test_what_kube_scheduler_made_of_answers_is_not_repeated(tmp_path: Path, delivery: str) -> None:
    runner, log = CliRunner(), str(tmp_path / "log")
    made = runner.invoke(root, ["trace", "synth", str(tmp_path / "t.ullage"), "--days", "0.1", "--gpu-nodes", "4"])
    assert made.exit_code == 0, made.output
    words = [str(tmp_path / "t.ullage"), "-s", "priced", "--delivery", delivery, "--log", log, "-q"]
    assert runner.invoke(root, ["simulate", *words]).exit_code == 0
    verified = runner.invoke(root, ["bundle", "--verify", log])
    if delivery == "decide":
        assert verified.exit_code == 0, verified.output
    else:
        assert str(verified.exception).startswith(f"{log}: a replay with --delivery score wrote it")


def test_a_damaged_bundle_is_one_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "bundle.tar.gz"
    bad.write_bytes(b"not a bundle")
    result = CliRunner().invoke(root, ["bundle", "--verify", str(bad)])
    assert result.exit_code != 0
    assert "is no archive, or cut short" in str(result.exception)


def test_a_bundle_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    lived(tmp_path / "log")
    missing = CliRunner().invoke(root, ["bundle", str(tmp_path / "log"), "-o", str(tmp_path / "no" / "b.tar.gz")])
    assert isinstance(missing.exception, RecordError)
    assert str(missing.exception).endswith(
        "b.tar.gz: cannot be written (No such file or directory); check the folder and its free space"
    )
    (tmp_path / "b.tar.gz").mkdir()
    taken = CliRunner().invoke(root, ["bundle", str(tmp_path / "log"), "-o", str(tmp_path / "b.tar.gz")])
    assert isinstance(taken.exception, RecordError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz", "log"]


def test_records_of_an_old_log_are_dated_by_its_first_event(tmp_path: Path) -> None:
    """Its oldest segments are gone: the header tells when the one that is left was opened, an hour into the run."""
    strategy = STRATEGIES["first-fit"]
    asked = Asked(strategy.digest, SPEC, 0, None)
    writer = LineWriter()
    lines = [
        writer.header(started_unix_s=BEGINS_S + 3600, strategies={strategy.digest: strategy_to_toml(strategy)}),
        writer.event(Event(3600, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 6000),)))),
        writer.event(Event(3700, log.DECISION, "u0", "a", 0, asked)),
        writer.mark(lost=1200),
    ]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "000009.jsonl").write_bytes(b"".join(lines))
    words = ["decisions", "from-log", str(tmp_path / "log"), "--records", str(tmp_path / "r.db")]
    made = CliRunner().invoke(root, words, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith("note: the log lost 1,200 events, and with them")
    with RecordReader(str(tmp_path / "r.db")) as reader:
        (record,) = reader.find(Query())
    assert record.asked_s == BEGINS_S + 3700


def test_pods_that_ran_before_the_log_began_are_there_from_the_first_moment(tmp_path: Path) -> None:
    """They are listed one after another, and none of that is an arrival; nobody learns how long they live."""
    events = [Event(0, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 10**6),)))]
    events += [Event(i, log.POD_FOUND, f"old-{i}", "a", 0, SPEC) for i in range(1, 9)]
    events += [Event(100, log.POD_BOUND, "new", "a", 0, SPEC), Event(150, log.POD_RELEASED, "new")]
    events += [Event(90_000 + i, log.POD_RELEASED, f"old-{i}") for i in range(1, 9)]
    trace = trace_of(events, "t")
    assert dict(zip(trace.pods.name, trace.pods.arrival_s.tolist(), strict=True)) == {
        **{f"old-{i}": 1 for i in range(1, 9)},
        "new": 100,
    }
    teller = _Teller(trace)
    teller.run({8: [0]}, untold)
    assert teller.history.survival.num_outcomes(ALL, "all") == 1, "the new one alone"


def test_a_pod_that_was_being_deleted_when_the_log_began_is_as_any_other() -> None:
    state = ClusterState()
    state.add_node(NodeSpec("a", ((CPU, 6000),)))
    state.bind("leaving", replace(SPEC, leaving=True), "a", was_there=True)
    assert trace_of(state.log, "live").specs == (SPEC,)


def test_a_life_in_a_log_runs_from_binding_to_end() -> None:
    """The pod waited for ten minutes, which a replay must not make it run longer for."""
    strategy = STRATEGIES["first-fit"]
    events = [
        Event(0, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 10**6),))),
        Event(100, log.DECISION, "p", "", 0, Asked(strategy.digest, SPEC, 0, None)),
        Event(700, log.POD_ASSUMED, "p", "a", 0, SPEC),
        Event(710, log.POD_BOUND, "p", "a"),
        Event(1010, log.POD_RELEASED, "p"),
    ]
    pods = trace_of(events, "t").pods
    assert (pods.arrival_s.tolist(), pods.departure_s.tolist()) == ([100], [400])


def test_a_pod_that_comes_back_with_its_node_or_is_edited_has_one_life() -> None:
    events = [
        Event(0, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 10**6),))),
        Event(10, log.POD_BOUND, "first", "a", 0, SPEC),
        Event(100, log.POD_BOUND, "p", "a", 0, SPEC),
        Event(200, log.POD_UPDATED, "p", "a", 0, replace(SPEC, labels=(("app", "x"),))),
        Event(300, log.POD_RELEASED, "p"),
        Event(350, log.POD_FOUND, "p", "a", 0, SPEC),
        Event(500, log.POD_RELEASED, "p"),
    ]
    pods = trace_of(events, "t").pods
    assert (pods.arrival_s.tolist(), pods.departure_s.tolist()[1]) == ([10, 100], 500)


def test_a_pod_whose_node_goes_ends_when_it_is_gone_itself() -> None:
    events = [
        Event(0, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 10**6),))),
        Event(10, log.POD_BOUND, "stays", "a", 0, SPEC),
        Event(20, log.POD_BOUND, "goes", "a", 0, SPEC),
        Event(100, log.POD_STRANDED, "stays", "a"),
        Event(100, log.POD_STRANDED, "goes", "a"),
        Event(100, log.NODE_REMOVED, "a"),
        Event(300, log.POD_ENDED, "goes"),
        Event(400, log.NODE_ADDED, "a", detail=NodeSpec("a", ((CPU, 10**6),))),
        Event(400, log.POD_FOUND, "stays", "a", 0, SPEC),
    ]
    pods = trace_of(events, "t").pods
    assert (pods.arrival_s.tolist(), pods.departure_s.tolist()) == ([10, 20], [NEVER, 300])


def test_records_of_a_log_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lived(tmp_path / "log", decides=True)
    arguments = ["decisions", "from-log", str(tmp_path / "log"), "--records", str(tmp_path / "r.db")]
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.records._FINAL", _FULL)
        failed = CliRunner().invoke(root, arguments)
    assert isinstance(failed.exception, RecordError)
    assert "cannot be written (no such table: no_such_table)" in str(failed.exception)
    assert not caplog.records, "that is said once"
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert CliRunner().invoke(root, arguments).exit_code == 0
    with RecordReader(str(tmp_path / "r.db")) as reader:
        before = [record.row() for record in reader.find(Query())]
    assert len(before) == 10
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.records._FINAL", _FULL)
        assert isinstance(CliRunner().invoke(root, [*arguments, "--epoch", "5"]).exception, RecordError)
    with RecordReader(str(tmp_path / "r.db")) as reader:
        assert [record.row() for record in reader.find(Query())] == before, "what was there is as it was"


def test_records_of_one_log_are_not_mixed_with_those_of_another_or_of_a_service(tmp_path: Path) -> None:
    """Replays of one trace give their pods equal names, and decisions of logs are counted from 0."""
    target = tmp_path / "r.db"
    arguments = ["decisions", "from-log", str(lived(tmp_path / "log", decides=True)), "--records", str(target)]
    assert CliRunner().invoke(root, arguments).exit_code == 0
    with RecordReader(str(target)) as reader:
        ours = [record.row() for record in reader.find(Query())]
    with sqlite3.connect(target) as database:
        database.execute("UPDATE records SET id = 'log-1000', final_node = NULL, fleet = '' WHERE uid = 'u0'")
    assert CliRunner().invoke(root, arguments).exit_code == 0
    with RecordReader(str(target)) as reader:
        assert [record.row() for record in reader.find(Query())] == ours
    with sqlite3.connect(target) as database:
        database.execute("UPDATE records SET mode = 'decide', final_node = NULL WHERE uid = 'u0'")
    refused = CliRunner().invoke(root, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception) == f"records {target}: holds decisions of a service; give another file"
    with RecordReader(str(target)) as reader:
        assert [record.final_node for record in reader.find(Query(mode="decide"))] == [None]


_FULL = "INSERT INTO no_such_table VALUES (?, ?, ?, ?)"
"""What SQLite refuses, as it does what a full disk has no room for."""


def test_a_report_of_a_log_says_who_bound_its_pods(tmp_path: Path) -> None:
    lived(tmp_path / "log", decides=True)
    to = ["--records", str(tmp_path / "r.db")]
    assert CliRunner().invoke(root, ["decisions", "from-log", str(tmp_path / "log"), *to]).exit_code == 0
    unseen = CliRunner().invoke(root, ["shadow", "report", *to])
    assert "no decision was made in mode shadow; those that match are seen with --mode log" in unseen.output
    seen = CliRunner().invoke(root, ["shadow", "report", *to, "--mode", "log"]).output
    assert "Ullage agreed with the log on 100 % of 10 pods" in seen
    assert "only the log had" in seen
    assert "in a replay's, its own strategy" in seen
    assert "kube-scheduler" not in seen
