"""From a snapshot and a question to a checked plan; and a plan as a document, to and fro.

Pure: the caller's clock and its wish to stop come in with the :class:`~placement.planning.plans.Deadline`. Every plan that leaves
here has passed the independent checker. Both sides run this in a worker process of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from signal import SIGINT, SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from placement.devices import DEVICE_UNITS
from placement.errors import ConfigError, PlacementError
from placement.marks import FORBIDDEN
from placement.planning.batch_problems import batch_plan, batch_problem
from placement.planning.batches import place_batch
from placement.planning.cluster import Cluster, require_sums, waiting
from placement.planning.commitments import of_shapes, offers
from placement.planning.commitments import violations as commitment_violations
from placement.planning.consolidation import consolidate
from placement.planning.demand_problems import DemandProblem, Sold, demand_problem, purchase_plan, why_on_no_shape
from placement.planning.displaced import kept_off
from placement.planning.fleet import Consolidated, Fleet
from placement.planning.fleet_problems import FleetProblem, consolidation_plan, fleet_problem
from placement.planning.giving_way import Rescuer
from placement.planning.growth import EXPECTED, Growth, grown, kind_of
from placement.planning.interruptions import Risk, consolidate_with_risk
from placement.planning.interruptions import violations as risk_violations
from placement.planning.plan_check import check_steps
from placement.planning.plans import FIRST_SHARE, Action, Deadline, Ending, Plan
from placement.planning.purchase import Bought, Shape, buy, fluid_bound, is_beyond_limits, unplaceable
from placement.planning.rescue_problems import rescue_problem
from placement.planning.snapshots import SnapshotFile, cluster_of
from placement.rates import MOST_USD
from placement.resources import MAX_AMOUNT, FloatArray

if TYPE_CHECKING:
    from concurrent.futures import Executor

BEYOND_LIMITS = (
    "what may be bought holds less than the pods ask for, even if pods could be cut; raise limits, or offer more"
)
LEFT = {
    "rescue": "`ullage plan batch` places those with GPU devices, or kept apart by rules, where there is room; for the "
    "others, and to make room, there is kube-scheduler's own preemption",
    "batch": "kube-scheduler tries them by itself; they hold up nobody",
}
"""What to do where a plan is for nobody."""
NONE_FOUND = (
    "no nodes within the limits of the shapes were found that hold all pods, nor a proof that there are none; give more "
    "time, raise limits, or offer more"
)
KINDS = ("rescue", "batch", "consolidate", "purchase")
PROGRESS_UNITS = {
    "rescue": "pods placed",
    "batch": "stranded share",
    "consolidate": "USD per hour saved",
    "purchase": "USD per hour",
}
"""What the numbers are that a deadline's ``note`` is told while a plan gets better."""


class SaleShape(msgspec.Struct, frozen=True):
    """A shape for sale, over named resources."""

    name: str
    amounts: dict[str, int]
    usd_per_hour: float
    limit: int | None = None
    spot: bool = False
    interruption_usd_per_hour: float = 0.0
    num_gpus: int = 0
    gpu_model: str = ""
    term_hours: float = 0.0
    """Reserved for so long: paid at ``usd_per_hour`` for all of it, used or not; 0 = paid while it runs."""
    pool: str = ""
    """Shapes of one pool share their limit."""


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
    interruptions_per_hour: float = 0.0
    """Of a spot node, for a consolidation; what one costs, and costs for each pod on the node."""
    usd_per_interruption: float = 0.0
    usd_per_pod_interrupted: float = 0.0
    max_nodes: int | None = None
    """Most nodes that a consolidation empties; None = any number."""
    hours_of_use: float | None = None
    """For how long the pods of a purchase will run; None = as long as the longest term of a reservation."""
    growth: tuple[Growth, ...] = ()
    """Of a purchase: what else is expected, beyond what is pending."""
    foresight: tuple[str, ...] = ()
    """What ``growth`` stands on, in words."""


