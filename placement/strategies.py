"""The strategies that ship, and how a TOML makes another.

To add one in code: write its scorer in :mod:`placement.scorers` (or reuse one) and add a row here. To add one
without code: ``ullage strategies show NAME > mine.toml``, recombine, and pass ``--strategy mine.toml``.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from placement.errors import UNREADABLE, ConfigError, nearest, why
from placement.scorers import (
    COST_UNIT,
    SCORERS,
    SHARE,
    Alignment,
    AtcBestFit,
    AtcClustering,
    AtcDotProduct,
    AtcFgd,
    AtcPacking,
    BalancedAfter,
    BalancedAllocation,
    DeviceWorth,
    Emptying,
    ExitTime,
    FirstFit,
    FitsWindows,
    Hot,
    LeastAllocated,
    Leftover,
    LoadAware,
    MostAllocated,
    Rank,
    RequestedToCapacity,
    Scorer,
    Stranded,
    UsageThresholds,
    Weighted,
)
from placement.strategy import Strategy

MOST = 2**62
"""No weight or parameter of a scorer is as large: they enter sums in 64 bits."""


def _one(name: str, scorer: Scorer, description: str, weight: int = 1, **options: Any) -> Strategy:
    return Strategy(name, (Weighted(scorer, weight),), description=description, **options)


_STEADY = (
    Weighted(Stranded(), 2),
    Weighted(DeviceWorth(open_milli=400, whole_milli=3200)),
    Weighted(Rank(100)),
    Weighted(AtcFgd(), 640 * COST_UNIT),
)

_ALL = (
    Strategy(
        "kube-default",
        (Weighted(LeastAllocated()), Weighted(BalancedAllocation())),
        ties="random",
        soft=True,
        description="kube-scheduler's default profile: least allocated, balanced allocation, soft rules, random ties",
    ),
    Strategy(
        "kube-default-1.35",
        (Weighted(LeastAllocated()), Weighted(BalancedAfter())),
        ties="random",
        soft=True,
        description="kube-default as it was up to Kubernetes 1.35: balanced allocation by what is, not by what changes",
    ),
    Strategy(
        "most-allocated",
        (Weighted(MostAllocated()), Weighted(BalancedAllocation())),
        ties="random",
        soft=True,
        description="the default profile with NodeResourcesFit set to MostAllocated",
    ),
    Strategy(
        "requested-to-capacity",
        (Weighted(RequestedToCapacity()), Weighted(BalancedAllocation())),
        ties="random",
        soft=True,
        description="the default profile with RequestedToCapacityRatio, 0 at empty to 10 at full",
    ),
    _one("random", FirstFit(), "any node that fits, at random", ties="random", devices="random"),
    _one("first-fit", FirstFit(), "the first node, in ledger order, that fits"),
    _one("best-fit", Leftover(), "the node with the least left over (CPU, memory, GPU)", -1),
    _one("planned", Leftover(), "ours: windows of pods planned together and nominated; best fit for single pods", -1),
    _one("worst-fit", Leftover(), "the node with the most left over"),
    _one("dot-product", Alignment(), "the node whose free resources point where the pod's request points"),
    _one("atc23-random", FirstFit(), "ATC'23: uniform over nodes and devices", ties="random", devices="random"),
    _one("atc23-dotprod", AtcDotProduct(), "ATC'23: smallest dot product of free and asked"),
    _one("atc23-clustering", AtcClustering(), "ATC'23: pods of one GPU class together"),
    _one("atc23-packing", AtcPacking(), "ATC'23: partly used devices, then partly used nodes"),
    _one("atc23-bestfit", AtcBestFit(), "ATC'23: least CPU and GPU left over"),
    _one(
        "atc23-fgd",
        AtcFgd(),
        "ATC'23: steepest descent of expected fragmentation",
        devices="scored",
        needs=("workload",),
    ),
    Strategy(
        "priced",
        (Weighted(Stranded()), Weighted(DeviceWorth()), Weighted(Rank())),
        leaving=_STEADY,
        bare=(Weighted(Leftover(), -1),),
        devices="scored",
        needs=("prices", "workload"),
        description="ours: LP prices of device shares, GPUs stranded without CPU, explicit rank; once pods leave, as "
        "priced-steady; where none asks for a GPU, best fit",
    ),
    Strategy(
        "priced-steady",
        _STEADY,
        devices="scored",
        needs=("prices", "workload"),
        description="ours for clusters where pods leave: priced, and nodes stay whole for pods of many devices",
    ),
    Strategy(
        "koordinator",
        (Weighted(UsageThresholds()), Weighted(LoadAware())),
        description="Koordinator's load-aware rule: the node whose pods use the least of it, none that uses over 65 % of its "
        "CPU or 95 % of its memory",
    ),
    Strategy(
        "predicted",
        (Weighted(Hot(), SHARE), Weighted(Leftover(), -1)),
        description="ours: best fit by requests among nodes that predicted use leaves cool",
    ),
    Strategy(
        "coach-6x4h",
        (Weighted(FitsWindows()), Weighted(Leftover(), -1)),
        description="Coach (ASPLOS'25): best fit where predicted use fits into the node in each of six parts of the day",
    ),
    Strategy(
        "nilas",
        (Weighted(ExitTime(step=32), 8 * SHARE), Weighted(Leftover(), -1)),
        description="NILAS (MLSys'25): the node whose occupation the pod prolongs least, in coarse steps, then best fit",
    ),
    Strategy(
        "emptying",
        (Weighted(Emptying(), 10), Weighted(Leftover(), -1)),
        description="ours: leave alone what may be empty soon, by the lifetimes of all pods there, then best fit",
    ),
    Strategy(
        "ullage",
        (
            Weighted(Hot(), 1000 * COST_UNIT),
            Weighted(Stranded()),
            Weighted(DeviceWorth()),
            Weighted(Emptying(), 2000),
            Weighted(Leftover(), -200),
        ),
        devices="scored",
        needs=("prices",),
        description="ours: priced devices, nodes that may empty left alone, best fit, and no hot nodes by predicted use",
    ),
)

STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}


def strategy_named(name: str) -> Strategy:
    """A shipped strategy, or one from a TOML file if ``name`` ends in ``.toml``."""
    if name.endswith(".toml"):
        return strategy_from_toml(Path(name))
    try:
        return STRATEGIES[name]
    except KeyError:
        if Path(f"{name}.toml").is_file():
            hint = f"did you mean '{name}.toml'?"
        elif "/" in name or Path(name).is_file():
            hint = "a strategy's file ends in .toml"
        else:
            hint = nearest(name, list(STRATEGIES))
        raise ConfigError(f"unknown strategy {name!r}; {hint}") from None


def strategy_to_toml(strategy: Strategy) -> str:
    """A TOML that :func:`strategy_from_toml` reads back to an equal strategy."""
    texts = ("name", "description", "devices", "ties")
    lines = [*(f"{key} = {_quoted(getattr(strategy, key))}" for key in texts), f"soft = {str(strategy.soft).lower()}"]
    if strategy.needs:
        lines.append(f"needs = [{', '.join(map(_quoted, strategy.needs))}]")
    for table, terms in (("scorers", strategy.scorers), ("leaving", strategy.leaving), ("bare", strategy.bare)):
        for weighted in terms:
            lines += ["", f"[{table}.{weighted.name}]", f"weight = {weighted.weight}"]
            for key, value in weighted.parameters.items():
                lines.append(f"{key} = {list(value) if isinstance(value, tuple) else value}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As TOML has it: JSON's escapes are among its own, and it wants one for DEL as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def strategy_from_toml(path: Path) -> Strategy:
    """Read a strategy.

    Raises
    ------
    ConfigError : the file cannot be read, a key is unknown (the nearest valid one is named), or a value is bad.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, *UNREADABLE) as error:
        raise ConfigError(f"strategy {path}: cannot be read ({why(error)}); check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"strategy {path}: is not TOML: {error}") from error
    known = ["name", "description", "devices", "ties", "soft", "needs", "scorers", "leaving", "bare"]
    _check_keys(str(path), "", table, known)
    scorers = table.get("scorers")
    if not isinstance(scorers, dict) or not scorers:
        raise ConfigError(f"strategy {path}: has no [scorers.NAME] table; {nearest('', list(SCORERS))}")
    terms: dict[str, tuple[Weighted, ...]] = {}
    for part in ("scorers", "leaving", "bare"):
        found = table.get(part, {})
        if not isinstance(found, dict):
            raise ConfigError(f"strategy {path}: {part} must hold tables, as in [{part}.NAME]")
        terms[part] = tuple(_scorer(path, part, name, parameters) for name, parameters in found.items())
    for key, kind in (("name", str), ("description", str), ("devices", str), ("ties", str), ("soft", bool)):
        if key in table and not isinstance(table[key], kind):
            raise ConfigError(f"strategy {path}: {key} is {table[key]!r}, must be a {kind.__name__}")
    needs = table.get("needs", list(_needs(sum(terms.values(), ()))))
    if not isinstance(needs, list):
        raise ConfigError(f"strategy {path}: needs is {needs!r}, must be a list")
    return Strategy(
        name=table.get("name", path.stem.encode("utf-8", "replace").decode()),
        **terms,
        devices=table.get("devices", "tightest"),
        ties=table.get("ties", "first"),
        soft=table.get("soft", False),
        needs=tuple(needs),
        description=table.get("description", ""),
    )


def _needs(weighted: tuple[Weighted, ...]) -> tuple[str, ...]:
    needs = []
    if any(isinstance(w.scorer, AtcFgd) for w in weighted):
        needs.append("workload")
    if any(isinstance(w.scorer, DeviceWorth) for w in weighted):
        needs.append("prices")
    return tuple(needs)


def _check_keys(path: str, where: str, table: dict[str, Any], known: list[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"strategy {path}: unknown key {where}{key}; {nearest(key, known)}")


def _scorer(path: Path, table: str, name: str, parameters: Any) -> Weighted:
    if name not in SCORERS:
        raise ConfigError(f"strategy {path}: unknown scorer {name!r}; {nearest(name, list(SCORERS))}")
    kind = SCORERS[name]
    if not isinstance(parameters, dict):
        raise ConfigError(f"strategy {path}: {table}.{name} must be a table, as in [{table}.{name}]")
    defaults = {f.name: f.default for f in fields(kind)}
    _check_keys(str(path), f"{table}.{name}.", parameters, ["weight", *defaults])
    values: dict[str, Any] = {}
    for key, value in parameters.items():
        value = tuple(value) if isinstance(value, list) else value
        default = 1 if key == "weight" else defaults[key]
        numbers = value if isinstance(value, tuple) else (value,)
        if type(value) is not type(default) or not all(type(n) is int and abs(n) < MOST for n in numbers):
            raise ConfigError(f"strategy {path}: {table}.{name}.{key} is {value!r}, must be like {default!r}")
        values[key] = value
    weight = values.pop("weight", 1)
    try:
        return Weighted(kind(**values), weight)
    except ValueError as error:
        raise ConfigError(f"strategy {path}: {table}.{name}: {error}") from error
