"""Pods that the API refused to patch are tried again later and later, each by itself.

An API server that is overloaded (429) gets rest that way, and a pod that a webhook or policy refuses for good costs a call
now and then instead of several a second, while others are planned as ever.
"""

from __future__ import annotations

from collections.abc import Container

FIRST_S = 0.2
LONGEST_S = 5.0
"""How much later than its deadline a gate may be lifted after an outage."""


class Patience:
    """By UID; times are of any one clock.

    >>> patience = Patience()
    >>> patience.failed("p", 0.0), patience.is_resting("p", 0.1), patience.is_resting("p", 0.2)
    (True, True, False)
    >>> patience.failed("p", 1.0), patience.is_resting("p", 1.3), patience.is_resting("p", 1.4)
    (False, True, False)
    """

    def __init__(self) -> None:
        self._rests: dict[str, tuple[float, float]] = {}
        """Until when, and how long the next rest is."""

    def failed(self, uid: str, now_s: float) -> bool:
        """A patch failed; whether it is the first one since one worked."""
        _, rest_s = self._rests.get(uid, (0.0, 0.0))
        step_s = rest_s or FIRST_S
        self._rests[uid] = now_s + step_s, min(2 * step_s, LONGEST_S)
        return not rest_s

    def worked(self, uid: str) -> None:
        """A patch worked."""
        self._rests.pop(uid, None)

    def is_resting(self, uid: str, now_s: float) -> bool:
        """Whether it is not to be tried yet."""
        return now_s < self._rests.get(uid, (now_s, 0.0))[0]

    def resting(self, now_s: float) -> list[str]:
        """All that are not to be tried yet."""
        return [uid for uid, (until_s, _) in self._rests.items() if now_s < until_s]

    def keep(self, uids: Container[str]) -> None:
        """Forget all others."""
        for uid in [uid for uid in self._rests if uid not in uids]:
            del self._rests[uid]
