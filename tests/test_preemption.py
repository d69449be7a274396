"""Who is evicted for whom: the same node and victims as kube-scheduler's own words give, one pod and one node at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from placement.nodes import NodeSpec, Taint
from placement.pods import GpuRequest, PodRules, PodSpec, PodTerm, Requirement
from placement.resources import CPU, MEMORY, PODS
from placement.state import ClusterState
from simulator.preemption import Budget, choose_victims
from tests.slow_rules import On, fits


@dataclass(frozen=True)
class Resident:
    """A pod that runs."""

    uid: str
    on: On
    since_s: int

    @property
    def priority(self) -> int:
        return self.on.spec.priority


@dataclass(frozen=True)
class Case:
    nodes: list[NodeSpec]
    residents: dict[str, list[Resident]]
    """By node, in the order in which they were bound."""
    budgets: list[Budget]
    spec: PodSpec

    @property
    def state(self) -> ClusterState:
        state = ClusterState()
        for node in self.nodes:
            state.add_node(node)
        for name, there in self.residents.items():
            for pod in there:
                state.bind(pod.uid, pod.on.spec, name, pod.on.devices, time_s=pod.since_s)
        return state


def node(name: str, *, cores: int = 4, gpus: int = 2, pods: int = 4, taints: tuple[Taint, ...] = ()) -> NodeSpec:
    return NodeSpec(name, ((CPU, cores * 1000), (MEMORY, 8), (PODS, pods)), num_gpus=gpus, taints=taints)


def random_case(seed: int) -> Case:
    """Five nodes, filled as far as it goes with pods of few sizes and priorities, so that nodes are equally good by some
    criteria; no two residents began in the same second."""
    rng = random.Random(seed)
    nodes = [node(f"n{i}", pods=rng.randint(2, 4)) for i in range(5)]
    residents: dict[str, list[Resident]] = {each.name: [] for each in nodes}
    begun = iter(rng.sample(range(100), 50))
    priorities = rng.choice([[0], [0, 1], [-5, 0, 1, 2, 7]])
    for each in nodes:
        for _ in range(6):
            milli, devices = rng.choice([(0, 0), (0, 0), (500, 0b01), (1000, 0b10), (1000, 0b11)])
            gpu = GpuRequest(devices.bit_count(), milli) if devices else None
            amounts = ((CPU, 1000 * rng.randint(0, 3)), (MEMORY, rng.randint(0, 3)))
            spec = PodSpec(amounts, gpu, priority=rng.choice(priorities))
            there, since_s = residents[each.name], next(begun)
            taken = [[o.on for o in there if o.on.devices >> g & 1] for g in (0, 1)]
            free = [1000 - sum(on.spec.gpu.milli for on in ons if on.spec.gpu is not None) for ons in taken]
            has_devices = all(free[g] >= milli for g in (0, 1) if devices >> g & 1)
            if has_devices and fits(spec, each, [o.on for o in there]):
                there.append(Resident(f"{each.name}-{since_s}", On(spec, each, devices), since_s))
    uids = [pod.uid for there in residents.values() for pod in there]
    budgets = [
        Budget(frozenset(rng.sample(uids, rng.randint(0, len(uids)))), rng.randint(0, 3))
        for _ in range(rng.randint(0, 2))
    ]
    gpu = rng.choice([None, None, GpuRequest(1, 600), GpuRequest(2)])
    amounts = ((CPU, 1000 * rng.randint(1, 4)), (MEMORY, rng.randint(0, 8)))
    return Case(nodes, residents, budgets, PodSpec(amounts, gpu, priority=rng.choice([1, 5, 9])))


def as_important(pod: Resident) -> tuple[int, int]:
    """``MoreImportantPod``: by priority, then by who has run longer."""
    return -pod.priority, pod.since_s


def breaking(pods: list[Resident], budgets: list[Budget]) -> list[Resident]:
    """``filterPodsWithPDBViolation``: a budget lets as many go as it allows, the most important first."""
    return [
        pod
        for i, pod in enumerate(pods)
        if any(
            pod.uid in budget.covered and sum(p.uid in budget.covered for p in pods[: i + 1]) > budget.allowed
            for budget in budgets
        )
    ]


def victims_on(case: Case, each: NodeSpec) -> list[Resident]:
    """``SelectVictimsOnNode``; empty where nobody's eviction helps or is needed."""
    there = case.residents[each.name]
    kept = [pod for pod in there if pod.priority >= case.spec.priority]
    lower = sorted((pod for pod in there if pod.priority < case.spec.priority), key=as_important)
    if not fits(case.spec, each, [pod.on for pod in kept]):
        return []
    first, victims = breaking(lower, case.budgets), []
    for pod in [*first, *(pod for pod in lower if pod not in first)]:
        if fits(case.spec, each, [o.on for o in [*kept, pod]]):
            kept.append(pod)
        else:
            victims.append(pod)
    return sorted(victims, key=as_important)


def least_harm(case: Case, found: dict[str, list[Resident]]) -> list[str]:
    """``pickOneNodeForPreemption``, criterion after criterion; the nodes that are equally good in the end."""

    def broken(name: str) -> int:
        lower = sorted((p for p in case.residents[name] if p.priority < case.spec.priority), key=as_important)
        return sum(pod in found[name] for pod in breaking(lower, case.budgets))

    def highest(name: str) -> int:
        return max(pod.priority for pod in found[name])

    criteria = [
        broken,
        highest,
        lambda name: sum(pod.priority + 2**31 for pod in found[name]),
        lambda name: len(found[name]),
        lambda name: -min(pod.since_s for pod in found[name] if pod.priority == highest(name)),
    ]
    names = list(found)
    for criterion in criteria:
        least = min(map(criterion, names))
        names = [name for name in names if criterion(name) == least]
    return names


