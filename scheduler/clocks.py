"""Which clock says what, for all of ``scheduler/``; and the two that the library does not have as they are needed.

* What is due, late, or has waited too long goes by the monotonic clock, which nobody sets: requests, retries, watches,
  the second 0 of the ledger and of the event log, and with it gates, nominations and reservations of a process's own.
* Who leads goes by :func:`boot_s`: it runs on while the machine sleeps. Whoever wakes after the Lease ran out, leads no more.
* What is told to people or kept for another process carries Unix time: records, event logs, bundles, samples, the
  hour that models look at. A clock that was ahead and is set back is noticed where it would do harm: forecasts forget
  what they noted after now; records and logs from after now are the first to make room.
* What is deleted for its age goes by :func:`calm_s`: a clock that jumps ahead ages nothing.
* What another machine judges goes by the API server's clock (:meth:`scheduler.kube.KubeClient.server_s`): planners write
  it beside nominations, and the sweeper compares such times with it.
  ``ullage doctor --live`` says how far ours is off (UD410).
"""

from __future__ import annotations

import time

_began_s, _began_unix_s = time.monotonic(), time.time()
_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def calm_s() -> float:
    """Unix time, but for every jump ahead since this process began; the time that its machine slept is one."""
    return min(time.time(), _began_unix_s + time.monotonic() - _began_s)


def boot_s() -> float:
    """Seconds since the machine was started, its sleep included; nobody sets this clock."""
    return time.clock_gettime(_BOOT)
