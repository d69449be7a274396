"""Manifests on the real API server and configurations on the real kube-scheduler.

Server-side dry runs say whether the API takes what kustomize and helm render; kube-scheduler itself says whether the
doctor is right about configurations that "refuse to start".
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.doctor.doctor import examine
from scheduler.doctor.facts import Table, pod_spec, read_facts
from tests.e2e.control_plane import NAMESPACE, REPO, VERSION, ControlPlane, binaries
from tests.e2e.renderers import renderer

KUSTOMIZE = REPO / "manifests" / "kustomize"
CHART = REPO / "manifests" / "chart"
PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}
CLUSTER_WIDE = (
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
"""Custom resources: their definitions are not installed here."""


def renderings(folder: Path) -> dict[str, list[Table]]:
    """Every way to install, as rendered by the real tools."""
    tree = folder / "kustomize"
    shutil.copytree(KUSTOMIZE, tree, ignore=shutil.ignore_patterns("tls"))
    subprocess.run(["sh", str(tree / "overlays" / "self-signed" / "make-certs.sh")], check=True, capture_output=True)
    whole = tree / "overlays" / "whole"
    whole.mkdir()
    components = [f"../../components/{path.name}" for path in sorted((tree / "components").iterdir())]
    (whole / "kustomization.yaml").write_text(json.dumps({"resources": ["../self-signed"], "components": components}))
    commands = {
        f"kustomize {overlay}": [renderer("kustomize"), "build", str(tree / "overlays" / overlay)]
        for overlay in ("self-signed", "cert-manager", "default-scheduler", "node-pool", "whole")
    }
    helm = [renderer("helm"), "template", "ullage", str(CHART), "-n", NAMESPACE, "--kube-version", "1.36.3"]
    commands["chart"] = helm
    commands["chart, live batches"] = [*helm, "--set", "plan.enabled=true,plan.apply=true"]
    commands["chart, policies"] = [*helm, "--set", "gpuShares.enabled=true,rightsize.enabled=true"]
    commands["chart, default scheduler"] = [*helm, "--set", "scheduler.enabled=false"]
    rendered = {}
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rendered[name] = [d for d in yaml.safe_load_all(done.stdout) if d]
    return rendered


def known(manifest: Table) -> bool:
    """Whether the API server of this run has the manifest's kind."""
    return VERSION >= (1, 36) or not manifest["kind"].startswith("MutatingAdmissionPolicy")


def dry_run(plane: ControlPlane, manifest: Table) -> str:
    """What the API server says against a server-side apply; empty if nothing."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    prefix = "/api/v1" if version == "v1" else f"/apis/{version}"
    scope = "" if kind in CLUSTER_WIDE else f"/namespaces/{NAMESPACE}"
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    path = f"{prefix}{scope}/{plural}/{manifest['metadata']['name']}"
    query = "?dryRun=All&fieldManager=e2e&force=true&fieldValidation=Strict"
    try:
        plane.call("PATCH", path + query, manifest, "application/apply-patch+yaml")
    except urllib.error.HTTPError as error:
        return f"{kind} {manifest['metadata']['name']}: {error.read().decode()[:500]}"
    return ""


def restricted(plane: ControlPlane, workload: Table) -> str:
    """What pod security ``restricted`` says against a workload's pod; empty if nothing."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": "restricted"},
        "spec": pod_spec(workload),
    }
    try:
        plane.call("POST", "/api/v1/namespaces/restricted/pods?dryRun=All&fieldValidation=Strict", pod)
    except urllib.error.HTTPError as error:
        return f"{workload['metadata']['name']}: {error.read().decode()[:500]}"
    return ""


