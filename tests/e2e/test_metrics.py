"""Our metrics as Prometheus sees them: its own linter finds nothing, and a real server scrapes them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import yaml

from tests.e2e.control_plane import REPO, ControlPlane, ControlPlaneError, Ullage, free_port
from tests.e2e.drive import PATIENCE, cluster_of
from tests.e2e.test_faults import burst, fleet, settled


def started(plane: ControlPlane, target: int) -> str:
    """Address of a Prometheus that scrapes ``target``."""
    folder, port = plane.folder / "prometheus", free_port()
    folder.mkdir()
    scrape = {"job_name": "ullage", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    (folder / "prometheus.yml").write_text(
        json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]})
    )
    plane.spawn(
        "prometheus", "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    return f"http://127.0.0.1:{port}"


def asked(address: str, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers; nothing while it is not up."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return found


async def test_metrics_are_clean_by_promtool_and_scraped_by_prometheus(plane: ControlPlane) -> None:
    for tool in ("prometheus", "promtool"):
        if shutil.which(tool) is None:
            raise ControlPlaneError(f"`{tool}` is not installed; apt-get install prometheus")
    ullage = Ullage(plane)
    await asyncio.to_thread(ullage.start)
    address = started(plane, ullage.port)
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(5))
        await burst(cluster, 30)
        await settled(cluster, ullage, 30)
    page = await asyncio.to_thread(ullage.get, "/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    end = time.monotonic() + 60 * PATIENCE
    bound = 'sum(ullage_binds_total{outcome="bound"})'
    while not any(float(found["value"][1]) == 10 for found in await asyncio.to_thread(asked, address, bound)):
        assert time.monotonic() < end, "Prometheus has seen the ten bindings"
        await asyncio.sleep(0.5)
    names = {found["metric"]["__name__"] for found in await asyncio.to_thread(asked, address, '{job="ullage"}')}
    ours = {name for name in names if name.startswith("ullage_")}
    assert {"ullage_cache_synced", "ullage_extender_request_duration_seconds_bucket", "ullage_build_info"} <= ours
    latency = "histogram_quantile(0.99, sum by (le) (ullage_extender_request_duration_seconds_bucket))"
    assert await asyncio.to_thread(asked, address, latency)
    series = await asyncio.to_thread(asked, address, '{job="ullage"}')
    labels = {label for found in series for label in found["metric"]}
    assert not labels & {"node", "pod", "namespace", "uid"}, "labels stay bounded"
    print(f"{len(ours)} names, {len(series)} series")
    shown = 0
    for where, query in expressions():
        status, found = await asyncio.to_thread(evaluated, address, query)
        assert status == "success", (where, query, found)
        # what a panel asks of series that exist must find them; of others (no plans, no forecasts here) it finds nothing
        if not where.startswith("Ullage") and set(re.findall(r"ullage_\w+", query)) <= ours and "mode=" not in query:
            while not found and time.monotonic() < end:  # a rate needs two scrapes
                await asyncio.sleep(0.5)
                _, found = await asyncio.to_thread(evaluated, address, query)
            assert found, (where, query)
            shown += 1
    print(f"{shown} queries of the dashboard find something")
    assert shown > 20


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard as Grafana would send it, and of the alerts."""
    board = json.loads((REPO / "manifests" / "chart" / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$job", ".+")
    for group in yaml.safe_load((REPO / "manifests" / "chart" / "alerts.yaml").read_text())["groups"]:
        yield from ((alert["alert"], alert["expr"]) for alert in group["rules"])


def evaluated(address: str, query: str) -> tuple[str, Any]:
    """Status and result, or error, of a query."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as answer:
            read = json.load(answer)
            return read["status"], read["data"]["result"]
    except urllib.error.HTTPError as error:
        return str(error.code), error.read().decode()
