"""Results of forecast tasks on disk, so that a long run can be cut into pieces and taken up again.

A result is taken only if the data, the seed, the effort and the source code that made it are the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from placement.errors import ConfigError, why
from placement.whole_files import whole_file
from simulator.reproduce.forecast_judging import TaskResult

ARRAYS = ("model", "truth", "weight", "workload", "day")


def digest_of(files: Iterable[Path], *more: str) -> str:
    """First 16 hex digits of the SHA-256 of files' contents, in the given order, and of further text."""
    found = hashlib.sha256()
    for path in files:
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    for text in more:
        found.update(text.encode() + b"\0")
    return found.hexdigest()[:16]


def code_files() -> list[Path]:
    """The source files that forecasts are made by."""
    root = Path(__file__).resolve().parents[2]
    names = (
        "placement/learning/usage.py", "placement/learning/windows.py",
        "placement/learning/histograms.py", "placement/learning/baselines.py",
        "placement/learning/features.py", "placement/learning/boosted.py",
        "placement/learning/stacking.py", "simulator/traces/usage_readers.py",
        "simulator/reproduce/neighbours.py", "simulator/learning/forecast_samples.py",
        "simulator/reproduce/forecast_judging.py", "simulator/reproduce/forecast_bitbrains.py",
        "simulator/reproduce/forecast_planetlab.py", "simulator/learning/training.py",
    )  # fmt: skip
    return [root / name for name in names]


class KeptResults:
    """Task results in a folder; ``key`` stands for all that they depend on."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"results cannot be kept in {folder} ({error.strerror}); choose another folder"
            ) from error

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}-{self._key}.npz"

    def get(self, name: str) -> TaskResult | None:
        """A task's result, None when it is not there; a damaged file counts as not there."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as table:
                arrays = [table[key] for key in ARRAYS]
                rest: Mapping[str, object] = json.loads(str(table["rest"]))
            return TaskResult(name, *arrays, **rest)  # type: ignore[arg-type]  # as put() wrote them
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
            return None

    def put(self, result: TaskResult) -> TaskResult:
        """Keep a result.

        Raises
        ------
        ConfigError : it cannot be written.
        """
        rest = {n: getattr(result, n) for n in ("raw", "tuned", "scales", "uncalibrated", "seen")}
        arrays = {n: np.asarray(getattr(result, n)) for n in ARRAYS}
        try:
            with whole_file(self._path(result.name)) as part, part.open("wb") as file:
                np.savez_compressed(file, rest=np.array(json.dumps(rest)), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise ConfigError(
                f"results cannot be kept in {self._folder} ({why(error)}); choose another folder"
            ) from error
        return result
