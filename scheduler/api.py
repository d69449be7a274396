"""The Kubernetes API as those see it who act on pods and nodes: one call, and where a pod is found."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol


class Who(NamedTuple):
    """One pod, and no other that has its name later."""

    uid: str
    namespace: str
    name: str


class Api(Protocol):
    """Whoever makes calls: :class:`scheduler.kube.KubeClient`, or one that is faster at some
    (:mod:`scheduler.planning.patcher`)."""

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30,
    ) -> bytes:
        """One request; see :meth:`scheduler.kube.KubeClient.call`."""
        ...


_POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII).fullmatch
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII).fullmatch


def can_exist(namespace: str, name: str) -> bool:
    """Whether Kubernetes would have let a pod be named so; anything else must not become part of an API path."""
    return bool(_NAMESPACE(namespace) and _POD_NAME(name) and ".." not in name)


def pod_path(namespace: str, name: str) -> str:
    """API path of a pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def version_number(version: str) -> int:
    """A ``resourceVersion`` for comparison: later ones of one kind are larger. 0 for what is none.

    >>> version_number("12"), version_number(""), version_number("a")
    (12, 0, 0)
    """
    return int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0
