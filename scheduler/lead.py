"""Whether this process may act: it leads, and it has seen what the leader before it did.

A new leader reads all pods once more before it answers or plans: the old one's last binds and nominations must be seen.
Whoever loses the lead while it reads and has it again may have missed another leader, and reads once more.
"""

from __future__ import annotations

import logging
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

    @property
    def may_act(self) -> bool:
        """Whether we lead and are up to date."""
        return 0 < self.term() == self._caught_up

    async def follow(self) -> None:
        """Catch up once we lead."""
        term = self.term()
        if term in (0, self._caught_up) or not self.informer.is_synced:
            return
        try:
            await self.informer.refresh("pods")
            self._caught_up = term
        except ApiError as error:
            log.warning("cannot catch up before leading", extra={"error": str(error)})
