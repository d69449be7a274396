"""Live probes against a real extender over TLS and a small API, healthy and broken hop by hop."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from aiohttp import web

from placement.gangs import SIZE
from placement.resources import DEVICES_ANNOTATION, GPU_SHARE
from placement.strategies import strategy_named
from scheduler.binder import Binder
from scheduler.doctor.doctor import from_probes
from scheduler.doctor.facts import Facts, read_facts
from scheduler.doctor.live import (
    LIVE_RULES,
    Probe,
    hops,
    probe,
    read_metrics,
    read_version,
    shared,
    skewed,
    wrong_answer,
)
from scheduler.doctor.manifests import POLICY
from scheduler.doctor.rules import Hit
from scheduler.extender import Extender
from scheduler.gates import GATE
from scheduler.kube import KubeClient
from scheduler.learning.learner import Learner
from scheduler.ledger import Seen
from scheduler.server import HttpServer, Request, Response
from scheduler.settings import HttpSettings, KubeSettings, PlanSettings, Settings
from tests.api_server import kubeconfig, served
from tests.live_engine import Live, cpu_pod

REPO = Path(__file__).resolve().parent.parent
CERTS = REPO / "manifests" / "kustomize" / "overlays" / "self-signed" / "make-certs.sh"
POD = {
    "metadata": {"name": "p", "namespace": "shop", "uid": "u"},
    "spec": {"nodeName": "n0", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
}
NODES = ["n0", "n1", "n2"]
QUESTION = {"Pod": POD, "Nodes": None, "NodeNames": NODES}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of certificates, made by the script that we ship."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; make-certs.sh needs it")
    root = tmp_path_factory.mktemp("certificates")

    def made(name: str, days: int = 90) -> Path:
        folder = root / name
        if not folder.exists():
            command = ["sh", str(CERTS), "ullage-system", str(days), str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        return folder

    return made


def facts_of(folder: Path, tmp_path: Path, **changes: Any) -> Facts:
    """Facts of one stanza that names the Service."""
    stanza = {
        "urlPrefix": "https://ullage.ullage-system.svc:8443/v1",
        "filterVerb": "filter",
        "enableHTTPS": True,
        "tlsConfig": {
            "caFile": str(folder / "ca.crt"),
            "certFile": str(folder / "client.crt"),
            "keyFile": str(folder / "client.key"),
        },
        "httpTimeout": "60s",  # what takes half of it is slow, and a busy machine is no finding
        **changes,
    }
    config = {"apiVersion": "v1", "kind": "KubeSchedulerConfiguration", "extenders": [stanza]}
    config["profiles"] = [{"schedulerName": "ullage-scheduler"}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return read_facts(str(tmp_path / "config.yaml"))


@asynccontextmanager
async def extender(folder: Path, tmp_path: Path, handler: Any = None) -> AsyncIterator[tuple[Live, str]]:
    """A real extender over mTLS; its engine and address."""
    live = Live(tmp_path / "records.db")
    live.ledger.see(live.engine.reader.pod(json.dumps(POD).encode()))
    live.engine.decide("warm", cpu_pod(1), live.engine.mask(np.array([0])))  # compiles, which takes a while
    binder = Binder(live.engine, None)  # type: ignore[arg-type]  # nothing binds here
    handle = handler or Extender(live.engine, binder, version="test").handle
    tls = {"tls_cert": "server.crt", "tls_key": "server.key", "client_ca": "ca.crt"}
    files = {key: str(folder / name) for key, name in tls.items()}
    server = HttpServer(HttpSettings(host="127.0.0.1", port=0, **files), handle, live.metrics)  # type: ignore[arg-type]  # only texts
    await server.start()
    try:
        yield live, f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)
        live.recorder.close()


async def codes(facts: Facts, address: str, question: Any = QUESTION) -> list[str]:
    """Codes of the hops to the only stanza."""
    (stanza,) = facts.ours
    found = await asyncio.to_thread(lambda: list(hops(stanza, question, address)))
    assert len(from_probes(found)) == len(found)
    return [code for code, _ in found]


async def test_a_healthy_extender_is_walked_without_a_finding(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (live, address):
        version = live.state.version
        assert await codes(facts_of(folder, tmp_path), address) == []
        assert live.ledger.reservations == {}, "probes reserve nothing"
        assert live.state.version == version


async def test_that_the_fallback_strategy_decides_is_said_until_what_the_other_needs_is_learned(
    certificates: Any, tmp_path: Path
) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (live, address):
        live.engine.strategy = strategy_named("ullage")
        (stanza,) = facts_of(folder, tmp_path).ours

        async def said() -> list[tuple[str, str]]:
            found = await asyncio.to_thread(lambda: list(hops(stanza, QUESTION, address)))
            return [(code, hit.message) for code, hit in found]

        assert await said() == [("UD418", "best-fit decides, the settings say ullage")]
        live.ledger.pods["web"] = Seen("web", "web", "shop", 1, cpu_pod(1))
        await Learner(live.engine, 60, lambda: True).learn()
        assert await said() == []
    for older in (b"[]", b"<html>", b'{"strategy": "priced"}'):
        assert list(read_version(older, "p")) == []


async def test_a_name_that_does_not_resolve_is_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    facts = facts_of(folder, tmp_path, urlPrefix="https://ullage.invalid:8443/v1")
    assert await codes(facts, "") == ["UD401"]


async def test_a_closed_port_is_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (_, address):
        pass
    assert await codes(facts_of(folder, tmp_path), address) == ["UD402"]


@pytest.mark.parametrize("broken", ["ca", "name", "identity", "file"])
async def test_tls_that_does_not_verify_is_said(broken: str, certificates: Any, tmp_path: Path) -> None:
    folder, strangers = certificates("good"), certificates("strangers")
    good = {
        k: str(folder / v) for k, v in (("caFile", "ca.crt"), ("certFile", "client.crt"), ("keyFile", "client.key"))
    }
    wrong = {
        "ca": good | {"caFile": str(strangers / "ca.crt")},
        "name": good | {"serverName": "somebody.else.svc"},
        "identity": {"caFile": good["caFile"]},
        "file": good | {"caFile": "/no/such/file"},
    }[broken]
    async with extender(folder, tmp_path) as (_, address):
        assert await codes(facts_of(folder, tmp_path, tlsConfig=wrong), address) == ["UD402"]


async def test_a_bundle_that_names_its_authorities_in_their_own_language_is_read(
    certificates: Any, tmp_path: Path
) -> None:
    folder, bundle = certificates("good"), tmp_path / "bundle.crt"
    bundle.write_text(f"# Főtanúsítvány\n{(folder / 'ca.crt').read_text()}", encoding="utf-8")
    tls = {"caFile": str(bundle), "certFile": str(folder / "client.crt"), "keyFile": str(folder / "client.key")}
    async with extender(folder, tmp_path) as (_, address):
        assert await codes(facts_of(folder, tmp_path, tlsConfig=tls), address) == []


async def test_a_certificate_that_ends_soon_is_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("short", 5)
    async with extender(folder, tmp_path) as (_, address):
        assert await codes(facts_of(folder, tmp_path), address) == ["UD403"]


async def test_a_replica_that_is_not_ready_is_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (live, address):
        live.engine.is_leading = lambda: False
        assert await codes(facts_of(folder, tmp_path), address) == ["UD406"]


async def test_wrong_and_slow_verbs_are_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")

    async def slow(body: bytes) -> Response:
        await asyncio.sleep(0.4)
        return Response(body)

    def handle(request: Request) -> Any:
        if request.path == "/v1/filter":
            return slow(json.dumps({"NodeNames": NODES, "Error": ""}).encode())
        return Response(b'{"NodeNames":["n9"]}' if request.path == "/v1/other" else b"ok")

    async with extender(folder, tmp_path, handle) as (_, address):
        assert await codes(facts_of(folder, tmp_path, httpTimeout="500ms"), address) == ["UD405"]
        assert await codes(facts_of(folder, tmp_path, filterVerb="other"), address) == ["UD404"]


def test_answers_that_kube_scheduler_would_not_take_are_named() -> None:
    assert wrong_answer(200, b'{"nodenames":["n0"],"Error":""}', NODES) == ""
    assert wrong_answer(200, b'{"NodeNames":[]}', NODES) == ""
    assert "status 404" in wrong_answer(404, b"nothing here", NODES)
    assert "ExtenderFilterResult" in wrong_answer(200, b"[]", NODES)
    assert "ExtenderFilterResult" in wrong_answer(200, b"<html>", NODES)
    assert "no room" in wrong_answer(200, b'{"NodeNames":[],"Error":"no room"}', NODES)
    assert "neither" in wrong_answer(200, b"{}", NODES)
    assert "n9" in wrong_answer(200, b'{"NodeNames":["n9"]}', NODES)


def test_our_own_metrics_tell_of_age_and_loss() -> None:
    good = 'ullage_cache_age_seconds{resource="pods"} 12.5\nullage_telemetry_age_seconds nan\nullage_log_dropped_total 0.0\n'
    good += "ullage_prediction_left_out_workloads 0.0\nhello world\n"  # what else answers there may say anything
    assert list(read_metrics(good, "p")) == []
    bad = 'ullage_cache_age_seconds{resource="pods"} 600.0\nullage_telemetry_age_seconds 9000.0\nullage_log_dropped_total 3.0\n'
    bad += "ullage_prediction_left_out_workloads 12.0\n"
    assert [code for code, _ in read_metrics(bad, "p")] == ["UD407", "UD412", "UD414", "UD415"]


def test_clocks_that_disagree_are_said_beyond_the_resolution() -> None:
    assert list(skewed(1000.0, 1000.9, 1001.0)) == []
    assert list(skewed(1004.0, 1000.0, 1000.1)) == []
    for theirs in (990.0, 1010.0):
        assert [code for code, _ in skewed(theirs, 1000.0, 1000.1)] == ["UD410"]


def _placed(node: str, scheduler: str, owner: str = "ReplicaSet") -> dict[str, Any]:
    return {"metadata": {"ownerReferences": [{"kind": owner}]}, "spec": {"nodeName": node, "schedulerName": scheduler}}


def test_two_schedulers_on_one_node_are_said_daemons_apart() -> None:
    apart = [_placed("a", "ullage-scheduler"), _placed("b", "default-scheduler"), _placed("a", "x", "DaemonSet")]
    assert list(shared(apart, {"ullage-scheduler"})) == []
    together = [*apart, _placed("a", "default-scheduler")]
    assert [code for code, _ in shared(together, {"ullage-scheduler"})] == ["UD411"]


class Api:
    """What the probes ask of the API; ``denied`` rights are refused, ``clock_s`` shifts its clock."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.wide: set[str] = set()
        self.clock_s = 0.0
        self.reviews: list[dict[str, Any]] = []
        self.user = "admin"
        self.pods: list[dict[str, Any]] = [POD]
        self.guard: list[dict[str, Any]] | None = []
        """Policy and binding; None = who asks may not list them."""

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "36+"})
        if request.path.endswith("accessreviews"):
            return web.json_response(self._review(await request.json()))
        if request.path.endswith("selfsubjectreviews"):
            stamp = datetime.fromtimestamp(int(time.time() + self.clock_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            status = {"userInfo": {"username": self.user}}
            return web.json_response({"metadata": {"creationTimestamp": stamp}, "status": status})
        if "/validatingadmissionpolic" in request.path:
            if self.guard is None:
                return web.json_response({"message": "forbidden"}, status=403)
            kind = POLICY if request.path.endswith("policies") else f"{POLICY}Binding"
            return web.json_response({"metadata": {}, "items": [o for o in self.guard if o["kind"] == kind]})
        items = self.pods if request.path.endswith("pods") else [{"metadata": {"name": n}} for n in NODES]
        return web.json_response({"metadata": {}, "items": items})

    def _review(self, review: dict[str, Any]) -> dict[str, Any]:
        self.reviews.append(review)
        what = review["spec"]["resourceAttributes"]
        name = f"{what['verb']} {what['resource']}" + (f"/{what['subresource']}" if what["subresource"] else "")
        is_wide = name in ("* *", "get secrets", "create pods", "delete pods")
        return {"status": {"allowed": name in self.wide if is_wide else name not in self.denied}}


@asynccontextmanager
async def api(tmp_path: Path) -> AsyncIterator[tuple[Api, KubeClient]]:
    """The API on loopback and a client of it."""
    asked = Api()
    async with served(asked.handle) as port:
        client = await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(port, tmp_path)))
        try:
            yield asked, client
        finally:
            await client.close()


