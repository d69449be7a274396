"""Whatever it does at that moment, the service ends when it is told to, and nothing that it started stays.

``ULLAGE_STOPS`` sets how many times a whole service is stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.engine import Engine
from scheduler.gates import GATE
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.planning import planner_process
from scheduler.planning.planner_process import Message, PlannerProcess
from scheduler.settings import KubeSettings, Settings
from scheduler.view import Reader
from tests.api_server import ApiServer, api_server, kubeconfig, node_object, pod_object
from tests.certificates import found

NUM_STOPS = int(os.environ.get("ULLAGE_STOPS", "3"))
LINE = f"line = {msgspec.json.encode(Message(promised=[('u', 'n', 0)])) + bytes([10])!r}\n"
TALKS = f"""
import os, select
{LINE}
while True:
    os.write(1, line)
    if select.select([0], [], [], .0005)[0] and not os.read(0, 65536):
        break
"""
FILLS_ITS_PIPE = f"import os\n{LINE}while True:\n    os.write(1, line * 1000)\n"
"""It neither reads what it is told nor ends by itself."""
SAYS_NOTHING = "import time\nwhile True:\n    time.sleep(60)\n"


def process_of(program: str) -> PlannerProcess:
    """A planning process that runs this instead."""
    metrics = Metrics()
    ledger = Ledger(ClusterState(), lambda: 0.0, metrics)
    engine = Engine(ledger, Reader(), strategy_named("best-fit"), Settings(), metrics)
    process = PlannerProcess(engine, KubeSettings())
    process.COMMAND = (sys.executable, "-S", "-E", "-c", program)  # type: ignore[assignment,misc]  # of this one only
    return process


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ended(task: asyncio.Task[None], process: PlannerProcess, pid: int) -> None:
    """Cancel as the service does, once, and see it end."""
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(task, return_exceptions=True)
    assert process.pid == 0
    assert not pid or not runs(pid)


async def test_a_planner_that_talks_is_ended_at_any_moment() -> None:
    rng = random.Random(1)
    for _ in range(40):
        process = process_of(TALKS)
        task = asyncio.create_task(process.run())
        await asyncio.sleep(rng.uniform(0, 0.06))
        await ended(task, process, process.pid)


async def test_a_planner_is_ended_at_any_turn_of_the_loop_while_it_is_started() -> None:
    for turns in range(40):
        process = process_of(TALKS)
        task = asyncio.create_task(process.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        await ended(task, process, process.pid)


@pytest.mark.parametrize("program", [FILLS_ITS_PIPE, SAYS_NOTHING], ids=["fills its pipe", "says nothing"])
async def test_a_planner_that_does_not_end_is_killed(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_process, "END_S", 0.3)
    process = process_of(program)
    task = asyncio.create_task(process.run())
    async with asyncio.timeout(30):
        while not process.pid:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    await ended(task, process, process.pid)


@pytest.mark.parametrize(
    "said",
    [b"no message\n", b'{"report": 1}\n', b"\xff\xfe\n", b"x" * (2 * planner_process.LINE_BYTES)],
    ids=lambda said: said[:9],
)
async def test_a_planner_that_cannot_be_understood_is_started_anew(
    said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planner_process, "FIRST_WAIT_S", 0.01)
    head, repeats = said[:64], len(said) // 64 or 1
    process = process_of(
        f"import os\nos.write(1, {head!r})\nfor _ in range({repeats}):\n    os.write(1, {head!r})\nos.read(0, 1 << 20)\n"
    )
    task = asyncio.create_task(process.run())
    async with asyncio.timeout(30):
        while sum("cannot be read" in getattr(each, "why", "") for each in caplog.records) < 2 and not task.done():
            await asyncio.sleep(0.01)
    assert not task.done(), "the service goes on"
    await ended(task, process, process.pid)


# ── the whole service ─────────────────────────────────────────────────────────────────────────


def settings(api: ApiServer, folder: Path) -> Path:
    """Everything on that starts a process or a thread of its own."""
    (folder / "records").mkdir()
    found(folder, "own")
    prices = folder / "prices.csv"
    prices.write_text("name,usd_per_hour\nsmall,0.2\n", encoding="utf-8")
    chosen: dict[str, Any] = {
        "mode": "decide",
        "strategy": "best-fit",
        "http": {
            "host": "127.0.0.1",
            "port": 0,
            "tls_cert": str(folder / "own.pem"),
            "tls_key": str(folder / "own.key"),
        },
        "grpc": {"port": 0},
        "expander": {"port": 0, "prices": str(prices)},
        "kube": {"kubeconfig": kubeconfig(api.port, folder)},
        "log": {"folder": str(folder / "log")},
        "records": {"path": str(folder / "records.db")},
        "plan": {"enabled": True, "time_s": 5.0, "records": str(folder / "records")},
    }
    path = folder / "ullage.json"
    path.write_text(json.dumps(chosen), encoding="utf-8")
    return path


def fill(api: ApiServer, number: int) -> None:
    """Pods that wait for the planner."""
    for i in range(number):
        value = pod_object(f"w{i:03d}", cpu=f"{100 + 7 * i}m")
        value["spec"]["schedulingGates"] = [{"name": GATE}]
        api.put("pods", value)


async def gone(group: int) -> None:
    """Until no process of the group is left."""
    async with asyncio.timeout(20):
        while True:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.05)


async def served(folder: Path, config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler", "serve", "--config", str(config), "--log-level", "error",
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


async def stopped(process: asyncio.subprocess.Process, number: int) -> tuple[int, str]:
    """Exit code and what it said."""
    process.send_signal(number)
    async with asyncio.timeout(40):
        _, said = await process.communicate()
    await gone(process.pid)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_service_that_plans_ends_at_any_moment_with_all_that_it_started(tmp_path: Path) -> None:
    rng = random.Random(2)
    async with api_server() as api:
        for i in range(20):
            api.put("nodes", node_object(f"n{i:02d}"))
        fill(api, 40)
        for i in range(NUM_STOPS):
            folder = tmp_path / str(i)
            folder.mkdir()
            calls = len(api.calls)
            process = await served(folder, settings(api, folder))
            async with asyncio.timeout(60):
                while len(api.calls) < calls + 3:  # its signal handlers are there before it asks for anything
                    await asyncio.sleep(0.01)
            await asyncio.sleep(rng.choice((0.0, 0.2, 1.0, 2.0, 3.0)) * rng.random())
            code, said = await stopped(process, rng.choice((signal.SIGTERM, signal.SIGINT)))
            assert code == 0, said
            assert "Traceback" not in said


async def test_a_service_whose_api_hangs_while_it_starts_ends_at_once(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    api = ApiServer()
    api.port = server.sockets[0].getsockname()[1]
    process = await served(tmp_path, settings(api, tmp_path))
    async with asyncio.timeout(60):
        await asked.wait()
    code, said = await stopped(process, signal.SIGTERM)
    assert code == 0, said
    assert "Traceback" not in said
    assert "no answer in time" not in said
    server.close()
