"""Work in parts: what is told while it lasts, and which parts a report leaves out because a recording is too little for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from placement.errors import ConfigError, ModelError, PlacementError


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

    @contextmanager
    def unless_judged(self, name: str) -> Iterator[None]:
        """Leave the part out where its recording is absent, too short, or holds too few samples."""
        try:
            yield
        except (ConfigError, ModelError) as error:
            self._errors.setdefault(name, error)

    def reasons(self, judged: Collection[object]) -> dict[str, str]:
        """Why each part is left out.

        Raises
        ------
        ConfigError, ModelError : the first reason, where nothing was ``judged``.
        """
        if self._errors and not judged:
            raise next(iter(self._errors.values()))
        return {name: str(error) for name, error in self._errors.items()}
