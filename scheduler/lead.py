"""Whether this process may act: it leads, and it has seen what the leader before it did.

A new leader reads all pods once more before it answers or plans: the old one's last binds and nominations must be seen.
Whoever loses the lead while it reads and has it again may have missed another leader, and reads once more.

A container that was killed and started anew is the same holder of the Lease and leads at once, while a Binding of its life
before may still be on its way. So devices are bound only once such a Binding has happened or failed, and pods were read again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from scheduler.errors import ApiError
from scheduler.informer import Informer

log = logging.getLogger(__name__)


class Lead:
    """``term`` numbers the times that we lead, from 1; 0 while we do not. Call :meth:`follow` every half second or so."""

    def __init__(self, term: Callable[[], int], informer: Informer) -> None:
        self.term = term
        self.informer = informer
        self._caught_up = term()  # then the first lists are read while we lead
        self._binds_until_s = float("-inf")
        self._sees_binds = True
        self._has_devices: Callable[[], bool] = lambda: False

    def await_binds(self, timeout_s: float, has_devices: Callable[[], bool]) -> None:
        """Bindings of a process before this one may take effect for ``timeout_s`` more; where there are no devices, none of
        them matters."""
        self._binds_until_s = time.monotonic() + timeout_s
        self._sees_binds, self._has_devices = False, has_devices

    @property
    def may_act(self) -> bool:
        """Whether we lead and are up to date."""
        return 0 < self.term() == self._caught_up

    @property
    def may_give_devices(self) -> bool:
        """Whether no Binding of a process before this one can come as a surprise."""
        return self.may_act and (self._sees_binds or not self._has_devices())

    async def follow(self) -> None:
        """Catch up once we lead."""
        term, are_binds_over = self.term(), time.monotonic() >= self._binds_until_s
        is_due = term != self._caught_up or (are_binds_over and not self._sees_binds and self._has_devices())
        if term == 0 or not is_due or not self.informer.is_synced:
            return
        try:
            await self.informer.refresh("pods")
        except ApiError as error:
            log.warning("cannot catch up before leading", extra={"error": str(error)})
            return
        self._caught_up = term
        self._sees_binds = self._sees_binds or are_binds_over