class PlanningError(PlacementError):
    """A planner that failed, or broke its own rules."""

    @classmethod
    def of_death(cls, exit_code: int | None) -> PlanningError:
        """Of a planner's process that ended without a plan; below 0 a signal ended it."""
        if exit_code is None or exit_code == -SIGKILL:
            return cls(
                f"the planner was killed (exit code {exit_code}); memory may have run out, give a smaller problem"
            )
        if exit_code in (-SIGTERM, -SIGINT):
            return cls(f"the planner was told to end (exit code {exit_code}); plan again")
        return cls(
            f"the planner died of a defect (exit code {exit_code}); its traceback is on standard error, please report it"
        )


def plan_for(request: Request, deadline: Deadline, beside: Executor | None = None) -> Plan:
    """The plan that answers ``request``; rescues use a free thread ``beside``, if there is one.

    Raises
    ------
    ConfigError : the question makes no sense.
    PlanningError : a planner broke a rule; nothing is handed out then.
    """
    if request.kind not in KINDS:
        raise ConfigError(f"unknown plan {request.kind!r}; plans are {', '.join(KINDS)}")
    _require_sense(request)
    cluster = cluster_of(request.snapshot, request.usd_per_hour)
    if request.kind == "rescue":
        plan = _rescue(request, cluster, deadline, beside)
    else:
        plan = {"batch": _batch, "consolidate": _consolidate, "purchase": _purchase}[request.kind](
            request, cluster, deadline
        )
    wrong = check_steps(cluster, plan)
    if wrong:
        raise PlanningError(f"the {plan.kind} plan failed its check ({wrong[0]}); it is discarded, please report it")
    return plan


def _require_sense(request: Request) -> None:
    """Refuse numbers that mean nothing: negative ones, those that are none, prices beyond :data:`~placement.rates.MOST_USD`."""
    if request.seed < 0:
        raise ConfigError(f"seed {request.seed} is below 0; seeds start at 0")
    asked = {
        "USD per move": request.usd_per_move,
        "interruptions per hour": request.interruptions_per_hour,
        "USD per interruption": request.usd_per_interruption,
        "USD per pod interrupted": request.usd_per_pod_interrupted,
        **{f"the price of node {node}, USD/h,": usd for node, usd in (request.usd_per_hour or {}).items()},
    }
    for what, number in asked.items():
        if not 0 <= number <= MOST_USD:
            raise ConfigError(
                f"{what} of {number:g} is not usable; these are finite numbers >= 0, {MOST_USD:g} at most: look for a mistake "
                "in a rate, or in what a node offers"
            )
    if request.max_nodes is not None and request.max_nodes < 0:
        raise ConfigError(
            f"a budget of {request.max_nodes} nodes is not possible; give 0 or more, or none for no limit"
        )
    for shape in request.shapes:
        numbers = {**shape.amounts, "devices": shape.num_gpus}
        wrong = next((name for name, amount in numbers.items() if not 0 <= amount < MAX_AMOUNT), None)
        if wrong is not None:
            raise ConfigError(
                f"shape {shape.name}: {wrong}={numbers[wrong]} is out of range; give 0 or more, below 2^62"
            )
        if shape.limit is not None and shape.limit < 1:
            raise ConfigError(f"shape {shape.name}: a limit of {shape.limit} is not possible; give 1 or more, or none")


def _nothing(kind: str, cluster: Cluster, left_out: tuple[str, ...], deadline: Deadline) -> Plan:
    """The plan where nobody who waits is in the model. That proves nothing about them."""
    num = len(cluster.pending)
    if num:
        left_out = (
            f"nobody is planned for: {num} pods wait, and all are left to the scheduler. {LEFT[kind]}",
            *left_out,
        )
    reasons = left_out or ("nothing is pending",)
    details = {"in_no_model": float(num)} if num else {}
    spent_s = deadline.elapsed_s
    return Plan(kind, Ending.OPTIMAL, "pods placed", 0.0, 0.0, (), reasons, time_s=spent_s, details=details)


def _rescue(request: Request, cluster: Cluster, deadline: Deadline, beside: Executor | None) -> Plan:
    problem = rescue_problem(cluster)
    plan = Rescuer(problem, deadline, request.seed, beside).plan()
    return plan or _nothing("rescue", cluster, problem.left_out, deadline)


