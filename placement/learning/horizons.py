"""What settings need to know of learning, and no more than this: windows that are predicted, and of how many workloads."""

from __future__ import annotations

HORIZONS = tuple(f"{hours}h-{statistic}" for hours in (1, 6, 24) for statistic in ("peak", "p95"))
"""Windows and statistics of usage that are predicted, by name."""

MOST_WORKLOADS = 2_000
"""Of which a service keeps histories unless told otherwise: at 129 kB each, a quarter of the GiB that our manifests allow."""
EVERY_WORKLOAD = 10**6
"""What ``max_workloads`` is for commands and replays, which end, and may use the memory of the machine they run on."""
