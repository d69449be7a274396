"""What a core, a GiB and a GPU cost an hour where nobody says otherwise: the default rates of OpenCost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """USD an hour per core, GiB and GPU; OpenCost's defaults (``configs/default.json``)."""

    cpu: float = 0.031611
    memory_gib: float = 0.004237
    gpu: float = 0.95
    spot_cpu: float = 0.006655
    spot_memory_gib: float = 0.000892
    spot_gpu: float = 0.308


RATES = Rates()
HOURS_A_MONTH = 730
MOST_USD = 1e6
"""An hour, a move or an interruption: beyond it a price is a mistake, and solvers lose its small change."""
