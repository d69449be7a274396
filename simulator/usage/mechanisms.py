"""Real use in a replay, what is learned from it, and the mechanism that overcommits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from placement.errors import ConfigError
from placement.learning.prediction import Rungs
from simulator.usage.reclaiming import Reclaiming
from simulator.usage.rightsizing import Restoring, Rightsizing
from simulator.usage.usage_learner import UsageLearner
from simulator.usage.usage_truth import UsageTruth

if TYPE_CHECKING:
    from simulator.replay import Policy
    from simulator.traces.trace import Trace

MECHANISMS = ("none", "rightsized", "reclaimed")
"""How a replay may overcommit: not at all, by lower requests, by capacity that is sold a second time."""


def use_policies(
    trace: Trace, mechanism: str, measured_from_s: int, rungs: Rungs, *, siblings: bool = False,
    kept_namespaces: frozenset[str] = frozenset(),
) -> tuple[UsageTruth, tuple[Policy, ...]]:  # fmt: skip
    """Real use, what is learned from it, and the mechanism that overcommits, for a trace with usage.

    Guaranteed pods and those of ``kept_namespaces`` keep their requests under either mechanism.

    Raises
    ------
    ConfigError : no such mechanism, or the trace has no usage.
    """
    if mechanism not in MECHANISMS:
        raise ConfigError(f"mechanism {mechanism!r} is not one of {', '.join(MECHANISMS)}")
    if not len(trace.usage.pod):
        raise ConfigError(
            f"trace {trace.manifest.name} records no usage; join it with a recording first: ullage trace join"
        )
    truth = UsageTruth(trace.usage, measured_from_s=measured_from_s)
    learner = UsageLearner(truth, rungs, siblings=siblings)
    rightsizing = Rightsizing(learner, kept_namespaces=kept_namespaces)
    more: dict[str, tuple[Policy, ...]] = {
        "rightsized": (rightsizing, Restoring(rightsizing)),
        "reclaimed": (Reclaiming(truth, kept_namespaces=kept_namespaces),),
    }
    return truth, (truth, learner, *more.get(mechanism, ()))
