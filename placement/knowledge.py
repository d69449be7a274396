"""Everything that is learned over time, as one immutable value.

A strategy is frozen; what changes while a cluster lives (which pods arrive, what a device's free share is
worth, what pods will use, how long they live) is a :class:`Knowledge`. A new version enters the ledger as an event of
the same log as every other change, so background learning never makes a decision unrepeatable.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

import numpy as np

from placement.errors import ConfigError
from placement.pods import PodSpec
from placement.resources import CPU, DEVICE_MILLI, MEMORY, IntArray

TYPICAL_SHARE = 0.95
"""FGD's target workload: the most common kinds that cover this share of the pods (ATC'23, §4)."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What packing cares about in a pod: millicores, bytes, share per device, devices, accepted models."""

    cpu: int
    memory: int
    milli: int
    count: int
    models: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: PodSpec) -> Kind:
        """The kind of a pod class."""
        if spec.gpu is None:
            return cls(spec.amount(CPU), spec.amount(MEMORY), 0, 0)
        return cls(spec.amount(CPU), spec.amount(MEMORY), spec.gpu.milli, spec.gpu.count, spec.gpu.models)


@dataclass(frozen=True, slots=True)
class TypicalKind:
    """One kind of FGD's target workload with its probability."""

    cpu: int
    milli: int
    count: int
    models: tuple[str, ...]
    probability: float


@dataclass(frozen=True)
class Workload:
    """How often each kind of pod arrives."""

    kinds: tuple[Kind, ...]
    counts: tuple[int, ...]
    leaving: bool = field(default=False, repr=False)
    """Whether its pods have been seen to leave; else room that is taken stays taken."""

    @classmethod
    def of(cls, specs: Iterable[PodSpec], counts: Iterable[int], *, leaving: bool = False) -> Workload:
        """Merge classes of equal kind; zero counts are dropped."""
        merged: dict[Kind, int] = {}
        for spec, count in zip(specs, counts, strict=True):
            if count:
                kind = Kind.of(spec)
                merged[kind] = merged.get(kind, 0) + int(count)
        kinds = tuple(sorted(merged))
        return cls(kinds, tuple(merged[kind] for kind in kinds), leaving)

    def typical(self) -> tuple[TypicalKind, ...]:
        """FGD's typical pods: the shortest list of the most common kinds that covers :data:`TYPICAL_SHARE` of all pods.

        Memory does not tell kinds apart. Ties go to the larger cpu, share, device count, model list. The
        probabilities are computed as ``(n / all) / (covered / all)``, which decides last bits.
        """
        merged: dict[tuple[int, int, int, str], int] = {}
        for kind, count in zip(self.kinds, self.counts, strict=True):
            key = (kind.cpu, kind.milli, kind.count, "|".join(kind.models))
            merged[key] = merged.get(key, 0) + count
        if not merged:
            return ()
        ranked = sorted(merged.items(), key=lambda item: (item[1], *item[0]), reverse=True)
        total = sum(merged.values())
        chosen, covered = [], 0
        for key, count in ranked:
            if covered / total >= TYPICAL_SHARE:
                break
            chosen.append((key, count))
            covered += count
        return tuple(
            TypicalKind(cpu, milli, num, tuple(m for m in models.split("|") if m), (count / total) / (covered / total))
            for (cpu, milli, num, models), count in chosen
        )


@dataclass(frozen=True)
class DevicePrices:
    """What a device's free share is worth, per group of nodes, from the duals of a packing LP.

    ``worth`` is ``(groups, 1001)`` int64 in :data:`placement.scorers.COST_UNIT` per milli-GPU; ``groups`` names
    them as (model, devices, millicores). A node of another shape gets the group of its model with the
    nearest cores per device, else the mean of all.
    """

    groups: tuple[tuple[str, int, int], ...]
    worth: IntArray

    def __post_init__(self) -> None:
        if self.worth.shape != (len(self.groups), DEVICE_MILLI + 1):
            raise ConfigError(
                f"device prices of shape {self.worth.shape} do not match {len(self.groups)} groups of 1001"
            )
        self.worth.flags.writeable = False

    def group_of(self, model: str, num_gpus: int, cpu: int) -> int:
        """Index of the group that prices a node; ``len(groups)`` stands for the mean of all."""
        try:
            return self.groups.index((model, num_gpus, cpu))
        except ValueError:
            pass
        ratio = cpu / max(num_gpus, 1)
        near = [(abs(g[2] / max(g[1], 1) - ratio), i) for i, g in enumerate(self.groups) if g[0] == model]
        return min(near)[1] if near else len(self.groups)


_HASHED = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{5,10}$")
_STAMPED = re.compile(r"-\d{8,}$")


