"""One replica answers: leader election over a ``coordination.k8s.io`` Lease.

The same protocol as client-go's: whoever holds the Lease renews it; others take over when it has not *changed* for
its duration, judged by a clock of their own that nobody sets and that runs while the machine sleeps, so clock skew
between machines does not matter, and whoever wakes late does not believe that it still leads. Updates carry
the resource version, so two replicas cannot both succeed. A leader that could not renew for two thirds of the
duration stops answering before anybody else may start.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from placement.errors import UNREADABLE
from scheduler.api import Api
from scheduler.clocks import boot_s
from scheduler.errors import ApiError
from scheduler.settings import LeaseSettings

log = logging.getLogger(__name__)


class _LeaseSpec(Struct, omit_defaults=True):
    holderIdentity: str | None = None
    leaseDurationSeconds: int | None = None
    acquireTime: str | None = None
    renewTime: str | None = None
    leaseTransitions: int | None = None


class _LeaseMeta(Struct):
    resourceVersion: str = ""


class _Lease(Struct):
    metadata: _LeaseMeta = msgspec.field(default_factory=_LeaseMeta)
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


_decode = msgspec.json.Decoder(_Lease).decode


class Election:
    """Takes part in the election; ``is_leading`` is the only answer."""

    def __init__(self, api: Api, settings: LeaseSettings) -> None:
        self.api = api
        self.settings = settings
        self.identity = settings.identity or f"{socket.gethostname()}_{os.getpid()}"
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{settings.namespace}/leases"
        self._renewed_s = float("-inf")
        self._num_terms = 0
        self._num_transitions = 0
        self._seen = ("", 0.0)

    @property
    def is_leading(self) -> bool:
        """Whether this replica holds the Lease for certain, now."""
        return boot_s() - self._renewed_s < self.settings.duration_s * 2 / 3

    @property
    def term(self) -> int:
        """Which time it is that this replica leads, from 1; 0 while it does not."""
        return self._num_terms if self.is_leading else 0

    async def run(self) -> None:
        """Try to hold the Lease for ever."""
        was_leading, told = False, ""
        while True:
            problem = ""
            try:
                await self._try()
            except (ApiError, *UNREADABLE) as error:  # something before the API server may answer in its place
                problem = str(error)
            if problem and problem != told:
                log.warning("lease not renewed", extra={"error": problem})
            told = problem
            if self.is_leading != was_leading:  # it may have ended while we waited
                was_leading = not was_leading
                log.info("lead changed", extra={"leading": was_leading, "identity": self.identity})
            await asyncio.sleep(self.settings.renew_s)

    async def _try(self) -> None:
        started = boot_s()
        timeout_s = max(1.0, self.settings.duration_s / 3)
        try:
            body = await self.api.call("GET", f"{self.path}/{self.settings.name}", timeout_s=timeout_s)
        except ApiError as error:
            if error.status != 404:
                raise
            self._num_transitions = 0
            await self._write("POST", self.path, self._body("", acquired=True), started)
            return
        lease = _decode(body)
        holder, version = lease.spec.holderIdentity or "", lease.metadata.resourceVersion
        if version != self._seen[0]:
            self._seen = (version, boot_s())  # it may have been renewed while we asked
        duration = lease.spec.leaseDurationSeconds or self.settings.duration_s
        is_ours = holder == self.identity
        if holder and not is_ours and started - self._seen[1] < duration:
            self._renewed_s = float("-inf")
            return
        self._num_transitions = (lease.spec.leaseTransitions or 0) + (not is_ours)
        body_out = self._body(version, acquired=not is_ours, since=lease.spec.acquireTime)
        await self._write("PUT", f"{self.path}/{self.settings.name}", body_out, started)

    def _body(self, version: str, *, acquired: bool, since: str | None = None) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.settings.name, "namespace": self.settings.namespace, "resourceVersion": version},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": math.ceil(self.settings.duration_s),
                "acquireTime": now if acquired or since is None else since,
                "renewTime": now,
                "leaseTransitions": self._num_transitions,
            },
        }

    async def _write(self, method: str, path: str, body: dict[str, Any], started: float) -> None:
        try:
            answer = await self.api.call(method, path, body, timeout_s=max(1.0, self.settings.duration_s / 3))
        except ApiError as error:
            if error.status == 409:
                self._renewed_s = float("-inf")
                return
            raise
        self._seen = (_decode(answer).metadata.resourceVersion, started)
        self._num_terms += not self.is_leading
        self._renewed_s = started

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait. Best effort: it expires anyway."""
        if not self.is_leading:
            return
        self._renewed_s = float("-inf")
        body = self._body(self._seen[0], acquired=False)
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self.api.call("PUT", f"{self.path}/{self.settings.name}", body, timeout_s=2)
        except ApiError as error:
            log.info("lease left to expire", extra={"error": str(error)})
