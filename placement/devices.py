"""Shares of devices as whole numbers that pack without waste, for purchase models."""

from __future__ import annotations

from placement.pods import GpuRequest

WHOLE_DEVICES = "nvidia.com/gpu"
"""What a device plugin offers: whole devices of any model."""
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
