"""Made-up lives whose length depends on the hour, which trees see and rules on an owner's past do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from simulator.traces.trace import Trace

GIB = 2**30
BEGINS_S = 1_772_409_600
"""A midnight: trees look at the hour only where a trace says when it began."""


def nodes(num: int) -> list[NodeSpec]:
    return [NodeSpec(f"n{i}", ((CPU, 64_000), (MEMORY, 512 * GIB), (PODS, 250))) for i in range(num)]


def spec_of(owner: int, cpu: int = 500) -> PodSpec:
    return PodSpec(((CPU, cpu), (MEMORY, GIB)), owner=f"StatefulSet/job{owner}" if owner >= 0 else "")


def by_the_hour(*, owners: int = 12, hours: int = 36, every_s: int = 600, seed: int = 1, short_s: int = 200) -> Trace:
    """A pod of each owner every so often; in even hours it lives some three minutes, in odd ones some hours."""
    rng = np.random.default_rng(seed)
    pods = []
    for owner in range(owners):
        for at in range(int(rng.integers(1, every_s)), hours * 3600, every_s):
            is_long = at // 3600 % 2
            life = int(rng.uniform(6000, 12_000) if is_long else rng.uniform(0.5, 1.2) * short_s)
            pods.append((f"p{owner}-{at}", spec_of(owner, 500 + 100 * (owner % 3)), at, at + life))
    trace = Trace.of("by-the-hour", nodes(12), pods)
    return trace.but(manifest=replace(trace.manifest, begins_s=BEGINS_S))