def test_the_api_server_takes_everything_that_is_rendered(plane: ControlPlane, tmp_path: Path) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": "restricted", "labels": labels}})
    tried = 0
    for name, manifests in renderings(tmp_path).items():
        ours = [m for m in manifests if m["apiVersion"] not in FOREIGN and known(m)]
        said = [text for m in ours if (text := dry_run(plane, m))]
        said += [text for m in ours if m["kind"] == "Deployment" and (text := restricted(plane, m))]
        jobs = [m["spec"]["jobTemplate"] | {"metadata": m["metadata"]} for m in ours if m["kind"] == "CronJob"]
        said += [text for job in jobs if (text := restricted(plane, job))]
        assert said == [], name
        tried += len(ours)
    assert tried > 80


def refuses(config: Table, folder: Path) -> str:
    """Why kube-scheduler does not start with a configuration; empty if it would. Certificates are made for it."""
    made = folder / "tls"
    script = KUSTOMIZE / "overlays" / "self-signed" / "make-certs.sh"
    subprocess.run(["sh", str(script), NAMESPACE, "30", str(made)], check=True, capture_output=True)
    kubeconfig = folder / "nobody.kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    whole = {"clusters": [cluster], "users": [{"name": "u"}], "contexts": [context], "current-context": "x"}
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **whole}))
    config = copy.deepcopy(config)
    for extender in config["extenders"]:
        certificates = {"caFile": "ca.crt", "certFile": "client.crt", "keyFile": "client.key"}
        extender["tlsConfig"] |= {key: str(made / name) for key, name in certificates.items()}
    path = folder / "config.json"
    path.write_text(json.dumps({**config, "clientConnection": {"kubeconfig": str(kubeconfig)}}))
    command = [str(binaries() / "kube-scheduler"), f"--config={path}", f"--write-config-to={folder / 'out.yaml'}"]
    done = subprocess.run([*command, "--secure-port=0"], capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stderr[-600:]


def stanza() -> Table:
    """The configuration that our base ships."""
    table: Table = yaml.safe_load((KUSTOMIZE / "base" / "scheduler-config.yaml").read_text())
    return table


@pytest.mark.parametrize(
    "path",
    [
        KUSTOMIZE / "base" / "scheduler-config.yaml",
        KUSTOMIZE / "overlays" / "node-pool" / "scheduler-config.yaml",
        KUSTOMIZE / "overlays" / "default-scheduler" / "stanza.yaml",
    ],
    ids=lambda p: p.parent.name,
)
def test_kube_scheduler_takes_the_configurations_that_we_ship(path: Path, tmp_path: Path) -> None:
    assert refuses(yaml.safe_load(path.read_text()), tmp_path) == ""


def _change(index: int, **values: Any) -> Callable[[Table], None]:
    return lambda config: config["extenders"][index].update(values)


REFUSED: list[tuple[str, Callable[[Table], Any]]] = [
    ("UD101", lambda c: c.update(apiVersion="kubescheduler.config.k8s.io/v1beta3")),
    ("UD102", _change(0, nodeCacheCapble=True)),
    ("UD115", _change(0, httpTimeout="300")),
    ("UD116", _change(0, weight=0)),
    ("UD116", _change(0, weight="5")),
    ("UD119", lambda c: c.update(percentageOfNodesToScore=101)),
    ("UD120", _change(0, bindVerb="bind")),
    ("UD122", _change(1, managedResources=[{"name": "cpu"}])),
    ("UD122", _change(1, managedResources=[{"name": "kubernetes.io/thing"}])),
    ("UD122", _change(1, managedResources=[{"name": "requests.example.com/x"}])),
    ("UD123", _change(0, managedResources=[{"name": "ullage.dev/gpu-milli"}])),
]
"""Changes that the doctor says keep kube-scheduler from starting."""


@pytest.mark.parametrize(("code", "spoil"), REFUSED, ids=[f"{c}-{i}" for i, (c, _) in enumerate(REFUSED)])
def test_what_the_doctor_says_is_refused_is_refused(code: str, spoil: Callable[[Table], Any], tmp_path: Path) -> None:
    config = copy.deepcopy(stanza())
    spoil(config)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(config))
    assert code in {finding.code for finding in examine(read_facts(str(tmp_path / "given.yaml")))}
    assert refuses(config, tmp_path) != ""
