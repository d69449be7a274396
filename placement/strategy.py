"""The one object that decides, live and simulated alike.

A :class:`Strategy` is frozen: scorers with weights, a device rule, a tie-break. It reads a
:class:`~placement.state.Snapshot` (ledger and knowledge) and gives a :class:`Decision`; somebody else makes the
decision true. Randomness is an argument (``draw``), so equal questions get equal answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from placement.errors import ConfigError
from placement.knowledge import Knowledge
from placement.pods import PodSpec
from placement.program import DEVICE_RULES, NOT_FEASIBLE, TIES, Program
from placement.resources import PODS, BoolArray, IntArray
from placement.scorers import SCORERS, Emptying, ExitTime, FitsWindows, Hot, LoadAware, Scorer, UsageThresholds
from placement.soft import soft_score
from placement.state import NUM_DERIVED, ClusterState, Snapshot

PREDICTED_FULL = "predicted use exceeds what the strategy allows on the node"
UNRECORDED = "devices may be those of running pods without the annotation ullage.dev/devices"
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


@dataclass(frozen=True, slots=True)
class Weighted:
    """A scorer and how loud it is; negative turns it round."""

    scorer: Scorer
    weight: int = 1

    @property
    def name(self) -> str:
        """The scorer as a TOML calls it."""
        return scorer_name(self.scorer)


@dataclass(frozen=True)
class Explanation:
    """Why a decision is what it is."""

    decision: Decision
    runner_up: str
    reasons: dict[str, tuple[str, ...]]
    """Rejected nodes by reason."""
    parts: dict[str, dict[str, int]]
    """Node → scorer → weighted part, for the best candidates."""
    totals: dict[str, int] = field(default_factory=dict)


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
    """Parts of Knowledge without which it cannot decide: ``workload``, ``prices``."""
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.devices not in DEVICE_RULES:
            raise ConfigError(
                f"strategy {self.name}: devices is {self.devices!r}, must be one of {', '.join(DEVICE_RULES)}"
            )
        if self.ties not in TIES:
            raise ConfigError(f"strategy {self.name}: ties is {self.ties!r}, must be one of {', '.join(TIES)}")

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
        parts += [_text(weighted) for weighted in self.scorers]
        parts += [f"leaving {_text(weighted)}" for weighted in self.leaving]
        parts += [f"bare {_text(weighted)}" for weighted in self.bare]
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
        """This strategy compiled against a ledger; kept by the ledger, invisible in answers."""
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
        """
        state = snapshot.state
        program = state.programs.get(self.digest) or self.program(state)
        row, score, devices = program.decide(spec, candidates, draw)
        name = state.names[row] if row >= 0 else ""
        return Decision(row, name, devices, score, state.version, self.digest, state.knowledge.digest)

    def scores(self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None) -> IntArray:
        """``(N,)`` int64, higher is better, :data:`NOT_FEASIBLE` where the pod may not go. A copy."""
        return self.program(snapshot.state).scores_among(spec, candidates).copy()

    def priorities(self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None) -> IntArray:
        """``(N,)`` int64 marks 0–10: the best node alone has 10, the rest share 0–9 by score, losers get 0.

        Marks are spread over the range between the worst and the best feasible score, so that kube-scheduler's
        weight has something to multiply; only the absolute order decides who has the 10.
        """
        program = self.program(snapshot.state)
        return program.marks(program.scores_among(spec, candidates), MAX_PRIORITY)

    def soft_scores(self, state: ClusterState, spec: PodSpec, feasible: BoolArray) -> IntArray | None:
        """kube-scheduler's soft rules among feasible nodes, ``(N,)`` int64, or None if no wish applies."""
        return soft_score(state.rules, spec, feasible)

    def explain(
        self, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None, *, draw: int = 0, top: int = 5
    ) -> Explanation:
        """Everything behind :meth:`decide` on the same question: reasons, parts, runner-up."""
        state = snapshot.state
        program = self.program(state)
        decision = self.decide(snapshot, spec, candidates, draw)
        scores = program.scores_among(spec, candidates)
        order = np.argsort(-scores, kind="stable")
        best = [int(r) for r in order[: max(top, 2)] if scores[r] > NOT_FEASIBLE]
        if decision.row >= 0:
            best = [decision.row, *(r for r in best if r != decision.row)][: max(top, 2)]
        parts = program.parts(spec, np.array(best, np.int64)) if best else np.zeros((0, 0), np.int64)
        names = program.names
        named = {
            state.name(row): {name: int(parts[i, j]) for i, name in enumerate(names)} for j, row in enumerate(best)
        }
        return Explanation(
            decision=decision,
            runner_up=state.name(best[1]) if len(best) > 1 else "",
            reasons=reasons(state, program, spec, candidates),
            parts=named,
            totals={state.name(row): int(scores[row]) for row in best},
        )


