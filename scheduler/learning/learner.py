"""Keeps the live ledger's knowledge up to date: the workload that is here, and prices of device shares from it.

Prices are a linear program of some tenths of a second, so it runs in a thread; its result enters the ledger as one
event, like every other change. Where nobody offers a GPU or nobody asks for one, every share is worth its size, as in a
replay. Without the solver (the ``plan`` extra), or where it fails, there are no prices, and the fallback strategy decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from placement.errors import UNREADABLE, ConfigError, why
from placement.knowledge import DevicePrices, Kind, Knowledge, Workload
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.prices import device_prices, has_devices
from placement.resources import CPU, MEMORY
from scheduler.engine import Engine

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.2
"""Pause before another attempt while nothing was learned yet."""
HALF_LIFE_S = 86_400
"""A kind that is gone counts half after a day: the night's pods are remembered in the morning."""
NO_DEVICES = Knowledge.neutral().prices
"""Of shares that nobody offers or nobody asks for."""
PARTS = 100
"""Remembered counts are kept in so many parts of a pod; less than one part is forgotten."""


def read_workload(path: str) -> Workload:
    """A workload file: JSON with ``kinds`` and ``counts``, as ``Workload``'s own fields.

    Raises
    ------
    ConfigError : it cannot be read.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Workload)
    except (OSError, *UNREADABLE) as error:
        raise ConfigError(
            f"workload {path}: cannot be used ({why(error)}); write one with Workload's fields as JSON"
        ) from error


def price(workload: Workload, nodes: list[NodeSpec]) -> DevicePrices | None:
    """Prices where a GPU is offered and one is asked for; None without a solver, or where it finds none.

    Where it fails, that must not end those who answer.
    """
    try:
        return device_prices(workload, nodes)
    except ImportError:
        log.warning('prices need the solver; install "ullage[plan]", or the fallback strategy decides')
    except ConfigError as error:
        log.warning("no prices of GPU shares; the fallback strategy decides", extra={"why": str(error)})
    return None


def device_nodes(nodes: Iterable[NodeSpec]) -> frozenset[tuple[tuple[str, int, int, int], int]]:
    """Nodes with devices as prices see them: how many there are of each model, number of devices, cores and memory."""
    return frozenset(
        Counter(
            (n.gpu_model, n.num_gpus, n.amounts.get(CPU, 0), n.amounts.get(MEMORY, 0)) for n in nodes if n.num_gpus
        ).items()
    )


class Learner:
    """Learns from the pods that the ledger has seen, once ``is_ready``; ``given`` replaces that by a fixed workload."""

    def __init__(
        self, engine: Engine, every_s: float, is_ready: Callable[[], bool], given: Workload | None = None
    ) -> None:
        self.engine = engine
        self.is_ready = is_ready
        self.every_s = every_s
        self.given = given
        self._here: dict[Kind, int] = {}
        self._classes: Counter[PodSpec] = Counter()
        """Pods that were here at the last look, by class: jobs are of a new one each, and none is kept for longer."""
        self._offered: frozenset[tuple[tuple[str, int, int, int], int]] | None = None
        self._leaving = False

    @property
    def is_satisfied(self) -> bool:
        """Whether what was given has been learned; nothing given is nothing to wait for."""
        return self.given is None or self.engine.state.knowledge.workload is not None

    def _observe(self) -> Workload:
        """Pods that are here, running or waiting: so each kind weighs by how long its pods stay, as in a replay.

        A kind is remembered for as long as it was many; memory is bounded by what was here in the last days.
        """
        keeps = 0.5 ** (self.every_s / HALF_LIFE_S)
        classes = Counter(pod.spec.anew for pod in self.engine.ledger.pods.values())
        self._leaving = self._leaving or any(classes[spec] < number for spec, number in self._classes.items())
        self._classes = classes
        here = Workload.of(classes.keys(), classes.values())
        now = {kind: PARTS * count for kind, count in zip(here.kinds, here.counts, strict=True)}
        faded = {kind: int(count * keeps) for kind, count in self._here.items()}
        seen = {kind: max(now.get(kind, 0), faded.get(kind, 0)) for kind in sorted(now.keys() | faded.keys())}
        self._here = {kind: count for kind, count in seen.items() if count}
        return Workload((*self._here,), (*self._here.values(),), self._leaving)

    async def learn(self) -> None:
        """Learn once and tell the ledger, if anything changed."""
        ledger = self.engine.ledger
        workload = self.given or self._observe()
        old: Knowledge = ledger.state.knowledge
        nodes = [n for n in ledger.state.nodes if n is not None]
        offered = device_nodes(nodes)
        if not workload.kinds or (workload == old.workload and offered == self._offered):
            return
        self._offered = offered
        is_priced = has_devices(workload, nodes)
        prices = await asyncio.to_thread(price, workload, nodes) if is_priced else old.prices or NO_DEVICES
        now = ledger.state.knowledge  # forecasts may have come while the thread ran
        ledger.state.learn(now.but(workload=workload, prices=prices), time_s=ledger.time_s)
        said = {"digest": ledger.state.knowledge.digest, "kinds": len(workload.kinds)}
        log.info("knowledge learned", extra=said | {"strategy": self.engine.in_force().name})

    async def run(self) -> None:
        """Learn soon, then every so often."""
        while True:
            if self.is_ready():
                await self.learn()
            has_learned = self.engine.state.knowledge.workload is not None
            if has_learned and self.every_s == 0:
                return
            await asyncio.sleep(max(self.every_s, FIRST_WAIT_S) if has_learned else FIRST_WAIT_S)