def _batch(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    problem = batch_problem(cluster)
    if not problem.pods:
        return _nothing("batch", cluster, problem.left_out, deadline)
    return batch_plan(problem, place_batch(problem.batch, deadline, seed=request.seed), time_s=deadline.elapsed_s)


def _consolidate(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    problem = fleet_problem(cluster)
    fleet, rate = problem.fleet, request.interruptions_per_hour
    nodes = [cluster.state.nodes[row] for row in cluster.rows.tolist()]
    spot = np.array([node is not None and node.spot for node in nodes], np.bool_)
    per_pod = np.full(len(fleet.count), request.usd_per_pod_interrupted)
    risk = Risk(np.where(spot, rate, 0.0), request.usd_per_interruption, per_pod)
    is_risky = problem.has_prices and rate > 0
    worth = (risk.weighed(fleet) if is_risky else fleet).usd_per_hour

    def solve(fleet: Fleet, part: Deadline) -> Consolidated:
        if is_risky:
            return consolidate_with_risk(fleet, risk, part, max_moves=request.max_moves, seed=request.seed)
        return consolidate(fleet, part, max_moves=request.max_moves, seed=request.seed)

    most = request.max_nodes
    result = solve(fleet, deadline if most is None else deadline.part(FIRST_SHARE))
    num_open = int(problem.is_open.sum())
    if (most is None or num_open <= most) and 0 < num_open == int(result.deleted[problem.is_open].sum()):
        problem, result = _with_one_open(problem, result, worth, deadline, solve)
        fleet = problem.fleet
    if most is not None and int(result.deleted.sum()) > most:
        result = _of_few_nodes(fleet, result, most, worth, deadline, solve)
    if not is_risky:  # what interruptions cost depends on where pods arrive
        result = kept_off(fleet, result, problem.stranding, deadline, request.seed)
    plan = consolidation_plan(problem, result, usd_per_move=request.usd_per_move, time_s=deadline.elapsed_s)
    for what, budget, number in (
        ("moves", request.max_moves, plan.count(Action.MOVE)),
        ("nodes", most, plan.count(Action.DELETE)),
    ):
        if budget is not None and number > budget:
            raise PlanningError(f"the consolidation has {number} {what}, more than the budget of {budget}")
    if not (problem.has_prices and rate):
        return plan
    wrong = risk_violations(fleet, risk, result, request.max_moves)
    if wrong:
        raise PlanningError(f"the consolidation failed its own check: {wrong[0]}")
    bill = float(fleet.usd_per_hour[result.deleted].sum())
    details = {"bill_usd_per_hour": bill, "interruptions_usd_per_hour": result.usd_per_hour - bill}
    return replace(plan, details={**plan.details, **details, "moved_to_spot": float(result.arrivals[:, spot].sum())})


def _with_one_open(
    problem: FleetProblem,
    free: Consolidated,
    worth: FloatArray,
    deadline: Deadline,
    solve: Callable[[Fleet, Deadline], Consolidated],
) -> tuple[FleetProblem, Consolidated]:
    """One node more stays for pods that come next, planned again: the cheapest without taints, and of these the largest.

    ``worth`` ``(N,)`` is what the end of a node saves at most.
    """
    fleet, names = problem.fleet, problem.cluster.node_names()
    room = problem.cluster.allocatable().astype(np.float64)
    size = (room / np.maximum(room.sum(axis=1, keepdims=True), 1.0)).sum(axis=0)
    stays = int(np.lexsort((-size, np.where(problem.is_open, worth, np.inf)))[0])
    deletable = fleet.deletable.copy()
    deletable[stays] = False
    fleet = replace(fleet, deletable=deletable)
    said = f"node {names[stays]} stays for pods that come next; no other without taints would"
    problem = replace(problem, fleet=fleet, stays=(said, *problem.stays))
    return problem, _again(fleet, free, float(worth[deletable].sum()), deadline, solve)


def _of_few_nodes(
    fleet: Fleet,
    free: Consolidated,
    most: int,
    worth: FloatArray,
    deadline: Deadline,
    solve: Callable[[Fleet, Deadline], Consolidated],
) -> Consolidated:
    """At most ``most`` nodes: those worth most of those that go where any number may, planned again."""
    gone = np.flatnonzero(free.deleted)
    deletable = np.zeros_like(fleet.deletable)
    deletable[gone[np.argsort(-worth[gone], kind="stable")[:most]]] = True
    most_usd = float(np.sort(worth[fleet.deletable])[::-1][:most].sum())
    return _again(replace(fleet, deletable=deletable), free, most_usd, deadline, solve)


def _again(
    fleet: Fleet,
    free: Consolidated,
    most_usd: float,
    deadline: Deadline,
    solve: Callable[[Fleet, Deadline], Consolidated],
) -> Consolidated:
    """The plan for a fleet of which less may go than of the one of ``free``; the bound is that of ``free``, or ``most_usd``,
    more than which none saves."""
    part = replace(deadline.part(1.0), note=lambda _value, _bound: None)  # what was told already was of more nodes
    few = solve(fleet, part)
    bound = max(min(free.bound, most_usd), few.usd_per_hour)
    ending = Ending.OPTIMAL if bound - few.usd_per_hour <= 1e-9 * bound else deadline.ending
    return replace(few, bound=bound, ending=ending)


def _purchase(request: Request, cluster: Cluster, deadline: Deadline) -> Plan:
    resources = sorted({name for shape in request.shapes for name in shape.amounts})
    shapes = [
        Shape(
            s.name,
            np.array([*(s.amounts.get(r, 0) for r in resources), DEVICE_UNITS * s.num_gpus], np.int64),
            s.usd_per_hour,
            s.limit,
            s.spot,
            s.interruption_usd_per_hour,
            s.pool,
        )
        for s in request.shapes
    ]
    require_sums(cluster)
    steady, said = _steady(cluster, request.growth), request.foresight
    said = (*said, *waiting(cluster))
    cluster, use, housed = grown(cluster, request.growth)
    if housed:
        said = (*said, f"{housed} pods find room on the nodes that are there")
    there = {"housed": float(housed)}
    sold = Sold([s.gpu_model if s.num_gpus else None for s in request.shapes], [s.spot for s in request.shapes])
    problem = demand_problem(cluster.pending, resources, sold, use=use, steady=steady)
    why = {c: why_on_no_shape(problem, c, shapes, resources) for c in unplaceable(problem.demand, shapes)}
    if why:
        large = {pod.uid: f"pod {pod.name} is left out: {why[c]}" for c in why for pod in problem.pods[c]}
        others = [pod for pod in cluster.pending if pod.uid not in large]
        problem = demand_problem(others, resources, sold, use=use, steady=steady)
        problem = replace(problem, left_out=(*large.values(), *problem.left_out))
    if not problem.pods:
        plan = _bought_none(problem, said, deadline, is_any_housed=housed > 0)
        return replace(plan, details={**plan.details, **there})
    problem = replace(problem, left_out=(*said, *problem.left_out))
    terms = np.array([s.term_hours for s in request.shapes])
    longest = max(float(terms.max(initial=0.0)), 1.0) if request.hours_of_use is None else request.hours_of_use
    hours = longest * (problem.use if terms.any() else np.ones(len(problem.use)))
    offered = offers(problem.demand, shapes, terms, hours)
    bought = of_shapes(offered, buy(offered.demand, offered.shapes, deadline, seed=request.seed))
    broken = commitment_violations(problem.demand, shapes, terms, hours, bought) if bought.fillings else []
    if broken:
        raise PlanningError(f"the purchase failed its own check: {broken[0]}")
    if (problem.exact.request != problem.demand.request).any():  # shares were rounded up; the bound is for exact ones
        exact = offers(problem.exact, shapes, terms, hours)
        bound = min(bought.bound, fluid_bound(exact.demand, exact.shapes))
        is_proved = bound >= bought.cost if bought.fillings else is_beyond_limits(exact.demand, exact.shapes)
        is_claimed = bought.ending in (Ending.OPTIMAL, Ending.INFEASIBLE)
        ending = Ending.DEADLINE if is_claimed and not is_proved else bought.ending
        bought = replace(bought, bound=bound, ending=ending)
    if not bought.fillings:
        problem = replace(
            problem, left_out=(*problem.left_out, BEYOND_LIMITS if bought.ending == Ending.INFEASIBLE else NONE_FOUND)
        )
    plan = purchase_plan(problem, shapes, bought, time_s=deadline.elapsed_s)
    plan = replace(plan, details={**plan.details, **there})
    return _with_commitments(plan, request.shapes, bought)


def _bought_none(problem: DemandProblem, said: tuple[str, ...], deadline: Deadline, *, is_any_housed: bool) -> Plan:
    """The plan where nothing is left to buy for: infeasible only where all who wait or are expected can get no place."""
    left_out = problem.left_out
    reasons = (*said, *left_out)
    if not left_out and said:
        reasons = (*reasons, "the nodes that are there are enough")
    elif is_any_housed:
        reasons = (*reasons, "the nodes that are there are enough for the others")
    elif problem.num_unjudged:
        reasons = (*reasons, "nothing is bought: whether a new node would help who is not modelled is not known")
    is_proved = bool(left_out) and not is_any_housed and not problem.num_unjudged
    ending = Ending.INFEASIBLE if is_proved else Ending.OPTIMAL
    details = {"in_no_model": float(problem.num_unjudged)} if problem.num_unjudged and not is_any_housed else {}
    reasons = reasons or ("nothing is pending",)
    spent_s = deadline.elapsed_s
    return Plan("purchase", ending, "USD per hour", 0.0, 0.0, (), reasons, time_s=spent_s, details=details)


def _steady(cluster: Cluster, growth: Sequence[Growth]) -> set[str]:
    """UIDs of pods that are marked never to be interrupted, and of those expected whose like are."""
    marked = {uid for uid, why in cluster.never_move.items() if why.startswith(FORBIDDEN)}
    running = cluster.state.residents
    like = {kind_of(running[uid].spec) for uid in marked if uid in running}
    expected = [
        f"{EXPECTED}{k}-{i}" for k, one in enumerate(growth) if kind_of(one.spec) in like for i in range(one.pods)
    ]
    return marked | set(expected)


def _with_commitments(plan: Plan, sold: tuple[SaleShape, ...], bought: Bought) -> Plan:
    """The plan, saying what it commits to and from which use on that pays."""
    words, committed = [], 0.0
    for shape, number in zip(sold, bought.nodes(len(sold)).tolist(), strict=True):
        if not (shape.term_hours and number):
            continue
        whole = shape.usd_per_hour * shape.term_hours
        committed += number * whole
        words.append(f"{number} x {shape.name}: {number * whole:,.2f} USD over {shape.term_hours:g} h, used or not")
        hourly = [
            other.usd_per_hour
            for other in sold
            if (other.amounts, other.num_gpus, other.gpu_model) == (shape.amounts, shape.num_gpus, shape.gpu_model)
            and not (other.term_hours or other.spot)
            and other.usd_per_hour > 0
        ]
        if hourly:
            words[-1] += f"; by the hour it would cost as much after {whole / min(hourly):,.0f} h"
    if not words:
        return plan
    return replace(plan, reasons=(*words, *plan.reasons), details={**plan.details, "committed_usd": committed})


# ── a plan as a document ──────────────────────────────────────────────────────────────────────────────────────


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON, without what is empty about its steps."""
    return {
        "apiVersion": "ullage.dev/v1",
        "kind": "Plan",
        "plan": plan.kind,
        "ending": str(plan.ending),
        "unit": plan.unit,
        "value": plan.value,
        "bound": plan.bound,
        "gap_share": plan.gap_share,
        "usd_per_hour": plan.usd_per_hour,
        "payback_s": plan.payback_s,
        "time_s": round(plan.time_s, 4),
        "details": plan.details,
        "reasons": list(plan.reasons),
        "steps": [{k: v for k, v in msgspec.to_builtins(step).items() if v} for step in plan.steps],
    }


def plan_of_document(document: Mapping[str, Any]) -> Plan:
    """The plan in a document that :func:`plan_document` made.

    Raises
    ------
    ConfigError : it is not one.
    """
    kind, plan = document.get("kind"), document.get("plan")
    if kind != "Plan" or plan not in KINDS:
        raise ConfigError(
            f"this is no plan (kind {kind or 'missing'}, plan {plan or 'missing'}); make one with `ullage plan … -o json`"
        )
    try:
        return msgspec.convert({**document, "kind": plan, "minimised": plan == "purchase"}, Plan)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the plan cannot be read ({error}); make one with `ullage plan … -o json`") from error
