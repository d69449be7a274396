"""The one object that decides, live and simulated alike.

A :class:`Strategy` is frozen: scorers with weights, a device rule, a tie-break. It reads a
:class:`~placement.state.Snapshot` (ledger and knowledge) and gives a :class:`Decision`; somebody else makes the
decision true. Randomness is an argument (``draw``), so equal questions get equal answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from placement.devices import DEVICE_RULES
from placement.errors import ConfigError
from placement.knowledge import Knowledge
from placement.pods import PodSpec
from placement.program import TIES, Program
from placement.resources import BoolArray, IntArray
from placement.scorers import Emptying, ExitTime, FitsWindows, Hot, LoadAware, UsageThresholds, Weighted
from placement.state import ClusterState, Snapshot

NEEDS = ("workload", "prices")
MAX_PRIORITY = 10
"""An extender's marks are 0–10 (``extender/v1.MaxExtenderPriority``)."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to "where should a pod of this class go?"."""

    row: int
    """Node row, −1 if it fits nowhere."""
    node: str
    devices: int
    """Bit mask of device indices."""
    score: int
    version: int
    """Ledger version that was seen."""
    strategy: str
    knowledge: str
    """Digests of what decided."""

    @property
    def is_placed(self) -> bool:
        """Whether a node was found."""
        return self.row >= 0


@dataclass(frozen=True)
class Strategy:
    """How to choose. See :data:`placement.strategies.STRATEGIES` for those that ship."""

    name: str
    scorers: tuple[Weighted, ...]
    devices: str = "tightest"
    """Which device a shared pod takes: tightest, random, or scored (by the scorer that prices devices)."""
    ties: str = "first"
    """Equal scores: the first node in ledger order, or a random one."""
    soft: bool = False
    """Add kube-scheduler's soft rules, which are relative to the candidates."""
    leaving: tuple[Weighted, ...] = ()
    """What is added up instead of ``scorers`` once pods have been seen to leave (``Workload.leaving``); empty: no change."""
    bare: tuple[Weighted, ...] = ()
    """What is added up instead where pods are known and none asks for a device; empty: no change."""
    needs: tuple[str, ...] = ()
    """Parts of Knowledge without which it cannot decide, of :data:`NEEDS`."""
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.devices not in DEVICE_RULES:
            raise ConfigError(
                f"strategy {self.name}: devices is {self.devices!r}, must be one of {', '.join(DEVICE_RULES)}"
            )
        if self.ties not in TIES:
            raise ConfigError(f"strategy {self.name}: ties is {self.ties!r}, must be one of {', '.join(TIES)}")
        unknown = [need for need in self.needs if need not in NEEDS]
        if unknown:
            raise ConfigError(f"strategy {self.name}: needs {unknown[0]!r}, must be among {', '.join(NEEDS)}")

    @property
    def kind(self) -> str:
        """``absolute`` if a node's score never depends on who else is a candidate, else ``relative``."""
        relative = self.soft or any(w.scorer.kind == "relative" for w in self.all_terms)
        return "relative" if relative else "absolute"

    @property
    def all_terms(self) -> tuple[Weighted, ...]:
        """Everything that may be added up."""
        return (*self.scorers, *self.leaving, *self.bare)

    @cached_property
    def digest(self) -> str:
        """Names this strategy, parameters included, in every decision; equal across processes."""
        parts = [self.name, self.devices, self.ties, str(self.soft)]
        parts += [str(weighted) for weighted in self.scorers]
        parts += [f"leaving {weighted}" for weighted in self.leaving]
        parts += [f"bare {weighted}" for weighted in self.bare]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]

    @property
    def reads_lifetimes(self) -> bool:
        """Whether how long pods live has a say."""
        return any(isinstance(w.scorer, Emptying | ExitTime) for w in self.all_terms)

    @property
    def reads_usage(self) -> bool:
        """Whether predicted use has a say."""
        return any(isinstance(w.scorer, Hot | LoadAware | FitsWindows | UsageThresholds) for w in self.all_terms)

    @property
    def reads_parts(self) -> bool:
        """Whether usage by part of the day has a say."""
        return any(isinstance(w.scorer, FitsWindows) for w in self.all_terms)

    def terms(self, knowledge: Knowledge) -> tuple[Weighted, ...]:
        """What is added up, given what is known."""
        workload = knowledge.workload
        if workload is None or not workload.kinds:
            return self.scorers
        if self.bare and not any(kind.count for kind in workload.kinds):
            return self.bare
        return self.leaving if self.leaving and workload.leaving else self.scorers

    def program(self, state: ClusterState) -> Program:
        """This strategy compiled against a ledger; kept by the ledger, invisible in answers.

        Raises
        ------
        ConfigError : it needs a part of knowledge that is not there.
        """
        program: Program | None = state.programs.get(self.digest)
        if program is None:
            for need in self.needs:
                if getattr(state.knowledge, need) is None:
                    raise ConfigError(
                        f"strategy {self.name} needs {need}, which nothing has been learned of yet; "
                        "give a workload to learn from, or choose a strategy without"
                    )
            program = state.programs[self.digest] = Program(self, state)
        return program

    def decide(self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None, draw: int = 0) -> Decision:
        """Choose a node and devices for one pod.

        Parameters
        ----------
        candidates : ``(N,)`` bool, the nodes that may be chosen; None = all.
        draw : non-negative random integer that settles random ties and devices.

        Raises
        ------
        ConfigError : the strategy needs a part of knowledge that is not there.
        """
        state = snapshot.state
        program = state.programs.get(self.digest) or self.program(state)
        row, score, devices = program.decide(spec, candidates, draw)
        name = state.names[row] if row >= 0 else ""
        return Decision(row, name, devices, score, state.version, self.digest, state.knowledge.digest)

    def scores(self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None) -> IntArray:
        """``(N,)`` int64, higher is better, :data:`~placement.resources.NOT_FEASIBLE` where the pod may not go. A copy."""
        return self.program(snapshot.state).scores_among(spec, candidates).copy()

    def priorities(self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None) -> IntArray:
        """``(N,)`` int64 marks 0–10: the best node alone has 10, the rest share 0–9 by score, losers get 0.

        Marks are spread over the range between the worst and the best feasible score, so that kube-scheduler's
        weight has something to multiply; only the absolute order decides who has the 10.
        """
        program = self.program(snapshot.state)
        return program.marks(program.scores_among(spec, candidates), MAX_PRIORITY)
