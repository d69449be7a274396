"""Soft wishes in batch plans: kube-scheduler's points, counted twice, met before stranding, said in the plan."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from placement.planning.batch_problems import batch_problem
from placement.planning.make import plan_document
from placement.planning.plan_check import check_steps
from placement.planning.plans import Plan
from placement.planning.snapshots import SnapshotFile, cluster_of
from placement.planning.wish_check import recount
from placement.soft import fixed_wishes, soft_parts
from simulator.cli.plan import plan as plan_group
from simulator.planning.page import further, page
from simulator.planning.snapshots import write_snapshot
from simulator.planning.worker import Request, make_plan
from tests.plan_objects import taken

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
    assert further(plan) == "50 % of the soft wishes are met; with these many pods placed no more is possible."


def test_without_wishes_a_plan_says_nothing_of_them() -> None:
    plan = planned(*TWO, FULLER, pod("w-1", "web"))
    assert where(plan) == {"w-1": "a"}
    assert not [name for name in plan.details if "wish" in name]
    assert further(plan) == ""


def spreads(app: str, key: str = "zone", skew: int = 1, **words: Any) -> dict[str, Any]:
    """``ScheduleAnyway`` spreading over pods of ``app``."""
    selector = {"matchLabels": {"app": app}} if app else {}
    made = {"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
    return made | words


def test_pods_of_a_batch_keep_apart_where_they_wish_to() -> None:
    apart = [pod(f"w-{i}", "web", affinity=likes_app("web", "kubernetes.io/hostname", away=True)) for i in range(2)]
    assert sorted(where(planned(*TWO, FULLER, *(pod(f"w-{i}", "web") for i in range(2)))).values()) == ["a", "a"]
    plan = planned(*TWO, FULLER, *apart)
    assert sorted(where(plan).values()) == ["a", "b"]
    assert (plan.details["wish_points"], plan.details["wish_points_bound"]) == (400, 400)
    assert plan.reasons == ()
    third = pod("w-2", "web", affinity=likes_app("web", "kubernetes.io/hostname", away=True))
    plan = planned(*TWO, FULLER, *apart, third)  # two of three share a node: each has one of two neighbours too many
    assert (plan.details["wish_points"], plan.details["wish_points_bound"]) == (400, 400)
    assert plan.details["wish_points_possible"] == 600
    assert plan.ending == "optimal"


def test_pods_of_a_batch_come_together_where_they_wish_to() -> None:
    """The one who is wanted wishes nothing; kube-scheduler would score it by the other's wish, too."""
    near = pod("w-1", "web", cpu="3", affinity=likes_app("db"))
    alone = pod("d-1", "db", cpu="3")
    nodes = (node("a", "x"), node("b", "y"), node("c", "y"))
    assert {where(planned(*nodes, near, alone))[name] for name in ("w-1", "d-1")} == {"b", "c"}


def test_soft_spreading_counts_what_runs_and_what_is_planned() -> None:
    nodes = (node("a", "x", cpu=8), node("b", "y", cpu=8), node("c", "y", cpu=8))
    four = [pod(f"d-{i}", "db", topologySpreadConstraints=[spreads("db")]) for i in range(4)]
    plan = planned(*nodes, *four)
    assert sorted("x" if n == "a" else "y" for n in where(plan).values()) == ["x", "x", "y", "y"]
    assert plan.details["wish_points"] == plan.details["wish_points_bound"]
    plan = planned(*nodes, pod("r-1", "db", "a"), pod("r-2", "db", "a"), *four)
    assert sorted("x" if n == "a" else "y" for n in where(plan).values()) == ["x", "y", "y", "y"]


def test_the_schedulers_own_default_spreading_is_no_wish() -> None:
    assert "wish_points" not in planned(*TWO, pod("w-1", "web"), pod("w-2", "web")).details


