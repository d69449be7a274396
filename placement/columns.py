"""What scorers read: the ledger's columns, the tables that knowledge adds to them, and one class of pods as they see it."""

from __future__ import annotations

import numpy as np

from placement.knowledge import Knowledge, TypicalKind
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.residents import Residents
from placement.resources import DEVICE_MILLI, BoolArray, FloatArray, IntArray
from placement.state import CPU_ROW, NUM_DERIVED, ClusterState, gpu_class


class Demand:
    """One pod class as scorers see it: its delta and its GPU request."""

    __slots__ = ("count", "delta", "gpu_class", "milli", "need", "spec")

    def __init__(self, spec: PodSpec, delta: IntArray) -> None:
        self.spec = spec
        self.delta = delta
        self.milli = 0 if spec.gpu is None else spec.gpu.milli
        self.count = 0 if spec.gpu is None else spec.gpu.count
        self.gpu_class = gpu_class(spec)
        self.need: IntArray = np.where(delta > 0, delta, np.iinfo(np.int64).min)
        """``(L,)``: what must be free of each quantity; the least integer where nothing is asked."""
        self.need[:NUM_DERIVED] = np.iinfo(np.int64).min

    @property
    def is_shared(self) -> bool:
        """Asks for part of one device."""
        return 0 < self.milli < DEVICE_MILLI


def _alike(state: ClusterState) -> list[IntArray]:
    """Rows of nodes, those with the same device model, number of devices and CPU together."""
    rows = np.flatnonzero(state.is_alive)
    order = np.lexsort([column[rows] for column in (state.gpu_model, state.gpu_count, state.offered[CPU_ROW])])
    rows = rows[order]
    shapes = np.array([state.gpu_model[rows], state.gpu_count[rows], state.offered[CPU_ROW, rows]])
    differs = (shapes[:, 1:] != shapes[:, :-1]).any(axis=0)
    return np.split(rows, np.flatnonzero(differs) + 1) if len(rows) else []


class Columns:
    """The ledger's columns plus the tables that a program derives from knowledge.

    ``group (N,)`` is each node's price group; ``kind_allowed (M, models)`` says which typical kind may use
    which device model.
    """

    def __init__(
        self, state: ClusterState, knowledge: Knowledge | None = None, residents: Residents | None = None
    ) -> None:
        self.state = state
        knowledge = state.knowledge if knowledge is None else knowledge
        self.prices = knowledge.prices
        self.residents = residents or Residents(state)
        self.outlook = self.residents.outlook
        """``(N, NUM_OUTLOOK)``: see :class:`placement.residents.Residents`."""
        self.follow = self.residents.follow
        self.outlook_of = self.residents.outlook_of
        self.residents.learn(knowledge.forecasts, knowledge.lifetimes)
        self.typical: tuple[TypicalKind, ...] = () if knowledge.workload is None else knowledge.workload.typical()
        prices = self.prices
        if prices is None:
            self.worth: IntArray = np.zeros((1, DEVICE_MILLI + 1), np.int64)
        else:
            mean = np.rint(prices.worth.mean(axis=0, keepdims=True)).astype(np.int64)
            self.worth = np.concatenate([prices.worth, mean])
        self.group: IntArray = np.zeros(state.is_alive.shape[0], np.int64)
        self.kinds: IntArray = np.array([[k.cpu, k.milli, k.count] for k in self.typical], np.int64).reshape(-1, 3)
        self.probability: FloatArray = np.array([k.probability for k in self.typical], np.float64)
        self.kind_allowed: BoolArray = np.zeros((max(len(self.typical), 1), 64), np.bool_)
        self._known_models: set[int] = set()
        self._known_groups: dict[tuple[str, int, int], int] = {}
        for rows in _alike(state):
            node = state.nodes[rows[0]]
            assert node is not None, "a row that is alive holds a node"
            self.node_changed(int(rows[0]), node)
            self.group[rows] = self.group[rows[0]]

    def free(self, rows: IntArray) -> IntArray:
        """``(n, L)`` int64: what is free of each quantity on some nodes; a copy."""
        free: IntArray = self.state.offered.T.take(rows, axis=0)
        free -= self.state.taken.T.take(rows, axis=0)
        return free

    def node_changed(self, row: int, node: NodeSpec) -> None:
        """Look a new or changed node up in the tables."""
        prices = self.prices
        cpu = int(self.state.offered[CPU_ROW, row])
        if prices is not None:
            shape = (node.gpu_model, node.num_gpus, cpu)
            if shape not in self._known_groups:
                self._known_groups[shape] = prices.group_of(*shape)
            self.group[row] = self._known_groups[shape]
        model = self.state.models[node.gpu_model]
        if model in self._known_models:
            return
        self._known_models.add(model)
        if model >= self.kind_allowed.shape[1]:
            self.kind_allowed = np.pad(self.kind_allowed, ((0, 0), (0, model)))
        for m, kind in enumerate(self.typical):
            self.kind_allowed[m, model] = not kind.models or node.gpu_model in kind.models