@pytest.mark.parametrize("seed", range(300))
def test_victims_are_those_of_kube_schedulers_rules(seed: int) -> None:
    case = random_case(seed)
    state = case.state
    before = state.taken.copy(), state.gpu_free.copy(), state.version
    plan = choose_victims(state, case.spec, offset=seed, budgets=case.budgets)
    found = {each.name: victims for each in case.nodes if (victims := victims_on(case, each))}
    if not found:
        assert plan is None
    else:
        assert plan is not None
        assert plan.node in least_harm(case, found)
        assert plan.victims == tuple(pod.uid for pod in found[plan.node])
        lower = sorted((p for p in case.residents[plan.node] if p.priority < case.spec.priority), key=as_important)
        assert plan.num_violations == sum(pod.uid in plan.victims for pod in breaking(lower, case.budgets))
    assert (state.taken == before[0]).all()
    assert (state.gpu_free == before[1]).all()
    assert state.version == before[2]


@pytest.mark.parametrize(("num_nodes", "looked_at"), [(120, 100), (1200, 120)])
def test_on_large_clusters_a_tenth_of_the_nodes_is_looked_at_from_where_chance_begins(
    num_nodes: int, looked_at: int
) -> None:
    nodes = [node(f"n{i}", cores=1) for i in range(num_nodes)]
    # of all victims, the one on the last node hurts least
    low = [PodSpec(((CPU, 1000),), priority=-1 if i == num_nodes - 1 else 0) for i in range(num_nodes)]
    residents = {each.name: [Resident(f"uid-{i}", On(low[i], each), 0)] for i, each in enumerate(nodes)}
    state = Case(nodes, residents, [], low[0]).state
    wanted = PodSpec(((CPU, 1000),), priority=1)

    def chosen(offset: int) -> str:
        plan = choose_victims(state, wanted, offset=offset)
        assert plan is not None
        return plan.node

    last = num_nodes - looked_at
    assert [chosen(0), chosen(last - 1)] == ["n0", f"n{last - 1}"]
    assert [chosen(last), chosen(num_nodes - 1), chosen(2 * num_nodes - 1)] == [f"n{num_nodes - 1}"] * 3


def test_the_search_goes_on_until_some_eviction_breaks_no_budget() -> None:
    """``DryRunPreemption``: a budget is not broken for want of looking further."""
    nodes = [node(f"n{i}", cores=1) for i in range(150)]
    residents = {each.name: [Resident(each.name, On(PodSpec(((CPU, 1000),)), each), 0)] for each in nodes}
    tight = Budget(frozenset(each.name for each in nodes[:-1]), 0)
    state = Case(nodes, residents, [], PodSpec(())).state
    plan = choose_victims(state, PodSpec(((CPU, 1000),), priority=1), budgets=[tight])
    assert plan is not None
    assert (plan.node, plan.num_violations) == ("n149", 0)


def test_of_nodes_that_are_equally_good_the_one_whose_most_important_victim_began_last_is_taken() -> None:
    nodes = [node("a", cores=2), node("b", cores=2)]
    begun = {"a": (10, 1), "b": (5, 20)}
    residents = {
        each.name: [
            Resident(f"{each.name}-{priority}", On(PodSpec(((CPU, 1000),), priority=priority), each), since_s)
            for priority, since_s in zip((1, 0), begun[each.name], strict=True)
        ]
        for each in nodes
    }
    wanted = PodSpec(((CPU, 2000),), priority=5)
    for offset in (0, 1):
        plan = choose_victims(Case(nodes, residents, [], wanted).state, wanted, offset=offset)
        assert plan is not None
        assert plan.victims == ("a-1", "a-0")


def test_no_eviction_helps_where_a_rule_keeps_the_pod_away() -> None:
    tainted, other = node("tainted", cores=1, taints=(Taint("k", "v", "NoSchedule"),)), node("other", cores=1)
    web = PodSpec(((CPU, 1000),), labels=(("app", "web"),), priority=5)
    low = PodSpec(((CPU, 1000),))
    residents = {"tainted": [Resident("a", On(low, tainted), 0)], "other": [Resident("b", On(low, other), 0)]}
    state = Case([tainted, other], residents, [], web).state
    plan = choose_victims(state, web)
    assert plan is not None
    assert plan.node == "other"
    with_taint_alone = Case([tainted], {"tainted": residents["tainted"]}, [], web).state
    assert choose_victims(with_taint_alone, web) is None
    apart = PodTerm("kubernetes.io/hostname", (Requirement("app", "In", ("web",)),))
    important = PodSpec(((CPU, 0),), labels=(("app", "web"),), priority=9)
    state = ClusterState()
    state.add_node(NodeSpec("n", other.allocatable, labels=(("kubernetes.io/hostname", "n"),)))
    state.bind("first", important, "n", time_s=0)
    state.bind("low", low, "n", time_s=0)
    assert choose_victims(state, web) is not None
    keeps_apart = PodSpec(web.request, labels=web.labels, priority=5, pod_rules=PodRules(anti_affinity=(apart,)))
    assert choose_victims(state, keeps_apart) is None, "who stays keeps it away"
