"""Whether this process may act: it leads, and it has seen what the leader before it did.

A new leader reads all pods once more before it answers or plans: the old one's last binds and nominations must be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from scheduler.errors import ApiError
from scheduler.informer import Informer

log = logging.getLogger(__name__)


class Lead:
    """``is_leading`` says whether we hold the lead now; call :meth:`follow` every half second or so."""

    def __init__(self, is_leading: Callable[[], bool], informer: Informer) -> None:
        self.is_leading = is_leading
        self.informer = informer
        self._is_caught_up = is_leading()  # then the first lists are read while we lead

    @property
    def may_act(self) -> bool:
        """Whether we lead and are up to date."""
        return self._is_caught_up and self.is_leading()

    async def follow(self) -> None:
        """Notice a change, and catch up after one."""
        if not self.is_leading():
            self._is_caught_up = False
        elif not self._is_caught_up and self.informer.is_synced:
            try:
                await self.informer.refresh("pods")
                self._is_caught_up = True
            except ApiError as error:
                log.warning("cannot catch up before leading", extra={"error": str(error)})
