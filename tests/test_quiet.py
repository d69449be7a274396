"""What can wait is kept away from answers, and nothing is put off without a bound."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import quiet as module
from scheduler.binder import Binder
from scheduler.extender import Extender
from scheduler.quiet import LONG_IDLE_S, OVERDUE, OVERDUE_S, THOROUGH_S, YOUNG, Quiet
from scheduler.server import Request, Response
from tests.live_engine import Live


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def quiet(clock: list[float]) -> Iterator[Quiet]:
    """Calm, with the interpreter's own habits back afterwards."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    made = Quiet(is_ours=True, clock=lambda: clock[0])
    made.calm()
    yield made
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)
    gc.unfreeze()
    gc.collect()


def cycles(number: int, alive: weakref.WeakSet[Cycle]) -> None:
    for _ in range(number):
        alive.add(Cycle())


def most_alive(quiet: Quiet) -> int:
    """Cycles alive at most while 5,000 questions are answered that leave three each."""
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
    most = 0
    for _ in range(5000):
        quiet.asked()
        cycles(3, alive)
        quiet.answered()
        most = max(most, len(alive))
    return most


def test_garbage_stays_bounded_however_many_questions_there_are(quiet: Quiet) -> None:
    assert most_alive(quiet) <= YOUNG


def test_garbage_stays_bounded_while_somebody_never_gets_an_answer(quiet: Quiet) -> None:
    quiet.asked()
    assert YOUNG < most_alive(quiet) <= OVERDUE


def test_nothing_is_collected_between_a_question_and_its_answer(quiet: Quiet) -> None:
    seen: list[bool] = []
    is_waiting = False

    def note(phase: str, info: Any) -> None:
        seen.append(is_waiting)

    gc.callbacks.append(note)
    try:
        alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
        for _ in range(300):
            is_waiting = True
            quiet.asked()
            cycles(20, alive)
            is_waiting = False
            quiet.answered()
    finally:
        gc.callbacks.remove(note)
    assert len(seen) > 10
    assert not any(seen)


def test_what_lived_long_and_became_garbage_is_found_later(quiet: Quiet, clock: list[float]) -> None:
    kept: list[Cycle] = []
    alive: weakref.WeakSet[Cycle] = weakref.WeakSet()
    for _ in range(2 * YOUNG):
        quiet.asked()
        kept.append(Cycle())
        alive.add(kept[-1])
        quiet.answered()
    kept.clear()
    assert len(alive) > YOUNG, "the collection of what is young does not find what has grown old"
    clock[0] += 2
    quiet.rest()
    assert not alive


@pytest.mark.parametrize(("after_s", "has_asker"), [(THOROUGH_S + LONG_IDLE_S, False), (OVERDUE_S, True)])
def test_garbage_among_what_was_frozen_is_found_in_the_end(
    quiet: Quiet, clock: list[float], after_s: float, has_asker: bool
) -> None:
    thing = Cycle()
    alive = weakref.ref(thing)
    quiet.calm()
    del thing
    clock[0] += 5
    quiet.rest()
    assert alive() is not None, "frozen: nobody looked"
    if has_asker:
        quiet.asked()
    clock[0] += after_s
    quiet.rest()
    assert alive() is None


def test_where_questions_never_end_not_all_is_looked_through_before_it_is_overdue(
    quiet: Quiet, clock: list[float]
) -> None:
    thing = Cycle()
    alive = weakref.ref(thing)
    gc.collect()
    gc.freeze()
    del thing
    clock[0] += THOROUGH_S + 1
    quiet.asked()
    quiet.answered()
    quiet.rest()
    assert alive() is not None
    clock[0] += OVERDUE_S
    quiet.asked()
    quiet.answered()
    quiet.rest()
    assert alive() is None


def test_all_that_is_new_is_looked_through_without_a_pause_when_it_is_much(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY", 3 * YOUNG)
    kept: list[Cycle] = []
    quiet.asked()
    while len(kept) < 5 * YOUNG:
        quiet.asked()
        kept.append(Cycle())
        quiet.answered()
    before = gc.get_freeze_count()
    quiet.rest()
    assert gc.get_freeze_count() >= before + len(kept)


def test_an_interpreter_that_is_not_ours_is_left_alone() -> None:
    before = gc.get_threshold(), sys.getswitchinterval(), gc.get_freeze_count()
    quiet = Quiet()
    quiet.calm()
    quiet.asked()
    quiet.answered()
    quiet.rest()
    assert (gc.get_threshold(), sys.getswitchinterval(), gc.get_freeze_count()) == before


def test_a_thread_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60)
    quiet, done = Quiet(), threading.Event()

    def work() -> None:
        quiet.pace().step()
        done.set()

    quiet.asked()
    quiet.asked()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    quiet.answered()
    assert not done.wait(0.05), "somebody still waits for an answer"
    quiet.answered()
    thread.join(60)
    assert done.is_set()


def test_a_thread_has_limited_patience() -> None:
    quiet, done = Quiet(), threading.Event()

    def work() -> None:
        quiet.pace().step()
        done.set()

    quiet.asked()
    threading.Thread(target=work, daemon=True).start()
    assert done.wait(60), "it works on, though nobody has answered"


def question(number: int) -> bytes:
    pod = {
        "metadata": {"name": f"web-{number}", "namespace": "shop", "uid": f"u-{number}"},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1m"}}}]},
    }
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": ["n0", "n1", "n2"]}, separators=(",", ":")).encode()


@pytest.mark.parametrize(("verb", "mode"), [("filter", "decide"), ("filter", "shadow"), ("prioritize", "score")])
def test_an_answered_question_leaves_nothing_for_the_collector(tmp_path: Path, verb: str, mode: str) -> None:
    live = Live(tmp_path / "records.db")
    live.engine.modes.switch(mode)
    extender = Extender(live.engine, Binder(live.engine, None), version="test")  # type: ignore[arg-type]  # nothing binds here

    def ask(number: int) -> None:
        answer = extender.handle(Request("POST", f"/v1/{verb}", memoryview(bytearray(question(number))), 0.0))
        assert isinstance(answer, Response)
        assert answer.after is not None
        answer.after()

    live.engine.modes.is_killed = False
    extender.deadline_s = float("inf")
    ask(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 51):
            ask(number)
        found = gc.collect()
    finally:
        gc.enable()
        live.recorder.close()
    assert found < 50, "less than one container for a question"


def test_a_thread_rests_after_every_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = [1.0], list[float]()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", rests.append)
    pace = Quiet().pace()
    for _ in range(40):
        pace.step()
        now[0] += module.PIECE_S / 4
    assert len(rests) == 10