def reasons(
    state: ClusterState, program: Program, spec: PodSpec, candidates: BoolArray | None
) -> dict[str, tuple[str, ...]]:
    """Rejected nodes by the first rule that rejects them, in kube-scheduler's order and words."""
    grouped: dict[str, list[str]] = {}
    text = state.rules.reasons(spec)
    demand = program.demands[program._class(spec)]
    lanes = [lane for lane in range(NUM_DERIVED, len(demand.delta)) if demand.delta[lane] > 0]
    hides = state.hides_devices(spec)
    for row, node in enumerate(state.nodes):
        if node is None:
            continue
        reason = "not offered by the caller" if candidates is not None and not candidates[row] else text[row]
        if not reason:
            short = [
                state.resources[lane - NUM_DERIVED]
                for lane in lanes
                if state.taken[lane, row] + demand.delta[lane] > state.offered[lane, row]
            ]
            if short:
                reason = "Too many pods" if short == ["pods"] else f"Insufficient {', '.join(short)}"
            elif not program.fits(demand, np.array([row]))[0]:
                reason = UNRECORDED if hides[row] else "no device with enough free share"
            elif not program.admitted(demand, np.array([row]))[0]:
                reason = PREDICTED_FULL
        if reason:
            grouped.setdefault(reason, []).append(node.name)
    return {reason: tuple(names) for reason, names in sorted(grouped.items())}


def main_reason(snapshot: Snapshot, strategy: Strategy, spec: PodSpec) -> str:
    """The one rule that keeps a pod off most nodes: vectorised, for counting rather than explaining."""
    state = snapshot.state
    program = strategy.program(state)
    num = state.num_rows
    alive = state.is_alive[:num]
    if not alive.any():
        return "no node"
    permitted = state.rules.static_mask(spec)[:num]  # of nodes that are there
    demand = program.demands[program._class(spec)]

    def count(broken: BoolArray) -> int:
        return int(np.count_nonzero(broken & permitted))

    tally = {"a node rule (selector, taint, device model)": int(np.count_nonzero(alive > permitted))}
    for lane in np.flatnonzero(demand.delta[NUM_DERIVED:] > 0) + NUM_DERIVED:
        name = state.resources[lane - NUM_DERIVED]
        tally["Too many pods" if name == PODS else f"Insufficient {name}"] = count(
            state.taken[lane, :num] + demand.delta[lane] > state.offered[lane, :num]
        )
    if demand.count:
        enough = state.gpu_free[:num] >= demand.milli
        tally["no device with enough free share"] = count(np.count_nonzero(enough, axis=1) < demand.count)
    if program.admits:
        tally[PREDICTED_FULL] = count(~program.admitted(demand, np.arange(num)))
    if state.rules.is_relational(spec):
        tally["a rule about other pods (ports, affinity, spread)"] = count(~state.rules.relational_mask(spec)[:num])
    return max(tally.items(), key=lambda item: item[1])[0]


def _text(weighted: Weighted) -> str:
    return f"{weighted.name}*{weighted.weight}{sorted(asdict_of(weighted.scorer).items())}"


def scorer_name(scorer: Scorer) -> str:
    """The name by which a TOML calls a scorer."""
    return next((name for name, kind in SCORERS.items() if kind is type(scorer)), type(scorer).__name__)


def asdict_of(scorer: Scorer) -> dict[str, Any]:
    """A scorer's parameters by name."""
    return asdict(scorer)  # type: ignore[call-overload]  # every scorer is a dataclass
