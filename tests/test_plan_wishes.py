"""Soft wishes in batch plans: kube-scheduler's points, counted twice, met before stranding, said in the plan."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from placement.planning import plan_document
from placement.plans import Plan
from placement.problems import batch_problem, check_steps
from placement.snapshots import SnapshotFile, cluster_of, snapshot_of_objects
from placement.soft import fixed_wishes, soft_parts
from placement.wish_check import recount
from simulator.cli_plan import plan as plan_group
from simulator.plan_page import page, wishes
from simulator.plan_worker import Request, make_plan
from simulator.snapshots import write_snapshot

APPS, ZONES = ("web", "db", "log"), ("x", "y", "z")
SOFT = {"key": "slow", "value": "yes", "effect": "PreferNoSchedule"}


def node(name: str, zone: str, *, cpu: int = 4, disk: str = "hdd", slow: bool = False) -> dict[str, Any]:
    """A node of ``cpu`` cores and 16 GiB."""
    labels = {"zone": zone, "disk": disk, "kubernetes.io/hostname": name}
    status = {"allocatable": {"cpu": str(cpu), "memory": "16Gi", "pods": "110"}}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [SOFT] if slow else []},
        "status": status,
    }


def pod(name: str, app: str, on: str = "", cpu: str = "1", **spec: Any) -> dict[str, Any]:
    """A pod of a replica set; ``on`` empty = pending."""
    owner = [{"kind": "ReplicaSet", "name": app, "controller": True}]
    metadata = {"name": name, "uid": f"uid-{name}", "ownerReferences": owner, "labels": {"app": app}}
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]
    spec = {"nodeName": on or None, "containers": containers, **spec}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running" if on else "Pending"}}


def likes_disk(value: str, weight: int = 10) -> dict[str, Any]:
    """Preferred node affinity."""
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}
    return {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "preference": term}]}
    }


def likes_app(app: str, key: str = "zone", weight: int = 10, *, away: bool = False) -> dict[str, Any]:
    """Preferred pod affinity, or ``away`` anti-affinity."""
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    wish = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "podAffinityTerm": term}]}
    return {"podAntiAffinity" if away else "podAffinity": wish}


def taken(*objects: dict[str, Any]) -> SnapshotFile:
    """Snapshot of these objects."""
    return snapshot_of_objects(json.dumps({"kind": "List", "items": objects}).encode())


def planned(*objects: dict[str, Any]) -> Plan:
    """A batch plan of these objects, checked."""
    return make_plan(Request("batch", taken(*objects), 2.0))


def where(plan: Plan) -> dict[str, str]:
    """Node of each pod."""
    return {step.name.removeprefix("default/"): step.target for step in plan.steps}


TWO = (node("a", "x", disk="hdd"), node("b", "y", disk="ssd"))
FULLER = pod("r-1", "log", "a", "2")
"""Makes ``a`` the node that strands less."""


@pytest.mark.parametrize(
    ("objects", "share"),
    [
        ((*TWO, FULLER, pod("w-1", "web", affinity=likes_disk("ssd"))), 1.0),
        ((node("a", "x", slow=True), node("b", "y"), FULLER, pod("w-1", "web")), 1.0),
        ((*TWO, FULLER, pod("w-1", "web", affinity=likes_app("log", away=True))), 1.0),
        ((*TWO, FULLER, pod("r-2", "db", "b"), pod("w-1", "web", affinity=likes_app("db"))), 1.0),
        ((*TWO, FULLER, pod("r-2", "db", "b", affinity=likes_app("web")), pod("w-1", "web")), 1.0),
    ],
    ids=["node affinity", "taint", "anti-affinity", "affinity", "a resident's wish"],
)
def test_a_wish_decides_before_stranding(objects: tuple[dict[str, Any], ...], share: float) -> None:
    plan = planned(*objects)
    assert where(plan) == {"w-1": "b"}
    assert plan.details["wishes_met_share"] == plan.details["wishes_met_share_bound"] == share
    assert plan.reasons == ()


def test_count_decides_before_wishes() -> None:
    """Two pods like the large node; the third fits nowhere else."""
    nodes = (node("a", "x", cpu=2), node("b", "y", cpu=4, disk="ssd"))
    small = [pod(f"s-{i}", "web", cpu="1", affinity=likes_disk("ssd")) for i in range(2)]
    plan = planned(*nodes, *small, pod("l-1", "db", cpu="3"))
    assert where(plan) | {"l-1": "b"} == where(plan)
    assert sorted(where(plan).values()) == ["a", "b", "b"]
    assert plan.details["wishes_met_share"] == plan.details["wishes_met_share_bound"] == 0.5
    assert wishes(plan) == "50 % of the soft wishes are met; with these many pods placed no more is possible."


def test_without_wishes_a_plan_says_nothing_of_them() -> None:
    plan = planned(*TWO, FULLER, pod("w-1", "web"))
    assert where(plan) == {"w-1": "a"}
    assert not [name for name in plan.details if "wish" in name]
    assert wishes(plan) == ""


def test_wishes_about_pods_of_the_batch_and_spreading_are_said_not_to_be_counted() -> None:
    spread = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "db"}},
    }
    apart = [pod(f"w-{i}", "web", affinity=likes_app("web", away=True)) for i in range(2)]
    plan = planned(*TWO, *apart, pod("d-1", "db", topologySpreadConstraints=[spread]), pod("l-1", "log"))
    assert plan.details["wishes_not_counted"] == 3
    assert plan.reasons == ("3 pods wish to be spread, or near or away from pods of this batch: not counted in full",)
    alone = planned(*TWO, apart[0])
    assert "wishes_not_counted" not in alone.details


def random_cluster(seed: int) -> list[dict[str, Any]]:
    """A dozen nodes, residents and pending pods with wishes of every kind."""
    rng = random.Random(seed)

    def wish() -> dict[str, Any]:
        made: dict[str, Any] = {}
        if rng.random() < 0.4:
            made |= likes_disk(rng.choice(("ssd", "hdd")), rng.randint(1, 100))
        for away in (False, True):
            if rng.random() < 0.4:
                key = rng.choice(("zone", "kubernetes.io/hostname", "rack"))
                made |= likes_app(rng.choice(APPS), key, rng.randint(1, 100), away=away)
        tolerations = [{"key": "slow", "operator": "Exists"}] if rng.random() < 0.3 else []
        return {"affinity": made, "tolerations": tolerations}

    nodes = [
        node(f"n-{i}", rng.choice(ZONES), disk=rng.choice(("ssd", "hdd")), slow=rng.random() < 0.3) for i in range(12)
    ]
    running = [pod(f"r-{i}", rng.choice(APPS), f"n-{i % 12}", **wish()) for i in range(18)]
    pending = [pod(f"p-{i}", rng.choice(APPS), cpu=rng.choice(("500m", "2", "3")), **wish()) for i in range(12)]
    return [*nodes, *running, *pending]


@pytest.mark.parametrize("seed", range(12))
def test_points_are_kube_schedulers_and_both_counts_agree(seed: int) -> None:
    file = taken(*random_cluster(seed))
    cluster = cluster_of(file)
    problem = batch_problem(cluster)
    assert problem.batch.wish is not None
    rules, names = cluster.state.rules, cluster.node_names()
    for c, pods in enumerate(problem.pods):
        spec, fits = pods[0].spec, problem.batch.fitting()[c] > 0
        if not fits.any():
            continue
        parts = soft_parts(rules, spec, fits)
        static = sum(
            parts.get(n, np.zeros(12, np.int64)) for n in ("TaintToleration", "NodeAffinity", "InterPodAffinity")
        )
        points = fixed_wishes(rules, spec, fits)
        expected = (static - np.min(np.asarray(static)[fits])) * fits
        assert np.array_equal(np.zeros(12) if points is None else points, expected)
        again = [recount(cluster.state, names, {spec: fits}, [(spec, name)]) for name in names]
        assert again == problem.batch.wish[c].tolist()
    plan = make_plan(Request("batch", file, 5.0))
    assert plan.details["wish_points"] <= plan.details["wish_points_bound"] <= plan.details["wish_points_possible"]
    false = Plan("batch", plan.ending, plan.unit, plan.value, plan.bound, plan.steps, details={"wish_points": 1e6})
    assert check_steps(cluster, false)[0].startswith("1e+06 points of wishes are claimed")


def test_the_output_says_how_much_of_the_wishes_is_met(tmp_path: Any) -> None:
    file = taken(*TWO, FULLER, pod("w-1", "web", affinity=likes_disk("ssd")))
    write_snapshot(file, tmp_path / "s.json")
    words = ["batch", "--snapshot", str(tmp_path / "s.json"), "--time", "1"]
    table = CliRunner().invoke(plan_group, words)
    assert "100 % of the soft wishes are met" in table.stdout, table.output
    document = json.loads(CliRunner().invoke(plan_group, [*words, "-o", "json"]).stdout)
    assert document["details"]["wishes_met_share"] == 1
    plan = make_plan(Request("batch", file, 1.0))
    assert plan_document(plan)["details"]["wish_points"] == 200
    assert "100 % of the soft wishes are met" in page(cluster_of(file), plan)
