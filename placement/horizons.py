"""Windows and statistics of usage that are predicted, by name; on its own because settings need no more than this."""

from __future__ import annotations

HORIZONS = tuple(f"{hours}h-{statistic}" for hours in (1, 6, 24) for statistic in ("peak", "p95"))
