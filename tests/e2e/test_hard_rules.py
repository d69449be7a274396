"""Hard rules equal kube-scheduler's: the candidates that it sends to a recording extender are the core's mask.

Random clusters (labels, taints, residents with ports, labels and anti-affinity, some of them resized in place or being
deleted) and random pods with every hard rule, bound volumes and everything that adds to a request.
The extender refuses every pod, so nothing is ever bound; an empty mask means that it is not called, and the pod's
status must say so. ``ULLAGE_E2E_RULES`` sets the number of pods; the seed of a difference is printed with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from placement.pods import PodSpec
from placement.resources import NOT_FEASIBLE, parse_quantity
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from scheduler.eventlog import NoLog
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.modes import Modes
from scheduler.view import Reader, sinks
from tests.e2e.control_plane import VERSION, ControlPlane, free_port
from tests.e2e.drive import Cluster, cluster_of

NUM_PODS = int(os.environ.get("ULLAGE_E2E_RULES", "1000"))
PODS_PER_CLUSTER = 50
NUM_NODES, NUM_RESIDENTS = 12, 25
NAMESPACES = ("default", "red", "blue")
ZONES, DISKS, APPS, TEAMS = ("z1", "z2", "z3"), ("ssd", "hdd"), ("web", "db", "cache"), ("x", "y")
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
NUM_CLAIMS = 6
"""Bound claims of each namespace."""
COMPARES_NUMBERS = "TaintTolerationComparisonOperators" if VERSION >= (1, 35) else ""
"""Feature by which tolerations compare numbers, off by default."""
SUMS_ARE_COMPARED = VERSION >= (1, 37)
"""What counts while several containers of a pod are resized: the largest sum, and not the sum of the largest."""
RUNTIMES: dict[str, dict[str, Any]] = {
    "plain": {"overhead": {"podFixed": {"cpu": "200m", "memory": "64Mi"}}},
    "picky": {
        "overhead": {"podFixed": {"cpu": "50m"}},
        "scheduling": {"nodeSelector": {"size": "2"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    },
}


class Recorder:
    """An extender that notes the names it is asked about, by pod UID, and refuses every pod."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: dict[str, set[str]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-le"))
                body = json.loads(await reader.readexactly(length))
                self.asked[body["Pod"]["metadata"]["uid"]] = set(body["NodeNames"])
                answer = b'{"Error":"recorded"}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


# ── random objects ────────────────────────────────────────────────────────────────────────────


