"""The kernel's word for the time slice of a thread."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler import slices
from scheduler.slices import LONG_S, SHORT_S, Naps, answer_soon, give_way


def _slice_ns() -> int | None:
    """What the kernel says of the calling thread, where it says so."""
    path = Path("/proc/thread-self/sched")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split(":")[1]) for line in lines if line.startswith("se.slice")), None)


def _knows_slices(told: object) -> bool:
    return told is not None and tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 12)


ON_LINUX = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the call is not known here"
)


@ON_LINUX
def test_a_thread_gets_a_short_slice_and_those_it_starts_do_not() -> None:
    seen: list[Any] = []

    def child() -> None:
        seen.append(_slice_ns())

    def answering() -> None:
        seen.extend((_slice_ns(), answer_soon(), answer_soon(), _slice_ns()))
        thread = threading.Thread(target=child)
        thread.start()
        thread.join()

    here = _slice_ns()
    thread = threading.Thread(target=answering)
    thread.start()
    thread.join()
    assert _slice_ns() == here, "that of another thread stays as it is"
    before, first, again, after, of_child = seen
    assert first is True
    assert again is True, "it can be asked twice"
    if not _knows_slices(before):
        pytest.skip("this kernel does not tell, or knows no slices of one's own")
    assert after == round(SHORT_S * 1e9)
    assert of_child == before


def test_where_it_cannot_be_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert answer_soon() is False


@ON_LINUX
def test_who_gives_way_has_a_lower_priority_and_long_slices_and_so_have_its_threads() -> None:
    seen: list[Any] = []

    def child() -> None:
        seen.append((os.getpriority(os.PRIO_PROCESS, 0), _slice_ns()))

    def planning() -> None:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        seen.extend((_slice_ns(), before, give_way(1)))
        thread = threading.Thread(target=child)
        thread.start()
        thread.join()

    thread = threading.Thread(target=planning)
    thread.start()
    thread.join()
    told, nice, done, (nice_after, slice_ns) = seen
    assert done is True
    assert nice_after == min(19, nice + 1)
    if not _knows_slices(told):
        pytest.skip("this kernel does not tell, or knows no slices of one's own")
    assert slice_ns == round(LONG_S * 1e9)


def test_who_can_wait_rests_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", rests.append)
    naps = Naps()
    for _ in range(100):
        now[0] += slices.WORK_S / 10
        naps()
    assert 8 <= len(rests) <= 10, "about once in ten small pieces"
