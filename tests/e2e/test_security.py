"""Under the real authorizer and real TLS: our rights suffice, and callers without a certificate learn nothing."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.control_plane import ControlPlane, ControlPlaneError, Ullage, free_port
from tests.e2e.drive import cluster_of
from tests.e2e.test_faults import burst, fleet, settled

RIGHTS = "/apis/rbac.authorization.k8s.io/v1/clusterroles/ullage"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def certificates(folder: Path) -> None:
    """An authority, a server and a client certificate, as manifests/…/make-certs.sh makes them."""

    def run(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    run("req", "-x509", *CURVE, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=authority")
    for name in ("server", "client"):
        run("req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext",
            "subjectAltName=IP:127.0.0.1")  # fmt: skip
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-copy_extensions", "copy", "-out", f"{name}.crt")  # fmt: skip


async def test_kube_scheduler_is_served_over_mutual_tls_and_a_stranger_is_not(plane: ControlPlane) -> None:
    certificates(plane.folder)
    ullage = Ullage(plane)
    files = {"tls_cert": "server.crt", "tls_key": "server.key", "client_ca": "ca.crt"}
    health = free_port()
    ullage.settings["http"] |= {key: str(plane.folder / name) for key, name in files.items()} | {"health_port": health}
    ullage.start(wait=False)
    plain = f"http://127.0.0.1:{health}"
    await asyncio.to_thread(plane.wait, ullage.name, lambda: read(f"{plain}/readyz") == "ok")
    stanzas: list[dict[str, Any]] = ullage.stanzas()
    for stanza in stanzas:
        tls = {f"{key}File": str(plane.folder / name) for key, name in (("cert", "client.crt"), ("key", "client.key"))}
        stanza["tlsConfig"] = {**tls, "caFile": str(plane.folder / "ca.crt")}
        stanza["enableHTTPS"] = True
        stanza["urlPrefix"] = stanza["urlPrefix"].replace("http://", "https://")
    plane.start_scheduler(stanzas)
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(5))
        await burst(cluster, 30)
        await settled(cluster, ullage, 30)
    context = ssl.create_default_context(cafile=str(plane.folder / "ca.crt"))
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(f"https://127.0.0.1:{ullage.port}/v1/filter", data=b"{}", context=context)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{plain}/v1/filter", data=b"{}")
    pages = read(f"{plain}/metrics") + plane.log_of("ullage")
    token = (plane.folder / "ullage.kubeconfig").read_text().split('"token": "')[1].split('"')[0]
    assert token not in pages
    assert "PRIVATE KEY" not in pages


def read(url: str) -> str:
    """A page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def without(plane: ControlPlane, resource: str) -> dict[str, Any]:
    """Take one resource out of our ClusterRole; the role as it was."""
    role: dict[str, Any] = plane.call("GET", RIGHTS)
    rules = [{**rule, "resources": [r for r in rule["resources"] if r != resource]} for rule in role["rules"]]
    plane.call("PUT", RIGHTS, {**role, "rules": [rule for rule in rules if rule["resources"]]})
    return role


async def test_each_right_that_serving_needs_is_missed_when_it_is_taken_away(plane: ControlPlane) -> None:
    for resource in ("nodes", "pods", "namespaces"):
        role = without(plane, resource)
        ullage = Ullage(plane, f"without-{resource}")
        with pytest.raises(ControlPlaneError, match=f"(?s){resource}.*lacks this right"):
            await asyncio.to_thread(ullage.start)
        role["metadata"].pop("resourceVersion")
        plane.call("PUT", RIGHTS, role)
    ullage = Ullage(plane)
    await asyncio.to_thread(ullage.start)
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(3))
        role = without(plane, "pods/binding")
        await asyncio.sleep(1)
        await burst(cluster, 1)
        await cluster.until(lambda: cluster.is_rejected("p0000"), 30, "the binding is refused")
        assert not cluster.node_of("p0000")
        role["metadata"].pop("resourceVersion")
        plane.call("PUT", RIGHTS, role)
        await settled(cluster, ullage, 1)
