"""The kernel's word for the time slice of a thread."""

from __future__ import annotations

import platform
import sys
import threading
from pathlib import Path

import pytest

from scheduler.slices import shorten_slice


def _slice_ns() -> int | None:
    """What the kernel says of the calling thread, where it says so."""
    path = Path("/proc/thread-self/sched")
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return next((int(line.split(":")[1]) for line in lines if line.startswith("se.slice")), None)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has this call")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="its number is not known here")
def test_a_thread_gets_a_short_slice_and_those_it_starts_do_not() -> None:
    seen: list[object] = []

    def child() -> None:
        seen.append(_slice_ns())

    def answering() -> None:
        seen.extend((_slice_ns(), shorten_slice(0.0007), shorten_slice(0.0005), _slice_ns()))
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
    kernel = tuple(int(part) for part in platform.release().split(".")[:2])
    if before is None or kernel < (6, 12):
        pytest.skip("this kernel does not tell, or knows no slices of one's own")
    assert after == 500_000
    assert of_child == before


def test_where_it_cannot_be_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert shorten_slice() is False
