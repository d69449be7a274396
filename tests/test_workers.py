"""Worker processes: none is left behind, and one that dies is said."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker, spawn
from pathlib import Path

import pytest

from placement.errors import PlacementError
from placement.planning.make import PlanningError
from placement.planning.snapshots import SnapshotFile
from scheduler.learning import predict_worker
from simulator.planning.worker import Planner, Request
from simulator.workers import in_processes

PARENT = """
from simulator.workers import in_processes
from tests.test_workers import says_who_it_is

if __name__ == "__main__":
    list(in_processes(1, says_who_it_is, [(0,), (600,)]))
"""


LATE = """
import multiprocessing
from tests.test_workers import begins_late

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=begins_late).start()
"""


def begins_late() -> None:
    parent = os.getppid()
    print(os.getpid(), flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
    predict_worker._begin()
    time.sleep(600)


def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def says_who_it_is(seconds: float) -> None:
    print(os.getpid(), flush=True)
    time.sleep(seconds)


def dies(_task: int) -> None:
    os._exit(1)


def hears_ctrl_c(_task: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_tasks_come_back_with_their_index() -> None:
    assert sorted(in_processes(2, sleeps, [(0.0,), (0.01,), (0.02,)])) == [(0, 0.0), (1, 0.01), (2, 0.02)]


def test_who_stops_listening_ends_what_runs() -> None:
    results = in_processes(2, sleeps, [(0.0,), (600.0,)])
    assert next(results) == (0, 0.0)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_is_one_message() -> None:
    with pytest.raises(PlacementError, match="want of memory; give fewer --jobs"):
        list(in_processes(1, dies, [(0,)]))


def test_workers_do_not_hear_ctrl_c() -> None:
    assert list(in_processes(1, hears_ctrl_c, [(0,)])) == [(0, False)]
    assert hears_ctrl_c(0)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def is_heard(code: str) -> None:
    """A process of its own says that it heard of Ctrl-C, and ends well."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr


@pytest.mark.parametrize("code", [PARENT, LATE], ids=["at work", "before it began"])
def test_a_killed_parent_leaves_no_worker(code: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(code, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    rest, _ = parent.communicate(timeout=60)  # its output ends with the last process that holds it
    assert all(int(line) == worker for line in rest.split())


def test_a_planner_that_dies_before_it_reads_its_task_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    resource_tracker.ensure_running()
    monkeypatch.setattr(spawn, "_python_exe", b"/bin/false")
    pods = SnapshotFile("x" * 1_000_000, 1, [], [], [])  # more than a pipe holds
    planner = Planner(Request("rescue", pods, 1.0))
    try:
        with pytest.raises(PlanningError, match="the planner died"):
            planner.result()
    finally:
        planner.close()


def test_a_solver_leaves_ctrl_c_to_who_listens() -> None:
    code = """
import signal
import numpy as np
from placement.planning.solver import Limits, Model, solve_integer

model = Model()
model.add_columns(np.array([3]), objective=1.0)
assert solve_integer(model, Limits(5.0)).value == 3
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""
    is_heard(code)


def test_ctrl_c_during_a_solve_of_highs_is_not_lost() -> None:
    code = """
import os
import signal
import threading
import numpy as np
from placement.planning.solver import Limits, Model, solve_linear

rng = np.random.default_rng(0)
model = Model()
columns = model.add_columns(np.ones(200), objective=rng.integers(50, 100, 200))
for _ in range(40):
    weights = rng.integers(20, 100, 200)
    model.add_row(columns, weights, upper=float(weights.sum() // 2))
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    solve_linear(model, Limits(1.5))
except KeyboardInterrupt:
    print("heard")
"""
    is_heard(code)
