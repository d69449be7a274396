"""Deployments are rolled out now and then; that is when pods that run already come to ask for less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulator.usage.usage_truth import RESTART_S

if TYPE_CHECKING:
    from simulator.replay import Replay


@dataclass
class Rollouts:
    """Each workload is rolled out once a week, at an hour drawn with the seed: its pods restart one after the other."""

    seed: int = 0
    hours: int = 168
    every_s: int = 3600

    def act(self, replay: Replay) -> None:
        """Restart what is due in this hour."""
        hour = replay.time_s // self.every_s % self.hours
        owners = {name: i for i, name in enumerate(sorted({s.owner for s in replay.trace.specs}))}
        due = np.random.default_rng([self.seed, 0x2011]).integers(0, self.hours, len(owners)) == hour
        for uid in [r.uid for r in replay.state.residents.values() if due[owners[r.spec.owner]]]:
            replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)
