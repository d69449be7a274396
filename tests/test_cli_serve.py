"""``ullage serve`` as a process: what goes wrong is one message and an exit code, what goes right answers."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.api_server import ApiServer, api_server, kubeconfig, node_object


async def run(*args: str) -> tuple[int, str]:
    """Exit code and stderr of a run that must end by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler", "serve", *args, stderr=asyncio.subprocess.PIPE
    )
    _, text = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, text.decode()


async def test_bad_settings_end_with_2_and_all_problems(tmp_path: Path) -> None:
    path = tmp_path / "ullage.yaml"
    path.write_text("mode: maybe\nhttp: {port: -1}\n", encoding="utf-8")
    code, text = await run("--config", str(path))
    assert code == 2
    assert "mode = 'maybe'" in text
    assert "http.port = -1" in text
    assert "Traceback" not in text


async def test_check_opens_the_files_that_settings_name(tmp_path: Path) -> None:
    code, text = await run("--check", "--model", str(tmp_path / "none"))
    assert code == 2, "as every input that is not there"
    assert "none" in text
    assert "give a folder that `ullage train` wrote" in text
    assert "Traceback" not in text
    (tmp_path / "workload.json").write_text("[]", encoding="utf-8")
    code, text = await run("--check", "--workload", str(tmp_path / "workload.json"))
    assert code == 2
    assert "workload.json" in text
    assert "Traceback" not in text
    (tmp_path / "prices.csv").write_text("name\n", encoding="utf-8")
    (tmp_path / "ullage.json").write_text(json.dumps({"expander": {"prices": str(tmp_path / "prices.csv")}}))
    code, text = await run("--check", "--config", str(tmp_path / "ullage.json"))
    assert code == 2
    assert "prices.csv: holds no prices" in text
    code, text = await run("--check", "--kubeconfig", str(tmp_path / "none"))
    assert code == 2
    assert text.startswith(f"ullage: kubeconfig {tmp_path / 'none'}: no such file")
    assert (await run("--check"))[0] == 0


@pytest.mark.parametrize(
    ("option", "where", "says"),
    [
        ("--records", "folder", "is a folder; give a file"),
        ("--log-dir", "file", "is a file; give a folder"),
        ("--log-dir", "file/log", "file is no folder"),
    ],
)
def test_check_says_where_nothing_can_be_written(tmp_path: Path, option: str, where: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, text = asyncio.run(run("--check", option, str(tmp_path / where)))
    assert code == 2
    assert says in text
    assert "Traceback" not in text
    good = {"--records": "folder/new/r.db", "--log-dir": "folder"}[option]
    assert asyncio.run(run("--check", option, str(tmp_path / good)))[0] == 0


def test_check_looks_at_the_folder_of_applied_plans_where_any_may_be_applied(tmp_path: Path) -> None:
    config, place = tmp_path / "ullage.yaml", tmp_path / "file"
    place.write_text("", encoding="utf-8")
    for applies, expected in (("true", 2), ("false", 0)):
        config.write_text(f"plan: {{applies: {applies}, records: {place}}}\n", encoding="utf-8")
        code, text = asyncio.run(run("--check", "--config", str(config)))
        assert code == expected
        assert (f"plan.records {place}: is a file; give a folder" in text) is (expected == 2)


async def test_no_api_no_rights_and_a_taken_port_end_with_1_and_what_to_do(tmp_path: Path) -> None:
    async with api_server() as api:
        taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = str(taken.sockets[0].getsockname()[1])
        api.fail_next("GET", "/nodes", 403)
        cases = [
            (kubeconfig(1, tmp_path), "0", "check the address"),
            (kubeconfig(api.port, tmp_path), "0", "may not list nodes"),
            (kubeconfig(api.port, tmp_path), port, "stop what holds the port"),
        ]
        for config, listen, part in cases:
            code, text = await run("--kubeconfig", config, "--host", "127.0.0.1", "--port", listen)
            assert code == 1, text
            assert part in text
            assert "Traceback" not in text
        taken.close()


async def started(api: ApiServer, folder: Path, *args: str) -> tuple[asyncio.subprocess.Process, int]:
    """A serving process and its admin port."""
    probe = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    admin = int(probe.sockets[0].getsockname()[1])
    probe.close()
    await probe.wait_closed()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scheduler", "serve", "--kubeconfig", kubeconfig(api.port, folder), "--host",
        "127.0.0.1", "--port", "0", "--admin-port", str(admin), *args, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return process, admin


async def test_modes_switch_while_running_and_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    config = tmp_path / "ullage.toml"
    config.write_text('mode = "shadow"\nstrategy = "best-fit"\n', encoding="utf-8")
    async with api_server() as api, aiohttp.ClientSession() as session:
        api.put("nodes", node_object("node-0001"))
        process, admin = await started(api, tmp_path, "--config", str(config))
        url = f"http://127.0.0.1:{admin}"

        async def mode() -> dict[str, object]:
            async with session.get(f"{url}/mode") as response:
                found: dict[str, object] = json.loads(await response.read())
                return found

        async with asyncio.timeout(60):
            while True:
                try:
                    async with session.get(f"{url}/ledger") as response:
                        if (await response.json())["serving"]:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.05)
        assert await mode() == {"mode": "shadow", "killed": False, "namespaces": {}}
        async with session.post(f"{url}/mode", json={"mode": "score"}) as response:
            assert (await response.json())["mode"] == "score"
        async with session.post(f"{url}/mode", json={"mode": "loud"}) as response:
            assert response.status == 400
        async with session.post(f"{url}/kill") as response:
            assert (await response.json())["killed"] is True
        config.write_text('mode = "decide"\n', encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while (await mode())["mode"] != "decide":
                await asyncio.sleep(0.05)
        config.write_text('mode = "nonsense"\n', encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.2)
        assert (await mode())["mode"] == "decide"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
