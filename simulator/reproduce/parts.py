"""Work in parts: what is told while it lasts, and which parts a report leaves out because a recording is too little for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from placement.errors import ConfigError, ModelError, PlacementError

T = TypeVar("T")


class Progress(Protocol):
    """Who is told how far work is."""

    def __call__(self, message: str, done: int = 0, total: int = 0, /) -> None:
        """What has happened; where it ends a part, how many are ``done`` now, of ``total``."""


def silent(message: str, done: int = 0, total: int = 0, /) -> None:
    """Tells nobody."""


class Omitted:
    """Parts that could not be judged, and why."""

    def __init__(self) -> None:
        self._errors: dict[str, PlacementError] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._errors

    def unless(self, name: str, judge: Callable[[], T]) -> T | None:
        """What ``judge`` finds of a part; None, and left out, where its recording is absent, too short, or too small."""
        try:
            return judge()
        except (ConfigError, ModelError) as error:
            self._errors.setdefault(name, error)
            return None

    def reasons(self, judged: Collection[object]) -> dict[str, str]:
        """Why each part is left out.

        Raises
        ------
        ConfigError, ModelError : the first reason, where nothing was ``judged``.
        """
        if self._errors and not judged:
            raise next(iter(self._errors.values()))
        return {name: str(error) for name, error in self._errors.items()}
