"""The whole extender in one process: real HTTP on both sides, an API server whose faults are chosen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from scheduler.app import App
from scheduler.quiet import Quiet
from scheduler.settings import HttpSettings, KubeSettings, Settings
from tests.api_server import ApiServer, api_server, client_of, node_object
from tests.waiting import until


class Scheduler:
    """The calls that kube-scheduler would make."""

    def __init__(self, app: App, session: aiohttp.ClientSession) -> None:
        self.app = app
        self.session = session

    async def post(self, path: str, body: Any) -> Any:
        async with self.session.post(f"http://127.0.0.1:{self.app.http.port}{path}", json=body) as response:
            return json.loads(await response.read())

    async def page(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"http://127.0.0.1:{self.app.http.port}{path}") as response:
            return response.status, await response.text()

    async def filter(self, pod: dict[str, Any], names: list[str], *, gpu: bool = False) -> Any:
        return await self.post(f"/v1{'/gpu' if gpu else ''}/filter", {"Pod": pod, "Nodes": None, "NodeNames": names})

    async def prioritize(self, pod: dict[str, Any], names: list[str]) -> dict[str, int]:
        answer = await self.post("/v1/prioritize", {"Pod": pod, "Nodes": None, "NodeNames": names})
        return {entry["Host"]: entry["Score"] for entry in answer}

    async def bind(self, pod: dict[str, Any], node: str) -> str:
        meta = pod["metadata"]
        body = {"PodName": meta["name"], "PodNamespace": meta["namespace"], "PodUID": meta["uid"], "Node": node}
        return str((await self.post("/v1/gpu/bind", body))["Error"])


@asynccontextmanager
async def running(
    api: ApiServer, folder: Path, *, wait: bool = True, is_first: bool = True, **changes: Any
) -> AsyncIterator[Scheduler]:
    """``is_first``: no process was there before that may have sent Bindings."""
    kube = KubeSettings(page_size=2, silence_timeout_s=5)
    defaults: dict[str, Any] = {"mode": "decide", "strategy": "best-fit", "kube": kube}
    settings = Settings(http=HttpSettings(host="127.0.0.1", port=0, deadline_ms=5000), **(defaults | changes))
    async with client_of(api, folder, page_size=2) as client, aiohttp.ClientSession() as session:
        app = App(settings, client, Quiet())
        if is_first:
            app.engine.may_give_devices = lambda: True
        await app.start()
        life = asyncio.create_task(app.run(asyncio.Event()))
        try:
            if wait:
                await until(lambda: life.done() or not app.engine.why_not_serving())
            if life.done():
                life.result()  # a part that failed says why
            yield Scheduler(app, session)
        finally:
            life.cancel()
            await app.stop()


@asynccontextmanager
async def cluster(gpus: int = 2, nodes: int = 3) -> AsyncIterator[ApiServer]:
    async with api_server() as api:
        api.put("namespaces", {"metadata": {"name": "default"}})
        for i in range(nodes):
            api.put("nodes", node_object(f"node-{i:04d}", gpus=gpus))
        yield api


NAMES = [f"node-{i:04d}" for i in range(3)]
