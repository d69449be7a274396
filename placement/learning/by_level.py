"""What is kept of pods that are kin, by keys from the most particular (a workload) to the most general (everyone)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class ByLevel(Generic[T]):
    """One record per level and key, made by ``new`` when the key is first met.

    A key that is None is nobody's: nothing is kept under it, and nothing is known.
    """

    def __init__(self, num_levels: int, new: Callable[[], T]) -> None:
        self._new = new
        self._levels: list[dict[Hashable, T]] = [{} for _ in range(num_levels)]

    def __len__(self) -> int:
        return sum(len(level) for level in self._levels)

    def find(self, level: int, key: Hashable) -> T | None:
        """The record of a key, None if it was never met."""
        return self._levels[level].get(key)

    def find_each(self, keys: Sequence[Hashable]) -> list[T | None]:
        """The record of each level's key, None where it was never met."""
        return [level.get(key) for level, key in zip(self._levels, keys, strict=True)]

    def meet_each(self, keys: Sequence[Hashable]) -> list[T | None]:
        """The record of each level's key, made where there was none; None where the key is None."""
        found: list[T | None] = []
        for level, key in zip(self._levels, keys, strict=True):
            record = level.get(key)
            if record is None and key is not None:
                record = level[key] = self._new()
            found.append(record)
        return found

    def forget(self, level: int, key: Hashable) -> None:
        """Keep nothing under a key."""
        self._levels[level].pop(key, None)
