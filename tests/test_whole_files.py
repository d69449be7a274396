"""Files that are there whole or not at all, wherever they lead and whatever fails."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from placement.errors import PlacementError
from placement.planning.snapshots import KIND, VERSION, SnapshotFile
from placement.whole_files import whole_file
from scheduler.cli.shadow import _write
from scheduler.errors import RecordError
from scheduler.planning.record import PlanRecord, PlanState, save_record
from simulator.kept import kept
from simulator.output import write_whole
from simulator.planning.snapshots import write_snapshot
from simulator.traces.trace import Trace

EMPTY = SnapshotFile(KIND, VERSION, [], [], [])


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("before")
    with pytest.raises(FileNotFoundError), whole_file(target) as part:
        part.write_text((tmp_path / "not there").read_text())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]


def test_two_who_write_the_same_file_at_once_write_one_each(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with whole_file(target) as first, whole_file(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


WRITER = """
import pathlib, sys
from placement.whole_files import whole_file
with whole_file(pathlib.Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_what_killed_writers_left_goes_when_the_file_is_next_written(tmp_path: Path) -> None:
    """And not while they write."""
    target = tmp_path / "a"
    with ExitStack() as writers:
        for _ in range(2):
            command = [sys.executable, "-c", WRITER, str(target)]
            writer = writers.enter_context(Popen(command, stdin=PIPE, stdout=PIPE))
            writers.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline()
        with whole_file(target) as part:
            assert part.name == ".a.2.tmp"
        assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.0.tmp", ".a.1.tmp"}
    write_whole({target: "after"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_no_writer_leaves_is_left_alone(tmp_path: Path) -> None:
    """Where everybody may write somebody else may have put it there."""
    (tmp_path / ".a.0.tmp").symlink_to(tmp_path / "nothing")
    (tmp_path / ".a.1.tmp").mkdir()
    write_whole({tmp_path / "a": "after"})
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.0.tmp", ".a.1.tmp"}


def test_nothing_is_taken_for_left_where_a_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_given: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        assert first != second


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    link.symlink_to(real)
    write_whole({link: "after"})
    assert link.is_symlink()
    assert real.read_text() == "after"


def test_a_link_that_leads_to_nothing_yet_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    write_whole({link: "after"})
    assert link.is_symlink()
    assert real.read_text() == "after"


def test_a_link_that_leads_to_itself_is_refused_in_words(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(PlacementError, match="leads to itself"):
        write_whole({link: "x"})


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o400, 0o600)])
def test_who_might_not_read_a_file_may_not_read_what_takes_its_place(before: int, after: int, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.touch(mode=before)
    write_whole({target: "after"})
    assert target.stat().st_mode & 0o777 == after


def test_what_another_begins_right_after_is_left_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(part: Path, target: Path) -> None:
        os.replace(part, target)
        part.write_text("another's")

    monkeypatch.setattr(Path, "replace", replaced)
    with whole_file(tmp_path / "a") as part:
        part.write_text("ours")
    assert part.read_text() == "another's"


def test_several_files_are_all_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(PlacementError, match=r"report .*: cannot be written"):
        write_whole({tmp_path / "a": "a", tmp_path / "b": "b", tmp_path / "c": "c"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path: Path) -> None:
    """As root, a report at ``/dev/null`` would leave the machine without one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(PlacementError, match="it is no file"):
        write_whole({pipe: "x"})
    with pytest.raises(PlacementError, match="it is no file"):
        write_snapshot(EMPTY, pipe)
    with pytest.raises(PlacementError, match="it is no file"):
        Trace.of("t", [], []).save(pipe)
    with pytest.raises(RecordError, match="it is no file"):
        _write(pipe, "x")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_full_disk_leaves_nothing_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(os, "fsync", full)
    record = PlanRecord("PlanRecord", 1, "id", {}, PlanState.RUNNING, [])
    acts: dict[str, Callable[[], object]] = {
        "snapshot": lambda: write_snapshot(EMPTY, tmp_path / "a"),
        "a": lambda: _write(tmp_path / "a", "x"),
        "cache": lambda: kept(tmp_path, "a", dict),
        "record": lambda: save_record(record, tmp_path / "a"),
    }
    for what, act in acts.items():
        with pytest.raises(PlacementError, match=rf"{what}.*: cannot be written \(No space left on device\)"):
            act()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("was", ["", "cut sho"])
def test_a_cell_that_another_process_takes_away_meanwhile_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str
) -> None:
    """Both find it damaged; the other one is quicker."""
    cell = tmp_path / "a.json"
    cell.write_text(was)

    def taken(_text: str) -> object:
        cell.unlink()
        raise ValueError("damaged")

    monkeypatch.setattr(json, "loads", lambda text, loads=json.loads: taken(text) if text == was else loads(text))
    assert kept(tmp_path, "a", lambda: {"x": 1}) == {"x": 1}
