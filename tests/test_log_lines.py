"""The log on disk: what is read back is what was written, from the first file or from any checkpoint."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from placement import log
from placement.errors import ConfigError
from placement.knowledge import DevicePrices, Kind, Knowledge, Workload
from placement.log import Asked, Event, EventLog
from placement.log_lines import LineReader, LineWriter, begin_of, checkpoint_events, read_log, segments
from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.playback import rebuild, verify
from placement.pods import GpuRequest, NodeRules, NodeTerm, PodSpec, Requirement
from placement.resources import CPU
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from scheduler import eventlog
from scheduler.engine import RowSet
from scheduler.eventlog import DiskLog
from scheduler.metrics import Metrics
from scheduler.settings import LogSettings

SPECS = (
    PodSpec(request=((CPU, 500),), labels=(("app", "web"),)),
    PodSpec(request=((CPU, 100),), gpu=GpuRequest(1, 400, ("T4", "A10"))),
    PodSpec(
        request=((CPU, 200), ("example.com/nic", 1)),
        node_rules=NodeRules(affinity=(NodeTerm((Requirement("zone", "In", ("a", "b")),)),)),
    ),
)


def history(steps: list[tuple[int, int, int]]) -> ClusterState:
    """A ledger that lived: nodes and pods come and go, decisions are noted."""
    state = ClusterState()
    state.set_namespace(NamespaceSpec("default", (("team", "x"),)))
    strategy = STRATEGIES["best-fit"]
    for i, (what, which, kind) in enumerate(steps):
        name = f"n{which}"
        if what == 0 and name not in state.row_of:
            offer = ((CPU, 4000), ("example.com/nic", 2))
            state.add_node(NodeSpec(name, offer, (("zone", "a"),), (Taint("k"),), num_gpus=2, gpu_model="T4"), time_s=i)
        elif what == 1 and name in state.row_of:
            state.remove_node(name, time_s=i)
        elif what == 2 and state.row_of:
            mask = np.ones(state.num_rows, np.bool_)
            names = tuple(state.names[r] for r in range(state.num_rows))
            offered = RowSet(names, np.flatnonzero(mask)) if all(names) and kind else None
            decision = strategy.decide(state.snapshot(), SPECS[kind], mask if offered else None, i)
            asked = Asked(strategy.digest, SPECS[kind], i, offered)
            state.log.append(Event(i, log.DECISION, f"u{i}", decision.node, decision.devices, asked))
            if decision.is_placed:
                state.assume(f"u{i}", SPECS[kind], decision.node, decision.devices, time_s=i)
                if which:
                    state.confirm(f"u{i}", time_s=i)
        elif what == 3 and state.residents:
            state.release(sorted(state.residents)[which % len(state.residents)], time_s=i)
        elif what == 4 and state.residents:
            uid = sorted(state.residents)[which % len(state.residents)]
            state.update_pod(uid, SPECS[kind], 0b10 if kind == 1 else 0, time_s=i)
    return state


STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=60)


def plain(events: list[Event]) -> list[Event]:
    """Events with candidates as names."""
    made = []
    for event in events:
        if isinstance(event.detail, Asked) and event.detail.candidates is not None:
            event = replace(event, detail=replace(event.detail, candidates=tuple(event.detail.candidates)))
        made.append(event)
    return made


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written(steps: list[tuple[int, int, int]]) -> None:
    state = history(steps)
    writer = LineWriter()
    lines = writer.header(version="1") + b"".join(writer.event(e) for e in state.log)
    read = list(LineReader().events(lines.splitlines(keepends=True), "memory"))
    assert read == plain(state.log.events)
    assert not list(verify(read, [STRATEGIES["best-fit"]]))


@given(STEPS, STEPS)
@settings(max_examples=60, deadline=None)
def test_a_checkpoint_gives_the_same_rows_columns_and_residents(
    before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]
) -> None:
    state = history(before)
    again = rebuild(checkpoint_events(state, 0))
    assert again.nodes == state.nodes
    assert again.row_of == state.row_of
    assert again.residents == state.residents
    assert (again.gpu_free[: state.num_rows] == state.gpu_free[: state.num_rows, : again.gpu_free.shape[1]]).all()
    new = NodeSpec("fresh", ((CPU, 1),))
    assert again.add_node(new) == state.add_node(new)


def test_no_node_has_the_name_of_a_row_that_is_free() -> None:
    state = ClusterState()
    for name in ("a", "removed-0", "c"):
        state.add_node(NodeSpec(name, ((CPU, 1),)))
    state.remove_node("a")
    assert rebuild(checkpoint_events(state, 0)).row_of == state.row_of


def test_a_log_may_begin_while_a_node_offers_none_of_the_devices_that_are_in_use() -> None:
    """As kubelets do while a device plugin starts anew."""
    state = ClusterState()
    node = NodeSpec("n", ((CPU, 4000),), num_gpus=4, gpu_model="T4")
    state.add_node(node)
    state.bind("p", SPECS[1], "n", 0b1000)
    state.update_node(NodeSpec("n", node.allocatable))
    again = rebuild(checkpoint_events(state, 0))
    for one in (state, again):
        one.update_node(node)
    assert again.gpu_free[0].tolist() == state.gpu_free[0].tolist() == [1000, 1000, 1000, 600]


@given(STEPS, STEPS, STEPS)
@settings(max_examples=60, deadline=None)
def test_after_a_loss_a_checkpoint_makes_whole_what_follows(
    before: list[tuple[int, int, int]], lost: list[tuple[int, int, int]], after: list[tuple[int, int, int]]
) -> None:
    state = history(before + lost + after)
    until = [len(history(steps).log) for steps in (before, before + lost)]
    events = state.log.events
    writer = LineWriter()
    lines = [writer.header(version="1"), *(writer.event(e) for e in events[: until[0]])]
    lines += [writer.mark(lost=until[1] - until[0]), writer.mark(checkpoint="begin")]
    lines += [writer.event(e) for e in checkpoint_events(rebuild(events[: until[1]]), 7)]
    lines += [writer.mark(checkpoint="end"), *(writer.event(e) for e in events[until[1] :])]
    read = list(LineReader().events(b"".join(lines).splitlines(keepends=True), "memory"))
    assert plain(read)[len(read) - (len(events) - until[1]) :] == plain(events[until[1] :]), "candidates by name, too"
    again = rebuild(read)

    def residents(ledger: ClusterState) -> dict[str, tuple[PodSpec, str, int, bool]]:
        return {u: (r.spec, ledger.names[r.row], r.devices, r.is_bound) for u, r in ledger.residents.items()}

    assert residents(again) == residents(state)
    assert {n.name: n for n in again.nodes if n is not None} == {n.name: n for n in state.nodes if n is not None}
    assert again.namespaces == state.namespaces


def test_knowledge_survives_the_disk_with_its_digest() -> None:
    workload = Workload((Kind(100, 5, 400, 1, ("T4",)),), (3,), leaving=True)
    prices = DevicePrices((("T4", 2, 4000),), np.arange(1001, dtype=np.int64).reshape(1, -1))
    knowledge = Knowledge().but(workload=workload, prices=prices)
    writer = LineWriter()
    lines = [writer.header(), writer.event(Event(0, log.KNOWLEDGE, knowledge.digest, detail=knowledge))]
    (event,) = LineReader().events(lines, "memory")
    assert event.detail.digest == knowledge.digest
    older = lines[1].replace(b'"leaving":true', b'"leaving":true,"source":"who told it in older builds"')
    assert older != lines[1]
    (event,) = LineReader().events([lines[0], older], "memory")
    assert event.detail.digest == knowledge.digest


@pytest.mark.parametrize(
    "line",
    [
        '"text"',
        '[0, "node_added", "n", "", 0, null]',
        '[0, "namespace", ["n"], "", 0, {"name": "n"}]',
        '[0, "pod_bound", "u", "n", 1, 0]',
        '[0, "pod_bound", "u", "n", -1, 0]',
        '[0, "pod_assumed", "u", "n", 0, null]',
        '[0, "decision", "u", "n", 0, [{}, 0, 0, null]]',
        '[0, "decision", "u", "n", 0, ["s", 0, "", null]]',
        f'[0, "knowledge", "k", "", 0, {{"prices": {{"groups": [["", 0, 0]], "worth": [[{2**64}]]}}}}]',
    ],
)
def test_what_no_writer_wrote_is_damage(line: str) -> None:
    writer = LineWriter()
    lines = [writer.header(), writer.mark(**{"spec": 0, "is": SPECS[0]}), line.encode() + b"\n"]
    with pytest.raises(ConfigError, match="line 3: damaged"):
        list(LineReader().events(lines, "memory"))


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named() -> None:
    writer = LineWriter()
    lines = [writer.header(), writer.event(Event(0, log.NODE_REMOVED, "n"))]
    with pytest.raises(ConfigError, match=r"log x, line 2: damaged"):
        list(LineReader().events([lines[0], b'[0,"node_removed"]\n'], "x"))
    with pytest.raises(ConfigError, match=r"log x, line 2: damaged"):
        list(LineReader().events([lines[0], b"[" * 100_000 + b"\n"], "x"))
    torn = [lines[0], b'[0,"knowle']
    assert list(LineReader().events(torn, "x")) == []
    with pytest.raises(ConfigError, match="format 5, this build reads 1, 2, 3, 4"):
        list(LineReader().events([b'{"ullage_log":5}\n'], "x"))


@pytest.mark.parametrize(
    ("header", "begins_s"),
    [
        ({"begins_unix_s": 10**9}, 10**9),
        ({"begins_unix_s": 10**9, "started_unix_s": 5}, 10**9),
        ({"started_unix_s": 10**9 + 3600}, 10**9),
        ({}, 0),
        ({"started_unix_s": 0}, 0),
    ],
)
def test_second_zero_is_told_by_the_header_or_in_older_logs_by_the_first_event(
    header: dict[str, int], begins_s: int
) -> None:
    assert begin_of(header, [Event(3600, log.NODE_REMOVED, "n")]) == begins_s


BEGINS_S = 1_900_000_000


def write(folder: Path, state_steps: int, **changes: int) -> tuple[DiskLog, ClusterState]:
    disk = DiskLog(LogSettings(folder=str(folder), **changes), Metrics(), "test")
    state = ClusterState(events=disk)
    disk.attach(state, [STRATEGIES["best-fit"]], begins_unix_s=BEGINS_S)
    for i in range(20):
        state.add_node(NodeSpec(f"n{i}", ((CPU, 10**6),)))
    for i in range(state_steps):
        state.bind(f"u{i}", SPECS[0], f"n{i % 20}", time_s=i)
        if i % 200 == 0:
            time.sleep(0.06)
    disk.close()
    return disk, state


def test_segments_are_compressed_and_each_begins_with_all_that_is_needed(tmp_path: Path) -> None:
    disk, state = write(tmp_path, 2000, segment_bytes=20_000)
    files = segments(tmp_path)
    assert len(files) > 2
    assert [f.suffix for f in files[:-1]] == [".gz"] * (len(files) - 1)
    _, whole, lost = read_log(tmp_path)
    assert lost == 0
    assert set(rebuild(whole).residents) == set(state.residents)
    for path in files[:2]:
        path.unlink()
    header, rest, _ = read_log(tmp_path)
    assert begin_of(header, rest.events) == BEGINS_S, "of the run, in every segment"
    assert len(rest) < len(whole) + 2000
    assert set(rebuild(rest).residents) == set(state.residents)
    assert disk.folder.parent == tmp_path


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 1, 2, 3, 4, 5, 0, 0, 0)))
    (one, first), (other, second) = write(tmp_path, 50), write(tmp_path, 80)
    assert one.folder != other.folder
    for disk, state in ((one, first), (other, second)):
        assert set(rebuild(read_log(disk.folder)[1]).residents) == set(state.residents)


def test_a_run_that_never_saw_the_cluster_leaves_nothing_and_hides_no_other(tmp_path: Path) -> None:
    _, state = write(tmp_path, 5)
    never = DiskLog(LogSettings(folder=str(tmp_path)), Metrics(), "test")
    never.attach(ClusterState(events=never), [], begins_unix_s=BEGINS_S)
    never.close()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "run-99990101T000000-1").mkdir()
    assert set(rebuild(read_log(tmp_path)[1]).residents) == set(state.residents)


def test_segments_of_earlier_runs_go_when_there_is_no_room_for_all_whether_or_not_they_were_finished(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("run-1", "run-2", "run-3")):
        (tmp_path / name).mkdir()
        segment = tmp_path / name / "000001.jsonl"
        segment.write_bytes(b"x" * 3000)
        os.utime(segment, (number, number))
    disk, state = write(tmp_path, 5, max_bytes=4096)
    assert not (tmp_path / "run-1").exists()
    assert not (tmp_path / "run-2").exists()
    assert (tmp_path / "run-3" / "000001.jsonl").exists()
    assert set(rebuild(read_log(disk.folder)[1]).residents) == set(state.residents)


def test_a_segment_that_cannot_be_deleted_does_not_end_the_log(tmp_path: Path) -> None:
    (tmp_path / "run-1" / "000001.jsonl" / "locked").mkdir(parents=True)  # nobody may unlink a folder
    disk, state = write(tmp_path, 5, max_bytes=1)
    assert set(rebuild(read_log(disk.folder)[1]).residents) == set(state.residents)


def test_a_folder_that_is_cleared_while_we_write_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "RETRY_S", 0.01)
    disk = DiskLog(LogSettings(folder=str(tmp_path), segment_bytes=2000), Metrics(), "test")
    state = ClusterState(events=disk)
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    state.add_node(NodeSpec("n", ((CPU, 10**6),)))
    time.sleep(0.2)
    shutil.rmtree(disk.folder)
    for i in range(2000):
        state.bind(f"u{i}", SPECS[0], "n")
        time.sleep(0.005)
        if disk.folder.exists():
            break
    disk.close()
    _, events, _ = read_log(tmp_path)
    assert set(rebuild(events).residents) == set(state.residents), "from the last checkpoint on all is there again"


def test_a_process_that_is_killed_while_it_compresses_leaves_a_log_that_can_be_read(tmp_path: Path) -> None:
    disk, state = write(tmp_path, 1)
    (segment,) = segments(tmp_path)
    (disk.folder / f"{segment.name}.gz").write_bytes(gzip.compress(segment.read_bytes())[:20])
    assert set(rebuild(read_log(tmp_path)[1]).residents) == set(state.residents)


def test_a_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    run.mkdir()
    (run / "000001.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(ConfigError, match="use another copy"):
        read_log(tmp_path)
    packed = bytearray(gzip.compress(b"x" * 1000))
    packed[10] = 7  # of no packing that there is
    (run / "000001.jsonl.gz").write_bytes(packed)
    with pytest.raises(ConfigError, match="use another copy"):
        read_log(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no segments"):
        read_log(tmp_path / "empty")
    with pytest.raises(ConfigError, match="use a file of `ullage bundle`"):
        read_log(tmp_path / "elsewhere")


def test_a_queue_that_overflows_loses_events_and_says_so(tmp_path: Path) -> None:
    disk = DiskLog(LogSettings(folder=str(tmp_path), queue=100), Metrics(), "test")
    state = ClusterState(events=disk)
    for i in range(300):
        state.add_node(NodeSpec(f"n{i}", ((CPU, 1),)))
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    disk.close()
    _, events, lost = read_log(tmp_path)
    assert (len(events), lost) == (100, 200)


def test_a_log_without_a_disk_keeps_nothing() -> None:
    from scheduler.eventlog import NoLog

    quiet: EventLog = NoLog()
    state = ClusterState(events=quiet)
    state.add_node(NodeSpec("n", ((CPU, 1),)))
    assert len(state.log) == 0


def test_a_queue_that_overflows_for_a_while_leaves_a_log_that_can_be_followed(tmp_path: Path) -> None:
    disk = DiskLog(LogSettings(folder=str(tmp_path), queue=100), Metrics(), "test")
    state = ClusterState(events=disk)
    state.add_node(NodeSpec("n", ((CPU, 10**6),)))
    for i in range(300):
        state.bind(f"u{i}", SPECS[0], "n")
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    time.sleep(0.3)
    for i in range(150, 300):  # their beginnings were lost
        state.release(f"u{i}")
        time.sleep(0.002)
    disk.close()
    _, events, lost = read_log(tmp_path)
    assert lost > 200
    assert set(rebuild(events).residents) == set(state.residents)


@pytest.mark.parametrize("what", ["header", "mark"], ids=["no header fits", "the checkpoint does not fit"])
def test_a_disk_that_is_full_for_long_is_not_filled_with_files_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(eventlog, "RETRY_S", 0.001)
    write = getattr(LineWriter, what)
    tries = 0

    def full(self: LineWriter, **facts: Any) -> bytes:
        nonlocal tries
        is_there = what == "header" or facts == {"checkpoint": "end"}
        tries += is_there
        if is_there and tries < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        line: bytes = write(self, **facts)
        return line

    monkeypatch.setattr(LineWriter, what, full)
    metrics = Metrics()
    disk = DiskLog(LogSettings(folder=str(tmp_path), segment_bytes=1), metrics, "test")
    state = ClusterState(events=disk)
    state.add_node(NodeSpec("n", ((CPU, 10**6),)))
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    for i in range(5000):
        state.bind(f"u{i}", SPECS[0], "n")
        time.sleep(0.005)
        if tries >= 20:
            break
    disk.close()
    _, events, lost = read_log(tmp_path)
    assert set(rebuild(events).residents) == set(state.residents)
    assert f"ullage_log_dropped_total {lost:.1f}" in metrics.expose().decode()
    for path in segments(tmp_path)[1:]:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b'{"checkpoint":"end"}' in text


def test_what_a_disk_lost_is_told_in_full_where_it_was_written_and_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many events go to the file's buffer before the disk is asked to keep them."""
    monkeypatch.setattr(eventlog, "RETRY_S", 0.001)
    room = [0]

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **facts: (
            io.BufferedWriter(Full(str(path), "wb"), 1 << 20) if mode == "wb" else opened(path, mode, **facts)
        ),
    )
    metrics = Metrics()
    disk = DiskLog(LogSettings(folder=str(tmp_path)), metrics, "test")
    state = ClusterState(events=disk)
    state.add_node(NodeSpec("n", ((CPU, 10**6),)))
    for i in range(200):  # all of them wait when the thread begins
        state.bind(f"u{i}", SPECS[0], "n")
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    for i in range(200, 5000):
        state.bind(f"u{i}", SPECS[0], "n")
        time.sleep(0.005)
        if not room[0] and disk._discarded:
            room[0] = 1
            missed = len(state.residents)
        if disk._told:
            break
    disk.close()
    _, events, lost = read_log(tmp_path)
    assert set(rebuild(events).residents) == set(state.residents)
    assert f"ullage_log_dropped_total {lost:.1f}" in metrics.expose().decode()
    assert lost >= missed - 1


def test_a_disk_that_is_full_at_the_end_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Last(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Path, "open", lambda _path, _mode: Last())
    disk, _ = write(tmp_path, 1)
    assert not disk._thread.is_alive()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["event log cannot be written", "event log ends with events lost"]


def test_what_comes_while_a_disk_is_broken_for_good_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _mode: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    metrics = Metrics()
    disk = DiskLog(LogSettings(folder=str(tmp_path)), metrics, "test")
    state = ClusterState(events=disk)
    state.add_node(NodeSpec("n", ((CPU, 10**6),)))
    disk.attach(state, [], begins_unix_s=BEGINS_S)
    while not disk._discarded:
        time.sleep(0.001)
    for i in range(10):
        state.bind(f"u{i}", SPECS[0], "n")
    disk.close()
    assert "ullage_log_dropped_total 11.0" in metrics.expose().decode()
