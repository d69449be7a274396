"""Decision records: taken without changing anything, written off the hot path, read back whole, explained in words."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.knowledge import Forecast, Forecasts
from placement.nodes import NodeSpec, Taint
from placement.pods import GpuRequest, PodRules, PodSpec, PodTerm
from placement.rejections import Rejections, rejections
from placement.resources import NOT_FEASIBLE
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.cli.decisions import decisions, parse_time
from scheduler.cli.explain import explain
from scheduler.errors import RecordError
from scheduler.explain import in_words, when, why_not
from scheduler.ledger import Seen
from scheduler.recorder import record_log, record_of
from scheduler.records import IDLE, Fleet, Query, Record, RecordReader, RecordStore
from scheduler.settings import RecordSettings
from tests.live_engine import GIB, Live, cpu_pod
from tests.slow_reasons import reasons


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path / "records.db")


def read(path: Path, **query: Any) -> list[Record]:
    with RecordReader(str(path)) as reader:
        return list(reader.find(Query(newest_first=False, **query)))


def test_a_record_comes_back_as_it_was_taken(live: Live, tmp_path: Path) -> None:
    answered = live.ask("web-0", cpu_pod(6), allowed=(0, 1))
    live.bound(answered, "n1")
    live.recorder.close()
    (record,) = read(tmp_path / "records.db")
    assert (record.node, record.namespace, record.name) == ("n1", "shop", "web-0")
    assert record.strategy == "best-fit"
    assert record.strategy_digest == answered.decision.strategy
    assert record.request["cpu"] == 6000
    assert record.reasons == {"Insufficient cpu": 1, "not offered by the caller": 1}
    assert record.top[0]["node"] == "n1"
    assert record.agrees is True
    assert record.is_exact


def test_reasons_are_of_the_moment_of_the_decision(live: Live, tmp_path: Path) -> None:
    live.ask("first", cpu_pod(3, owner="ReplicaSet/a"))
    live.ask("second", cpu_pod(3))
    live.recorder.close()
    first, second = read(tmp_path / "records.db")
    assert first.node == "n0"
    assert first.reasons.get("Insufficient cpu", 0) == 0
    assert second.node == "n1"
    assert second.reasons["Insufficient cpu"] == 1
    with RecordReader(str(tmp_path / "records.db")) as reader:
        fleet = reader.fleet(second.fleet)
        assert fleet is not None
        assert second.why_not(fleet, "n0") == "Insufficient cpu"
        assert first.was_idle(fleet, "n0") is True
        assert second.was_idle(fleet, "n0") is False


def test_records_follow_nodes_that_change_come_and_go(live: Live, tmp_path: Path) -> None:
    live.ask("first", cpu_pod(1))
    nodes = live.recorder._fleet[1]
    soft = live.engine._soft_taints()
    node = live.state.nodes[0]
    assert node is not None
    live.ledger.see_node(replace(node, labels=(("team", "a"),)))
    live.ask("second", cpu_pod(1))
    assert live.recorder._fleet[1] is nodes
    assert live.engine._soft_taints() is soft
    taint = Taint("spot", "", "PreferNoSchedule")
    live.ledger.see_node(replace(node, name="n3", taints=(taint,)))
    live.ledger.lose_node("n0")
    live.ask("third", cpu_pod(1), allowed=(0, 1, 2, 3))
    assert live.engine._soft_taints() == {taint}
    live.recorder.close()
    first, second, third = read(tmp_path / "records.db")
    assert first.fleet == second.fleet != third.fleet
    with RecordReader(str(tmp_path / "records.db")) as reader:
        fleet = reader.fleet(third.fleet)
        assert fleet is not None
        assert fleet.names == ("", "n1", "n2", "n3")
        assert third.was_idle(fleet, "n3") is True
    live.ledger.lose_node("n3")
    assert not live.engine._soft_taints()


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    live = Live(tmp_path / "records.db", queue=10)
    live.recorder.close()  # nobody writes any more
    for i in range(30):
        live.ask(f"p{i}", cpu_pod(0.1))
    dropped = live.metrics.records_dropped._value.get()
    assert dropped >= 20
    assert b"ullage_records_dropped_total %.1f" % dropped in live.metrics.expose()


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    live = Live(tmp_path / "file" / "records.db")
    assert live.ask("web-0", cpu_pod(1)).decision.is_placed
    live.recorder.close()
    assert live.metrics.records_dropped._value.get() >= 1


def test_a_record_that_cannot_be_written_out_takes_its_batch_along_and_nothing_after(
    live: Live, tmp_path: Path
) -> None:
    live.ask("bad", cpu_pod(1, owner="ReplicaSet/\ud800"))  # which no UTF-8 can say
    while not live.metrics.records_dropped._value.get():
        assert live.recorder._thread.is_alive()
        time.sleep(0.01)
    live.ask("good", cpu_pod(1))
    live.recorder.close()
    (record,) = read(tmp_path / "records.db")
    assert record.name == "good"
    with RecordReader(str(tmp_path / "records.db")) as reader:
        assert reader.fleet(record.fleet) is not None, "it came with the batch that was lost"


def test_a_file_that_failed_is_let_go_and_opened_anew_and_each_time_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a volume that turns read-only, is taken away, repaired, and put back."""
    caplog.set_level(logging.INFO, logger="scheduler.records")
    store = RecordStore(tmp_path / "records.db")
    for number in range(0, 4, 2):
        assert store.write([_sample(number, 0.0)])
        assert store._database is not None
        store._database.execute("PRAGMA query_only=1")
        assert not store.write([_sample(number + 1, 0.0)])
        assert not [path for path in Path("/proc/self/fd").iterdir() if str(store.path) in str(path.resolve())]
    assert store.write([_sample(4, 0.0)])
    store.close()
    assert {record.id for record in read(tmp_path / "records.db")} == {"r0", "r2", "r4"}
    said = [record.message for record in caplog.records]
    assert said == 2 * ["records cannot be written", "records are written again"]