def workload_of(namespace: str, owner: str) -> str:
    """Name of the workload that a pod belongs to; empty for a bare pod, whose past says nothing of the next one.

    A Deployment's ReplicaSets and a CronJob's Jobs come and go; their names without the generated end stay.

    >>> workload_of("shop", "ReplicaSet/web-7c9d8bf6c4")
    'shop/Deployment/web'
    """
    kind, _, name = owner.partition("/")
    if kind == "ReplicaSet" and _HASHED.search(name):
        kind, name = "Deployment", _HASHED.sub("", name)
    elif kind == "Job" and _STAMPED.search(name):
        kind, name = "CronJob", _STAMPED.sub("", name)
    return f"{namespace}/{kind}/{name}" if name else ""


NUM_WINDOWS = 6
"""Parts of the day that usage is forecast for: six of four hours (Coach, ASPLOS'25)."""


@dataclass(frozen=True)
class Forecast:
    """What one pod of a workload will use in the coming window: upper quantile and mean, in ledger units.

    The upper quantiles are what is placed by. ``rung`` says what they stand on (``model``, ``history``,
    ``siblings`` or ``request``), ``age_s`` how old the newest sample behind them is.
    """

    cpu: int
    memory: int
    mean_cpu: int
    mean_memory: int
    rung: str = "request"
    age_s: int = 0
    windows: tuple[tuple[int, int], ...] = ()
    """Upper quantiles (millicores, bytes) in each of :data:`NUM_WINDOWS` equal parts of the day; empty = the same in
    all of them."""

    def __post_init__(self) -> None:
        if self.windows and len(self.windows) != NUM_WINDOWS:
            raise ConfigError(f"a forecast has {len(self.windows)} windows; give {NUM_WINDOWS}, or none")

    @cached_property
    def text(self) -> str:
        """For digests; kept, because a version of knowledge repeats most forecasts of the one before."""
        return repr(self)


@dataclass(frozen=True)
class Forecasts:
    """Predicted usage by workload (:func:`workload_of`); who is not named uses what he asked for."""

    of: Mapping[str, Forecast]
    target: str = ""
    """Window and statistic: ``6h-peak``."""

    def of_pod(self, spec: PodSpec) -> Forecast | None:
        """The forecast of one pod of this class; None = count its request."""
        return self.of.get(workload_of(spec.namespace, spec.owner))

    def text(self) -> bytes:
        """For digests."""
        of = ", ".join([f"({name!r}, {one.text})" for name, one in sorted(self.of.items(), key=itemgetter(0))])
        return f"([{of}], {self.target!r})".encode()


AGES_S = (0, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200)
"""Ages at which a pod's lifetime is predicted anew."""
HORIZONS_S = (1800, 7200, 28_800, 86_400)
"""Spans within which a pod may be gone: half an hour, two, eight, a day."""
MORE_S = 300
"""A pod that outlived its prediction is expected to live on for half its age, and for so long at least."""
MOST_S = 1 << 40
"""Longest lifetime that may be told: what times add up to stays in the range of :func:`placement.scorers.log_minutes`."""
_LIFESPAN = Struct(f"={len(AGES_S) * (1 + len(HORIZONS_S))}q")


@dataclass(frozen=True)
class Lifespan:
    """How long pods of a workload live, told anew at each of :data:`AGES_S`."""

    life_s: tuple[int, ...]
    """Expected whole lifetime of a pod that has lived so long."""
    gone_milli: tuple[tuple[int, ...], ...]
    """Chance that such a pod is gone within each of :data:`HORIZONS_S` from then on, thousandths."""
    rung: str = ""
    """What it stands on: ``model``, ``history``, ``population``, ``none`` or ``truth``; empty in logs of older builds."""

    def __post_init__(self) -> None:
        shapes = (len(self.life_s), len(self.gone_milli), {len(row) for row in self.gone_milli})
        if shapes != (len(AGES_S), len(AGES_S), {len(HORIZONS_S)}):
            raise ConfigError(
                f"a lifespan has {shapes} entries; give {len(AGES_S)} ages and {len(HORIZONS_S)} horizons"
            )
        if not 0 <= min(self.life_s) <= max(self.life_s) <= MOST_S:
            raise ConfigError(f"a lifespan has lifetimes of {self.life_s} s, must be from 0 to {MOST_S}")
        if any(not 0 <= x <= 1000 for row in self.gone_milli for x in row):
            raise ConfigError("a lifespan has a chance outside of 0 to 1000 thousandths")

    def warm(self) -> None:
        """Make text and numbers now: who learns has time for it, who decides has not."""
        _ = self.text, self.packed

    @cached_property
    def packed(self) -> bytes:
        """Lifetimes and then chances, as int64."""
        return _LIFESPAN.pack(*self.life_s, *chain.from_iterable(self.gone_milli))

    @cached_property
    def text(self) -> str:
        """For digests; kept, because a version of knowledge repeats most lifespans of the one before."""
        return f"{self.life_s}{self.gone_milli}{self.rung}"


