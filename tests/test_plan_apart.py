"""Hard rules about other pods in batches: what runs, ports, anti-affinity; held, checked, or left to the scheduler."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from placement.nodes import NodeSpec
from placement.planning import apart_check
from placement.planning.batch_problems import batch_problem
from placement.planning.cluster import Cluster
from placement.planning.plans import Plan
from placement.planning.snapshots import cluster_of
from placement.pods import HostPort, Pod, PodRules, PodSpec, PodTerm, Requirement
from placement.state import ClusterState
from simulator.planning.worker import Request, make_plan
from tests.plan_objects import taken
from tests.test_plan_wishes import APPS, node, planned, pod, where

HOST = "kubernetes.io/hostname"
THREE = (node("a", "x"), node("b", "y"), node("c", "y"))


def never_with(app: str, key: str = HOST) -> dict[str, Any]:
    """Required anti-affinity."""
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def with_port(made: dict[str, Any], port: int) -> dict[str, Any]:
    made["spec"]["containers"][0]["ports"] = [{"hostPort": port, "containerPort": port}]
    return made


def left(plan: Plan) -> list[str]:
    return [reason for reason in plan.reasons if " is left to the scheduler: " in reason]


def test_replicas_that_must_be_apart_are_planned_apart() -> None:
    web = [pod(f"w-{i}", "web", cpu="500m", affinity=never_with("web")) for i in range(4)]
    plan = planned(*THREE, *web)
    assert sorted(where(plan).values()) == ["a", "b", "c"]
    assert left(plan) == []
    assert plan.value == plan.bound == 3
    running = pod("r-1", "web", "a", affinity=never_with("web"))
    assert sorted(where(planned(*THREE, running, *web)).values()) == ["b", "c"]


def test_a_runner_keeps_others_away_and_they_are_planned_elsewhere() -> None:
    guard = pod("r-1", "db", "b", affinity=never_with("web", "zone"))
    plan = planned(*THREE, guard, *(pod(f"w-{i}", "web") for i in range(2)))
    assert set(where(plan).values()) == {"a"}
    assert left(plan) == []


def test_host_ports_are_one_a_node() -> None:
    plan = planned(
        *THREE, with_port(pod("r-1", "log", "a"), 80), *(with_port(pod(f"w-{i}", "web"), 80) for i in range(2))
    )
    assert sorted(where(plan).values()) == ["b", "c"]


@pytest.mark.parametrize(
    ("pods", "who"),
    [
        ([pod("w-1", "web", affinity=never_with("web", "zone"))], {"w-1"}),
        ([pod("w-1", "web", affinity=never_with("db")), pod("d-1", "db")], {"w-1"}),
        ([with_port(pod("w-1", "web"), 80), with_port(pod("d-1", "db"), 80), pod("l-1", "log")], {"w-1", "d-1"}),
        ([with_port(pod("w-1", "web"), 80), with_port(pod("d-1", "db"), 81)], set()),
    ],
    ids=["zone", "another class", "ports", "other ports"],
)
def test_what_ties_classes_or_nodes_together_is_the_schedulers(pods: list[dict[str, Any]], who: set[str]) -> None:
    plan = planned(*THREE, *pods)
    assert {reason.split()[1].removeprefix("default/") for reason in left(plan)} == who
    assert set(where(plan)) == {made["metadata"]["name"] for made in pods} - who


def test_a_limit_per_owner_counts_what_runs() -> None:
    state = ClusterState()
    for name in "ab":
        state.add_node(NodeSpec(name, (("cpu", 8000),)))
    spec = PodSpec((("cpu", 100),), owner="ReplicaSet/web", pod_rules=PodRules(max_per_node=2))
    state.bind("r", spec, "a")
    problem = batch_problem(Cluster(state, tuple(Pod(f"u{i}", f"p{i}", spec) for i in range(5))))
    assert problem.batch.most.tolist() == [[1, 2]]
    assert apart_check.broken(state, [(spec, "a"), (spec, "b"), (spec, "b")]) == []
    assert apart_check.broken(state, [(spec, "a"), (spec, "a")]) != []
    assert apart_check.barred(state, spec) == set()


@pytest.mark.parametrize("seed", range(10))
def test_random_batches_break_no_rule_in_any_order(seed: int) -> None:
    """Each pod of a plan may go to its node after any others have gone to theirs, as kube-scheduler's filters see it."""
    rng = random.Random(seed)

    def rules(made: dict[str, Any]) -> dict[str, Any]:
        if rng.random() < 0.4:
            made["spec"]["affinity"] = never_with(rng.choice(APPS), rng.choice((HOST, HOST, "zone")))
        return with_port(made, rng.choice((80, 81))) if rng.random() < 0.2 else made

    nodes = [node(f"n-{i}", rng.choice("xyz")) for i in range(8)]
    running = [rules(pod(f"r-{i}", rng.choice(APPS), f"n-{i}", "500m")) for i in range(6)]
    pending = []
    for kind in range(5):
        made = rules(pod("", rng.choice(APPS), cpu="500m"))
        for i in range(rng.randint(1, 4)):
            name = f"p-{kind}-{i}"
            pending.append({**made, "metadata": {**made["metadata"], "name": name, "uid": f"uid-{name}"}})
    file = taken(*nodes, *running, *pending)
    plan = make_plan(Request("batch", file, 1.0))
    cluster = cluster_of(file)
    state, specs = cluster.state, {p.uid: p.spec for p in cluster.pending}
    for spec in set(specs.values()):
        static = state.rules.relational_mask(spec) | ~state.snapshot().is_alive
        held = {state.names[row] for row in range(state.num_rows) if not static[row]}
        if not (spec.pod_rules.affinity or spec.pod_rules.spread):
            assert apart_check.barred(state, spec) == held
    steps = list(plan.steps)
    rng.shuffle(steps)
    for step in steps:
        row = state.row_of[step.target]
        assert state.rules.relational_mask(specs[step.pod])[row], f"{step.name} cannot go to {step.target}"
        state.bind(step.pod, specs[step.pod], step.target)
    assert len(plan.steps) + len(left(plan)) > 0


