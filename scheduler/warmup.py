"""What is done before anybody waits for an answer, so that nobody waits for it later.

The first decision of a strategy may compile its kernels, which takes seconds; kube-scheduler gives us a fraction of
one. So a replica is not ready until every kind of question was asked once of a scratch ledger, in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from placement.knowledge import DevicePrices, Knowledge, Workload
from placement.log import EventLog
from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.rejections import rejections
from placement.resources import CPU, DEVICE_MILLI, MEMORY
from placement.state import ClusterState
from placement.strategy import Strategy
from scheduler.name_table import NameTable
from scheduler.wire import priorities, read_question

_REQUESTS = (
    b'{"Pod":{"metadata":{}},"Nodes":null,"NodeNames":["node-0000","node-0001"]}',
    b'{"Pod":{"metadata":{}},"Nodes":{"metadata":{},"items":[{"metadata":{"name":"node-0000"}}]},"NodeNames":null}',
)
_SPECS = tuple(
    PodSpec(request=((CPU, 500), (MEMORY, 2**30)), gpu=gpu)
    for gpu in (None, GpuRequest(1, 300), GpuRequest(1), GpuRequest(2))
)


def warm_up(strategies: Iterable[Strategy]) -> None:
    """Ask every strategy every kind of question once."""
    state = ClusterState(events=EventLog())
    for i in range(3):
        state.add_node(NodeSpec(f"node-{i:04d}", ((CPU, 64_000), (MEMORY, 2**38)), num_gpus=4, gpu_model="model"))
    worth = np.arange(DEVICE_MILLI + 1, dtype=np.int64).reshape(1, -1)
    prices = DevicePrices((("model", 4, 64_000),), worth)
    distinct = list({s.digest: s for s in strategies}.values())
    for leaving in (False, True):
        workload = Workload.of(_SPECS, [1] * len(_SPECS), leaving=leaving)
        state.learn(Knowledge().but(workload=workload, prices=prices))
        for strategy in distinct:
            _ask_everything(strategy, state)
    table = NameTable([node.name for node in state.nodes if node is not None])
    for request in _REQUESTS:  # in memory that can be written to, as a connection's: that is another type
        question = read_question(memoryview(bytearray(request)), table)
        priorities(question, table, np.zeros(len(table.names), np.int64))


def _ask_everything(strategy: Strategy, state: ClusterState) -> None:
    """Every kind of question, on a ledger that is as it was afterwards."""
    some = np.array([True, False, True])
    for i, spec in enumerate(_SPECS):
        for candidates in (some, None):
            decision = strategy.decide(state.snapshot(), spec, candidates, i)
            strategy.priorities(state.snapshot(), spec, candidates)
            strategy.program(state).leaves_out(spec, some)
            rejections(strategy, state.snapshot(), spec, candidates, chosen=decision.row)
            if candidates is None:
                state.assume(str(i), spec, decision.node, decision.devices)
    for i in range(len(_SPECS)):
        state.forget(str(i))
