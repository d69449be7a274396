"""What a price book sells to a purchase: by the hour, as spot, reserved for a term, and what is reserved and unused."""

from __future__ import annotations

from collections.abc import Iterable

from placement.nodes import NodeSpec
from placement.planning.make import SaleShape
from simulator.cost import PriceBook
from simulator.fleet import Shape


def for_sale(
    book: PriceBook, nodes: Iterable[NodeSpec] = (), *, spot: bool = False, risk: float = 0.0
) -> tuple[SaleShape, ...]:
    """Everything on offer beside ``nodes``; spot at ``risk`` USD an hour for interruptions on top, where ``spot`` is wanted.

    Nodes of a shape that is reserved use its reservations up first; what is left of those costs nothing extra.
    """
    running: dict[str, int] = {}
    for node in nodes:
        if not node.spot:
            running[node.shape] = running.get(node.shape, 0) + 1
    found: list[SaleShape] = []
    for shape in book.shapes.values():
        found.append(_sale(shape, shape.name, shape.usd_per_hour, shape.limit, pool=shape.name))
        if spot and shape.spot_usd_per_hour:
            name = f"{shape.name} (spot)"
            found.append(_sale(shape, name, shape.spot_usd_per_hour, shape.limit, pool=shape.name, risk=risk))
        reserved = book.reservations.get(shape.name)
        if reserved is None:
            continue
        if reserved.usd_per_hour:
            rate, term = reserved.usd_per_hour, reserved.term_hours
            found.append(_sale(shape, f"{shape.name} (reserved)", rate, reserved.limit, term_hours=term))
        unused = reserved.owned - running.get(shape.name, 0)
        if unused > 0:
            found.append(_sale(shape, f"{shape.name} (reserved, unused)", 0.0, unused))
    return tuple(found)


def _sale(
    shape: Shape,
    name: str,
    usd: float,
    limit: int,
    *,
    pool: str = "",
    risk: float | None = None,
    term_hours: float = 0.0,
) -> SaleShape:
    return SaleShape(
        name,
        dict(shape.allocatable),
        usd,
        limit or None,
        risk is not None,
        risk or 0.0,
        shape.num_gpus,
        shape.gpu_model,
        term_hours,
        pool if limit else "",
    )
