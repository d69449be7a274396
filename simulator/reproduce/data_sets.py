"""Where ``ullage reproduce … --data DIR`` finds a recording: in the folder of its name in DIR, as ../shared/traces has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from placement.errors import ConfigError, PlacementError

Read = TypeVar("Read")


def data_set(data: Path, name: str) -> Path:
    """The folder ``name`` in ``data``.

    Raises
    ------
    ConfigError : there is none; what needs it can be left out, and said.
    """
    folder = data / name
    if folder.is_dir():
        return folder
    there = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    meant = f"give its parent, {data.parent}" if data.name == name else f"give the folder that holds {name}/"
    holds = f" (it has {', '.join(there[:8])}{' …' if len(there) > 8 else ''})" if there else ""
    raise ConfigError(f"--data {data}: there is no folder {name} in it{holds}; {meant}")


@dataclass
class Once(Generic[Read]):
    """What ``read`` returns or raises, found out once."""

    read: Callable[[], Read]
    found: list[Read] = field(default_factory=list, init=False)
    error: PlacementError | None = field(default=None, init=False)

    def __call__(self) -> Read:
        """The same again."""
        if self.error is not None:
            raise self.error
        if not self.found:
            try:
                self.found.append(self.read())
            except PlacementError as error:
                self.error = error
                raise
        return self.found[0]