def _sample(number: int, asked_s: float) -> Record:
    return Record(
        id=f"r{number}", asked_s=asked_s, uid=f"u{number}", name=f"p{number}", namespace="shop", verb="filter",
        mode="shadow", outcome="placed", node="n1", devices=0b101, score=5, runner_up="n2", num_candidates=3,
        duration_s=0.001, draw=2**61, version=7, strategy="best-fit", strategy_digest="d", knowledge="k",
        request={"cpu": 1000}, prediction={"cpu": 1000}, prediction_source="request",
        top=[{"node": "n1", "score": 5, "parts": {"x": 5}}], reasons={},
    )  # fmt: skip


def test_old_records_and_too_many_are_pruned_oldest_first(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r.db", RecordSettings(max_age_days=1, max_bytes=2**20))
    now_s = 2_000_000_000.0
    store.write([_sample(i, now_s - 200_000 + i) for i in range(50)])
    store.write([_sample(i, now_s + i) for i in range(50, 8000)])
    assert store.prune(now_s + 8000, now_s + 8000) >= 50
    left = read(tmp_path / "r.db")
    assert len(left) > 0
    assert store._bytes() <= 2**20
    assert [r.asked_s for r in left] == sorted(r.asked_s for r in left)
    assert left[-1].id == "r7999"
    store.close()


def test_no_more_records_go_than_must_where_nodes_take_most_of_the_room(tmp_path: Path) -> None:
    store, now_s = RecordStore(tmp_path / "r.db", RecordSettings(max_bytes=2**20)), 2_000_000_000.0
    draws, batch = np.random.default_rng(0), [_sample(number, now_s + number) for number in range(400)]
    for record in batch[::10]:
        amounts = draws.integers(0, 2**60, (3, 1500))
        record.nodes = Fleet(tuple(f"n{row}" for row in range(1500)), *amounts)
    store.write(batch)
    before = store._bytes()
    assert before > 1.5 * 2**20
    gone = store.prune(now_s, now_s + 400)
    assert store._bytes() <= 2**20
    assert gone / 400 < 1 - 2**20 / before + 0.1
    store.close()


def test_a_record_brings_its_fleet_along_when_that_was_lost_or_pruned(tmp_path: Path) -> None:
    store, now_s = RecordStore(tmp_path / "r.db"), 2_000_000_000.0
    fleet = Fleet(("n0", "n1"), np.array([4000, 8000]), np.array([1, 1]), np.array([0, 0]))
    store.write([fleet])
    store.prune(now_s, now_s)
    for number in range(2):
        record = _sample(number, now_s + number)
        record.nodes = fleet
        assert store.write([record])
    store.close()
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = reader.fleet(fleet.packed[0])
        assert found is not None
        assert found.is_same(fleet)


@pytest.mark.parametrize("pattern", ["records.db", "records.db*"])
def test_a_file_that_is_deleted_to_make_room_is_begun_anew(tmp_path: Path, pattern: str) -> None:
    store = RecordStore(tmp_path / "records.db")
    live = Live(tmp_path / "other.db")
    taken: list[Record] = []
    live.engine.listeners.append(lambda answered: taken.append(record_of(answered, live.engine.strategy, None)))
    for name in ("first", "second"):
        live.ask(name, cpu_pod(1))
    live.recorder.close()
    assert store.write(taken[:1])
    for path in tmp_path.glob(pattern):
        path.unlink()
    assert store.write(taken[1:])
    store.close()
    assert [record.name for record in read(tmp_path / "records.db")] == ["second"]


def test_a_foreign_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(ConfigError, match="no file of decision records"):
        RecordReader(str(tmp_path / "text.db"))
    with pytest.raises(ConfigError, match="no such file"):
        RecordReader(str(tmp_path / "none.db"))
    with pytest.raises(ConfigError, match="is no file"):
        RecordReader(str(tmp_path))
    database = sqlite3.connect(tmp_path / "future.db")
    database.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    for found in ("99", "later"):
        with database:
            database.execute("DELETE FROM meta")
            database.execute("INSERT INTO meta VALUES ('format', ?)", (found,))
        with pytest.raises(ConfigError, match=f"format {found}"):
            RecordReader(str(tmp_path / "future.db"))
    database.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 11)), max_size=30),
    st.integers(1, 12),
    st.sampled_from([None, GpuRequest(1, 400), GpuRequest(2)]),
)
def test_masks_of_reasons_are_the_reasons_that_people_read(
    nodes: list[tuple[int, int, bool]], pods: list[tuple[int, int]], cores: int, gpu: GpuRequest | None
) -> None:
    state = ClusterState()
    for i, (size, gpus, tainted) in enumerate(nodes):
        taints = (Taint("k"),) if tainted else ()
        allocatable = (("cpu", size * 1000), ("memory", size * GIB))
        state.add_node(NodeSpec(f"n{i}", allocatable, num_gpus=gpus, taints=taints))
    for i, (size, where) in enumerate(pods):
        row = where % len(nodes)
        spec = PodSpec((("cpu", size * 500), ("memory", GIB // 2)))
        if (state.taken[:, row] + state.delta(spec) <= state.offered[:, row])[-4:].all():
            state.bind(f"u{i}", spec, f"n{row}", 0)
    spec = PodSpec((("cpu", cores * 1000), ("memory", cores * GIB // 2)), gpu=gpu)
    candidates = np.arange(len(nodes)) % 3 != 0
    strategy = strategy_named("best-fit")
    masks = rejections(strategy, state.snapshot(), spec, candidates)
    named = {reason: {state.names[int(r)] for r in np.flatnonzero(mask)} for reason, mask in masks.items()}
    assert named == reasons(state, strategy, spec, candidates)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 2**9 - 1)), min_size=1, max_size=25))
def test_what_is_remembered_of_a_class_changes_nothing(steps: list[tuple[int, int, int]]) -> None:
    """Both back ends, fed with binds, releases and node changes, say what a fresh look says."""
    states = [ClusterState(backend=backend) for backend in ("auto", "numpy")]
    memories = [Rejections(), Rejections()]
    strategy = strategy_named("best-fit")
    spec = PodSpec((("cpu", 2000), ("memory", GIB)))
    for state in states:
        for i in range(9):
            state.add_node(NodeSpec(f"n{i}", (("cpu", (i % 4 + 1) * 1000), ("memory", 4 * GIB))))
    for number, (what, node, mask) in enumerate(steps):
        candidates = np.array([bool(mask >> i & 1) for i in range(9)])
        said = []
        for state, memory in zip(states, memories, strict=True):
            resident = next(iter(state.residents_on[node].values()), None)
            if what == 0:
                state.bind(f"u{number}", PodSpec((("cpu", 500), ("memory", GIB))), f"n{node}")
            elif what == 1 and resident is not None:
                state.release(resident.uid)
            elif what == 2:
                state.update_node(NodeSpec(f"n{node}", (("cpu", 1000), ("memory", 4 * GIB)), taints=(Taint("k"),)))
            program = strategy.program(state)
            for asked in (candidates, None):
                decision = strategy.decide(state.snapshot(), spec, asked, number)
                standing = memory.of(strategy, state.snapshot(), spec, asked, chosen=decision.row, most=4)
                fresh = rejections(strategy, state.snapshot(), spec, asked, chosen=decision.row)
                masks = {reason: found.tolist() for reason, found in standing.masks().items()}
                assert masks == {reason: found.tolist() for reason, found in fresh.items()}
                scores = program.scores_among(spec, asked).copy()
                if decision.row >= 0:
                    scores[decision.row] = NOT_FEASIBLE
                order = np.argsort(-scores, kind="stable")
                assert standing.best == [row for row in order.tolist() if scores[row] > NOT_FEASIBLE][:4]
                assert standing.totals == scores[standing.best].tolist()
                said.append((masks, standing.best, standing.totals))
            left_out = (program.scores_among(spec, None) > NOT_FEASIBLE) & ~candidates
            assert program.leaves_out(spec, candidates) == left_out.any()
        assert said[:2] == said[2:]


def test_a_reason_is_remembered_neither_beyond_the_pod_that_was_it_nor_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resident that keeps others off its zone comes and leaves: on nodes that it never touched the reason is another."""
    monkeypatch.setattr("placement.rules.MIN_COUNTERS", 1)
    state, memory, strategy = ClusterState(), Rejections(), strategy_named("best-fit")
    for name, zone, cores in (("full", "a", 1), ("other", "b", 4), ("home", "a", 4)):
        state.add_node(NodeSpec(name, (("cpu", cores * 1000), ("memory", 4 * GIB)), (("zone", zone),)))
    spec = PodSpec((("cpu", 2000),))

    def why() -> list[str]:
        masks = memory.of(strategy, state.snapshot(), spec, None, chosen=-1).masks()
        return [reason for reason, mask in masks.items() if mask[state.row_of["full"]]]

    assert why() == ["Insufficient cpu"]
    state.bind("alone", PodSpec((("cpu", 1),), pod_rules=PodRules(anti_affinity=(PodTerm("zone", ()),))), "home")
    assert why() == ["node(s) didn't satisfy existing pods anti-affinity rules"]
    state.release("alone")
    state.bind("new", PodSpec((("cpu", 1),), namespace="shop"), "other")  # whom nobody means any more is forgotten
    assert not state.rules.is_relational(spec)
    assert why() == ["Insufficient cpu"]


def test_records_made_from_the_log_say_what_live_records_say(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.ask("a", cpu_pod(6))
    live.ask("b", cpu_pod(0.5, gpu=GpuRequest(1, 500)))
    live.ask("c", cpu_pod(60))
    live.recorder.close()
    store = RecordStore(tmp_path / "log.db")
    told: list[int] = []
    monkeypatch.setattr("scheduler.recorder.BATCH", 2)
    assert record_log(live.events, [live.engine.strategy], store, progress=told.append) == 3
    assert told == sorted(told)
    assert 0 < told[-1] <= len(live.events)
    store.close()
    for ours, theirs in zip(read(tmp_path / "records.db"), read(tmp_path / "log.db"), strict=True):
        for key in ("uid", "node", "devices", "score", "runner_up", "top", "reasons", "draw", "outcome", "knowledge"):
            assert getattr(ours, key) == getattr(theirs, key), key


def test_explain_answers_in_words_and_says_why_not_another_node(live: Live, tmp_path: Path) -> None:
    answered = live.ask("web-0", cpu_pod(6))
    live.bound(answered, "n2")
    live.recorder.close()
    path = str(tmp_path / "records.db")
    run = CliRunner().invoke(explain, ["pod/web-0", "-n", "shop", "--node", "n0", "--records", path])
    assert run.exit_code == 0, run.output
    assert "went to n1" in run.stdout
    assert "what each part means: ullage strategies describe best-fit" in run.stdout
    assert re.search(r" -?\d{1,3}(,\d{3})+  leftover=", run.stdout), "scores are read in groups of three digits"
    assert "n0 was turned away: Insufficient cpu" in run.stdout
    assert "bound to n2" in run.stdout
    assert "not to n1" in run.stdout
    told = json.loads(
        CliRunner().invoke(explain, ["web-0", "-n", "shop", "--node", "n2", "--records", path, "-o", "json"]).stdout
    )
    assert told["chosen"]["node"] == "n1"
    assert told["whyNot"]["why"] == "outscored"
    assert told["finally"] == {"node": "n2", "unixSeconds": told["finally"]["unixSeconds"], "asChosen": False}


def test_expected_use_is_what_was_forecast_then_and_else_what_was_asked_for(live: Live, tmp_path: Path) -> None:
    forecast = Forecast(250, GIB, 200, GIB // 2, rung="history")
    live.state.learn(live.state.knowledge.but(forecasts=Forecasts({"shop/StatefulSet/db": forecast})))
    live.ask("db-0", cpu_pod(1, owner="StatefulSet/db"))
    live.ask("web-0", cpu_pod(1))
    live.state.learn(live.state.knowledge.but(forecasts=Forecasts({})))
    live.recorder.close()
    known, unknown = read(tmp_path / "records.db")
    assert known.prediction == {**unknown.prediction, "cpu": 250, "memory": GIB}
    assert "expected use: 0.25 cores, 1 GiB (upper quantile, from history)" in in_words(known, None)
    assert "expected use: 1 core" in in_words(unknown, None)
    assert "(from what was asked for)" in in_words(unknown, None)


def test_a_node_that_scored_the_same_or_more_is_not_called_worse(live: Live, tmp_path: Path) -> None:
    owned = cpu_pod(1, owner="ReplicaSet/web")
    live.ledger.see(Seen("old", "old", "shop", 1, replace(owned, leaving=True), node="n0", target="n2"))
    live.ask("replacement", owned)
    live.recorder.close()
    with RecordReader(str(tmp_path / "records.db")) as reader:
        (record,) = reader.find(Query())
        fleet = reader.fleet(record.fleet)
    more = record.top[1]["score"] - record.score
    assert (record.node, record.top[1]["node"]) == ("n2", "n0")
    words = f"n0 scored {more:,} more; a plan wanted the pod on n2"
    assert f"  {words}\n" in in_words(record, fleet)
    assert why_not(record, fleet, "n0") == {"node": "n0", "why": "planned", "words": words}
    record.top[1]["score"] = record.score
    assert why_not(record, fleet, "n0")["why"] == "tie"


def test_a_node_below_those_that_are_shown_is_told_the_least_score_of_these(live: Live, tmp_path: Path) -> None:
    live.ask("web-0", cpu_pod(1))
    live.recorder.close()
    with RecordReader(str(tmp_path / "records.db")) as reader:
        (record,) = reader.find(Query())
        last = record.top.pop()
        words = why_not(record, reader.fleet(record.fleet), last["node"])["words"]
    assert abs(record.top[-1]["score"]) >= 1000
    assert words.endswith(f"the {len(record.top)} best (the last of them has {record.top[-1]['score']:,})")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "00:00:00 into the replay"),
        (86_399.6, "1 d 00:00:00 into the replay"),
        (431_593, "4 d 23:53:13 into the replay"),
        (1_767_225_600.25, "2026-01-01 00:00:00.250Z"),
    ],
)
def test_times_of_a_replay_are_told_in_days_and_hours(seconds: float, words: str) -> None:
    assert when(seconds) == words


def test_explain_says_what_to_do_when_there_is_nothing(live: Live, tmp_path: Path) -> None:
    live.ask("web-0", cpu_pod(6))
    live.recorder.close()
    path = str(tmp_path / "records.db")
    wrong = CliRunner().invoke(explain, ["pod/web-0", "--records", path])
    assert isinstance(wrong.exception, RecordError)
    assert "it has in shop" in str(wrong.exception)
    stranger = CliRunner().invoke(explain, ["pod/web-0", "-n", "shop", "--node", "n9", "--records", path])
    assert isinstance(stranger.exception, ConfigError)
    nobody = CliRunner().invoke(explain, ["pod/none", "-n", "shop", "--records", path])
    assert "in none of the 1 records" in str(nobody.exception)
    assert "did you mean" not in str(nobody.exception)
    for like in ("web", "pod/wbe-0"):
        near = CliRunner().invoke(explain, [like, "-n", "shop", "--records", path])
        assert str(near.exception).endswith("; did you mean web-0?")
    bare = CliRunner().invoke(explain, ["foo", "--records", path])
    assert str(bare.exception).startswith("foo, read as pod/foo, is in none of the 1 records")
    assert str(bare.exception).endswith("or no pod: explain takes pod/NAME, uid/UID or decision/ID")


def test_a_rejected_pod_is_explained_by_its_reasons(live: Live, tmp_path: Path) -> None:
    live.ask("big", cpu_pod(99))
    live.recorder.close()
    with RecordReader(str(tmp_path / "records.db")) as reader:
        (record,) = reader.find(Query())
        fleet = reader.fleet(record.fleet)
        text = in_words(record, fleet, "n2")
        assert "no node fits" in text
        assert "3 Insufficient cpu" in text
        assert why_not(record, fleet, "n2")["why"] == "rejected"
        record.reasons = {"Insufficient cpu": 2, "Insufficient cpu, memory": 1}
        assert "; not: 2 Insufficient cpu; 1 Insufficient cpu, memory" in in_words(record, fleet)


def test_decisions_are_listed_filtered_and_exported(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, cores in (("a", 1), ("b", 6), ("c", 99)):
        answered = live.ask(name, cpu_pod(cores))
        if answered.decision.is_placed:
            live.bound(answered, "n1")
    live.recorder.close()
    path = str(tmp_path / "records.db")

    def listed(*options: str) -> list[str]:
        run = CliRunner().invoke(decisions, ["list", "--records", path, "-o", "json", *options])
        assert run.exit_code == 0, run.output
        return [item["name"] for item in json.loads(run.stdout)["items"]]

    assert listed() == ["c", "b", "a"]
    assert listed("--outcome", "rejected") == ["c"]
    assert listed("--agrees") == ["b"]
    assert listed("--differs") == ["a"]
    assert listed("--since", "-1h", "--limit", "1") == ["c"]
    assert listed("-n", "elsewhere") == []
    run = CliRunner().invoke(decisions, ["list", "--records", path, "-n", "elsewhere"])
    assert "no decision matches" in run.stderr
    run = CliRunner().invoke(decisions, ["list", "--records", path, "-o", "json"])
    assert [item["score"] is None for item in json.loads(run.stdout)["items"]] == [True, False, False]
    written = CliRunner().invoke(decisions, ["list", "--records", path, "-o", "yaml"]).stdout
    assert yaml.safe_load(written) == json.loads(run.stdout)
    table = CliRunner().invoke(decisions, ["list", "--records", path]).stdout.splitlines()
    assert table[0].startswith("AT")
    assert len(table) == 4
    target = tmp_path / "out.parquet"
    monkeypatch.setattr("scheduler.decisions.GROUP", 2)
    run = CliRunner().invoke(decisions, ["export", str(target), "--records", path])
    assert run.exit_code == 0, run.output
    assert run.stderr == f"3 decisions written to {target}\n"
    import pyarrow.parquet as pq

    columns = pq.read_table(target)
    assert pq.ParquetFile(target).num_row_groups == 2
    assert columns.column("name").to_pylist() == ["c", "b", "a"]
    assert columns.column("request_cpu_millicores").to_pylist() == [99_000, 6000, 1000]
    none = ["export", str(target), "--records", path, "-n", "elsewhere"]
    assert CliRunner().invoke(decisions, none).exit_code == 0
    assert pq.read_table(target).num_rows == 0
    run = CliRunner().invoke(decisions, ["export", str(tmp_path / "out.csv"), "--records", path])
    assert isinstance(run.exception, ConfigError)
    assert "decisions list -o csv" in str(run.exception)
    assert not (tmp_path / "out.csv").exists()


def test_times_are_read_relative_and_absolute() -> None:
    assert parse_time("-2h", 10_000) == 2800
    assert parse_time("now", 7) == 7
    assert parse_time("12.5", 0) == 12.5
    for text in ("yesterday", "nan", "inf", "-2h\n"):
        with pytest.raises(ConfigError, match="-2h"):
            parse_time(text, 0)


def test_a_record_of_every_shape_survives_the_round_trip(tmp_path: Path) -> None:
    record = replace(_sample(1, 5.0), masks={"why": np.array([True, False] * 9), IDLE: np.zeros(18, np.bool_)})
    store = RecordStore(tmp_path / "r.db")
    store.write([record])
    store.close()
    (back,) = read(tmp_path / "r.db")
    assert back.masks["why"][:18].tolist() == record.masks["why"].tolist()
    assert back.device_indices == [0, 2]
    assert replace(back, masks={}) == replace(record, masks={})


def test_a_question_about_a_bound_pod_is_a_probe_and_leaves_no_record(live: Live, tmp_path: Path) -> None:
    live.ledger.see(Seen("uid-web-0", "web-0", "shop", 1, cpu_pod(6), "n1"))
    live.ask("web-0", cpu_pod(6))
    live.ask("web-1", cpu_pod(6))
    live.recorder.close()
    assert [r.name for r in read(tmp_path / "records.db")] == ["web-1"]


def test_what_the_watch_shows_becomes_the_records_end(live: Live, tmp_path: Path) -> None:
    answered = live.ask("web-0", cpu_pod(6))
    for version, node in ((1, ""), (2, "n2"), (3, "n2")):
        live.ledger.see(Seen(answered.uid, "web-0", "shop", version, answered.spec, node))
    live.recorder.close()
    (record,) = read(tmp_path / "records.db")
    assert (record.final_node, record.agrees) == ("n2", False)


def test_bound_pods_are_counted_once_by_whether_they_are_where_we_chose_last(live: Live) -> None:
    for _ in range(2):  # asked twice before it is bound: one pod
        last = live.ask("web-0", cpu_pod(6))
    other = live.ask("web-1", cpu_pod(6))
    for answered, node in ((last, last.decision.node), (other, "elsewhere")):
        for version in (1, 2):
            live.ledger.see(Seen(answered.uid, answered.name, "shop", version, answered.spec, node))
    live.ledger.see(Seen("uid-unknown", "unknown", "shop", 1, cpu_pod(6), "n1"))
    live.recorder.close()
    samples = [s for metric in live.recorder.metrics.outcomes.collect() for s in metric.samples]
    found = {(s.labels["mode"], s.labels["where"]): s.value for s in samples if s.name.endswith("_total")}
    assert found == {(last.mode, "as chosen"): 1, (other.mode, "elsewhere"): 1}
