"""Keeps the view warm: one list and then one endless watch for each kind of object.

A :class:`Reflector` follows one kind. It resumes from the last version it saw (bookmarks keep that fresh), lists
again without a gap when the server no longer has that version (410), and backs off when the server is away. It
hands objects to a :class:`Sink`; long lists are handed over in slices, so that verbs are answered in between.

Where etcd was restored from a backup, versions run backwards, pods are unbound that were bound, and those that ended are
alive; a watch from before says nothing of it until versions have caught up. That is noticed, and ends the process, which
begins anew as every other component of the control plane has to.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct

from scheduler.api import version_number
from scheduler.errors import ApiError, RewoundError
from scheduler.kube import KubeClient, Page, WatchEvent, read_status
from scheduler.metrics import Metrics

log = logging.getLogger(__name__)

SLICE = 4
"""Objects handed over before others may run: about a quarter of a millisecond."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 15.0
LASTING_S = 5.0
"""A watch that lasted so long says that the server is well; one that ended sooner is not begun anew at once."""
GONE = 410
PODS = "pods"


class _Versioned(Struct):
    resourceVersion: str = ""


class _AnyObject(Struct):
    metadata: _Versioned = msgspec.field(default_factory=_Versioned)


_decode_any = msgspec.json.Decoder(_AnyObject).decode


class Sink(Protocol):
    """Takes the objects of one kind. All is called on the event loop, in order."""

    def put(self, raw: Raw) -> str:
        """An object exists, as given; returns the key under which it is known."""
        ...

    def drop(self, raw: Raw) -> None:
        """An object is gone; its last state is given."""
        ...

    def known(self) -> dict[str, int]:
        """Keys of the objects that exist, as far as was told, and the newest version seen of each; 0 where none is kept."""
        ...

    def lose(self, key: str) -> None:
        """A complete list does not have the object: it is gone."""
        ...

    def listed(self) -> None:
        """A complete list was handed over."""
        ...


@dataclass
class Backoff:
    """Pauses between attempts, each twice as long as the last one, until an attempt lasted."""

    next_s: float = FIRST_WAIT_S

    def pause_s(self, lasted_s: float) -> float:
        """How long to wait after a watch that lasted ``lasted_s`` (below 0: none began); on average three quarters of the
        step.

        >>> backoff = Backoff()
        >>> [backoff.pause_s(0.0) <= step for step in (0.1, 0.2, 0.4)], backoff.next_s
        ([True, True, True], 0.8)
        >>> backoff.pause_s(60.0) <= 0.1, backoff.next_s
        (True, 0.2)
        """
        step_s = FIRST_WAIT_S if lasted_s >= LASTING_S else self.next_s
        self.next_s = min(2 * step_s, LONGEST_WAIT_S)
        return step_s * random.uniform(0.5, 1.0)


