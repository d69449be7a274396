"""Simulated stock equals real stock: what kube-scheduler chooses alone is among the core's best nodes.

No extender, every node scored. Pods state soft wishes (preferred node and pod affinity, ``ScheduleAnyway``) or belong
to Services, ReplicationControllers, ReplicaSets and StatefulSets, which kube-scheduler spreads by default; nodes carry
PreferNoSchedule taints and images, some have no zone. kube-scheduler breaks ties at random, so its choice must lie in the set of
best nodes that the minor's own profile (``kube-default``, up to 1.35 ``kube-default-1.35``) finds on the same state.
``ULLAGE_E2E_STOCK`` sets the number of pods.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import numpy as np
import pytest

from placement.pods import PodSpec
from placement.resources import NOT_FEASIBLE
from placement.strategies import STRATEGIES
from tests.e2e.control_plane import VERSION, ControlPlane
from tests.e2e.drive import Cluster, cluster_of
from tests.e2e.test_hard_rules import HOSTNAME, NUM_NODES, ZONE, Core, Maker, clear

OWNERS = {"ReplicationController": "v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1"}
"""Kind of controller → its API version; Jobs are not spread."""
NUM_PODS = int(os.environ.get("ULLAGE_E2E_STOCK", "400"))
PODS_PER_CLUSTER = 40
PROFILE, OTHER = ("kube-default", "kube-default-1.35")[:: 1 if VERSION >= (1, 36) else -1]
"""What this minor's default profile is, and what that of the other minors would have chosen."""
IMAGES = {"registry.local/a:1": 900 << 20, "registry.local/b:1": 300 << 20, "registry.local/c:2": 60 << 20}
"""Name → bytes, the same on every node: kube-scheduler keeps one size per name."""


class SoftMaker(Maker):
    """Clusters with room, pods with wishes."""

    def node(self, number: int) -> dict[str, Any]:
        node = super().node(number)
        node["spec"].pop("unschedulable", None)
        node["spec"]["taints"] = [t for t in node["spec"]["taints"] if t["effect"] == "PreferNoSchedule"]
        offer = {"cpu": str(self.rng.choice((8, 16))), "memory": self.rng.choice(("16Gi", "64Gi")), "pods": "110"}
        images = [{"names": [name], "sizeBytes": size} for name, size in IMAGES.items() if self.chance(0.4)]
        node["status"] = {"allocatable": offer, "capacity": offer, "images": images}
        return node

    def wishes(self) -> dict[str, Any]:
        """An affinity with preferences only."""
        rng = self.rng
        affinity: dict[str, Any] = {}
        preferred = "preferredDuringSchedulingIgnoredDuringExecution"
        if self.chance(0.5):
            terms = [{"weight": rng.randrange(1, 101), "preference": {"matchExpressions": [self.expression()]}}]
            affinity["nodeAffinity"] = {preferred: terms * (1 + self.chance(0.3))}
        for side in ("podAffinity", "podAntiAffinity"):
            if self.chance(0.3):
                affinity[side] = {preferred: [{"weight": rng.randrange(1, 101), "podAffinityTerm": self.pod_term()}]}
        return affinity

    def soft_pod(self, name: str) -> dict[str, Any]:
        """A pod whose hard demands are small."""
        pod = self.pod(name, resident=True)
        spec = pod["spec"]
        for demand in ("initContainers", "resources", "runtimeClassName", "hostNetwork"):
            spec.pop(demand, None)
        spec["tolerations"] = [t for t in spec["tolerations"] if t.get("operator") not in ("Gt", "Lt")]
        spec["affinity"] = self.wishes()
        spec["containers"] = spec["containers"][:1]
        spec["containers"][0].pop("ports", None)
        spec["containers"][0]["image"] = self.rng.choice(sorted(IMAGES))
        asks = {"cpu": self.rng.choice(("100m", "700m")), "memory": "256Mi"}
        spec["containers"][0]["resources"] = {"requests": asks}
        if self.chance(0.3):
            spec["containers"][0]["resources"] = {}
        if self.chance(0.4):
            keys = self.rng.sample((HOSTNAME, ZONE, "disk"), 1 + self.chance(0.4))
            labels = {"labelSelector": {"matchLabels": {"app": self.rng.choice(("web", "db"))}}}
            spec["topologySpreadConstraints"] = [
                {"topologyKey": k, "maxSkew": self.rng.randrange(1, 4), "whenUnsatisfiable": "ScheduleAnyway", **labels}
                for k in keys
            ]
        if self.chance(0.5):
            kind = self.rng.choice(sorted(OWNERS))
            reference = {"apiVersion": OWNERS[kind], "kind": kind, "name": "owner", "uid": "u-1", "controller": True}
            pod["metadata"]["ownerReferences"] = [reference]
        if VERSION >= (1, 37) and self.chance(0.3):  # 1.36 does not count mounted images among those asked for
            spec["volumes"] = [{"name": "files", "image": {"reference": self.rng.choice(sorted(IMAGES))}}]
        return pod