def unpacked(lifespans: Iterable[Lifespan]) -> IntArray:
    """``(n, ages + ages x horizons)`` int64: whole lifetimes, then chances, of each."""
    numbers: IntArray = np.frombuffer(b"".join([one.packed for one in lifespans]), np.int64)
    return numbers.reshape(-1, _LIFESPAN.size // 8)


class LifeChanges(NamedTuple):
    """What one version of :class:`Lifetimes` tells otherwise than another. What is the very same object is the same."""

    names: list[str]
    """Told otherwise, or new."""
    numbers: IntArray
    """Of everyone, then of ``names``: see :func:`unpacked`."""
    moved: list[str]
    """Names that came or went."""


def size_of(amounts: tuple[int, int, int]) -> str:
    """Name of a size (:attr:`~placement.pods.PodSpec.main_amounts`); no workload has such a name.

    >>> size_of((500, 1 << 30, 0))
    '*/500/1073741824/0'
    """
    cpu, memory, gpu = amounts
    return f"*/{cpu}/{memory}/{gpu}"


def names_of(spec: PodSpec) -> tuple[str, str, str]:
    """What lifetimes of a class of pods may be told under, best first: workload and size, workload, size."""
    workload, size = workload_of(spec.namespace, spec.owner), size_of(spec.main_amounts)
    return f"{workload} {size}", workload, size


@dataclass(frozen=True)
class Lifetimes:
    """How long pods live, by workload (:func:`workload_of`), conditional on age.

    A workload whose pods differ in size is told for each size under ``workload size``, and new workloads are told by
    their size (:func:`size_of`).
    """

    of: Mapping[str, Lifespan]
    everyone: Lifespan
    """Of the population, for pods of whom nothing else is known."""
    as_of_s: int = 0
    """Ledger time at which this was learned; ages and exit times are as seen from here."""

    def of_pod(self, spec: PodSpec) -> Lifespan:
        """The lifespan of pods of this class."""
        both, workload, size = names_of(spec)
        of = self.of.get
        return of(both) or of(workload) or of(size) or self.everyone

    def changes(self, before: Lifetimes | None) -> LifeChanges:
        """Against ``before``, or nothing.

        The last answer is kept: who learns a version asks once, for all strategies that read it.
        """
        key = None if before is None else before._identity
        kept = self._changes.get(key)
        if kept is None:
            was: Mapping[str, Lifespan] = {} if before is None else before.of
            get = was.get
            others = [(name, one) for name, one in self.of.items() if get(name) is not one]
            moved = [name for name, _ in others if name not in was]
            if len(was) + len(moved) > len(self.of):
                moved += sorted(was.keys() - self.of.keys())
            numbers = unpacked([self.everyone, *(one for _, one in others)])
            kept = LifeChanges([name for name, _ in others], numbers, moved)
            self._changes.clear()
            self._changes[key] = kept
        return kept

    def text(self) -> bytes:
        """For digests."""
        lines = [f"{name}|{one.text}" for name, one in sorted(self.of.items(), key=itemgetter(0))]
        return "\n".join([*lines, self.everyone.text, str(self.as_of_s)]).encode()

    @cached_property
    def _identity(self) -> object:
        """Of this very object, for those who must not keep it alive."""
        return object()

    @cached_property
    def _changes(self) -> dict[object, LifeChanges]:
        return {}


@dataclass(frozen=True)
class Knowledge:
    """One version of everything learned."""

    version: int = 0
    workload: Workload | None = None
    prices: DevicePrices | None = None
    forecasts: Forecasts | None = None
    lifetimes: Lifetimes | None = None

    @cached_property
    def digest(self) -> str:
        """Names this version in every decision and log."""
        digest = hashlib.sha256(f"{self.version}|{self.workload!r}".encode())
        if self.workload is not None and self.workload.leaving:
            digest.update(b"leaving")
        if self.prices is not None:
            digest.update(repr(self.prices.groups).encode())
            digest.update(np.ascontiguousarray(self.prices.worth).tobytes())
        if self.forecasts is not None:
            digest.update(self.forecasts.text())
        if self.lifetimes is not None:
            digest.update(self.lifetimes.text())
        return digest.hexdigest()[:12]

    @classmethod
    def neutral(cls) -> Knowledge:
        """Knows nothing: no kind is typical, and every share is worth its size."""
        worth = np.arange(DEVICE_MILLI + 1, dtype=np.int64)[None, :] << 20
        return cls(0, Workload((), ()), DevicePrices((("", 0, 0),), worth))

    def but(
        self,
        *,
        workload: Workload | None = None,
        prices: DevicePrices | None = None,
        forecasts: Forecasts | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> Knowledge:
        """The next version, with the given parts replaced."""
        return replace(
            self,
            version=self.version + 1,
            workload=self.workload if workload is None else workload,
            prices=self.prices if prices is None else prices,
            forecasts=self.forecasts if forecasts is None else forecasts,
            lifetimes=self.lifetimes if lifetimes is None else lifetimes,
        )
