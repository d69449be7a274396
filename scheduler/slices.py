"""Who interrupts whom on a busy processor: time slices for those who answer and for those who can wait.

The scheduler of Linux 6.6 and later (EEVDF) lets a task say how long it works at a time; from 6.12 on one with a shorter
slice that wakes up interrupts one with a longer, which otherwise works to the end of its slice. Nobody gets more of the
processor by it, only sooner. See `sched(7)`, `sched_setattr(2)`. Older kernels take the call and do nothing.

On the event loop that answers, long work is done :func:`by_slices`: nobody interrupts it there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

SLICE = 50
"""Parts of some long work that are done before others may run, where each takes some ten microseconds."""
SHORT_S = 0.001
"""Of the thread that answers: longer than an answer, which nobody then interrupts. The kernel takes .1 to 100 ms; its own
are 1.4 to 3 ms."""
LONG_S = 0.02
"""Of those who can wait: longer than anybody's own, so that whoever wakes up beside them need not wait."""
WORK_S = 0.0004
NAP_S = 0.00001
"""Long enough for the kernel to let in whoever waits for this processor."""
_SYSCALLS = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK = 1
_ATTR = struct.Struct("=IIQiIQQQ")
"""size, policy, flags, nice, priority, runtime in ns, deadline, period."""
T = TypeVar("T")


async def by_slices(items: Iterable[T], size: int = SLICE) -> AsyncIterator[T]:
    """The same items; others run after each ``size`` of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % size == 0:
            await asyncio.sleep(0)


def answer_soon() -> bool:
    """Short slices for the calling thread, not for those that it starts; False where that cannot be had."""
    return _set_slice(SHORT_S, _RESET_ON_FORK)


def give_way(nice: int) -> bool:
    """Lower priority by ``nice`` and long slices for the calling thread and those that it starts.

    False where there is only the priority.
    """
    os.nice(nice)
    return _set_slice(LONG_S, 0)


class Naps:
    """For those who can wait. A task that wakes up soon after it worked has had more than its share, and then the kernel
    lets those who work go on until their next timer tick, 4 ms at most, however low their priority."""

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def __call__(self) -> None:
        """Between small pieces of work: rest for a moment if the last rest was a while ago."""
        if time.perf_counter() - self._since_s > WORK_S:
            time.sleep(NAP_S)
            self._since_s = time.perf_counter()


def _set_slice(slice_s: float, flags: int) -> bool:
    number = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attr = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, flags, nice, 0, round(slice_s * 1e9), 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, attr, 0) == 0
