"""Devices one by one: which pods go together on the devices of a node; and shares as whole numbers that pack without waste.

Plans of batches pack shares exactly, device by device, as the ledger has them free. Purchase models round them up instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from placement.pods import GpuRequest, PodSpec
from placement.resources import DEVICE_MILLI, IntArray

WHOLE_DEVICES = "nvidia.com/gpu"
"""What a device plugin offers: whole devices of any model."""
DEVICE_RULES = {"tightest": 0, "random": 1, "scored": 2}
"""Which device a shared pod takes, by the number that kernels know."""
DEVICE_UNITS = 1024
"""A device in the purchase model; shares are rounded up to ½, ¼, ⅛ …, which always pack without waste."""


def device_units(gpu: GpuRequest | None) -> int:
    """What a pod takes of :data:`DEVICE_UNITS` per device, rounded up to a power of two.

    Powers of two that fit in sum fit in fact: largest first, devices fill without gaps.
    """
    if gpu is None:
        return 0
    share = -(-gpu.milli * DEVICE_UNITS // 1000)
    return int(gpu.count * (1 << (share - 1).bit_length()))


MAX_STEPS = 5000
"""Tries of an exact packing of shares before it counts as impossible."""
UNLIMITED = 2**31


def sure_of(left: Sequence[int], hidden: Iterable[GpuRequest]) -> list[int]:
    """Thousandths free of each device of a node however the ``hidden`` pods lie, which run there on devices of which nobody
    has recorded which; ``left`` is without them.

    Any device may hold any of them, as many as fit together beside what is known to be there. Where one fits nowhere, or all
    ask for more than there is, what is known is not so, and nothing is free for certain.
    """
    sums, total, fits = 1, 0, True  # bit s of sums: some of them take s thousandths of one device together
    for gpu in hidden:
        fits = fits and sum(free >= gpu.milli for free in left) >= gpu.count
        sums = (sums | sums << gpu.milli) & ((2 << DEVICE_MILLI) - 1)
        total += gpu.total_milli
    if not fits or total > sum(free for free in left if free > 0):
        return [min(free, 0) for free in left]
    return [free if free <= 0 else free + 1 - (sums & ((2 << free) - 1)).bit_length() for free in left]


def devices_of(specs: Sequence[PodSpec], gpu_free: IntArray) -> Devices | None:
    """What classes take of devices with ``gpu_free`` ``(N, G)`` thousandths left; None when no class takes any."""
    if all(spec.gpu is None for spec in specs):
        return None
    gpus = [(0, 0) if spec.gpu is None else (spec.gpu.count, spec.gpu.milli) for spec in specs]
    count, milli = np.array(gpus, np.int64).reshape(-1, 2).T
    return Devices(np.maximum(gpu_free, 0), count, milli)


@dataclass(frozen=True, eq=False)
class Devices:
    """Devices of nodes, and what classes take of them.

    ``free`` ``(N, G)`` int64 thousandths per device (0 = there is none), ``count`` and ``milli`` ``(C,)`` int64: so many
    devices per pod (0 = none) with so many thousandths on each; shares come on one device.
    """

    free: IntArray
    count: IntArray
    milli: IntArray

    @property
    def are_whole(self) -> bool:
        """Nothing but whole devices is asked for or free: then the sum over a node's devices says all, unless pods hide on
        some."""
        return bool((self.milli[self.count > 0] == DEVICE_MILLI).all() and (self.free % DEVICE_MILLI == 0).all())

    def alone(self) -> IntArray:
        """``(C, N)`` pods of each class that the devices of otherwise unchanged nodes take."""
        room = np.full((len(self.count), len(self.free)), UNLIMITED)
        for c in np.flatnonzero(self.count).tolist():
            if self.milli[c] == DEVICE_MILLI:
                room[c] = (self.free == DEVICE_MILLI).sum(axis=1) // self.count[c]
            else:
                room[c] = (self.free // self.milli[c]).sum(axis=1)
        return room

    def assign(self, node: int, pods: IntArray) -> list[tuple[int, int]] | None:
        """(class, bit mask of devices) of each pod that takes devices, ``pods`` ``(C,)`` of them on ``node``; None if they do
        not fit. Whole devices first, then shares by best fit, largest first; where that fails, by trying all ways."""
        free: list[int] = self.free[node].tolist()
        found: list[tuple[int, int]] = []
        shares: list[tuple[int, int]] = []
        for c in np.flatnonzero((pods > 0) & (self.count > 0)).tolist():
            number, milli = int(self.count[c]), int(self.milli[c])
            for _ in range(int(pods[c])):
                if milli != DEVICE_MILLI:
                    shares.append((milli, c))
                    continue
                whole = [g for g, left in enumerate(free) if left == DEVICE_MILLI][:number]
                if len(whole) < number:
                    return None
                found.append((c, sum(1 << g for g in whole)))
                for g in whole:
                    free[g] = 0
        shares.sort(key=lambda share: (-share[0], share[1]))
        chosen = _pack(free, [milli for milli, _ in shares])
        if chosen is None:
            return None
        return found + [(c, 1 << g) for (_, c), g in zip(shares, chosen, strict=True)]

    def only_classes(self, classes: IntArray) -> Devices:
        """Of some of the classes, or of parts of them."""
        return Devices(self.free, self.count[classes], self.milli[classes])

    def limits(self, node: int, classes: IntArray) -> list[tuple[IntArray, int]]:
        """What every packing on ``node`` keeps: ``(n,)`` devices that a pod of each of ``classes`` counts for, and the most in
        sum. Shares of at least ``s`` number no more than fit when each is exactly ``s``."""
        count, milli, free = self.count[classes], self.milli[classes], self.free[node]
        sizes = np.unique(milli[count > 0]).tolist()
        return [(np.where(milli >= size, count, 0), int((free // size).sum())) for size in sizes]


def _pack(free: list[int], sizes: list[int]) -> list[int] | None:
    """Device of each share, ``sizes`` falling; None if there is no way, or none was found in time."""
    left, chosen = free.copy(), []
    for size in sizes:
        enough = [g for g, room in enumerate(left) if room >= size]
        if not enough:
            break
        best = min(enough, key=left.__getitem__)
        left[best] -= size
        chosen.append(best)
    if len(chosen) == len(sizes):
        return chosen
    if sum(sizes) > sum(free):
        return None
    left, steps = free.copy(), 0

    def fits(number: int) -> list[int] | None:
        nonlocal steps
        if number == len(sizes):
            return []
        size = sizes[number]
        for g in {room: g for g, room in enumerate(left) if room >= size}.values():  # equal devices are one
            steps += 1
            if steps > MAX_STEPS:
                return None
            left[g] -= size
            rest = fits(number + 1)
            left[g] += size
            if rest is not None:
                return [g, *rest]
        return None

    return fits(0)
