"""Reports of several seeds as one: means under the same keys, beside them the spread and every single report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def pooled(reports: Sequence[Report], seeds: Sequence[int], headline: Sequence[str]) -> dict[str, Any]:
    """One report of one per seed: numbers are means; ``spread`` holds least and most of the ``headline`` keys.

    Texts and flags that differ between seeds become a list, in the order of the seeds. A single report stays as it is.
    """
    if len(reports) == 1:
        return {**reports[0], "seeds": list(seeds)}
    spread = {key: _ranges([report[key] for report in reports]) for key in headline}
    means = {key: _mean([report[key] for report in reports]) for key in reports[0]}
    return {**means, "seed": seeds[0], "seeds": list(seeds), "spread": spread, "by_seed": [dict(r) for r in reports]}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shared(values: Sequence[Report]) -> list[str]:
    return [key for key in values[0] if all(key in value for value in values)]


def _mean(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Mapping) for value in values):
        return {key: _mean([value[key] for value in values]) for key in _shared(values)}
    if all(value == values[0] for value in values):
        return values[0]
    if all(_is_number(value) for value in values):
        return sum(values) / len(values)
    return list(values)


def _ranges(values: Sequence[Any]) -> Any:
    """Least and most of every number; what is no number is left out."""
    if all(isinstance(value, Mapping) for value in values):
        found = {key: _ranges([value[key] for value in values]) for key in _shared(values)}
        return {key: value for key, value in found.items() if value is not None}
    return {"least": min(values), "most": max(values)} if all(_is_number(value) for value in values) else None
