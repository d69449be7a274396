"""Notices when there is a model to be loaded: its card changed or, while the folder cannot be used, any file of it.

A model that is copied while Ullage serves arrives file by file, the card as likely first as last.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from placement.learning.boosted import CARD


class ModelFolder:
    """One folder, looked at now and then."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.stamp = -1.0
        """When the card that was last loaded, or refused, changed; unix time, 0 where there was none."""
        self._files: frozenset[tuple[str, float, int]] | None = None
        """Names, times and sizes before it was loaded; None unless it was refused."""

    def has_changed(self) -> bool:
        """Whether it is to be loaded now; the answer is yes once."""
        try:
            stamp = (self._folder / CARD).stat().st_mtime
        except OSError:
            stamp = 0.0
        if stamp == self.stamp and (self._files is None or self._files == self._look()):
            return False
        self.stamp, self._files = stamp, self._look()
        return True

    def taken(self) -> None:
        """It was loaded: from now on its card alone counts."""
        self._files = None

    def _look(self) -> frozenset[tuple[str, float, int]]:
        found = set[tuple[str, float, int]]()
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                facts = entry.stat()
                found.add((entry.name, facts.st_mtime, facts.st_size))
        return frozenset(found)
