"""Keeps what can wait away from answers: threads that write to disk, and the collector of garbage.

An answer takes less time than Python's collector needs for ten thousand young objects, or than a thread may hold the
interpreter. So a thread asks before every small piece of work (:meth:`Pace.step`), and garbage is collected piece by
piece in moments when nobody waits for an answer (:meth:`Quiet.answered`, :meth:`Quiet.rest`). Everything that is put
off here has a bound, under any load: a patience for threads, and numbers of objects and times for garbage.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable

from scheduler.slices import answer_soon

PATIENCE_S = 0.005
"""A thread waits no longer for a moment without a question."""
PIECE_S = 0.0002
REST_S = 0.0003
"""A thread rests for so long after a piece of work: one that runs for milliseconds on end may share a processor with the
thread that answers, which is then let in after a time slice only."""
SWITCH_S = 0.0002
"""A thread that holds the interpreter when a question comes gives it back after so long."""
ANSWERING_S = 0.0005
"""A thread that wants the interpreter while somebody waits for an answer takes it after so long, not in the middle of it."""
YOUNG = 500
"""New containers that are looked through after an answer: a third of a millisecond."""
OVERDUE = 4 * YOUNG
"""New containers that are looked through after an answer although somebody else waits for one."""
BACKSTOP = 50_000
"""New containers at which the interpreter collects by itself, wherever it is: a list of the API may be read meanwhile."""
IDLE_S = 1.0
"""Without a question for so long, all is looked through that came since that was done last."""
MANY = 100_000
"""Containers that came since then: now it is done without a pause, and takes a twentieth of a second."""
LONG_IDLE_S = 10.0
"""Without a question for so long, everything there is may be looked through: a fifth of a second at 50,000 pods."""
THOROUGH_S = 3600.0
"""How often that is done."""
OVERDUE_S = 86_400.0
"""How long it is put off where questions never end."""


class Quiet:
    """Knows whether somebody waits for an answer. One for a process; ``clock`` is a monotonic one, in seconds.

    The collector of garbage is left alone unless the process ``is_ours`` and :meth:`calm` was called.
    """

    def __init__(self, *, is_ours: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_ours = is_ours
        self._is_calm = False
        self._gate = threading.Lock()
        """Held by the event loop while somebody waits; by others for no longer than it takes to let it go."""
        self._is_shut = False
        self._num_askers = 0
        self._asked_s = self._thorough_s = clock()
        self._num_kept = 0
        """Containers that may have survived since all were looked through."""

    # ── the event loop's side ─────────────────────────────────────────────────────────────────

    def calm(self) -> None:
        """Keep this process's interpreter from pausing an answer; called once, when the view is complete.

        What the view holds by now lives long: the collector need not look at it again (at 50,000 pods that takes a
        fifth of a second). And threads give the interpreter back soon when an answer wants it; Python's own 5 ms are
        longer than the answer.
        """
        if not self._is_ours:
            return
        self._is_calm = True
        gc.set_threshold(BACKSTOP)
        sys.setswitchinterval(SWITCH_S)
        answer_soon()
        self._look_through()

    def asked(self) -> None:
        """Somebody begins to wait for an answer."""
        self._num_askers += 1
        if not self._is_shut:
            self._is_shut = self._gate.acquire(blocking=False)
            if self._is_calm:
                sys.setswitchinterval(ANSWERING_S)

    def answered(self) -> None:
        """Somebody has the answer, or went away."""
        self._num_askers -= 1
        if self._is_calm:
            num_young = gc.get_count()[0]
            if num_young >= (OVERDUE if self._num_askers else YOUNG):
                self._tidy(num_young)
        self._asked_s = self._clock()
        if not self._num_askers and self._is_shut:
            self._is_shut = False
            self._gate.release()
            if self._is_calm:
                sys.setswitchinterval(SWITCH_S)

    def _tidy(self, num_young: int) -> None:
        self._num_kept += num_young
        gc.collect(0)

    def rest(self) -> None:
        """Called about twice a second: collects what there was no moment for, or as much as this moment allows."""
        if not self._is_calm:
            return
        now_s = self._clock()
        idle_s = 0.0 if self._num_askers else now_s - self._asked_s
        since_s = now_s - self._thorough_s
        if since_s >= (THOROUGH_S if idle_s >= LONG_IDLE_S else OVERDUE_S):
            gc.unfreeze()
            self._look_through()
            return
        self._tidy(gc.get_count()[0])
        if self._num_kept >= (YOUNG if idle_s >= IDLE_S else MANY):
            gc.collect()
            gc.freeze()
            self._num_kept = 0

    def _look_through(self) -> None:
        gc.collect()
        gc.freeze()
        self._num_kept, self._thorough_s = 0, self._clock()

    def pace(self) -> Pace:
        """For one thread, which waits no longer than :data:`PATIENCE_S` for a moment without a question."""
        return Pace(self._gate)


class Pace:
    """Of one thread; made by :meth:`Quiet.pace`."""

    def __init__(self, gate: threading.Lock) -> None:
        self._gate = gate
        self._began_s = 0.0

    def step(self) -> None:
        """Before every small piece of work: return when nobody waits for an answer, and after a rest if one is due."""
        if self._gate.acquire(blocking=False):
            self._gate.release()
            if time.perf_counter() - self._began_s < PIECE_S:
                return
            time.sleep(REST_S)
        elif self._gate.acquire(timeout=PATIENCE_S):
            self._gate.release()
        self._began_s = time.perf_counter()