@dataclass
class Reflector:
    """Follows one kind of object for ever."""

    kind: str
    """For metrics and logs: ``pods``, ``nodes`` …"""
    path: str
    sink: Sink
    client: KubeClient
    metrics: Metrics
    give_way: Callable[[], None] = lambda: None
    """Called between slices, for a process that others wait for."""
    is_optional: bool = False
    """A kind that the server may not serve or grant: 403 and 404 count as an empty list."""
    version: str = ""
    last_sign: float = field(default_factory=time.monotonic)
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""
    """Why it is not synced, in words; empty when all is well."""

    @property
    def age_s(self) -> float:
        """Seconds since the server last said anything of this kind."""
        return time.monotonic() - self.last_sign

    async def run(self) -> None:
        """List, watch, resume, for ever.

        Raises
        ------
        RewoundError : the server shows the past.
        """
        backoff = Backoff()
        while True:
            began = math.inf  # a list that took long before it failed is no sign that the server is well
            try:
                if not self.version:
                    await self.read_list()
                    self.problem = ""
                else:
                    await self._look_back()
                began = time.monotonic()
                await self._watch()
                if time.monotonic() - began >= LASTING_S:  # ended by the server, as agreed, or silent
                    self.problem = ""
                    continue
            except ApiError as error:
                if time.monotonic() - began >= LASTING_S:
                    self.problem = ""  # that was over: the same once more is told once more
                if error.status == GONE and self.version:
                    self._relist()
                else:  # also of a list of many pages that was too old before it ended
                    self._note(error)
                if self.is_optional and error.status in (403, 404):
                    self.synced.set()
                    backoff.next_s = LONGEST_WAIT_S
            await asyncio.sleep(backoff.pause_s(time.monotonic() - began))

    def _note(self, error: ApiError) -> None:
        if str(error) != self.problem:
            log.warning("watch interrupted", extra={"resource": self.kind, "error": str(error)})
        self.problem = str(error)

    def _relist(self) -> None:
        """Begin anew: what is known is too old to go on from."""
        self.version = ""
        self.metrics.relists.labels(self.kind, "too old").inc()

    async def _look_back(self) -> None:
        """Whether the server still knows the version from which a watch is to go on."""
        page = await anext(self.client.list_pages(self.path, page_size=1))
        self._require(page.metadata.resourceVersion, version_number(self.version))

    def _require(self, version: str, least: int) -> None:
        if 0 < version_number(version) < least:
            raise RewoundError(
                f"{self.path}: version {version} comes after {least}, so etcd was restored from a backup; beginning anew"
            )

    async def read_list(self) -> None:
        """Read everything once and forget what is not there.

        What others learn of meanwhile (:meth:`scheduler.binder.Binder.look_up`) is younger than the list, which says
        nothing of it.

        Raises
        ------
        ApiError : the server does not answer. RewoundError : an object is older than it was before.
        """
        before, keys = self.sink.known(), set[str]()
        version = ""
        async for page in self.client.list_pages(self.path, page_size=self.client.settings.page_size):
            await self._put_page(page, keys, before)
            version = page.metadata.resourceVersion or version
        for number, key in enumerate(before.keys() - keys, 1):
            self.sink.lose(key)
            await self._let_others(number)
        self.sink.listed()
        self.version = version
        self.synced.set()

    async def _put_page(self, page: Page, keys: set[str], before: dict[str, int]) -> None:
        for number, raw in enumerate(page.items or (), 1):
            key = self.sink.put(raw)
            keys.add(key)
            if least := before.get(key):
                self._require(_decode_any(raw).metadata.resourceVersion, least)
            await self._let_others(number)
        self._is_there()

    async def _let_others(self, number: int) -> None:
        """Run, now and then: after ``number`` objects."""
        if number % SLICE == 0:
            self.give_way()
            await asyncio.sleep(0)

    async def _watch(self) -> None:
        settings = self.client.settings
        events = self.client.watch(
            self.path,
            self.version,
            timeout_s=settings.watch_timeout_s,
            silence_s=settings.silence_timeout_s,
            opened=self._is_there,
        )
        count, latest = 0, None
        try:
            async for event in events:
                self._is_there()
                self.problem = ""
                self.take(event)
                latest = event.object
                count += 1
                await self._let_others(count)
        finally:
            if latest is not None:  # an object is read once for its content; its version is needed to resume only
                self.version = _decode_any(latest).metadata.resourceVersion or self.version

    def _is_there(self) -> None:
        self.last_sign = time.monotonic()

    def take(self, event: WatchEvent) -> None:
        """One watch event."""
        if event.type == "ERROR":
            status = read_status(event.object)
            raise ApiError(f"WATCH {self.path}: {status.code} {status.message}", status.code, status.reason)
        if event.type == "DELETED":
            self.sink.drop(event.object)
        elif event.type != "BOOKMARK":
            self.sink.put(event.object)


class Informer:
    """All reflectors of one process."""

    def __init__(self, reflectors: list[Reflector]) -> None:
        self.reflectors = reflectors
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._tasks = [asyncio.create_task(self._follow(r), name=f"reflector-{r.kind}") for r in self.reflectors]

    async def _follow(self, reflector: Reflector) -> None:
        """Pods come last: what a pod asks for is read in the light of claims, volumes, Services and controllers."""
        if reflector.kind == PODS:
            for other in self.reflectors:
                if other.kind != PODS:
                    await other.synced.wait()
        await reflector.run()

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_synced(self) -> bool:
        """Whether every list was read at least once."""
        return all(r.synced.is_set() for r in self.reflectors)

    async def refresh(self, kind: str) -> None:
        """Read the list of one kind again, now, and follow from there.

        Raises
        ------
        ApiError : the API does not answer; the list is tried again.
        """
        for i, reflector in enumerate(self.reflectors):
            if reflector.kind != kind:
                continue
            self._tasks[i].cancel()
            await asyncio.gather(self._tasks[i], return_exceptions=True)
            reflector.version = ""
            try:
                await reflector.read_list()
            finally:
                self._tasks[i] = asyncio.create_task(reflector.run(), name=f"reflector-{kind}")

    def raise_dead(self) -> None:
        """A reflector that ended did so by a defect: say so instead of serving a frozen view."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
