"""Prices: what a node costs an hour, and shapes that can be bought.

Where a node names a shape of the price book, that price holds; any other node costs the sum of its parts at OpenCost's
default rates (``configs/default.json``). A price book is a CSV with one row per shape, or one of OpenCost's own files:
its JSON of rates, or its CSV of market prices by instance type.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from placement.errors import ConfigError, nearest, why
from placement.nodes import NodeSpec
from placement.rates import MOST_USD, RATES, Rates
from placement.resources import CPU, GPU_SHARE, MAX_AMOUNT, MAX_DEVICES, MEMORY, PODS
from simulator.fleet import Shape
from simulator.traces.trace import Trace, TraceError

MAX_USD = 1e9
MAX_CORES, MAX_GIB = 1e5, 1e6
"""Of one machine: more is a unit mixed up."""
SYSTEM_RESERVED = {CPU: 80, MEMORY: 1 << 30}
"""Taken off every shape: kubelet and system (the large providers' order of magnitude)."""
DAEMON_SETS = {CPU: 300, MEMORY: 512 << 20}
"""Taken off every shape: CNI, logs, metrics agents."""


def parts_usd(node: NodeSpec, rates: Rates) -> float:
    """USD an hour of a node as the sum of its parts."""
    amounts = node.amounts
    cpu, memory, gpu = rates.cpu, rates.memory_gib, rates.gpu
    if node.spot:
        cpu, memory, gpu = rates.spot_cpu, rates.spot_memory_gib, rates.spot_gpu
    return amounts.get(CPU, 0) / 1000 * cpu + amounts.get(MEMORY, 0) / 2**30 * memory + node.num_gpus * gpu


@dataclass(frozen=True)
class Reservation:
    """Machines of a shape that are paid for a term, used or not: how many may still be reserved, and how many are."""

    usd_per_hour: float
    """Of the term; 0 = no more are for sale."""
    term_hours: float = 8760.0
    limit: int = 0
    """Most that may still be reserved; 0 = no limit."""
    owned: int = 0
    """Reserved already: those that nobody uses cost nothing extra."""


@dataclass(frozen=True)
class PriceBook:
    """Shapes by name, and rates for everything else."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    rates: Rates = RATES
    by_type: Mapping[str, float] = field(default_factory=dict)
    """USD an hour of instance types that are priced but not for sale here: their size is not known."""
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    """By shape."""

    def is_guessed(self, node: NodeSpec) -> bool:
        """Whether nobody said what a node costs: the sum of its parts at the default rates counts."""
        return node.shape not in self.shapes and node.shape not in self.by_type and self.rates == RATES

    def usd_per_hour(self, node: NodeSpec) -> float:
        """What a node costs."""
        shape = self.shapes.get(node.shape)
        if shape is not None:
            return shape.price(spot=node.spot)
        return self.by_type[node.shape] if node.shape in self.by_type else parts_usd(node, self.rates)


def shape(name: str, cores: float, gib: float, *, gpus: int = 0, model: str = "", rates: Rates | None = None) -> Shape:
    """A general-purpose shape at list-like prices, with system reserve and DaemonSets taken off."""
    rates = rates or RATES
    cpu = round(cores * 1000) - SYSTEM_RESERVED[CPU] - DAEMON_SETS[CPU]
    memory = round(gib * 2**30) - SYSTEM_RESERVED[MEMORY] - DAEMON_SETS[MEMORY]
    return Shape(
        name,
        ((CPU, cpu), (MEMORY, memory), (PODS, 250)),
        usd_per_hour=round(cores * rates.cpu + gib * rates.memory_gib + gpus * rates.gpu, 4),
        spot_usd_per_hour=round(cores * rates.spot_cpu + gib * rates.spot_memory_gib + gpus * rates.spot_gpu, 4),
        num_gpus=gpus,
        gpu_model=model,
    )


_CATALOGUE = (
    ("general-16", 16, 64, 0, ""),
    ("general-32", 32, 128, 0, ""),
    ("general-64", 64, 256, 0, ""),
    ("memory-32", 32, 256, 0, ""),
    ("gpu-4", 48, 192, 4, "T4"),
    ("gpu-8", 96, 768, 8, "A100"),
)


def catalogue(rates: Rates) -> tuple[Shape, ...]:
    """The shapes that ship, at given rates."""
    return tuple(shape(n, cores, gib, gpus=g, model=m, rates=rates) for n, cores, gib, g, m in _CATALOGUE)


DEFAULT_SHAPES = catalogue(RATES)
"""The catalogue that ships; committed so that USD can be repeated."""
DEFAULT_BOOK = PriceBook({s.name: s for s in DEFAULT_SHAPES})
RESOURCE = "resource:"
COLUMNS = (
    *("name", "cores", "gib", "gpus", "gpu_model", "usd_per_hour", "spot_usd_per_hour", "boot_s", "limit"),
    *("reserved_usd_per_hour", "term_hours", "reserved_limit", "reserved_owned"),
)
"""Of our CSV, beside those of :data:`RESOURCE`."""
NEEDED = ("name", "cores", "gib", "usd_per_hour")
OWN_COLUMNS = {CPU: "cores", MEMORY: "gib", GPU_SHARE: "gpus", PODS: "a resource other than pods"}
"""Resources that are told otherwise than by a column of :data:`RESOURCE`."""
_LEAST = {CPU: ("cores", "380m"), MEMORY: ("gib", "1.5 GiB")}
OPENCOST_COLUMNS = (
    *("EndTimestamp", "InstanceID", "Region", "AssetClass", "InstanceIDField", "InstanceType", "MarketPriceHourly"),
    "Version",
)
OPENCOST_RATES = {
    "CPU": "cpu", "RAM": "memory_gib", "GPU": "gpu",
    "spotCPU": "spot_cpu", "spotRAM": "spot_memory_gib", "spotGPU": "spot_gpu",
}  # fmt: skip
"""Keys of OpenCost's custom pricing (USD an hour per core, GiB, GPU), and ours."""
OPENCOST_LABELS = ("gpuLabel", "gpuLabelValue")
"""Keys of it that speak of devices and are no rates."""


@dataclass(frozen=True)
class _Row:
    """A row of a price book; it names itself in every complaint. A column that is not there is empty."""

    path: Path
    number: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def wrong(self, what: str) -> TraceError:
        """The complaint."""
        return TraceError(f"price book {self.path}, row {self.number}: {what}")

    def amount(self, column: str, default: float | None = None, *, most: float = MAX_USD) -> float:
        """The number in a cell; ``default`` where it is empty."""
        text = self[column]
        if not text and default is not None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < most:
            raise self.wrong(f"{column}={text!r} must be a number >= 0 and below {most:g}; fix the row")
        return number

    def count(self, column: str, default: int, *, most: float = MAX_USD) -> int:
        """The whole number in a cell; ``default`` where it is empty."""
        number = self.amount(column, default, most=most)
        if number % 1:
            raise self.wrong(f"{column}={self[column]!r} must be a whole number; fix the row")
        return int(number)


def read_price_book(path: Path) -> PriceBook:
    """Read a price book: ours, or one of OpenCost's files.

    Ours is a CSV ``name,cores,gib,gpus,gpu_model,usd_per_hour,spot_usd_per_hour,boot_s,limit``, and for reservations
    ``reserved_usd_per_hour,term_hours,reserved_limit,reserved_owned``; a column ``resource:NAME`` offers another
    resource, in kube-scheduler's unit. OpenCost's JSON
    (``configs/default.json``) gives rates, at which the shapes that ship are sold; its CSV (``InstanceType``,
    ``MarketPriceHourly``) prices nodes by shape name.

    Raises
    ------
    ConfigError : the file is not there.
    TraceError : a column is missing, unknown or there twice, a name appears twice, or a price is negative or not a
        number; the row is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"price book {path}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"price book {path}: cannot be read ({why(error)}); check the path") from error
    if path.suffix == ".json":
        return _opencost_rates(path, text)
    reader = csv.DictReader(text.splitlines())
    try:
        rows = [_Row(path, reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise TraceError(
            f"price book {path}, row {reader.line_num + 1}: cannot be read ({error}); fix the row"
        ) from error
    header = list(reader.fieldnames or ())
    is_market = {"InstanceType", "MarketPriceHourly"} <= {*header}
    missing = [name for name in NEEDED if name not in header and not is_market]
    if missing:
        raise TraceError(f"price book {path}: has no column {missing[0]}; docs/traces.md shows what a price book holds")
    known = OPENCOST_COLUMNS if is_market else COLUMNS
    _check_header(path, [column for column in header if is_market or not column.startswith(RESOURCE)], known)
    for row in rows:
        if None in row.cells or None in row.cells.values():
            raise row.wrong("has another number of cells than the header; fix the row")
    if is_market:
        return _opencost_prices(path, rows)
    for column in header:
        resource = column.removeprefix(RESOURCE)
        if column.startswith(RESOURCE) and (resource in ("", *OWN_COLUMNS) or header.count(column) > 1):
            own = OWN_COLUMNS.get(resource, "a resource's name, once")
            raise TraceError(f"price book {path}: column {column!r} cannot be read; give {own}, or take it out")
    shapes: dict[str, Shape] = {}
    reservations: dict[str, Reservation] = {}
    for row in rows:
        base = shape(
            row["name"] or f"row-{row.number}",
            row.amount("cores", most=MAX_CORES),
            row.amount("gib", most=MAX_GIB),
            gpus=row.count("gpus", 0, most=MAX_DEVICES + 1),
            model=row["gpu_model"],
        )
        if base.name in shapes:
            raise row.wrong(f"shape {base.name!r} appears twice; rename one")
        small = next((name for name, amount in base.allocatable if amount <= 0), None)
        if small is not None:
            column, least = _LEAST[small]
            raise row.wrong(
                f"{column}={row[column]!r} leaves pods nothing, system reserve and DaemonSets take {least}; "
                "give the machine's whole size, or delete the row"
            )
        extra = {
            column.removeprefix(RESOURCE): row.count(column, 0, most=MAX_AMOUNT)
            for column in sorted(header)
            if column.startswith(RESOURCE)
        }
        shapes[base.name] = replace(
            base,
            allocatable=tuple(sorted({**dict(base.allocatable), **extra}.items())),
            usd_per_hour=row.amount("usd_per_hour", most=MOST_USD),
            spot_usd_per_hour=row.amount("spot_usd_per_hour", 0, most=MOST_USD),
            boot_s=row.count("boot_s", 60),
            limit=row.count("limit", 0),
        )
        if row["limit"] and not shapes[base.name].limit:
            raise row.wrong("limit must be 1 or more; leave it empty for any number, and delete the row to sell none")
        reservation = _reservation(row)
        if reservation is not None:
            reservations[base.name] = reservation
    if not shapes:
        raise TraceError(f"price book {path}: holds no shapes; docs/traces.md shows what a price book holds")
    return PriceBook(shapes, reservations=reservations)


def book_for(trace: Trace | None, prices: Path | None) -> PriceBook:
    """The price book that is given; else the shapes that the trace says are for sale; else those that ship.

    Raises
    ------
    TraceError : the file is no price book.
    """
    if prices is not None:
        return read_price_book(prices)
    if trace is not None and trace.prices:
        return PriceBook({shape.name: shape for shape in trace.prices})
    return DEFAULT_BOOK


def _check_header(path: Path, header: Sequence[str], known: Sequence[str]) -> None:
    """Refuse what would not be read: a misspelt column takes its default, and money is lost without a word."""
    for column in header:
        if column not in known:
            raise TraceError(f"price book {path}: unknown column {column!r}; {nearest(column, list(known))}")
        if header.count(column) > 1:
            raise TraceError(f"price book {path}: column {column!r} is there twice; keep one")


def _is_misspelt_rate(key: str) -> bool:
    """Whether a key speaks of cores, memory or GPUs and is none that is read."""
    if key in OPENCOST_RATES or key in OPENCOST_LABELS:
        return False
    lower = key.lower()
    return any(word in lower for word in ("cpu", "core", "ram", "mem", "gpu")) or bool(
        difflib.get_close_matches(lower, [rate.lower() for rate in OPENCOST_RATES], 1, 0.8)
    )


def _opencost_rates(path: Path, text: str) -> PriceBook:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise TraceError(
            f"price book {path}: is not JSON ({error}); give OpenCost's custom pricing, or a CSV"
        ) from error
    if not isinstance(found, dict) or not found.keys() & OPENCOST_RATES.keys():
        raise TraceError(f"price book {path}: names none of {', '.join(OPENCOST_RATES)}; is it OpenCost's pricing?")
    wrong = next((key for key in found if _is_misspelt_rate(key)), None)
    if wrong is not None:
        raise TraceError(f"price book {path}: unknown key {wrong!r}; {nearest(wrong, list(OPENCOST_RATES))}")
    values: dict[str, float] = {}
    for key, ours in OPENCOST_RATES.items():
        if key in found:
            try:
                values[ours] = float(found[key])
            except (TypeError, ValueError):
                values[ours] = math.nan
            if not 0 <= values[ours] < MAX_USD:
                raise TraceError(f"price book {path}: {key} is {found[key]!r}, must be a number >= 0; fix it")
    rates = Rates(**values)
    return PriceBook({s.name: s for s in catalogue(rates)}, rates)


def _opencost_prices(path: Path, rows: list[_Row]) -> PriceBook:
    prices: dict[str, float] = {}
    for row in rows:
        if (row["AssetClass"] or "node").lower() != "node":
            continue
        name, price = row["InstanceType"], row.amount("MarketPriceHourly")
        if prices.setdefault(name, price) != price:
            raise row.wrong(f"instance type {name!r} has two prices; keep one region and time")
    if not prices:
        raise TraceError(f"price book {path}: prices no node; rows of nodes have AssetClass node")
    shapes = {s.name: replace(s, usd_per_hour=prices.get(s.name, s.usd_per_hour)) for s in DEFAULT_SHAPES}
    return PriceBook(shapes, RATES, {name: price for name, price in prices.items() if name not in shapes})


def _reservation(row: _Row) -> Reservation | None:
    """What a row says of reservations; None where it says nothing."""
    usd, owned = row.amount("reserved_usd_per_hour", 0), row.amount("reserved_owned", 0)
    terms = {"term_hours": 8760.0, "reserved_limit": 0.0}
    for column, default in terms.items():
        terms[column] = found = row.amount(column, default)
        if row[column] and not usd and not owned:
            raise row.wrong(f"has {column} and no reserved_usd_per_hour; give both, or leave both cells empty")
        if row[column] and usd and not found:
            raise row.wrong(
                f"{column} must be above 0; leave it empty for the default, and reserved_usd_per_hour to sell none"
            )
    limit = terms["reserved_limit"]
    if limit % 1 or owned % 1:
        raise row.wrong("reserved_limit and reserved_owned are whole numbers of machines; fix the row")
    return Reservation(usd, terms["term_hours"], int(limit), int(owned)) if usd or owned else None