async def test_everything_healthy_finds_nothing_and_learns_the_version(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (_, client):
        found, facts = await probe(facts_of(folder, tmp_path), client, Probe(address))
        assert found == []
        assert facts.kube_version == (1, 36)


async def test_rights_clock_and_reach_are_probed_at_the_api(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (served, client):
        served.denied = {"create pods/binding"}
        served.clock_s = 60
        served.user = "system:serviceaccount:ullage-system:ullage"
        served.wide = {"get secrets"}
        found, _ = await probe(facts_of(folder, tmp_path), client, Probe(address))
        assert [code for code, _ in found] == ["UD408", "UD409", "UD410"]
        assert {r["kind"] for r in served.reviews} == {"SelfSubjectAccessReview"}


async def test_rights_are_those_that_the_settings_need(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (served, client):
        served.denied = {"patch pods/status", "create pods/eviction"}
        plain = facts_of(folder, tmp_path)
        planning = replace(plain, settings=Settings(plan=PlanSettings(enabled=True)))
        found = [await probe(facts, client, Probe(address)) for facts in (plain, planning)]
        said = [[(code, hit.path) for code, hit in hits] for hits, _ in found]
        assert said == [[], [("UD408", "pods/status")]]


async def test_gangs_that_lack_pods_are_reported_where_batches_may_be_planned(
    certificates: Any, tmp_path: Path
) -> None:
    folder = certificates("good")
    meta = {"name": "w", "namespace": "shop", "uid": "w", "labels": {"scheduling.x-k8s.io/pod-group": "train"}}
    gated = {"metadata": meta | {"annotations": {SIZE: "3"}}, "spec": {"schedulingGates": [{"name": GATE}]}}
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (served, client):
        served.pods = [POD, gated]
        facts = facts_of(folder, tmp_path)
        assert (await probe(replace(facts, settings=Settings()), client, Probe(address)))[0] == []
        hit = Hit("(gang shop/train)", f"its gang has 1 of 3 pods (annotation {SIZE})")
        for settings in (Settings(plan=PlanSettings(enabled=True)), None):
            found, _ = await probe(replace(facts, settings=settings), client, Probe(address))
            assert found == [("UD416", hit)], "said as well where nobody knows the settings"


async def test_gpu_shares_without_the_guard_of_devices_are_said(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    guard = list(yaml.safe_load_all((REPO / "manifests/kustomize/base/devices-policy.yaml").read_text()))
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (served, client):
        plain = facts_of(folder, tmp_path)
        shares = facts_of(folder, tmp_path, managedResources=[{"name": GPU_SHARE}])

        async def said(facts: Facts) -> list[tuple[str, str]]:
            return [(code, hit.message) for code, hit in (await probe(facts, client, Probe(address)))[0]]

        assert await said(plain) == [], "nobody asks for shares"
        assert await said(shares) == [("UD417", f"no ValidatingAdmissionPolicy is about {DEVICES_ANNOTATION}")]
        served.guard = guard[:1]
        unbound = "no ValidatingAdmissionPolicyBinding denies by ullage-devices"
        assert await said(shares) == [("UD417", unbound)]
        served.guard = guard
        assert await said(shares) == []
        served.guard = None
        assert await said(shares) == [], "what may not be seen is not judged"


async def test_another_accounts_rights_are_asked_by_name(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    async with extender(folder, tmp_path) as (_, address), api(tmp_path) as (served, client):
        account = "system:serviceaccount:ullage-system:ullage"
        await probe(facts_of(folder, tmp_path), client, Probe(address, account=account))
        assert {r["kind"] for r in served.reviews} == {"SubjectAccessReview"}
        assert {r["spec"]["user"] for r in served.reviews} == {account}


async def test_an_api_that_is_away_is_one_finding_and_the_wire_is_walked_all_the_same(
    certificates: Any, tmp_path: Path
) -> None:
    folder = certificates("good")
    client = await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(1, tmp_path)))
    async with extender(folder, tmp_path) as (_, address):
        found, _ = await probe(facts_of(folder, tmp_path), client, Probe(address))
    await client.close()
    assert [code for code, _ in found] == ["UD413"]


def test_every_live_rule_is_broken_in_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [rule.code for rule in LIVE_RULES if text.count(f'"{rule.code}"') == 0] == []


async def test_certificates_may_be_elsewhere_than_the_scheduler_has_them(certificates: Any, tmp_path: Path) -> None:
    folder = certificates("good")
    paths = {
        k: f"/etc/ullage/client/{v}" for k, v in (("caFile", "ca.crt"), ("certFile", "tls.crt"), ("keyFile", "tls.key"))
    }
    facts = facts_of(folder, tmp_path, tlsConfig=paths)
    async with extender(folder, tmp_path) as (_, address):
        assert await codes(facts, address) == ["UD402"]
        found, _ = await probe(facts, None, Probe(address, str(folder)))
        assert found == []
