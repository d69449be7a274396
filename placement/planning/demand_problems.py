"""A purchase as demand over shapes for sale, and back: who is bought for, who fits on nothing, which nodes to add."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from placement.devices import DEVICE_UNITS, WHOLE_DEVICES, device_units
from placement.planning.cluster import classes_of
from placement.planning.plans import Action, Plan, Step
from placement.planning.purchase import Bought, Demand, Shape
from placement.pods import Pod, PodSpec
from placement.resources import (
    DEVICE_MILLI,
    FloatArray,
    format_amount,
)


@dataclass(frozen=True)
class DemandProblem:
    """Demand with the names behind its classes; ``exact`` is the same with device shares that are not rounded up.

    ``use`` ``(C,)`` is the share of time that pods of a class run.
    """

    demand: Demand
    exact: Demand
    pods: tuple[tuple[Pod, ...], ...]
    left_out: tuple[str, ...]
    use: FloatArray
    num_unjudged: int = 0
    """Pods that are left out though a shape for sale might hold them: they are not modelled."""


@dataclass(frozen=True)
class Sold:
    """What rules ask of the shapes for sale, one entry per shape: device models (None = no devices), and which are spot."""

    models: list[str | None]
    spot: list[bool]


def demand_problem(
    pods: Iterable[Pod],
    resources: list[str],
    sold: Sold,
    *,
    use: Mapping[str, float] | None = None,
    steady: Container[str] = (),
) -> DemandProblem:
    """Pending pods as demand over ``resources`` and, last, units of devices: the axis of the shapes' capacities.

    Pods that ask for something no shape offers, or are not modelled, are left out and named. ``use`` has the share of time
    that pods run, by UID (1 for the others); UIDs in ``steady`` must not be on machines that can be interrupted.
    """
    models = sold.models
    kept, left_out, num_unjudged = [], [], 0
    for pod in pods:
        why = f"{pod.spec.unmodelled[0]} is not modelled" if pod.spec.unmodelled else ""
        num_unjudged += bool(why)
        known = {*resources, WHOLE_DEVICES}
        foreign = [name for name, amount in pod.spec.request if amount and name not in known]
        why = why or (f"no shape offers {foreign[0]}" if foreign else "")
        why = why or _why_no_device(pod.spec, models)
        if why:
            left_out.append(f"pod {pod.name} is left out: {why}")
        else:
            kept.append(pod)
    shares = sorted({1.0, *(use or {}).values()})
    tiers = [2 * shares.index((use or {}).get(pod.uid, 1.0)) + (pod.uid in steady) for pod in kept]
    specs, tier, class_of = classes_of(zip((pod.spec for pod in kept), tiers, strict=True))
    choosy = [pod.name for pod in kept if _chooses(pod.spec)]
    if choosy:
        left_out.append(
            f"{len(choosy)} pods choose nodes by label or name ({choosy[0]} …): shapes have none, so see to it that the "
            "new nodes carry them"
        )
    members = tuple(tuple(kept[p] for p in np.flatnonzero(class_of == c)) for c in range(len(specs)))
    rows = [[spec.amount(r) if r != "pods" else 1 for spec in specs] for r in resources]
    whole = [spec.amount(WHOLE_DEVICES) * DEVICE_UNITS for spec in specs]
    rounded = [units + device_units(spec.gpu) for units, spec in zip(whole, specs, strict=True)]
    exact = [
        units + (spec.gpu.total_milli * DEVICE_UNITS // DEVICE_MILLI if spec.gpu else 0)
        for units, spec in zip(whole, specs, strict=True)
    ]
    count = np.array([len(m) for m in members], np.int64)
    allowed = np.array([[_accepts(spec, model) for model in models] for spec in specs], np.bool_)
    allowed = allowed.reshape(len(specs), len(models))
    allowed &= ~((tier % 2 == 1)[:, None] & np.array(sold.spot, np.bool_))

    def demand(units: list[int]) -> Demand:
        return Demand(np.array([*rows, units], np.int64).reshape(len(resources) + 1, len(specs)), count, allowed)

    shares_of = np.array(shares)[tier // 2]
    return DemandProblem(demand(rounded), demand(exact), members, tuple(left_out), shares_of, num_unjudged)


def _chooses(spec: PodSpec) -> bool:
    rules = spec.node_rules
    return bool(rules.node_selector or rules.affinity is not None or rules.node_name or rules.volume_affinity)


def _accepts(spec: PodSpec, model: str | None) -> bool:
    if spec.gpu is None:
        return model is not None or not spec.amount(WHOLE_DEVICES)
    return model is not None and (not spec.gpu.models or model in spec.gpu.models)


def _why_no_device(spec: PodSpec, models: list[str | None]) -> str:
    """Why no shape has the devices that a class asks for; empty when one has."""
    if any(_accepts(spec, model) for model in models):
        return ""
    if spec.gpu is not None and spec.gpu.models and any(model is not None for model in models):
        return f"no shape for sale has GPU devices of model {' or '.join(spec.gpu.models)}"
    return "no shape for sale has GPU devices"


def why_on_no_shape(problem: DemandProblem, c: int, shapes: list[Shape], resources: list[str]) -> str:
    """Why class ``c`` fits on no shape: the one that comes nearest, and what it has too little of."""
    accepted = np.flatnonzero(problem.demand.allowed[c])
    if not len(accepted):
        return "it must not be interrupted, and of what is for sale only spot machines would do"
    request = problem.demand.request[:, c]
    capacity = np.stack([shapes[s].capacity for s in accepted])
    missing = np.where(request > 0, np.inf, 0.0)
    times = np.divide(request, capacity, out=np.tile(missing, (len(accepted), 1)), where=capacity > 0)
    nearest = int(np.argmin(times.max(axis=1)))
    short = []
    for r in np.flatnonzero(request > capacity[nearest]):
        name, unit = (resources[r], 1) if r < len(resources) else ("GPU devices", DEVICE_UNITS)
        has, asked = (format_amount(int(n) / unit, name) for n in (capacity[nearest, r], request[r]))
        short.append(f"{has} of {name} ({asked} asked for)")
    return f"it fits on no shape for sale; the nearest, {shapes[accepted[nearest]].name}, has {' and '.join(short)}"


def purchase_plan(problem: DemandProblem, shapes: list[Shape], bought: Bought, *, time_s: float) -> Plan:
    """Nodes to add, by shape; the plan minimises USD per hour."""
    nodes = bought.nodes(len(shapes))
    steps = [
        Step(Action.BUY, name=shape.name, target=f"{shape.name}-{i + 1}")
        for shape, n in zip(shapes, nodes, strict=True)
        for i in range(int(n))
    ]
    bill = float(sum(n * shape.usd_per_hour for n, shape in zip(nodes, shapes, strict=True)))
    details = {f"nodes {shape.name}": float(n) for shape, n in zip(shapes, nodes, strict=True) if n}
    return Plan(
        "purchase",
        bought.ending,
        "USD per hour",
        bought.cost,
        bought.bound,
        tuple(steps),
        problem.left_out,
        True,
        bill,
        None,
        time_s,
        details,
    )
