"""Machines that are paid for a term, used or not, beside machines that are paid by the hour.

How long pods run decides: a machine by the hour costs its price for as long as any pod of it runs, a reserved one costs
its rate for its whole term and nothing more. So pods have expected hours of use, and what a node costs in all depends on
the longest of its pods. That is a purchase again (:mod:`placement.planning.purchase`): each shape is offered once per number of
hours, dearer for longer, and only to pods that need no more. Hours are taken to overlap: who runs for less runs while
others do. Everything is in USD per hour over the longest need, so that without commitments nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.purchase import Bought, Demand, Filling, Shape
from placement.resources import FloatArray


@dataclass(frozen=True)
class Offers:
    """``shapes`` for :func:`placement.planning.purchase.buy`, each the offer of shape number ``origin`` for up to some hours."""

    demand: Demand
    shapes: list[Shape]
    origin: tuple[int, ...]


def paid_hours(term_hours: float, used_hours: float) -> float:
    """Hours that a node is paid for: its use, and all of its term if it has one."""
    return max(term_hours, used_hours)


def offers(demand: Demand, shapes: list[Shape], term_hours: FloatArray, hours: FloatArray) -> Offers:
    """The purchase of ``demand`` whose classes run for ``hours`` ``(C,)``; ``term_hours`` ``(S,)``, 0 = by the hour.

    Raises
    ------
    ConfigError : hours or terms are not usable numbers.
    """
    if not (np.isfinite(hours).all() and (hours > 0).all()):
        raise ConfigError("expected hours of use must be finite numbers above 0")
    if not (np.isfinite(term_hours).all() and (term_hours >= 0).all()):
        raise ConfigError("the term of a reservation must be a finite number of hours, 0 = none")
    present = np.unique(hours[demand.count > 0]) if demand.count.any() else np.ones(1)
    longest = float(present[-1])
    offered: list[Shape] = []
    origin: list[int] = []
    used: list[float] = []
    for s, (shape, term) in enumerate(zip(shapes, term_hours.tolist(), strict=True)):
        last_of = {paid_hours(term, u): u for u in present.tolist()}  # those paid alike: the offer for the longest
        for paid, most in last_of.items():
            share = paid / longest
            risk = shape.interruption_usd_per_hour * most / longest
            usd, pool = shape.usd_per_hour * share, shape.pool or f"shape {s}"
            offered.append(replace(shape, usd_per_hour=usd, interruption_usd_per_hour=risk, pool=pool))
            origin.append(s)
            used.append(most)
    reach = np.array(used)
    allowed = demand.allowed[:, origin] & (hours[:, None] <= reach[None, :] * (1 + 1e-12))
    return Offers(replace(demand, allowed=allowed), offered, tuple(origin))


def of_shapes(found: Offers, bought: Bought) -> Bought:
    """What was bought in terms of the original shapes; cost and bound stay USD per hour over the longest need."""
    return replace(bought, fillings=tuple(Filling(found.origin[f.shape], f.counts, f.nodes) for f in bought.fillings))


def violations(
    demand: Demand, shapes: list[Shape], term_hours: FloatArray, hours: FloatArray, plan: Bought
) -> list[str]:
    """What an independent look finds wrong with a plan over the original shapes; empty when it is valid.

    Room, rules and limits, and the bill from its definition: what each node's longest pod makes it cost.
    """
    wrong, total = [], 0.0
    covered, nodes = np.zeros(len(demand.count), np.int64), np.zeros(len(shapes), np.int64)
    for filling in plan.fillings:
        shape, term = shapes[filling.shape], float(term_hours[filling.shape])
        if (demand.request @ filling.counts > shape.capacity).any():
            wrong.append(f"a node of shape {shape.name} is overfull")
        if (filling.counts[~demand.allowed[:, filling.shape]] > 0).any():
            wrong.append(f"a pod is on shape {shape.name}, which its rules exclude")
        used = float(hours[filling.counts > 0].max(initial=0.0))
        bill = shape.usd_per_hour * max(term, used) + shape.interruption_usd_per_hour * used
        total += filling.nodes * bill
        covered += filling.nodes * filling.counts
        nodes[filling.shape] += filling.nodes
    wrong += [f"class {c} lacks {demand.count[c] - covered[c]} pods" for c in np.flatnonzero(covered < demand.count)]
    keys = [shape.pool or (s,) for s, shape in enumerate(shapes)]
    for key, shape in zip(keys, shapes, strict=True):
        number = sum(int(n) for n, other in zip(nodes, keys, strict=True) if other == key)
        if shape.limit is not None and number > shape.limit:
            wrong.append(f"{number} nodes of shape {shape.name}, limit {shape.limit}")
    said = plan.cost * float(hours[demand.count > 0].max(initial=0.0))
    if total > said + 1e-9 * max(said, 1.0):
        wrong.append(f"the plan says it costs {said:g} USD in all, its nodes cost {total:g}")
    return wrong
