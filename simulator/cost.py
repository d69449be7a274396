"""Prices: what a node costs an hour, and shapes that can be bought.

Where a node names a shape of the price book, that price holds; any other node costs the sum of its parts at OpenCost's
default rates (``configs/default.json``). A price book is a CSV in OpenCost's spirit: one row per shape.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from placement.nodes import NodeSpec
from placement.resources import CPU, MEMORY, PODS
from simulator.fleet import Shape
from simulator.trace import TraceError

HOURS_A_MONTH = 730
SYSTEM_RESERVED = {CPU: 80, MEMORY: 1 << 30}
"""Taken off every shape: kubelet and system (the large providers' order of magnitude)."""
DAEMON_SETS = {CPU: 300, MEMORY: 512 << 20}
"""Taken off every shape: CNI, logs, metrics agents."""


@dataclass(frozen=True)
class Rates:
    """USD an hour per core, GiB and GPU; OpenCost's defaults."""

    cpu: float = 0.031611
    memory_gib: float = 0.004237
    gpu: float = 0.95
    spot_cpu: float = 0.006655
    spot_memory_gib: float = 0.000892
    spot_gpu: float = 0.308

    def node(self, node: NodeSpec) -> float:
        """A node as the sum of its parts."""
        amounts = node.amounts
        cpu, memory, gpu = (
            (self.spot_cpu, self.spot_memory_gib, self.spot_gpu) if node.spot else (self.cpu, self.memory_gib, self.gpu)
        )
        return amounts.get(CPU, 0) / 1000 * cpu + amounts.get(MEMORY, 0) / 2**30 * memory + node.num_gpus * gpu


@dataclass(frozen=True)
class PriceBook:
    """Shapes by name, and rates for everything else."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    rates: Rates = Rates()

    def usd_per_hour(self, node: NodeSpec) -> float:
        """What a node costs."""
        shape = self.shapes.get(node.shape)
        return self.rates.node(node) if shape is None else shape.price(spot=node.spot)


def shape(name: str, cores: int, gib: int, *, gpus: int = 0, model: str = "", rates: Rates | None = None) -> Shape:
    """A general-purpose shape at list-like prices, with system reserve and DaemonSets taken off."""
    rates = rates or Rates()
    cpu = cores * 1000 - SYSTEM_RESERVED[CPU] - DAEMON_SETS[CPU]
    memory = (gib << 30) - SYSTEM_RESERVED[MEMORY] - DAEMON_SETS[MEMORY]
    return Shape(
        name,
        ((CPU, cpu), (MEMORY, memory), (PODS, 250)),
        usd_per_hour=round(cores * rates.cpu + gib * rates.memory_gib + gpus * rates.gpu, 4),
        spot_usd_per_hour=round(cores * rates.spot_cpu + gib * rates.spot_memory_gib + gpus * rates.spot_gpu, 4),
        num_gpus=gpus,
        gpu_model=model,
    )


DEFAULT_SHAPES = (
    shape("general-16", 16, 64),
    shape("general-32", 32, 128),
    shape("general-64", 64, 256),
    shape("memory-32", 32, 256),
    shape("gpu-4", 48, 192, gpus=4, model="T4"),
    shape("gpu-8", 96, 768, gpus=8, model="A100"),
)
"""The catalogue that ships; committed so that USD can be repeated."""
DEFAULT_BOOK = PriceBook({s.name: s for s in DEFAULT_SHAPES})


def read_price_book(path: Path) -> PriceBook:
    """Read ``name,cores,gib,gpus,gpu_model,usd_per_hour,spot_usd_per_hour,boot_s,limit``.

    Raises
    ------
    TraceError : a column is missing, or a price is negative or not a number; the row is named.
    """
    shapes: dict[str, Shape] = {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"price book {path}: cannot be read ({error}); check the path") from error
    for number, row in enumerate(rows, start=2):
        base = shape(
            row.get("name") or f"row-{number}",
            int(_number(path, number, row, "cores")),
            int(_number(path, number, row, "gib")),
            gpus=int(_number(path, number, row, "gpus", 0)),
            model=row.get("gpu_model") or "",
        )
        shapes[base.name] = Shape(
            base.name,
            base.allocatable,
            usd_per_hour=_number(path, number, row, "usd_per_hour"),
            spot_usd_per_hour=_number(path, number, row, "spot_usd_per_hour", 0),
            num_gpus=base.num_gpus,
            gpu_model=base.gpu_model,
            boot_s=int(_number(path, number, row, "boot_s", 60)),
            limit=int(_number(path, number, row, "limit", 0)),
        )
    if not shapes:
        raise TraceError(f"price book {path}: holds no shapes; one row per shape, as in docs/prices.md")
    return PriceBook(shapes)


def _number(path: Path, row: int, cells: Mapping[str, str | None], column: str, default: float | None = None) -> float:
    text = cells.get(column)
    if text in (None, "") and default is not None:
        return default
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e9:
        raise TraceError(f"price book {path}, row {row}: {column}={text!r} must be a number >= 0; fix the row")
    return number
