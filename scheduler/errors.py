"""Errors of the live side; drawn in :mod:`placement.errors`.

::

    PlacementError
    ├── WireError     a request that is not what kube-scheduler sends; answered with a 4xx
    ├── ApiError      the Kubernetes API refused, is away, or cannot be reached as configured
    ├── SourceError   a source of usage (Prometheus) is away, slow, or makes no sense
    ├── ListenError   a port cannot be listened on
    ├── RewoundError  the API server has forgotten what it said: etcd was restored from a backup
    ├── RecordError   a record is not there, or cannot be read or written
    └── PlanPaused    a plan that is applied cannot go on now; the same command goes on
"""

from __future__ import annotations

from placement.errors import PlacementError


class WireError(PlacementError):
    """A request that cannot be understood. ``status`` is the HTTP status to answer with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ApiError(PlacementError):
    """A call of the Kubernetes API failed. ``status`` is its HTTP status, 0 when no answer came."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class SourceError(PlacementError):
    """A source of usage failed. ``kind`` is ``timeout``, ``away``, ``refused``, ``too large`` or ``malformed``."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class ListenError(PlacementError):
    """A port is taken, or may not be used."""


class RewoundError(PlacementError):
    """The API server shows the past: etcd was restored from a backup. Whoever goes on would believe what never happened."""


class RecordError(PlacementError):
    """What was asked for is not in the records, or they cannot be read or written."""


class PlanPaused(PlacementError):
    """A plan that is being applied cannot go on for now. Nothing is given back: asked again, it goes on where it was."""
