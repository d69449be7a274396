"""Beyond the anchor: the FGD paper's pods with departures, in steady state.

Pods are resampled from an openb list as (request, lifetime) pairs, lifetimes cut at one day (ten pods hold half of the GPU
time otherwise), and arrive as a Poisson process whose offered load is Σ GPU × lifetime over the fleet's GPU time. The replay
starts full: residents are drawn in proportion to request-independent presence (rate × lifetime) with a uniform residual, as
renewal theory has it, and arrive in the first second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.resources import GPU_SHARE
from simulator.traces.trace import NEVER, Manifest, Pods, Trace, Usage

DAY_S = 86_400
MOST_PODS = 10_000_000
"""What is above is a slip, and would fill the memory first."""


@dataclass(frozen=True)
class Churn:
    """How to resample."""

    load: float = 1.0
    """Offered GPU time over the fleet's."""
    mean_lifetimes: float = 20.0
    """Length of the replay, in mean lifetimes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.load <= 10 or self.mean_lifetimes <= 0:
            raise ConfigError(f"churn: load={self.load}, mean_lifetimes={self.mean_lifetimes} must be > 0 (load <= 10)")


def resample(trace: Trace, churn: Churn) -> Trace:
    """A steady-state workload out of a trace's own (request, lifetime) pairs; what its pods used and its log stay behind.

    Raises
    ------
    ConfigError : no pod has a lifetime, there is no GPU time to offer or to ask for, or far too many pods would come.
    """
    pods = trace.pods
    pairs = np.flatnonzero((pods.departure_s != NEVER) & (pods.departure_s > pods.arrival_s))
    if not len(pairs):
        raise ConfigError(f"trace {trace.manifest.name}: no pod has a lifetime; churn needs departures")
    life = np.minimum((pods.departure_s - pods.arrival_s)[pairs], DAY_S)
    spec = pods.spec[pairs]
    gpu = np.array([s.amount(GPU_SHARE) for s in trace.specs], np.float64)[spec]
    fleet = sum(n.amounts.get(GPU_SHARE, 0) for n in trace.nodes)
    if not fleet or not gpu.any():
        who = "no pod that ends asks for a GPU" if fleet else "its fleet has no GPU"
        raise ConfigError(f"trace {trace.manifest.name}: {who}; churn offers load in GPU time")
    rng = np.random.default_rng([churn.seed, 0xC0DE])
    rate = churn.load * fleet / float((gpu * life).mean())
    horizon = int(churn.mean_lifetimes * life.mean())
    expected = rate * (horizon + float(life.mean()))
    if expected > MOST_PODS:
        raise ConfigError(
            f"trace {trace.manifest.name}: {churn} would make {expected:,.3g} pods, more than {MOST_PODS:,}; "
            "give a smaller load, or fewer lifetimes"
        )
    num = int(rng.poisson(rate * horizon))
    drawn = rng.integers(0, len(pairs), num)
    arrival = np.sort(rng.integers(1, max(horizon, 2), num))
    # Present at the start: Poisson with mean rate × E[life]; a resident's length is life-biased, its residual uniform.
    present = int(rng.poisson(rate * float(life.mean())))
    resident = rng.choice(len(pairs), present, p=life / life.sum())
    residual = np.maximum((rng.random(present) * life[resident]).astype(np.int64), 1)
    chosen = np.concatenate([resident, drawn])
    start = np.concatenate([np.zeros(present, np.int64), arrival])
    lasting = np.concatenate([residual, life[drawn]])
    made = Pods.of(
        name=np.array([f"pod-{i:06d}" for i in range(len(chosen))], object),
        spec=spec[chosen],
        arrival_s=start,
        departure_s=start + lasting,
    )
    notes = (f"resampled from {trace.manifest.name}: {churn}", f"{present} residents at the start")
    return trace.but(
        manifest=Manifest(f"{trace.manifest.name}-load-{100 * churn.load:g}", "churn", churn.seed, notes),
        pods=made,
        usage=Usage.empty(),
        events=(),
    )
