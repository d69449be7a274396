"""Under the real authorizer and real TLS: our rights suffice, none is spare, and strangers and files learn nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, DEVICES_ANNOTATION, MEMORY
from scheduler.binder import EARLIER
from scheduler.rights import RIGHTS
from tests.e2e.control_plane import NAMESPACE, REPO, ControlPlane, Ullage, free_port
from tests.e2e.drive import PATIENCE, PODS, cluster_of, node_json, pod_json
from tests.e2e.test_faults import SHARED, burst, fleet, settled

RBAC = "/apis/rbac.authorization.k8s.io/v1"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
PASSWORD = "correct-horse-battery-staple"
"""In a pod's environment: we see whole pods, and must not write that down anywhere."""


# ── certificates, and what is written down ────────────────────────────────────────────────────


def certificates(folder: Path) -> None:
    """Two authorities; a server's and clients' certificates, one of them expired and one of the other authority."""

    def run(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        run(
            "req",
            "-x509",
            *CURVE,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.crt",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
        )
    for name, authority, days in (
        ("server", "ca", "2"),
        ("client", "ca", "2"),
        ("expired", "ca", "-1"),
        ("foreign", "other", "2"),
    ):
        run("req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext",
            "subjectAltName=IP:127.0.0.1")  # fmt: skip
        run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", days, "-copy_extensions", "copy", "-out", f"{name}.crt")  # fmt: skip


def read(url: str) -> str:
    """A page."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def ask_as(plane: ControlPlane, port: int, client: str | None) -> int:
    """Status of a verb called with this certificate."""
    context = ssl.create_default_context(cafile=str(plane.folder / "ca.crt"))
    if client is not None:
        context.load_cert_chain(plane.folder / f"{client}.crt", plane.folder / f"{client}.key")
    body = json.dumps({"Pod": {"metadata": {"name": "p", "uid": "u"}}, "NodeNames": ["node-0000"]}).encode()
    with urllib.request.urlopen(
        f"https://127.0.0.1:{port}/v1/filter", data=body, context=context, timeout=30
    ) as answer:
        return int(answer.status)


async def test_kube_scheduler_is_served_over_mutual_tls_strangers_are_not_and_nothing_secret_is_written(
    plane: ControlPlane,
) -> None:
    certificates(plane.folder)
    ullage = Ullage(plane)
    files = {"tls_cert": "server.crt", "tls_key": "server.key", "client_ca": "ca.crt"}
    health = free_port()
    ullage.settings["http"] |= {key: str(plane.folder / name) for key, name in files.items()} | {"health_port": health}
    ullage.settings["records"] = {"path": str(plane.folder / "ullage-records.db")}
    ullage.settings["log"] = {"folder": str(plane.folder / "ullage-log")}
    await asyncio.to_thread(ullage.start, wait=False)
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
        secretive = pod_json("secretive", SHARED)
        secretive["spec"]["containers"][0] |= {"env": [{"name": "PASSWORD", "value": PASSWORD}], "args": [PASSWORD]}
        secretive["metadata"]["annotations"]["example.com/token"] = PASSWORD
        await cluster.call("POST", PODS, secretive)
        await burst(cluster, 30)
        await settled(cluster, ullage, 31)
    assert await asyncio.to_thread(ask_as, plane, ullage.port, "client") == 200
    for stranger in (None, "expired", "foreign"):
        with pytest.raises((urllib.error.URLError, OSError)):
            await asyncio.to_thread(ask_as, plane, ullage.port, stranger)
    assert await asyncio.to_thread(ask_as, plane, ullage.port, "client") == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        await asyncio.to_thread(read, f"{plain}/v1/gpu/bind")
    metrics = await asyncio.to_thread(read, f"{plain}/metrics")
    await asyncio.to_thread(ullage.end)
    assert_nothing_secret(plane, ullage, metrics)


def assert_nothing_secret(plane: ControlPlane, ullage: Ullage, metrics: str) -> None:
    """Neither token nor key nor password in metrics, log, event log or records."""
    kubeconfig = json.loads(Path(ullage.settings["kube"]["kubeconfig"]).read_text())
    token = kubeconfig["users"][0]["user"]["token"].encode()
    written = [plane.folder / f"{ullage.name}.log", *plane.folder.glob("ullage-records.db*")]
    written += [path for path in (plane.folder / "ullage-log").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" and b"secretive" in path.read_bytes() for path in written), "the pod is on record"
    for where, text in [("metrics", metrics.encode()), *((path.name, path.read_bytes()) for path in written)]:
        for secret in (token, b"PRIVATE KEY", PASSWORD.encode()):
            assert secret not in text, f"a secret is in {where}"


def test_what_keeps_it_from_starting_is_one_message_and_exit_1(plane: ControlPlane) -> None:
    certificates(plane.folder)
    good = plane.service_account().read_text()
    wrong_ca = good.replace(str(plane.folder / "certs" / "apiserver.crt"), str(plane.folder / "other.crt"))
    token = json.loads(good)["users"][0]["user"]["token"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = [
            (wrong_ca, free_port(), "its certificate is not signed by the configured authority; check certificate-au"),
            (
                good.replace(token, "nonsense"),
                free_port(),
                "401 Unauthorized; the credentials are not accepted: log in",
            ),
            (good.replace(f":{plane.api_port}", f":{free_port()}"), free_port(), "check the address and that the API"),
            (good, int(taken.getsockname()[1]), "stop what holds the port or set http.port"),
        ]
        for number, (kubeconfig, port, advice) in enumerate(cases):
            path = plane.folder / f"case-{number}.kubeconfig"
            path.write_text(kubeconfig)
            words = ["serve", "--kubeconfig", str(path), "--host", "127.0.0.1", "--port", str(port)]
            command = [sys.executable, "-m", "scheduler", *words]
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=plane.folder)
            assert (run.returncode, run.stderr.count("\n")) == (1, 1), run.stderr
            assert advice in run.stderr
            assert run.stdout == ""


# ── rights ────────────────────────────────────────────────────────────────────────────────────


class Single(NamedTuple):
    """One verb on one resource."""

    group: str
    resource: str
    verb: str
    is_local: bool


ALL = [Single(r.group, r.resource, verb, r.is_local) for r in RIGHTS for verb in r.verbs]


def without(plane: ControlPlane, right: Single | None) -> None:
    """Give our account the rights of the manifests but this one, and wait until the authorizer knows."""
    for role in (f"{RBAC}/clusterroles/ullage", f"{RBAC}/namespaces/{NAMESPACE}/roles/ullage"):
        body = plane.call("GET", role)
        body["rules"] = [
            {"apiGroups": [r.group], "resources": [r.resource], "verbs": [r.verb]}
            | ({"resourceNames": ["ullage"]} if r.is_local and r.verb != "create" else {})
            for r in ALL
            if r != right and r.is_local == ("/namespaces/" in role)
        ]
        plane.call("PUT", role, body)
    end = time.monotonic() + 30 * PATIENCE
    while any(may(plane, r) != (r != right) for r in ALL):
        assert time.monotonic() < end, f"the authorizer does not take {right} away"
        time.sleep(0.1)


def may(plane: ControlPlane, right: Single) -> bool:
    """What the API server says about our account."""
    resource, _, sub = right.resource.partition("/")
    asked = {"group": right.group, "resource": resource, "subresource": sub, "verb": right.verb}
    if right.is_local:
        asked |= {"namespace": NAMESPACE} | ({"name": "ullage"} if right.verb != "create" else {})
    spec = {"user": f"system:serviceaccount:{NAMESPACE}:ullage", "resourceAttributes": asked}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = plane.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


class Used:
    """A replica that is made to use every right it has: the lead, every watch, a binding, a reservation to look up."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane = plane
        lease = {"enabled": True, "duration_s": 4, "renew_s": 0.5, "identity": name}
        self.ullage = Ullage(plane, name, lease=lease, assume_timeout_s=1)
        self.answers = ""
        self.has_asked = False

    def start(self) -> None:
        """Begin without a Lease, which must be made."""
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
        if self.plane.call("GET", leases)["items"]:
            self.plane.call("DELETE", f"{leases}/ullage")
        self.ullage.start(wait=False)

    def is_ready(self) -> bool:
        """Whether it would serve."""
        try:
            return self.ullage.get("/readyz") == "ok"
        except (OSError, urllib.error.URLError):
            return False

    def ask(self) -> None:
        """Bind a pod, and choose a node for one that nobody has heard of."""
        body = pod_json(self.ullage.name, SHARED)
        uid = self.plane.call("POST", PODS, body)["metadata"]["uid"]
        names = {"PodName": self.ullage.name, "PodNamespace": "default", "PodUID": uid, "Node": "node-0000"}
        phantom = pod_json("phantom", SHARED)
        phantom["metadata"]["uid"] = f"phantom-{self.ullage.name}"
        self.post("/v1/filter", {"Pod": phantom, "Nodes": None, "NodeNames": ["node-0000", "node-0001"]})
        while EARLIER in self.post("/v1/gpu/bind", names):
            time.sleep(0.2)
        self.has_asked = True

    def post(self, path: str, body: dict[str, Any]) -> str:
        """Call a verb and keep the answer."""
        url = f"http://127.0.0.1:{self.ullage.port}{path}"
        request = urllib.request.Request(url, method="POST", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = str(answer.read().decode())
        self.answers += said
        return said

    def said(self) -> str:
        """Everything it has said so far."""
        return (self.plane.folder / f"{self.ullage.name}.log").read_text() + self.answers

    def misses(self, right: Single) -> bool:
        """Whether the API refused it for this right; asks for its services once it is ready."""
        if not self.has_asked and self.is_ready():
            self.ask()
        refusal = f'cannot {right.verb} resource "{right.resource}" in API group "{right.group}"'
        return refusal in self.said().replace('\\"', '"')

    def is_settled(self) -> bool:
        """Whether it has used every right."""
        if not self.has_asked and self.is_ready():
            self.ask()
        return self.has_asked and not json.loads(self.ullage.get("/ledger", admin=True))["reservations"]


def test_every_right_suffices_and_each_is_missed_when_it_is_taken_away(plane: ControlPlane) -> None:
    plane.call("POST", "/api/v1/nodes", node("node-0000"))
    plane.call("POST", "/api/v1/nodes", node("node-0001"))
    without(plane, None)
    whole = Used(plane, "with-all")
    whole.start()
    until(whole.is_settled, "everything is used")
    whole.ullage.end()
    assert "forbidden" not in whole.said()
    assert '{"Error":""}' in whole.answers, "the pod is bound"
    for number, right in enumerate(ALL):
        without(plane, right)
        lame = Used(plane, f"without-{number}")
        lame.start()
        until(lambda lame=lame, right=right: lame.misses(right), f"{right} is missed")
        lame.ullage.end(signal.SIGKILL)
        if right.verb == "list" and right.resource in ("nodes", "pods", "namespaces"):
            advice = f"may not list {right.resource}: grant it what manifests/kustomize/base/rbac.yaml does"
            assert advice in lame.said()
        if right.is_local and right.verb != "update":
            assert not lame.has_asked, "without the Lease nobody leads"
    print(f"{len(ALL)} rights, each missed when it was taken away")


def plan_pod(name: str, cores: int, on: str = "") -> dict[str, Any]:
    """A pod of a replica set that a plan may move."""
    body = pod_json(name, PodSpec(((CPU, cores * 1000), (MEMORY, 2**28))), on)
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": True}
    body["metadata"]["ownerReferences"] = [owner]
    return body


def test_each_right_of_plan_apply_is_missed_when_it_is_taken_away(plane: ControlPlane, tmp_path: Path) -> None:
    """As shipped; that together they are enough is what :mod:`tests.e2e.test_apply` runs with. Where an API serves no gang
    objects, nobody asks for them. Each refusal comes before anything is evicted, so the same cluster does for all."""
    amounts = ((CPU, 4000), (MEMORY, 2**33), ("pods", 110))
    for name, cores in (("n0", 4000), ("n1", 4000), ("n2", 2000)):
        plane.call("POST", "/api/v1/nodes", node_json(NodeSpec(name, ((CPU, cores), *amounts[1:]))))
    for name, cores, on in (("x", 2, "n0"), ("z", 1, "n0"), ("y", 3, "n1"), ("v", 1, "n2")):
        plane.call("POST", PODS, plan_pod(name, cores, on))
    role = grant_plan_apply(plane)
    path = "/api/v1/namespaces/ullage-system/serviceaccounts/ullage-plan-apply/token"
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    config = str(plane.kubeconfig("plan-apply", plane.call("POST", path, token)["status"]["token"]))

    def ullage(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scheduler", "plan", *words, "--kubeconfig", config, "-o", "json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def kept(kind: str) -> str:
        made = ullage(kind, "--live", "--time", "0.5")
        assert made.returncode == 0, made.stderr
        (tmp_path / f"{kind}.json").write_text(made.stdout)
        return str(tmp_path / f"{kind}.json")

    consolidation = kept("consolidate")
    plane.call("POST", PODS, plan_pod("w", 2))
    rescue = kept("rescue")
    rights = [
        (rule["apiGroups"][0], r, verb) for rule in role["rules"] for r in rule["resources"] for verb in rule["verbs"]
    ]
    for group, resource, verb in (right for right in rights if "scheduling" not in right[0]):
        grant_plan_apply(plane, (group, resource, verb))
        is_last = (resource, verb) == ("pods/status", "patch")
        acts = ("apply", rescue if is_last else consolidation, "--yes")
        done = ullage(*(("consolidate", "--live", "--time", "0.5") if verb == "list" else acts))
        said = (done.stderr + done.stdout).replace('\\"', '"')
        assert done.returncode == 1, f"{verb} {resource}: {said}"
        assert f'cannot {verb} resource "{resource}" in API group "{group}"' in said
        for record in tmp_path.glob("*.record.json"):
            record.unlink()
        opened = {"spec": {"unschedulable": None}}
        plane.call("PATCH", "/api/v1/nodes/n2", opened, "application/merge-patch+json")
    assert all("deletionTimestamp" not in p["metadata"] for p in plane.call("GET", PODS)["items"])


def grant_plan_apply(plane: ControlPlane, without: tuple[str, str, str] | None = None) -> dict[str, Any]:
    """Apply the component, or take one right of it away and wait until the authorizer knows; the role as shipped."""
    text = (REPO / "manifests" / "kustomize" / "components" / "plan-apply" / "rbac.yaml").read_text()
    documents = {document["kind"]: document for document in yaml.safe_load_all(text)}
    role: dict[str, Any] = documents["ClusterRole"]
    if without is None:
        plane.call("POST", "/api/v1/namespaces/ullage-system/serviceaccounts", documents["ServiceAccount"])
        for kind in ("ClusterRole", "ClusterRoleBinding"):
            plane.call("POST", f"{RBAC}/{kind.lower()}s", documents[kind])
        return role
    group, resource, verb = without
    rules = [
        {"apiGroups": rule["apiGroups"], "resources": [r], "verbs": [v]}
        for rule in role["rules"]
        for r in rule["resources"]
        for v in rule["verbs"]
        if (rule["apiGroups"][0], r, v) != without
    ]
    path = f"{RBAC}/clusterroles/ullage-plan-apply"
    plane.call("PUT", path, {**plane.call("GET", path), "rules": rules})
    base, _, sub = resource.partition("/")
    asked = {"group": group, "resource": base, "subresource": sub, "verb": verb}
    account = "system:serviceaccount:ullage-system:ullage-plan-apply"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": asked},
    }
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    until(lambda: not plane.call("POST", reviews, review)["status"]["allowed"], f"{without} is taken away")
    return role


def test_devices_are_written_by_who_may_bind_and_by_nobody_else(plane: ControlPlane) -> None:
    """Whoever may edit pods cannot make one that runs, or a new one, claim a device."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "create", "update", "patch"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
    ]
    plane.call("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "tenant"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tenant"}
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}
    binding = {"metadata": {"name": "tenant"}, "roleRef": role, "subjects": [user]}
    plane.call("POST", f"{RBAC}/namespaces/default/rolebindings", binding)
    apply_policy(plane, "base/devices-policy.yaml")
    merge, ours = "application/merge-patch+json", f"system:serviceaccount:{NAMESPACE}:ullage"
    share = PodSpec(((CPU, 100), (MEMORY, 2**20)), GpuRequest(1, 500))

    def refused(method: str, path: str, body: dict[str, Any], kind: str = "application/json") -> bool:
        try:
            plane.call(method, path, body, kind, user="tenant")
        except urllib.error.HTTPError as error:
            return error.code == 403 and "is written with the binding" in error.read().decode()
        return False

    claims = f"{PODS}?dryRun=All"
    until(lambda: refused("POST", claims, pod_json("q", share, devices=1)), "the policy is in force")
    assert refused("POST", claims, pod_json("q", share, node="n", devices=1))
    assert not refused("POST", PODS, pod_json("p", share))
    annotations = {DEVICES_ANNOTATION: "1"}
    target = {"apiVersion": "v1", "kind": "Node", "name": "n"}
    bound = {"metadata": {"name": "p", "annotations": annotations}, "target": target}
    plane.call("POST", f"{PODS}/p/binding", {"apiVersion": "v1", "kind": "Binding", **bound}, user=ours)
    for path in (f"{PODS}/p", f"{PODS}/p/status"):
        for said in ("0", "0,1", None):
            assert refused("PATCH", path, {"metadata": {"annotations": {DEVICES_ANNOTATION: said}}}, merge)
    assert not refused("PATCH", f"{PODS}/p", {"metadata": {"annotations": {"other": "x"}}}, merge)
    assert plane.call("GET", f"{PODS}/p")["metadata"]["annotations"] == annotations | {"other": "x"}
    plane.call("PATCH", f"{PODS}/p", {"metadata": {"annotations": {DEVICES_ANNOTATION: "2"}}}, merge)
    assert plane.call("GET", f"{PODS}/p")["metadata"]["annotations"][DEVICES_ANNOTATION] == "2", "who may bind may mend"


def apply_policy(plane: ControlPlane, path: str) -> None:
    """A ValidatingAdmissionPolicy and its binding, as shipped."""
    for document in yaml.safe_load_all((REPO / "manifests" / "kustomize" / path).read_text()):
        plural = {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}.get(document["kind"])
        plural = plural or "validatingadmissionpolicybindings"
        plane.call("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", document)


def test_pods_with_shares_are_left_to_our_scheduler(plane: ControlPlane) -> None:
    """Nobody else can bind one then, however its Binding may cross ours."""
    apply_policy(plane, "components/gpu-shares/policy.yaml")
    asks = PodSpec(((CPU, 100), (MEMORY, 2**20)))
    share = PodSpec(asks.request, GpuRequest(1, 500))

    def refused(spec: PodSpec, node: str = "", *, starts: bool = False, **fields: str) -> bool:
        body = pod_json("p", spec, node)
        body["spec"] |= fields
        if starts:
            body["spec"]["initContainers"] = body["spec"]["containers"]
            body["spec"]["containers"] = pod_json("p", asks)["spec"]["containers"]
            body["spec"]["initContainers"][0]["name"] = "first"
        try:
            plane.call("POST", f"{PODS}?dryRun=All", body)
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            assert "bound by Ullage alone" in said, said
            return True
        return False

    ours: dict[str, Any] = {"schedulerName": "ullage-scheduler"}
    until(lambda: refused(share), "the policy is in force")
    assert refused(share, starts=True)
    assert refused(share, "n", **ours)
    assert not refused(share, **ours)
    assert not refused(share, starts=True, **ours)
    assert not refused(asks)
    assert not refused(asks, "n")


def node(name: str) -> dict[str, Any]:
    """A Node with GPUs."""
    return node_json(next(n for n in fleet(2) if n.name == name))


def until(what: Any, why: str) -> None:
    """Wait for something that is not watched."""
    end = time.monotonic() + 60 * PATIENCE
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.1)