class Maker:
    """Valid random objects; everything from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def node(self, number: int) -> dict[str, Any]:
        rng = self.rng
        labels = {HOSTNAME: f"n{number:02d}", "size": str(rng.randrange(1, 6))}
        if self.chance(0.9):
            labels[ZONE] = rng.choice(ZONES)
        if self.chance(0.6):
            labels["disk"] = rng.choice(DISKS)
        taints = [
            {"key": rng.choice(("spot", "gpu")), "value": rng.choice(("", "yes")), "effect": effect}
            for effect in ("NoSchedule", "NoExecute", "PreferNoSchedule")
            if self.chance(0.15)
        ]
        if COMPARES_NUMBERS and self.chance(0.15):
            taints.append({"key": "level", "value": rng.choice(("3", "7", "high")), "effect": "NoSchedule"})
        spec = {"taints": taints} | ({"unschedulable": True} if self.chance(0.08) else {})
        offer = {
            "cpu": str(rng.choice((2, 4, 8))),
            "memory": rng.choice(("2Gi", "8Gi")),
            "pods": str(rng.choice((4, 9))),
        }
        if self.chance(0.5):
            offer["example.com/nic"] = str(rng.choice((1, 2)))
        if self.chance(0.7):
            offer["ephemeral-storage"] = rng.choice(("1Gi", "8Gi"))
        if self.chance(0.5):
            offer["hugepages-2Mi"] = rng.choice(("64Mi", "256Mi"))
        status = {"allocatable": offer, "capacity": offer}
        return {"metadata": {"name": f"n{number:02d}", "labels": labels}, "spec": spec, "status": status}

    def expression(self) -> dict[str, Any]:
        rng = self.rng
        key, values = rng.choice(((ZONE, ZONES), ("disk", DISKS), ("size", ("1", "2", "3")), ("absent", ("q",))))
        operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
        if operator in ("Gt", "Lt"):
            return {"key": "size", "operator": operator, "values": [str(rng.randrange(0, 6))]}
        some = rng.sample(values, rng.randrange(1, len(values) + 1)) if operator in ("In", "NotIn") else []
        return {"key": key, "operator": operator} | ({"values": some} if some else {})

    def node_affinity(self) -> dict[str, Any]:
        terms: list[dict[str, Any]] = []
        for _ in range(self.rng.randrange(1, 3)):
            term: dict[str, Any] = {"matchExpressions": [self.expression() for _ in range(self.rng.randrange(1, 3))]}
            if self.chance(0.2):
                name = f"n{self.rng.randrange(NUM_NODES):02d}"
                field = {"key": "metadata.name", "operator": self.rng.choice(("In", "NotIn")), "values": [name]}
                term = {"matchFields": [field]} | (term if self.chance(0.5) else {})
            terms.append(term)
        return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}

    def selector(self) -> dict[str, Any] | None:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return None
        if kind == 1:
            return {}
        if kind == 2:
            values = rng.sample(APPS, 2)
            return {"matchExpressions": [{"key": "app", "operator": rng.choice(("In", "NotIn")), "values": values}]}
        if kind == 3:
            return {"matchExpressions": [{"key": "team", "operator": rng.choice(("Exists", "DoesNotExist"))}]}
        return {"matchLabels": {"app": rng.choice(APPS)}}

    def pod_term(self) -> dict[str, Any]:
        rng = self.rng
        selector = self.selector()
        term: dict[str, Any] = {"topologyKey": rng.choice((HOSTNAME, ZONE, "disk"))}
        if selector is not None:
            term["labelSelector"] = selector
            if "team" not in str(selector) and self.chance(0.2):
                term[rng.choice(("matchLabelKeys", "mismatchLabelKeys"))] = ["team"]
        if self.chance(0.3):
            term["namespaces"] = rng.sample(NAMESPACES, rng.randrange(1, 3))
        if self.chance(0.25):
            term["namespaceSelector"] = rng.choice(
                ({}, {"matchLabels": {"colour": "red"}}, {"matchLabels": {"no": "ne"}})
            )
        return term

    def inter_pod(self, *, near: float, far: float) -> dict[str, Any]:
        made = {}
        for name, share in (("podAffinity", near), ("podAntiAffinity", far)):
            if self.chance(share):
                terms = [self.pod_term() for _ in range(1 + self.chance(0.3))]
                made[name] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        return made

    def spread(self) -> list[dict[str, Any]]:
        rng = self.rng
        made = []
        for key in rng.sample((HOSTNAME, ZONE, "disk"), 1 + self.chance(0.3)):
            constraint: dict[str, Any] = {
                "topologyKey": key,
                "maxSkew": rng.randrange(1, 4),
                "whenUnsatisfiable": "DoNotSchedule",
            }
            selector = self.selector()
            if selector is not None:
                constraint["labelSelector"] = selector
                if "team" not in str(selector) and self.chance(0.2):
                    constraint["matchLabelKeys"] = ["team"]
            if self.chance(0.3):
                constraint["minDomains"] = rng.randrange(1, 5)
            if self.chance(0.4):
                constraint["nodeAffinityPolicy"] = rng.choice(("Honor", "Ignore"))
            if self.chance(0.4):
                constraint["nodeTaintsPolicy"] = rng.choice(("Honor", "Ignore"))
            made.append(constraint)
        return made

    def tolerations(self) -> list[dict[str, Any]]:
        made = []
        for key in ("spot", "gpu"):
            if self.chance(0.5):
                toleration: dict[str, Any] = {"key": key}
                if self.chance(0.5):
                    toleration["operator"] = "Exists"
                else:
                    toleration |= {"operator": "Equal", "value": self.rng.choice(("", "yes"))}
                if self.chance(0.5):
                    toleration["effect"] = self.rng.choice(("NoSchedule", "NoExecute"))
                made.append(toleration)
        if COMPARES_NUMBERS and self.chance(0.6):
            made.append({"key": "level", "operator": self.rng.choice(("Gt", "Lt")), "value": self.rng.choice("258")})
        return [{"operator": "Exists"}] if self.chance(0.08) else made

    def container(self, name: str, *, small: bool) -> dict[str, Any]:
        rng = self.rng
        if self.chance(0.08):
            return {"name": name, "image": "x", "resources": {"requests": {}}}
        asks = {"cpu": rng.choice(("50m", "100m") if small else ("50m", "100m", "500m", "1"))}
        if self.chance(0.6):
            asks["memory"] = rng.choice(("64Mi",) if small else ("128Mi", "1Gi", "3Gi"))
        limits = {}
        if not small and self.chance(0.15):
            asks["example.com/nic"] = limits["example.com/nic"] = "1"
        if self.chance(0.06):
            asks["ephemeral-storage"] = rng.choice(("100Mi", "700Mi"))
        if self.chance(0.06):
            asks["hugepages-2Mi"] = limits["hugepages-2Mi"] = rng.choice(("32Mi", "64Mi"))
        return {"name": name, "image": "x", "resources": {"requests": asks, "limits": limits}}

    def port(self) -> dict[str, Any]:
        rng = self.rng
        number = rng.choice((8080, 9090))
        port = {"containerPort": number, "hostPort": number, "protocol": rng.choice(("TCP", "UDP", "SCTP"))}
        return port | ({"hostIP": rng.choice(("127.0.0.1", "10.0.0.1"))} if self.chance(0.4) else {})

    def whole(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Resources of a pod as a whole; no less than its containers ask for."""
        asked: dict[str, int] = {}
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            for name, text in container["resources"]["requests"].items():
                asked[name] = asked.get(name, 0) + parse_quantity(text, name)
        more = {"cpu": self.rng.choice((0, 150)), "memory": self.rng.choice((1, 512)) << 20}
        cpu, memory = (asked.get(name, 0) + amount for name, amount in more.items())
        requests = {"cpu": f"{cpu}m"} | ({"memory": str(memory)} if self.chance(0.6) else {})
        limits = {}
        if self.chance(0.3):
            requests["hugepages-2Mi"] = limits["hugepages-2Mi"] = str(asked.get("hugepages-2Mi", 0) + (2 << 20))
        return {"requests": requests, "limits": limits}

    def pod(self, name: str, *, resident: bool) -> dict[str, Any]:
        rng = self.rng
        labels = {"app": rng.choice(APPS)} if self.chance(0.8) else {}
        if self.chance(0.5):
            labels["team"] = rng.choice(TEAMS)
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": 0,
            "containers": [self.container(c, small=resident) for c in ("c", "d")[: 1 + self.chance(0.2)]],
            "tolerations": self.tolerations(),
        }
        begins = [self.container(f"i{i}", small=resident) for i in range(rng.choice((0, 0, 0, 0, 0, 1, 2, 3)))]
        sidecars = [container for container in begins if self.chance(0.5)]
        for container in sidecars:
            container["restartPolicy"] = "Always"
        if begins:
            spec["initContainers"] = begins
        if self.chance(0.15):
            rng.choice([*spec["containers"], *sidecars])["ports"] = [self.port()]
            spec["hostNetwork"] = self.chance(0.2)
        if self.chance(0.1):
            spec["resources"] = self.whole(spec)
        if self.chance(0.1):
            spec["runtimeClassName"] = rng.choice(sorted(RUNTIMES))
        if not resident:
            self._demand(spec)
        affinity = self.inter_pod(near=0 if resident else 0.25, far=0.2)
        if not resident and self.chance(0.35):
            affinity["nodeAffinity"] = self.node_affinity()
        spec["affinity"] = affinity
        return {"metadata": {"name": name, "namespace": rng.choice(NAMESPACES), "labels": labels}, "spec": spec}

    def resizes(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Status of a pod that asks for something else than it has, or that asked in vain."""
        rng = self.rng

        def granted(names: Iterable[str]) -> dict[str, Any]:
            running, allocated = ({name: rng.choice(("10m", "500m", "1")) for name in names} for _ in range(2))
            return {"resources": {"requests": running}, "allocatedResources": allocated}

        def of(kind: str) -> list[dict[str, Any]]:
            is_done = {"image": "x", "imageID": "", "ready": True, "restartCount": 0}
            return [{"name": c["name"], **is_done, **granted(["cpu"])} for c in spec.get(kind, ())]

        reason = rng.choice(("Deferred", "Infeasible"))
        status = {
            "phase": "Running",
            "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
        }
        if SUMS_ARE_COMPARED or len(spec["containers"]) + len(spec.get("initContainers", ())) == 1:
            status |= {"containerStatuses": of("containers"), "initContainerStatuses": of("initContainers")}
        if "resources" in spec:
            status |= granted(spec["resources"]["requests"])
        return status

    def volumes(self, namespace: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Bound claims of a namespace, each with its volume."""
        made = []
        for i in range(NUM_CLAIMS):
            modes, size = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}, {"storage": "1Gi"}
            meta = {"name": f"claim-{i}", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}
            claim = {
                "metadata": meta,
                "spec": {**modes, "resources": {"requests": size}, "volumeName": f"{namespace}-{i}"},
            }
            spec = {**modes, "capacity": size, "hostPath": {"path": "/x"}}
            volume: dict[str, Any] = {"metadata": {"name": f"{namespace}-{i}"}, "spec": spec}
            if i == 1:
                volume["metadata"]["labels"] = {ZONE: self.rng.choice(ZONES)}
            elif i > 1:
                terms = [{"matchExpressions": [self.expression()]} for _ in range(1 + self.chance(0.3))]
                spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
            made.append((volume, claim))
        return made

    def _demand(self, spec: dict[str, Any]) -> None:
        rng = self.rng
        if self.chance(0.1):
            claims = rng.sample(range(NUM_CLAIMS), 1 + self.chance(0.3))
            spec["volumes"] = [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": f"claim-{i}"}} for i in claims]
        if self.chance(0.2):
            spec["nodeSelector"] = {"disk": rng.choice(DISKS)} | ({ZONE: rng.choice(ZONES)} if self.chance(0.3) else {})
        if self.chance(0.35):
            spec["topologySpreadConstraints"] = self.spread()


# ── both answers ──────────────────────────────────────────────────────────────────────────────


class Core:
    """The ledger that the live service would build from the same objects."""

    def __init__(self) -> None:
        metrics = Metrics()
        self.ledger = Ledger(ClusterState(events=NoLog()), lambda: 0.0, metrics)
        self.reader = Reader()
        self.sinks = {sink.kind: sink for sink in sinks(self.ledger, Modes("off"), self.reader)}

    async def read(self, cluster: Cluster) -> None:
        """Everything there is now."""
        for sink in self.sinks.values():
            for value in (await cluster.call("GET", sink.path))["items"]:
                sink.put(msgspec.Raw(json.dumps(value).encode()))

    def spec(self, pod: dict[str, Any]) -> PodSpec:
        """The pod's class."""
        return self.reader.spec(json.dumps(pod).encode())

    def feasible(self, pod: dict[str, Any]) -> set[str]:
        """Names of nodes that no hard rule excludes."""
        spec = self.spec(pod)
        scores = STRATEGIES["first-fit"].scores(self.ledger.state.snapshot(), spec)
        return {self.ledger.state.names[row] for row, score in enumerate(scores.tolist()) if score > NOT_FEASIBLE}


@asynccontextmanager
async def recording(plane: ControlPlane) -> AsyncIterator[Recorder]:
    """kube-scheduler with a recording extender."""
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", recorder.port)
    url = f"http://127.0.0.1:{recorder.port}"
    plane.start_scheduler([{"urlPrefix": url, "filterVerb": "filter", "httpTimeout": "30s", "nodeCacheCapable": True}])
    try:
        yield recorder
    finally:
        plane.end("kube-scheduler")
        server.close()


async def kube_scheduler_says(
    cluster: Cluster, recorder: Recorder, pod: dict[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The pod as the API made it, and the candidates that were sent; none if it was rejected before."""
    space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{space}/pods"
    made = await cluster.call("POST", path, pod)
    uid = made["metadata"]["uid"]
    for _ in range(2000):
        if uid in recorder.asked:
            break
        seen = await cluster.call("GET", f"{path}/{name}")
        conditions = seen.get("status", {}).get("conditions") or ()
        if any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions):
            break
        await asyncio.sleep(0.003)
    else:
        raise AssertionError(f"kube-scheduler never tried {name}")
    await cluster.call("DELETE", f"{path}/{name}?gracePeriodSeconds=0")
    return made, recorder.asked.get(uid, set())


async def build(cluster: Cluster, maker: Maker) -> None:
    """Nodes and residents of one random cluster. Residents are bound by hand, wherever; of those that leave a finalizer keeps
    what is there."""
    await cluster.many((("POST", "/api/v1/nodes", maker.node(i)) for i in range(NUM_NODES)), width=4)
    for i in range(NUM_RESIDENTS):
        resident = maker.pod(f"r{i:02d}", resident=True)
        resident["spec"]["nodeName"] = f"n{maker.rng.randrange(NUM_NODES):02d}"
        leaves, path = maker.chance(0.25), f"/api/v1/namespaces/{resident['metadata']['namespace']}/pods"
        resident["metadata"]["finalizers"] = ["ullage.dev/test"] if leaves else []
        made = await cluster.call("POST", path, resident)
        if maker.chance(0.25):
            await cluster.call("PUT", f"{path}/r{i:02d}/status", made | {"status": maker.resizes(made["spec"])})
        if leaves:
            await cluster.call("DELETE", f"{path}/r{i:02d}?gracePeriodSeconds=0")


async def clear(cluster: Cluster) -> None:
    """Remove what :func:`build` made."""
    for pod in (await cluster.call("GET", "/api/v1/pods"))["items"]:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if meta.pop("finalizers", None):
            await cluster.call("PUT", path, pod)
        await cluster.call("DELETE", f"{path}?gracePeriodSeconds=0", ok=(200, 202, 404))
    await cluster.many((("DELETE", f"/api/v1/nodes/n{i:02d}") for i in range(NUM_NODES)), width=4)


async def prepare(cluster: Cluster) -> None:
    """What all clusters share: namespaces with bound claims, and runtime classes."""
    for name, colour in (("red", "red"), ("blue", "blue")):
        await cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"colour": colour}}})
    for name, says in RUNTIMES.items():
        made = {"metadata": {"name": name}, "handler": name, **says}
        await cluster.call("POST", "/apis/node.k8s.io/v1/runtimeclasses", made)
    maker = Maker(-1)
    for namespace in NAMESPACES:
        for volume, claim in maker.volumes(namespace):
            await cluster.call("POST", "/api/v1/persistentvolumes", volume)
            await cluster.call("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)


def with_features(plane: ControlPlane) -> None:
    """Compare numbers in tolerations, where the control plane can."""
    if COMPARES_NUMBERS:
        plane.api_options = plane.scheduler_options = (f"--feature-gates={COMPARES_NUMBERS}=true",)
        plane.end("kube-apiserver")
        plane.start_api()


@pytest.mark.timeout(3600)
async def test_the_candidates_that_kube_scheduler_sends_are_the_cores_mask(plane: ControlPlane) -> None:
    differences: list[str] = []
    num_empty = num_unmodelled = 0
    with_features(plane)
    async with cluster_of(plane) as cluster, recording(plane) as recorder:
        await prepare(cluster)
        for number in range(-(-NUM_PODS // PODS_PER_CLUSTER)):
            maker = Maker(number)
            await build(cluster, maker)
            core = Core()
            await core.read(cluster)
            await asyncio.sleep(0.3)
            for i in range(PODS_PER_CLUSTER):
                made, sent = await kube_scheduler_says(cluster, recorder, maker.pod(f"p{i:02d}", resident=False))
                mask = core.feasible(made)
                num_empty += not sent
                is_modelled = not core.spec(made).unmodelled
                num_unmodelled += not is_modelled
                if sent - mask or (is_modelled and sent != mask):
                    differences.append(
                        f"cluster seed {number}, pod {i}: kube-scheduler only {sorted(sent - mask)}, "
                        f"core only {sorted(mask - sent)}: {json.dumps(made['spec'])} {made['metadata'].get('labels')}"
                    )
            await clear(cluster)
    print(
        f"{NUM_PODS} pods on random clusters, {num_empty} fit nowhere, {num_unmodelled} are not modelled, "
        f"{len(differences)} differences"
    )
    assert differences == [], "\n".join(differences[:5])
    assert 0 < num_empty < NUM_PODS
