"""Random small clusters as Kubernetes objects, with every hard rule, mark and budget that a plan must obey."""

from __future__ import annotations

import random
from typing import Any

from tests.plan_referee import GANG, GANG_LABELS, GATE, GROUP, MEMBERS, SIZE, WORKLOAD, Referee

Object = dict[str, Any]
ZONES = ("z1", "z2", "z3")
APPS = ("red", "blue", "green")
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def a_node(chance: random.Random, i: int) -> Object:
    """Two to eight cores, often with a zone, taints, a cordon, devices or a mark."""
    name = f"n{i}"
    labels = {HOST: name, "size": str(chance.randint(1, 3))}
    if chance.random() < 0.85:
        labels[ZONE] = chance.choice(ZONES)
    offered = {"cpu": str(chance.randint(2, 8)), "memory": f"{chance.randint(4, 16)}Gi"}
    offered["pods"] = str(chance.choice([3, 5, 110]))
    if chance.random() < 0.3:
        offered["example.com/port"] = str(chance.randint(1, 2))
    if chance.random() < 0.25:
        offered["ullage.dev/gpu-milli"] = str(1000 * chance.randint(1, 2))
    spec: Object = {}
    if chance.random() < 0.2:
        spec["taints"] = [{"key": "only", "value": "gpu", "effect": chance.choice(["NoSchedule", "NoExecute"])}]
    if chance.random() < 0.1:
        spec["unschedulable"] = True
    marks = {"karpenter.sh/do-not-disrupt": "true"} if chance.random() < 0.1 else {}
    if name == "n0" and marks:  # no draw more, or every cluster would be another
        labels["node-role.kubernetes.io/control-plane"] = ""
        marks = {}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": marks},
        "spec": spec,
        "status": {"allocatable": offered},
    }


def _affinity(chance: random.Random, app: str) -> Object:
    roll = chance.random()
    selector = {"matchLabels": {"app": chance.choice([app, *APPS])}}
    term = [{"topologyKey": chance.choice([HOST, ZONE]), "labelSelector": selector}]
    if roll < 0.12:
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    if roll < 0.2:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    if roll < 0.32:
        wanted = chance.choice(
            [
                {"matchExpressions": [{"key": ZONE, "operator": "In", "values": list(chance.sample(ZONES, 2))}]},
                {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["1"]}]},
                {"matchExpressions": [{"key": ZONE, "operator": "Exists"}]},
                {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n0"]}]},
            ]
        )
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}}
    return {}


def a_pod(chance: random.Random, i: int) -> Object:
    """A pod of one of a few owners, with a rule or a mark now and then; pending."""
    app = chance.choice(APPS)
    labels, marks = {"app": app}, {}
    request = {"cpu": chance.choice(["500m", "1", "2", "3"]), "memory": chance.choice(["512Mi", "1Gi", "4Gi"])}
    container: Object = {"name": "c", "resources": {"requests": request}}
    spec: Object = {"containers": [container], "priority": chance.choice([0, 0, 0, 10, 100])}
    owner = chance.choice(["ReplicaSet"] * 8 + ["Job", "DaemonSet", ""])
    metadata: Object = {"name": f"p{i}", "uid": f"p{i}", "namespace": chance.choice(["a", "a", "b"])}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner, "name": app, "uid": f"{owner}-{app}", "controller": True}]
    for likely, act in (
        (0.06, lambda: request.update({"example.com/port": "1"})),
        (0.05, lambda: container.update(ports=[{"hostPort": chance.choice([80, 81])}])),
        (0.06, lambda: spec.update(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])),
        (0.04, lambda: spec.update(resourceClaims=[{"name": "gpu"}])),
        (0.06, lambda: marks.update({"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"})),
        (0.06, lambda: marks.update({"karpenter.sh/do-not-disrupt": "true"})),
        (0.1, lambda: spec.update(preemptionPolicy="Never")),
        (0.04, lambda: metadata.update(deletionTimestamp="2026-01-01T00:00:00Z")),
        (0.25, lambda: spec.update(tolerations=[{"key": "only", "operator": "Exists"}])),
        (0.03, lambda: spec.update(tolerations=[{"operator": "Exists"}])),
        (0.06, lambda: spec.update(nodeSelector={"size": "2"})),
        (0.3, lambda: spec.update(affinity=_affinity(chance, app))),
        (0.05, lambda: spec.update(schedulingGates=[{"name": chance.choice([GATE, "example.com/quota"])}])),
        (0.16, lambda: _join_gang(chance, app, labels, marks, spec)),
        (0.08, lambda: request.update({"ullage.dev/gpu-milli": chance.choice(["500", "1000", "300"])})),
        (0.08, lambda: spec.update(topologySpreadConstraints=[_spread(chance, app)])),
    ):
        if chance.random() < likely:
            act()
    metadata |= {"labels": labels, "annotations": marks}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


