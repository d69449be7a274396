"""What has been done of a plan, on disk: written before and after every act, so that a kill at any point loses nothing.

The file holds the plan itself and the state of each step. It is replaced whole (written beside, synced, renamed), and
one process at a time may work on it.
Records of plans that were applied over gRPC are in a folder of ours, and go when they are old; a record beside a plan of
somebody's is theirs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from placement.errors import UNREADABLE, ConfigError, why
from placement.planning.make import plan_document, plan_of_document
from placement.planning.plans import Action, Plan, Step
from placement.whole_files import is_at, whole_file
from scheduler.errors import RecordError

KIND = "PlanRecord"
VERSION = 1
SUFFIX = ".record.json"
"""Ends the name of a record's file."""


class State(StrEnum):
    """Where one step stands."""

    PENDING = "pending"
    STARTED = "started"
    """It is about to be done, or was done and the answer is not known: to be looked up."""
    EVICTED = "evicted"
    """The pod is gone; its replacement is awaited."""
    DONE = "done"
    FAILED = "failed"
    """Reality left the plan here; ``reason`` says how."""


class PlanState(StrEnum):
    """How applying a plan ended, or that it has not."""

    RUNNING = "running"
    """Not finished: the same command goes on."""
    DONE = "done"
    STOPPED = "stopped"
    """Reality left the plan; what was held for it is given back."""
    ABANDONED = "abandoned"
    """Somebody asked to give it up; what was held for it is given back."""


class StepRecord(Struct, omit_defaults=True):
    """One step."""

    state: State = State.PENDING
    known: list[str] = []
    """UIDs of the pods of the same template before the eviction: a replacement is none of these."""
    template: tuple[str, str, str] = ("", "", "")
    """(namespace, owner, template hash) of the pod."""
    replacement: str = ""
    """UID of the pod that came for the evicted one."""
    replacement_name: str = ""
    actual: str = ""
    """Node where the pod or its replacement ended."""
    reason: str = ""
    """Why ``actual`` is not what was planned, or what is awaited."""


class PlanRecord(Struct, omit_defaults=False):
    """The file."""

    kind: str
    version: int
    id: str
    plan: dict[str, Any]
    outcome: PlanState
    steps: list[StepRecord]
    reason: str = ""
    evictions: int = 0
    cordoned: list[str] = []
    """Nodes that this plan cordoned and has not opened again."""
    nominated: dict[str, tuple[str, str, str]] = {}
    """UID → (namespace, name, node) of nominations for this plan that have not ended."""
    marked: dict[str, tuple[str, str]] = {}
    """UID → (namespace, name) of pods that carry the target of their replacement."""

    @property
    def to_plan(self) -> Plan:
        """The plan."""
        return plan_of_document(self.plan)

    @property
    def owes(self) -> bool:
        """Whether it ended early and was interrupted before all that it held was given back."""
        has_ended_early = self.outcome in (PlanState.STOPPED, PlanState.ABANDONED)
        return has_ended_early and bool(self.cordoned or self.nominated or self.marked)


def plan_id(plan: Plan) -> str:
    """Short digest of a plan's steps: marks on the cluster carry it. Steps of no gang count as they did before there was one."""
    steps = [{k: v for k, v in msgspec.to_builtins(s).items() if k != "gang" or v} for s in plan.steps]
    return hashlib.sha256(msgspec.json.encode(steps)).hexdigest()[:12]


def fresh_record(plan: Plan) -> PlanRecord:
    """A record of a plan of which nothing is done.

    Raises
    ------
    ConfigError : the plan is not one that can be applied.
    """
    if plan.count(Action.BUY):
        raise ConfigError("a purchase plan adds machines, which only your provider can do; nothing here applies it")
    steps = [StepRecord() for _ in plan.steps]
    return PlanRecord(KIND, VERSION, plan_id(plan), plan_document(plan), PlanState.RUNNING, steps)


