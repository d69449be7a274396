"""Learns while serving how long pods live: looks at the ledger now and then, and tells it what came and what went.

The pods are compared with those of the last look, so a lifetime is known to within one interval. A pod that was there at
the first look counts from then: its true age is not in the ledger, and too low an age errs towards "may end soon".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from placement.survival import LifeHistory
from scheduler.engine import Engine


class LifetimeLearner:
    """For strategies that read lifetimes; others are left alone, since each telling makes cached scores stale."""

    def __init__(self, engine: Engine, every_s: float, is_ready: Callable[[], bool]) -> None:
        self.engine = engine
        self.every_s = every_s
        self.is_ready = is_ready
        self.history = LifeHistory()

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return self.every_s > 0 and self.engine.strategy.reads_lifetimes

    def look(self) -> None:
        """Compare, and enter a new version of knowledge."""
        ledger, history = self.engine.ledger, self.history
        now_s, residents = ledger.time_s, ledger.state.residents
        for uid in sorted(history.running - residents.keys()):
            history.ended(uid, now_s)
        for uid in sorted(residents.keys() - history.running):
            history.began(uid, residents[uid].spec, min(residents[uid].since_s, now_s))
        history.pass_by(now_s)
        known = history.lifetimes((), now_s)
        ledger.state.learn(ledger.state.knowledge.but(lifetimes=known), time_s=now_s)

    async def run(self) -> None:
        """Look every so often, once the ledger is complete."""
        while True:
            await asyncio.sleep(self.every_s)
            if self.is_ready():
                self.look()