def _join_gang(chance: random.Random, app: str, labels: Object, marks: Object, spec: Object) -> None:
    """In one of the ways in which a pod can say that it does not come alone, sometimes in two; sizes may contradict."""
    named = f"gang-{app}"
    for way in chance.sample(["label", "label", "group", "workload", "owner"], chance.choice([1, 1, 1, 2])):
        if way == "label":
            labels[chance.choice([GANG, GANG, *GANG_LABELS])] = named
        elif way == "group":
            spec["schedulingGroup"] = {"podGroupName": named}
        elif way == "workload":
            replica = {"podGroupReplicaKey": chance.choice("01")} if chance.random() < 0.3 else {}
            spec["workloadRef"] = {"name": named, "podGroup": chance.choice(["w", "w", "v"]), **replica}
    if chance.random() < 0.7:
        marks[SIZE] = str(chance.choice([0, 1, 2, 2, 3]))


def gang_objects(chance: random.Random) -> list[Object]:
    """What says how many pods gangs need, for some of the gangs, where such objects are known at all."""
    found = []
    for version, kind in ((MEMBERS, "PodGroup"), (GROUP, "PodGroup"), (WORKLOAD, "Workload")):
        if chance.random() < 0.5:
            continue
        for app in APPS:
            for space in "ab":
                if chance.random() < 0.4:
                    continue
                policy: Object = (
                    {"gang": {"minCount": chance.randint(1, 3)}} if chance.random() < 0.7 else {"basic": {}}
                )
                spec = {
                    MEMBERS: {"minMember": chance.randint(1, 3)},
                    GROUP: {"schedulingPolicy": policy},
                    WORKLOAD: {"podGroups": [{"name": "w", "policy": policy}]},
                }[version]
                meta = {"name": f"gang-{app}", "namespace": space}
                found.append({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})
    return found


def _spread(chance: random.Random, app: str) -> Object:
    return {
        "maxSkew": chance.choice([1, 2]),
        "topologyKey": chance.choice([ZONE, HOST]),
        "whenUnsatisfiable": chance.choice(["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"]),
        "labelSelector": {"matchLabels": {"app": app}},
    }


def a_budget(chance: random.Random, i: int) -> Object:
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"b{i}", "namespace": chance.choice(["a", "b"])},
        "spec": {"selector": {"matchLabels": {"app": chance.choice(APPS)}}},
        "status": {"disruptionsAllowed": chance.choice([0, 1, 1, 2])},
    }


def cluster(seed: int, *, num_nodes: int = 5, num_pods: int = 18, full: float = 0.75) -> list[Object]:
    """Nodes, pods that run where their rules let them, pods that wait, budgets; ``full`` is how many pods are tried to run."""
    chance = random.Random(seed)
    nodes = [a_node(chance, i) for i in range(chance.randint(2, num_nodes))]
    pods = [a_pod(chance, i) for i in range(chance.randint(3, num_pods))]
    budgets = [a_budget(chance, i) for i in range(chance.choice([0, 1, 2]))]
    running: list[Object] = []
    for pod in pods:
        if pod["spec"].get("schedulingGates") or chance.random() > full:
            continue
        referee = Referee([*nodes, *running, pod])
        uid = pod["metadata"]["uid"]
        fits = [n for node in nodes if not referee.why_not(uid, n := node["metadata"]["name"])]
        if fits:
            home = pod["spec"]["nodeName"] = chance.choice(fits)
            if (device := referee.free_device(uid, home)) and chance.random() < 0.8:
                pod["metadata"]["annotations"]["ullage.dev/devices"] = device
            pod["status"]["phase"] = "Running"
            running.append(pod)
    return [*nodes, *pods, *budgets, *gang_objects(chance)]