@pytest.mark.parametrize("seed", range(5))
def test_the_checker_sees_every_broken_rule_about_other_pods_and_no_other(seed: int) -> None:
    """Pods put anywhere: a placement breaks a rule where its pod could not come once all others are there."""
    rng = random.Random(seed)

    def spec() -> PodSpec:
        term = PodTerm(rng.choice((HOST, "zone")), (Requirement("app", "In", (rng.choice(APPS),)),))
        port = HostPort(80, "TCP", rng.choice(("0.0.0.0", "10.0.0.1", "10.0.0.2")))
        rules = PodRules(
            anti_affinity=(term,) if rng.random() < 0.3 else (),
            host_ports=(port,) if rng.random() < 0.3 else (),
            max_per_node=rng.choice((0, 0, 0, 1, 2)),
        )
        labels = (("app", rng.choice(APPS)),)
        return PodSpec((("cpu", 1),), owner=f"Job/{rng.randrange(3)}", labels=labels, pod_rules=rules)

    found = Counter[bool]()
    for _ in range(40):
        state = ClusterState()
        for name, zone in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "")):
            state.add_node(NodeSpec(name, (("cpu", 8000),), ((HOST, name), *((("zone", zone),) if zone else ()))))
        specs = [spec() for _ in range(4)]
        for i in range(rng.randrange(4)):
            state.bind(f"r{i}", rng.choice(specs), rng.choice("abcd"))
        placed = [(rng.choice(specs), rng.choice("abcd")) for _ in range(rng.randint(1, 4))]
        says = bool(apart_check.broken(state, placed))
        for i, (one, home) in enumerate(placed):
            state.bind(f"p{i}", one, home)
        is_broken = False
        for i, (one, home) in enumerate(placed):
            state.release(f"p{i}")
            is_broken |= not state.rules.relational_mask(one)[state.row_of[home]]
            state.bind(f"p{i}", one, home)
        assert says == is_broken, (placed, state.residents)
        found[says] += 1
    assert min(found[True], found[False]) >= 5
