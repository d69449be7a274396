"""Resource names, units and quantities.

Every amount in Ullage is an integer in kube-scheduler's own unit: millicores for ``cpu``, bytes for
``memory`` and ``ephemeral-storage``, a count for everything else. Rounding happens once, here, and
always against us: demand is rounded up, as ``resource.Quantity.MilliValue`` and ``.Value`` round, and what a
node offers is rounded down (kube-scheduler rounds that up as well: parts of a byte that nobody offers).

GPU shares are counted twice on purpose: per device in the ledger's device table, and in total under
:data:`GPU_SHARE`, the extended resource that kube-scheduler itself knows.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placement.errors import ConfigError, TooLarge

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]

NOT_FEASIBLE = -(2**62)
"""Score of a node that a hard rule, its free resources, or a scorer that admits excludes."""

NOT_OFFERED = 1
"""Code of a node that the caller left out; codes of other reasons are their owner's, 0 is none."""

CPU = "cpu"
MEMORY = "memory"
PODS = "pods"
STORAGE = "ephemeral-storage"

DOMAIN = "ullage.dev"
"""Prefix of every label, annotation and resource name that is ours."""

GPU_SHARE = f"{DOMAIN}/gpu-milli"
"""Extended resource: thousandths of a GPU, summed over a node's devices (1000 per device)."""

DEVICES_ANNOTATION = f"{DOMAIN}/devices"
"""Annotation on a bound pod: comma-separated device indices that Ullage chose, e.g. ``"0,3"``."""

GPU_COUNT_ANNOTATION = f"{DOMAIN}/gpu-count"
"""Annotation on a pod: over how many devices its :data:`GPU_SHARE` is spread evenly; absent = 1."""

GPU_MODEL_ANNOTATION = f"{DOMAIN}/gpu-models"
"""Annotation on a pod: ``|``-separated device models that it accepts; absent = any."""

GPU_MODEL_LABEL = f"{DOMAIN}/gpu-model"
"""Label on a node: the model of its devices."""

PLAN_GATE = f"{DOMAIN}/plan"
"""Scheduling gate of pods that want to be planned in a batch."""

BASE_RESOURCES = (CPU, MEMORY, PODS, GPU_SHARE)
"""The first entries of every resource axis, in this order."""

DEVICE_MILLI = 1000
"""Shares of one whole device."""

MAX_DEVICES = 63
"""Of one node: devices are bits of an int64."""

MAX_AMOUNT = 2**62
"""Quantities at or above this are refused: the sum of two would leave int64. The ledger adds up many, and caps them."""

MOST_COUNTED = 2**50
"""A request from here on counts as this much, and a node offers less: it fits nowhere, and where it was bound by hand
nothing fits beside it. So what thousands of such pods take on one node stays within int64."""

DEFAULT_CPU_MILLICORES = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
"""What kube-scheduler's scores assume for a container without a request
(``pkg/scheduler/util/pod_resources.go``); its filters assume zero."""

_SUFFIX: dict[str, Decimal] = {
    "": Decimal(1),
    **{s: Decimal(10) ** e for s, e in (("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9))},
    **{s: Decimal(10) ** e for s, e in (("T", 12), ("P", 15), ("E", 18))},
    **{s: Decimal(2) ** e for s, e in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60))},
}
_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?$", re.ASCII)


MAX_LETTERS = 100
"""Of a quantity; API servers write far shorter ones, and those that were read are remembered."""


def parse_quantity(text: str | int | float, resource: str, *, offered: bool = False) -> int:
    """Amount of ``resource`` in its integer unit, from a Kubernetes quantity.

    Parameters
    ----------
    text : a quantity such as ``"500m"``, ``"1Gi"``, ``2``.
    resource : the resource's name; decides the unit (millicores for ``cpu``).
    offered : round down (what a node offers) instead of up (what a pod asks for).

    Raises
    ------
    ConfigError : the text is not a quantity or is negative. TooLarge : it is too large to add up.
    """
    written = str(text).strip()
    try:
        return _amount(written if len(written) <= MAX_LETTERS else "", 1000 if resource == CPU else 1, offered)
    except ConfigError as error:
        raise type(error)(f"quantity {written[:MAX_LETTERS]!r} of {resource} {error}") from error


@lru_cache(maxsize=1 << 16)
def _amount(text: str, scale: int, offered: bool) -> int:
    match = _QUANTITY.match(text)
    if match is None:
        raise ConfigError("does not parse; write a number with m, k, M, G, Ki, Mi, Gi …")
    try:
        value = Decimal(match[1] + (match[2] or "")) * _SUFFIX[match[3] or ""] * scale
    except ArithmeticError as error:
        raise TooLarge("is too large; it must stay below 2^62") from error
    if value < 0:
        raise ConfigError("is negative; requests and capacities are >= 0")
    if value >= MAX_AMOUNT:
        raise TooLarge("is too large; it must stay below 2^62")
    return int(value.to_integral_value(ROUND_FLOOR if offered else ROUND_CEILING))


def whole_number(text: str) -> int | None:
    """The number that an annotation writes in at most six ASCII digits; None for anything else.

    >>> whole_number("12"), whole_number("²"), whole_number("-1")
    (12, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def format_amount(amount: float, resource: str) -> str:
    """``amount`` of ``resource`` for people: cores, GiB, or a plain count."""
    scale, unit = {
        CPU: (1000, " cores"),
        MEMORY: (2**30, " GiB"),
        STORAGE: (2**30, " GiB"),
        GPU_SHARE: (DEVICE_MILLI, " GPU"),
    }.get(resource, (1, ""))
    number = amount / scale
    if abs(number) >= 1000:
        return f"{number:,.0f}{unit}"
    return f"{number:.4g}{unit}" if scale == 2**30 else f"{number:g}{unit}"
