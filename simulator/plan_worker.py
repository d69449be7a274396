"""Plans in a worker process: a deadline, a way to cancel, and a crash that stays in the worker.

The parent stays responsive whatever the solver does: it sends a snapshot, waits for the plan, and may set the
``cancel`` event, after which the worker returns the best plan so far. A worker that dies, or does not answer well after
its deadline, becomes an error here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec
import numpy as np

from placement.batches import place_batch
from placement.consolidation import consolidate
from placement.errors import ConfigError, PlacementError
from placement.plans import Deadline, Ending, Plan
from placement.problems import (
    Cluster,
    batch_plan,
    batch_problem,
    check_steps,
    consolidation_plan,
    demand_problem,
    fleet_problem,
    purchase_plan,
    rescue_plan,
    rescue_problem,
)
from placement.purchase import Shape, buy, unplaceable
from placement.rescue import pack
from simulator.reproduce_priority import warm_up
from simulator.snapshots import SnapshotFile, cluster_of

KINDS = ("rescue", "batch", "consolidate", "purchase")
GRACE_S = 180.0
"""How long past its deadline a worker may take: imports, compiling kernels, the last solver step."""


class SaleShape(msgspec.Struct, frozen=True):
    """A shape for sale, over named resources."""

    name: str
    amounts: dict[str, int]
    usd_per_hour: float
    limit: int | None = None
    spot: bool = False
    interruption_usd_per_hour: float = 0.0


class Request(msgspec.Struct, frozen=True):
    """What to plan. ``usd_per_hour`` maps nodes to prices, None = not known."""

    kind: str
    snapshot: SnapshotFile
    time_s: float = 10.0
    seed: int = 0
    max_moves: int | None = None
    usd_per_move: float = 0.0
    usd_per_hour: dict[str, float] | None = None
    shapes: tuple[SaleShape, ...] = ()


class PlanningError(PlacementError):
    """A planner that failed, or broke its own rules."""


def make_plan(request: Request, cancelled: Event | None = None) -> Plan:
    """Plan in this process; the plan has passed the independent checker."""
    if request.kind not in KINDS:
        raise ConfigError(f"unknown plan {request.kind!r}; plans are {', '.join(KINDS)}")
    stop = cancelled.is_set if cancelled is not None else lambda: False
    deadline = Deadline(request.time_s, time.perf_counter, stop)
    cluster = cluster_of(request.snapshot, request.usd_per_hour)
    plan = {"rescue": _rescue, "batch": _batch, "consolidate": _consolidate, "purchase": _purchase}[request.kind](
        request, cluster, deadline
    )
    wrong = check_steps(cluster, plan)
    if wrong:
        raise PlanningError(f"the {plan.kind} plan failed its check ({wrong[0]}); it is discarded, please report it")
    return plan


def _nothing(kind: str, unit: str, reasons: tuple[str, ...], deadline: Deadline) -> Plan:
    ending = Ending.INFEASIBLE if reasons else Ending.OPTIMAL
    reasons = reasons or ("nothing is pending",)
    return Plan(kind, ending, unit, 0.0, 0.0, (), reasons, time_s=deadline.elapsed_s)


def _rescue(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    problem = rescue_problem(cluster)
    if not (problem.packing.node_of < 0).any():
        return _nothing("rescue", "pods placed", problem.left_out, deadline)
    packed = pack(problem.packing, deadline, seed=request.seed)
    return rescue_plan(problem, packed, deadline.ending, time_s=deadline.elapsed_s)


def _batch(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    problem = batch_problem(cluster)
    if not problem.pods:
        return _nothing("batch", "pods placed", problem.left_out, deadline)
    return batch_plan(problem, place_batch(problem.batch, deadline, seed=request.seed), time_s=deadline.elapsed_s)


def _consolidate(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    problem = fleet_problem(cluster)
    result = consolidate(problem.fleet, deadline, max_moves=request.max_moves, seed=request.seed)
    return consolidation_plan(problem, result, usd_per_move=request.usd_per_move, time_s=deadline.elapsed_s)


def _purchase(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    resources = sorted({name for shape in request.shapes for name in shape.amounts})
    shapes = [
        Shape(
            s.name,
            np.array([s.amounts.get(r, 0) for r in resources], np.int64),
            s.usd_per_hour,
            s.limit,
            s.spot,
            s.interruption_usd_per_hour,
        )
        for s in request.shapes
    ]
    problem = demand_problem(cluster.pending, resources, shapes)
    if not problem.pods:
        return _nothing("purchase", "USD per hour", problem.left_out, deadline)
    wrong = unplaceable(problem.demand, shapes)
    if wrong:
        names = tuple(f"pod {problem.pods[c][0].name} fits on no shape for sale" for c in wrong)
        return _nothing("purchase", "USD per hour", names, deadline)
    bought = buy(problem.demand, shapes, deadline, seed=request.seed)
    return purchase_plan(problem, shapes, bought, time_s=deadline.elapsed_s)


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────────


def _serve(data: bytes, cancelled: Event, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    os.dup2(2, 1)  # solvers print at times, and standard output is data
    warm_up()
    try:
        plan = make_plan(msgspec.json.decode(data, type=Request), cancelled)
        answer.send(("plan", msgspec.json.encode(plan)))
    except PlacementError as error:
        answer.send((type(error).__name__, str(error).encode()))


class Planner:
    """One plan in one worker process: :meth:`result`, perhaps after :meth:`cancel`; then :meth:`close`."""

    def __init__(self, request: Request) -> None:
        context = multiprocessing.get_context("spawn")
        self._time_s = request.time_s
        self._cancelled = context.Event()
        self._answer, child = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve, args=(msgspec.json.encode(request), self._cancelled, child), daemon=True
        )
        self._process.start()
        child.close()

    def cancel(self) -> None:
        """Ask for the best plan so far."""
        self._cancelled.set()

    def result(self) -> Plan:
        """The plan; a worker that failed, died or hangs becomes an error."""
        try:
            if not self._answer.poll(self._time_s + GRACE_S):
                raise PlanningError(
                    f"the planner did not answer {GRACE_S:.0f} s after its limit of {self._time_s:g} s; "
                    "it was stopped, give a smaller problem or more time"
                )
            kind, data = self._answer.recv()
        except EOFError as error:
            self._process.join(5)
            raise PlanningError(
                f"the planner died (exit code {self._process.exitcode}); memory may have run out, "
                "give a smaller problem"
            ) from error
        if kind == "plan":
            return msgspec.json.decode(data, type=Plan)
        message = data.decode()
        raise ConfigError(message) if kind == "ConfigError" else PlanningError(message)

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._process.terminate()
        self._process.join(5)