def random_cluster(seed: int, *, company: bool) -> list[dict[str, Any]]:
    """A dozen nodes, residents and pending pods with wishes of every kind; ``company`` has pending pods wish of each other."""
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
        soft = [
            spreads(
                rng.choice((*APPS, "")),
                rng.choice(("zone", "kubernetes.io/hostname", "disk", "rack")),
                rng.randint(1, 3),
                nodeAffinityPolicy=rng.choice(("Honor", "Ignore")),
                nodeTaintsPolicy=rng.choice(("Honor", "Ignore")),
            )
            for _ in range(rng.choice((0, 0, 0, 1, 2)))
        ]
        selector = {"disk": "ssd"} if rng.random() < 0.2 else {}
        spec = {"affinity": made, "tolerations": tolerations, "nodeSelector": selector}
        return spec | ({"topologySpreadConstraints": soft} if company else {})

    nodes = [
        node(f"n-{i}", rng.choice(ZONES), disk=rng.choice(("ssd", "hdd")), slow=rng.random() < 0.3) for i in range(12)
    ]
    running = [pod(f"r-{i}", rng.choice(APPS), f"n-{i % 12}", **wish()) for i in range(18)]
    apps = APPS if company else ("other",)
    pending = [pod(f"p-{i}", rng.choice(apps), cpu=rng.choice(("500m", "2", "3")), **wish()) for i in range(12)]
    return [*nodes, *running, *pending]


@pytest.mark.parametrize("seed", range(12))
def test_points_are_kube_schedulers_and_both_counts_agree(seed: int) -> None:
    file = taken(*random_cluster(seed, company=False))
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
    check_claims(file)


def check_claims(file: SnapshotFile) -> None:
    """A plan says what the independent count finds, and a false claim is found out."""
    cluster, plan = cluster_of(file), make_plan(Request("batch", file, 1.0))
    assert plan.details["wish_points"] <= plan.details["wish_points_bound"] <= plan.details["wish_points_possible"]
    false = Plan("batch", plan.ending, plan.unit, plan.value, plan.bound, plan.steps, details={"wish_points": 1e6})
    assert check_steps(cluster, false)[0].startswith("1e+06 points of wishes are claimed")


@pytest.mark.parametrize("seed", range(12))
def test_both_counts_agree_about_wishes_among_pods_of_the_batch(seed: int) -> None:
    """Columns and rules between pods against labels and terms, for random placements whether they fit or not."""
    file = taken(*random_cluster(seed, company=True))
    cluster = cluster_of(file)
    problem = batch_problem(cluster)
    batch, names, rng = problem.batch, cluster.node_names(), np.random.default_rng(seed)
    assert batch.near
    assert batch.wish is not None
    fits = batch.fitting() > 0
    takes = {pods[0].spec: fits[c] for c, pods in enumerate(problem.pods)}
    everybody = [pod.spec for pods in problem.pods for pod in pods]
    for _ in range(5):
        placed = np.zeros_like(batch.most)
        for c in np.flatnonzero(fits.any(axis=1)).tolist():
            np.add.at(placed[c], rng.choice(np.flatnonzero(fits[c]), int(batch.count[c])), 1)
        homes = [(problem.pods[c][0].spec, names[n]) for c, n in np.argwhere(placed) for _ in range(placed[c, n])]
        assert recount(cluster.state, names, takes, homes, everybody) == batch.wishes_met(placed) / batch.parts
        assert 0 <= batch.wishes_met(placed) <= batch.wishes_possible
    check_claims(file)


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


def test_the_output_says_which_devices_a_pod_gets(tmp_path: Any) -> None:
    gpu = node("a", "x")
    gpu["status"]["allocatable"]["ullage.dev/gpu-milli"] = "2000"
    shares = [pod(f"s-{i}", "web", cpu="100m") for i in range(3)]
    for made in shares:
        made["spec"]["containers"][0]["resources"]["requests"]["ullage.dev/gpu-milli"] = "600"
    file = taken(gpu, *shares)
    write_snapshot(file, tmp_path / "s.json")
    words = ["batch", "--snapshot", str(tmp_path / "s.json"), "--time", "3"]
    table = CliRunner().invoke(plan_group, words).stdout
    assert "a (GPU 0)" in table
    assert "a (GPU 1)" in table
    document = json.loads(CliRunner().invoke(plan_group, [*words, "-o", "json"]).stdout)
    assert sorted(step["devices"] for step in document["steps"]) == ["0", "1"]
    (reason,) = document["reasons"]
    assert reason.startswith("pod default/s-2 fits on no node within this plan: of 1 nodes ")
    assert reason.endswith("1 have room, but others of this plan go there or what is free is split over devices")
    assert "a (GPU 0)" in page(cluster_of(file), make_plan(Request("batch", file, 3.0)))
