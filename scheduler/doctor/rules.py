"""What a rule of the doctor is: one trap of the extender contract, with a code that never changes its meaning.

Rules are pure: facts in, hits out. A rule fires only on what it can see, so a bare scheduler configuration, our
settings, and whole rendered manifests can all be given. Codes: ``UD1xx`` kube-scheduler's configuration
(:mod:`scheduler.doctor.configuration`), ``UD2xx`` our settings (:mod:`scheduler.doctor.own_settings`), ``UD3xx`` manifests
(:mod:`scheduler.doctor.manifests`), ``UD4xx`` live probes (:mod:`scheduler.doctor.live`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.doctor.facts import Facts

ERROR, WARNING = "error", "warning"
SEVERITIES = (WARNING, ERROR)
"""Mildest first."""


class Hit(NamedTuple):
    """One place where a rule is broken."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A trap: how to see it, why it matters, what to do."""

    code: str
    severity: str
    title: str
    why: str
    fix: str
    check: Callable[[Facts], Iterable[Hit]] | None = None
    """None for rules that only a live probe can break."""