def recorded(path: Path) -> PlanRecord | None:
    """The record at ``path``; None when there is none.

    Raises
    ------
    RecordError : the file is damaged, or of another version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"record {path}: cannot be read ({why(error)}); check its rights") from error
    try:
        record = msgspec.json.decode(data, type=PlanRecord)
    except UNREADABLE as error:
        raise RecordError(f"record {path}: {error}; it is damaged or no record, give another --record") from error
    if (record.kind, record.version) != (KIND, VERSION):
        raise RecordError(
            f"record {path}: is {record.kind} {record.version}, not {KIND} {VERSION}; give another --record"
        )
    return record


def read_record(path: Path, plan: Plan) -> PlanRecord | None:
    """The record of this plan at ``path``; None when there is none yet.

    Raises
    ------
    RecordError : as of :func:`recorded`, or it is of another plan.
    """
    record = recorded(path)
    if record is None:
        return None
    if record.id != plan_id(plan) or len(record.steps) != len(plan.steps):
        raise RecordError(
            f"record {path}: belongs to another plan ({record.id}, not {plan_id(plan)}; {record.outcome}); give another "
            "--record, or the plan that it belongs to, or move the record away once that plan has ended"
        )
    return record


def save_record(record: PlanRecord, path: Path) -> None:
    """Replace the file, durably.

    Raises
    ------
    RecordError : it cannot be written; nothing more may be done then.
    """
    try:
        with whole_file(path) as part:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RecordError(
            f"record {path}: cannot be written ({why(error)}); free some space or give another --record"
        ) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the record's lock; it goes with the process, whatever ends it.

    Raises
    ------
    RecordError : another process holds it, or its folder cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    with ExitStack() as held:
        is_ours = False
        while not is_ours:
            try:
                file = held.enter_context(lock.open("w"))
            except OSError as error:
                raise RecordError(
                    f"record {path}: its folder cannot be written ({why(error)}); give another --record"
                ) from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecordError(f"record {path}: another process is applying this plan; wait for it") from error
            is_ours = is_at(file, lock)  # who pruned the record took the file away between the two
        yield


@dataclass(frozen=True)
class Retention:
    """How long records of plans that ended are kept in a folder of ours: by age and by size, as decision records are."""

    max_age_days: float
    max_bytes: int

    def prune(self, folder: Path, now_s: float) -> int:
        """Delete what is older, and the oldest beyond the size; how many went. ``now_s`` is unix time.

        A record of a plan that has not ended, or not given back all, stays, however old: it knows what the plan holds. So does
        what cannot be read, or is in use.
        """
        ended = []
        for path in folder.glob(f"*{SUFFIX}"):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=PlanRecord)
                found = path.stat()
            except (OSError, *UNREADABLE):
                continue
            if record.outcome != PlanState.RUNNING and not record.owes:
                ended.append((found.st_mtime, found.st_size, path))
        left, gone = sum(size for _, size, _ in ended), 0
        for changed_s, size, path in sorted(ended):
            if changed_s >= now_s - self.max_age_days * 86_400 and left <= self.max_bytes:
                break
            with suppress(RecordError, OSError), alone(path):
                path.unlink()
                path.with_name(path.name + ".lock").unlink(missing_ok=True)
                left -= size
                gone += 1
        return gone


def words(step: Step) -> str:
    """A step as a sentence."""
    who = f"{step.name or step.pod}{f' (gang {step.gang})' if step.gang else ''}"
    return {
        Action.PLACE: f"place {who} on {step.target}",
        Action.MOVE: f"evict {who} from {step.source}, its replacement goes to {step.target}",
        Action.EVICT: f"evict {who} from {step.source}",
        Action.CORDON: f"cordon {step.source}",
        Action.DELETE: f"see that {step.source} is empty; it stays cordoned, for your provider to remove",
        Action.BUY: f"add {step.target}",
    }[step.action]


def summary(record: PlanRecord) -> str:
    """How applying stands, in a sentence."""
    if record.outcome == PlanState.RUNNING and all(step.state == State.PENDING for step in record.steps):
        return f"not begun: {len(record.steps)} steps"
    done = sum(step.state == State.DONE for step in record.steps)
    evicted = f"{record.evictions} pod{'s' * (record.evictions != 1)} evicted"
    text = f"{record.outcome}: {done} of {len(record.steps)} steps done, {evicted}"
    text += f"; {record.reason}" if record.reason else ""
    return f"{text}; some of what it held is still to be given back, --yes does that" if record.owes else text


def rows(record: PlanRecord) -> list[dict[str, str | int]]:
    """Planned against actual, step by step."""
    plan = record.to_plan
    return [
        {
            "step": i,
            "what": words(step),
            "state": str(entry.state),
            "planned": step.target,
            "actual": entry.actual,
            "reason": entry.reason or ("as planned" if entry.state == State.DONE else ""),
        }
        for i, (step, entry) in enumerate(zip(plan.steps, record.steps, strict=True), 1)
    ]
