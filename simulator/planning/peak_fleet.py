"""The cheapest fixed fleet that holds a trace at its peak, beside multi-type first-fit decreasing.

A recorded pod may ask for things that no shape of a price book lists (local disk, shares of a network card). Such
requests are left out on both sides, and every row says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from placement.devices import DEVICE_UNITS, device_units
from placement.errors import ConfigError
from placement.planning import purchase
from placement.planning.foresight import worth_of
from placement.planning.plans import Deadline
from placement.pods import PodSpec
from placement.rates import HOURS_A_MONTH
from placement.resources import PODS, FloatArray, IntArray
from simulator.cost import PriceBook
from simulator.fleet import Shape
from simulator.planning.bench import Row
from simulator.traces.trace import NEVER, Trace


def within(trace: Trace, shapes: Sequence[Shape]) -> tuple[Trace, tuple[str, ...]]:
    """The trace without requests for what no shape offers, and the names of those resources."""
    offered = {name for shape in shapes for name, _ in shape.allocatable}
    foreign = {name for spec in trace.specs for name, amount in spec.request if amount and name not in offered}
    if not foreign:
        return trace, ()
    specs = [
        replace(spec, request=tuple(item for item in spec.request if item[0] not in foreign)) for spec in trace.specs
    ]
    index: dict[PodSpec, int] = {}
    number = np.array([index.setdefault(spec, len(index)) for spec in specs], np.int64)
    return trace.but(specs=tuple(index), pods=replace(trace.pods, spec=number[trace.pods.spec])), tuple(sorted(foreign))


def without_departures(trace: Trace) -> Trace:
    """The trace with pods that stay for ever."""
    return trace.but(pods=replace(trace.pods, departure_s=np.full_like(trace.pods.departure_s, NEVER)))


def peak(trace: Trace, book: PriceBook) -> tuple[IntArray, int]:
    """Pods per class ``(S,)`` that want to run at the moment when they would cost most at the book's rates, and when."""
    worth = worth_of(trace.specs, book.rates)
    pods = trace.pods
    ends = pods.departure_s != NEVER
    time_s = np.concatenate([pods.departure_s[ends], pods.arrival_s])
    change = np.concatenate([-worth[pods.spec[ends]], worth[pods.spec]])
    order = np.argsort(time_s, kind="stable")  # who leaves in the same second has left
    when = int(time_s[order][int(np.argmax(np.cumsum(change[order])))])
    runs = (pods.arrival_s <= when) & (~ends | (pods.departure_s > when))
    return np.bincount(pods.spec[runs], minlength=len(trace.specs)).astype(np.int64), when


def demand_of(
    trace: Trace, count: IntArray, shapes: Sequence[Shape]
) -> tuple[purchase.Demand, list[purchase.Shape], FloatArray]:
    """The purchase model of ``count`` pods per class: demand, shapes, and exact device shares ``(C,)``."""
    names = sorted({name for shape in shapes for name, _ in shape.allocatable} - {PODS})
    request = [[spec.amount(name) for spec in trace.specs] for name in names]
    request += [[1] * len(trace.specs), [device_units(spec.gpu) for spec in trace.specs]]
    for_sale = []
    for shape in shapes:
        amounts = dict(shape.allocatable)
        capacity = [*(amounts.get(name, 0) for name in (*names, PODS)), DEVICE_UNITS * shape.num_gpus]
        limit = shape.limit or None
        for_sale.append(purchase.Shape(shape.name, np.array(capacity, np.int64), shape.usd_per_hour, limit))
    allowed = np.array(
        [
            [not (spec.gpu and spec.gpu.models) or shape.gpu_model in spec.gpu.models for shape in shapes]
            for spec in trace.specs
        ],
        np.bool_,
    )
    exact = [spec.gpu.count * spec.gpu.milli * DEVICE_UNITS / 1000 if spec.gpu else 0.0 for spec in trace.specs]
    return purchase.Demand(np.array(request, np.int64), count, allowed), for_sale, np.array(exact)


def fleet_row(trace: Trace, book: PriceBook, deadline: Deadline, *, seed: int = 0) -> Row:
    """Cheapest fixed fleet that holds the trace's peak, against multi-type first-fit decreasing."""
    if not book.shapes:
        raise ConfigError("the price book sells no shape; give one with at least one row")
    if not len(trace.pods):
        raise ConfigError(f"trace {trace.manifest.name}: holds no pods, so it needs no fleet; check the trace")
    shapes = list(book.shapes.values())
    trace, ignored = within(trace, shapes)
    count, when = peak(trace, book)
    demand, for_sale, exact = demand_of(trace, count, shapes)
    misfits = purchase.unplaceable(demand, for_sale)
    left_out = int(count[misfits].sum())
    demand.count[misfits] = 0
    rival = purchase.first_fit_decreasing(demand, for_sale)
    assert rival is not None, "classes that fit nowhere were left out"
    bought = purchase.buy(demand, for_sale, deadline, seed=seed)
    wrong = purchase.violations(demand, for_sale, bought)
    assert not wrong, f"the fleet failed its check: {wrong[0]}"
    shared = replace(demand, request=np.concatenate([demand.request[:-1], np.floor(exact)[None].astype(np.int64)]))
    bound = min(bought.bound, purchase.fluid_bound(shared, for_sale)) if exact.any() else bought.bound
    nodes = bought.nodes(len(for_sale))
    return {
        "trace": trace.manifest.name,
        "peak_s": when,
        "pods": int(demand.count.sum()),
        "left_out": left_out,
        "ignored": " ".join(ignored),
        "usd_per_hour": bought.cost,
        "usd_per_month": bought.cost * HOURS_A_MONTH,
        "bound_usd_per_month": bound * HOURS_A_MONTH,
        "gap_percent": 100 * (bought.cost / bound - 1) if bound > 0 else None,
        "ffd_usd_per_month": rival.cost * HOURS_A_MONTH,
        "saving_percent": 100 * (1 - bought.cost / rival.cost) if rival.cost else None,
        "nodes": " ".join(f"{n}x{shape.name}" for n, shape in zip(nodes, for_sale, strict=True) if n),
        "ending": str(bought.ending),
    }
