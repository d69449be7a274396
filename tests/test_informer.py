"""How a reflector waits for a server that is in trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.errors import ApiError
from scheduler.informer import LONGEST_WAIT_S, SLICE, Reflector
from scheduler.kube import ListMeta, Page
from scheduler.metrics import Metrics
from scheduler.settings import KubeSettings
from tests.live_engine import Turns


class Nothing:
    """A sink that keeps nothing."""

    def put(self, raw: Any) -> str:
        return str(raw)

    def drop(self, raw: Any) -> None:
        assert raw

    def known(self) -> dict[str, int]:
        return {}

    def lose(self, key: str) -> None:
        assert key

    def listed(self) -> None:
        pass


class SlowServer:
    """Every list takes a minute and fails."""

    def __init__(self, status: int) -> None:
        self.settings, self.now_s, self.status = KubeSettings(), 0.0, status

    async def list_pages(self, _path: str, *, page_size: int) -> AsyncIterator[Any]:
        assert page_size
        self.now_s += 60
        raise ApiError("no list", self.status)
        yield  # makes it an iterator


async def pauses_against(server: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The first pauses of a reflector, by the server's own clock."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: server.now_s)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == number:
            raise asyncio.CancelledError

    reflector = Reflector("pods", "/api/v1/pods", Nothing(), server, Metrics())
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await reflector.run()
    return pauses


@pytest.mark.parametrize("status", [504, 410], ids=["timed out", "too old before it ended"])
async def test_lists_that_fail_are_asked_for_less_and_less_often_and_that_is_said_once(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = await pauses_against(SlowServer(status), 12, monkeypatch)
    assert pauses[-1] >= LONGEST_WAIT_S / 2
    assert [record.getMessage() for record in caplog.records] == ["watch interrupted"]


class RefusingServer:
    """Its list is empty, and then every watch is refused, or cut when it has lasted."""

    def __init__(self, lasts_s: float = 0.0) -> None:
        self.settings, self.now_s, self.lasts_s = KubeSettings(), 0.0, lasts_s

    async def list_pages(self, _path: str, *, page_size: int) -> AsyncIterator[Page]:
        assert page_size
        yield Page(ListMeta("7"))

    async def watch(self, _path: str, _version: str, **_times: float) -> AsyncIterator[Any]:
        self.now_s += self.lasts_s
        raise ApiError("refused", 503)
        yield  # makes it an iterator


@pytest.mark.parametrize(("lasts_s", "told"), [(0.0, 1), (60.0, 5)], ids=["never well", "well in between"])
async def test_a_fault_that_comes_again_after_a_watch_that_lasted_is_told_again(
    lasts_s: float, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await pauses_against(RefusingServer(lasts_s), 5, monkeypatch)
    assert [record.getMessage() for record in caplog.records] == ["watch interrupted"] * told


async def test_a_view_that_nothing_renews_grows_old_however_often_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RefusingServer()
    monkeypatch.setattr(time, "monotonic", lambda: server.now_s)

    async def sleep(seconds: float) -> None:
        server.now_s += seconds
        if server.now_s > 600:
            raise asyncio.CancelledError

    reflector = Reflector("pods", "/api/v1/pods", Nothing(), server, Metrics())  # type: ignore[arg-type]  # no calls
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await reflector.run()
    assert reflector.age_s > 600 - 2 * LONGEST_WAIT_S


class Many(Nothing):
    """Knows of objects that are gone by now."""

    def known(self) -> dict[str, int]:
        return dict.fromkeys(map(str, range(100 * SLICE)), 0)


async def test_what_vanished_while_nobody_looked_is_given_up_while_others_are_answered() -> None:
    """After an outage half of a large cluster's pods may be others."""
    async with Turns() as turns:
        await Reflector("pods", "/api/v1/pods", Many(), RefusingServer(), Metrics()).read_list()  # type: ignore[arg-type]  # lists only
    assert turns.number >= 100