async def add_owners(cluster: Cluster) -> None:
    """In two of the namespaces Services and one controller of each kind; nobody acts on them."""
    for space in ("default", "red"):
        for app in ("web", "db"):
            service = {"selector": {"app": app}, "ports": [{"port": 80}]}
            await create(cluster, "/api/v1", space, "services", app, service)
        template: dict[str, Any] = {"metadata": {"labels": {"app": "web", "team": "x"}}}
        template["spec"] = {"containers": [{"name": "c", "image": "x"}]}
        exact: dict[str, Any] = {"matchLabels": {"app": "web"}}
        wide = {"matchExpressions": [{"key": "team", "operator": "Exists"}]}
        for kind, selector in (("ReplicaSet", exact), ("StatefulSet", wide)):
            spec: dict[str, Any] = {"selector": selector, "template": template, "serviceName": "web", "replicas": 0}
            if kind == "ReplicaSet":
                spec.pop("serviceName")
            await create(cluster, "/apis/apps/v1", space, f"{kind.lower()}s", "owner", spec)
        spec = {"selector": {"team": "x"}, "template": template, "replicas": 0}
        await create(cluster, "/api/v1", space, "replicationcontrollers", "owner", spec)


async def create(cluster: Cluster, group: str, space: str, plural: str, name: str, spec: dict[str, Any]) -> None:
    """One namespaced object."""
    await cluster.call("POST", f"{group}/namespaces/{space}/{plural}", {"metadata": {"name": name}, "spec": spec})


def best(core: Core, spec: PodSpec, profile: str) -> set[str]:
    """Names of the nodes that no other node beats."""
    scores = STRATEGIES[profile].scores(core.ledger.state.snapshot(), spec)
    top = int(scores.max())
    assert top > NOT_FEASIBLE, "the cluster has room"
    return {core.ledger.state.names[row] for row, score in enumerate(scores.tolist()) if score == top}


def parts(core: Core, spec: PodSpec) -> dict[str, dict[str, int]]:
    """Every node's score in its parts, for messages."""
    state = core.ledger.state
    program = STRATEGIES[PROFILE].program(state)
    found = program.parts(spec, np.arange(state.num_rows))
    return {
        state.names[row]: dict(zip(program.names, found[:, row].tolist(), strict=True)) for row in range(state.num_rows)
    }


async def place(cluster: Cluster, pod: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The pod as first made, and its node once it is bound."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
    made = await cluster.call("POST", path, pod)
    for _ in range(2000):
        seen = await cluster.call("GET", f"{path}/{pod['metadata']['name']}")
        if seen["spec"].get("nodeName"):
            return made, seen["spec"]["nodeName"]
        await asyncio.sleep(0.003)
    raise AssertionError(f"kube-scheduler never placed {pod['metadata']['name']}: {seen['status']}")


@pytest.mark.timeout(1800)
async def test_kube_schedulers_own_choice_is_among_our_best_nodes(plane: ControlPlane) -> None:
    differences: list[str] = []
    sizes: list[int] = []
    num_default = num_other = 0
    async with cluster_of(plane) as cluster:
        for name in ("red", "blue"):
            await cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"colour": name}}})
        await add_owners(cluster)
        plane.start_scheduler([])
        for number in range(-(-NUM_PODS // PODS_PER_CLUSTER)):
            maker = SoftMaker(1000 + number)
            await cluster.many((("POST", "/api/v1/nodes", maker.node(i)) for i in range(NUM_NODES)), width=4)
            await asyncio.sleep(0.3)
            for i in range(PODS_PER_CLUSTER):
                core = Core()
                await core.read(cluster)
                made, node = await place(cluster, maker.soft_pod(f"p{i:02d}"))
                spec = core.reader.spec(json.dumps(made).encode())
                expected = best(core, spec, PROFILE)
                num_other += node not in best(core, spec, OTHER)
                num_default += any(c.is_default for c in spec.pod_rules.spread)
                sizes.append(len(expected))
                if node not in expected:
                    differences.append(
                        f"cluster seed {1000 + number}, pod {i}: on {node}, best {sorted(expected)}: "
                        f"{json.dumps(made['spec'])} {made['metadata'].get('labels')} {parts(core, spec)}"
                    )
            await clear(cluster)
    print(
        f"{len(sizes)} pods of cluster seeds from 1000, {num_default} spread by default, "
        f"{sum(sizes) / len(sizes):.2f} best nodes each, {len(differences)} differences from {PROFILE}, "
        f"{num_other} from {OTHER}"
    )
    assert len(differences) <= len(sizes) / 1000, "\n".join(differences[:5])
    assert sum(sizes) / len(sizes) < NUM_NODES / 2
    assert num_default > len(sizes) / 10
