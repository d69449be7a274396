"""Plans of small clusters with everything at once, against all ways to keep and place pods, gangs whole.

Gangs of mixed priorities, taints, node selectors, disruption budgets, host ports, volumes, pods that preempt nobody, replicas,
and nodes that were cordoned or tainted after pods had come to them.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from placement.gangs import gang_of
from placement.planning import gang_program
from placement.planning.cluster import Cluster
from placement.planning.make import Request, plan_for
from placement.planning.node_check import why_barred
from placement.planning.plans import Action, Deadline, Ending, Plan, WorkClock
from placement.planning.snapshots import cluster_of
from placement.pods import PodSpec
from tests.plan_objects import budget, member, node, one_of, pod, taken
from tests.plan_referee import Referee

Gains = tuple[int, ...]
ONLY = {"taints": [{"key": "only", "value": "few", "effect": "NoSchedule"}]}
RULES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"tolerations": [{"key": "only", "operator": "Exists"}]},
    {"nodeSelector": {"pool": "a"}},
)


def instance(seed: int, *, is_plain: bool = True) -> list[dict[str, Any]]:
    """Two or three nodes, up to five pods that run and four that wait, most of them of gangs, of priorities 0 to 3; unless
    ``is_plain`` with rules of all kinds."""
    rng = random.Random(seed)
    nodes = [node(f"n{i}", rng.choice([3, 4])) for i in range(rng.choice([2, 3]))]
    room = {one["metadata"]["name"]: int(one["status"]["allocatable"]["cpu"]) for one in nodes}
    pods = []
    for k in range(rng.choice([2, 3, 4, 5])):
        cpu, gang, priority = rng.choice([1, 2]), rng.choice(["", "", "g0", "g1"]), rng.choice([0, 1, 2])
        homes = [name for name, left in room.items() if left >= cpu]
        if homes:
            home = rng.choice(homes)
            room[home] -= cpu
            one = (
                member(gang, k, home, str(cpu), priority) if gang else pod(f"r{k}-1", str(cpu), home, priority=priority)
            )
            pods.append(one)
    for k in range(rng.choice([1, 2, 3, 4])):
        cpu, gang, priority = rng.choice([1, 2, 3]), rng.choice(["", "w0", "w0", "w1"]), rng.choice([1, 2, 3])
        pods.append(
            member(gang, 10 + k, "", str(cpu), priority) if gang else pod(f"w{k}-1", str(cpu), priority=priority)
        )
    more = [] if is_plain else list(_rules(random.Random(-seed - 1), nodes, pods))
    return [*nodes, *pods, *more]


def _rules(rng: random.Random, nodes: list[dict[str, Any]], pods: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rules for nodes and pods, whoever runs where; what limits disruption."""
    for one in nodes:
        one["spec"] = rng.choice([{}, {}, {}, ONLY, {"unschedulable": True}])
        one["metadata"]["labels"] = {"pool": rng.choice("ab")}
    kinds: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in pods:
        spec, labels = one["spec"], one["metadata"].setdefault("labels", {})
        labels.setdefault("app", rng.choice(["db", "web"]))
        spec |= rng.choice(RULES)
        if not spec["nodeName"] and rng.random() < 0.2:
            spec["preemptionPolicy"] = "Never"
        if rng.random() < 0.1:
            spec["containers"][0]["ports"] = [{"hostPort": 80, "containerPort": 80}]
        if rng.random() < 0.1:
            spec["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        one["metadata"]["ownerReferences"][0]["name"] = rng.choice("xy")
        size = spec["containers"][0]["resources"]["requests"]["cpu"], spec["priority"], labels.get("app")
        like = kinds.setdefault(size, one)
        if rng.random() < 0.7 and like["spec"]["nodeName"] and spec["nodeName"]:  # a replica
            one["spec"] = {**like["spec"], "nodeName": spec["nodeName"]}
            one["metadata"] |= {key: like["metadata"][key] for key in ("labels", "ownerReferences")}
    for app in ("db", "g0"):
        if rng.random() < 0.3:
            yield budget(rng.choice([0, 1, 2]), app)


def gains(cluster: Cluster, movable: set[str], placed: set[str], gone: set[str]) -> Gains:
    """Pods that get a place less those that lose theirs, by priority, the highest first; whoever runs is half a step above
    who waits, and who must not preempt below everybody who runs and may move."""
    residents, waiting = cluster.state.residents, {pod.uid: pod.spec for pod in cluster.pending}
    lowest = min((2 * residents[uid].spec.priority for uid in movable), default=10)
    found: Counter[int] = Counter(
        2 * waiting[uid].priority if waiting[uid].preempts else min(2 * waiting[uid].priority, lowest) for uid in placed
    )
    found.subtract(Counter(2 * residents[uid].spec.priority + 1 for uid in gone))
    return tuple(found[rank] for rank in range(10, -1, -1))


def needs(spec: PodSpec) -> Counter[Any]:
    """What a pod takes of a node; a host port is there once."""
    return Counter({**spec.amounts, "pods": 1, **dict.fromkeys(spec.pod_rules.host_ports, 1)})


def packs(cluster: Cluster, there: list[str], stay: set[str], closed: Collection[str] = ()) -> bool:
    """Whether the pods ``there`` find room together, beside those that ``stay``, on nodes that are not ``closed``."""
    residents = cluster.state.residents
    specs = {uid: r.spec for uid, r in residents.items()} | {pod.uid: pod.spec for pod in cluster.pending}
    home = {uid: cluster.state.names[r.row] for uid, r in residents.items()}
    nodes = [one for one in cluster.state.nodes if one is not None and one.name not in closed]
    ports = {port: 1 for spec in specs.values() for port in spec.pod_rules.host_ports}
    left = {one.name: Counter({**one.amounts, **ports}) for one in nodes}
    for uid in stay:
        left[home[uid]].subtract(needs(specs[uid]))

    def put(uids: list[str]) -> bool:
        if not uids:
            return True
        uid, need = uids[0], needs(specs[uids[0]])
        for one in nodes:
            is_allowed = home.get(uid) == one.name or not why_barred(specs[uid], one)
            if is_allowed and all(amount <= left[one.name][key] for key, amount in need.items()):
                left[one.name].subtract(need)
                has_room = put(uids[1:])
                left[one.name].update(need)
                if has_room:
                    return True
        return False

    return put(sorted(there, key=lambda uid: -specs[uid].amount("cpu")))


def ways(cluster: Cluster, movable: set[str], waiting: set[str]) -> Iterator[tuple[Gains, list[str]]]:
    """Who may have a place together, the best first, and what that gains. Gangs are whole; one that runs goes only
    where all of it is below somebody who waits, and none of it waits, and no more of a budget than it allows."""
    residents, pending = cluster.state.residents, {pod.uid: pod.spec for pod in cluster.pending}
    specs = {uid: r.spec for uid, r in residents.items()} | pending
    units: dict[object, list[str]] = {}
    for uid in sorted(movable | waiting):
        gang = gang_of(specs[uid])
        units.setdefault((gang, uid in movable) if gang else uid, []).append(uid)
    highest = max((spec.priority for spec in pending.values() if spec.preempts), default=-1)
    absent = {gang_of(spec) for uid, spec in pending.items() if uid not in waiting}
    held = {gang_of(pod.spec) for pod in (*cluster.pending, *(pod for pod, _ in cluster.not_now))}
    held |= {gang_of(r.spec) for uid, r in residents.items() if uid not in movable or r.spec.priority >= highest}

    def may_be(unit: list[str], *, is_in: bool) -> bool:
        gang = gang_of(specs[unit[0]])
        return not gang or gang not in (held if unit[0] in movable else absent) or is_in == (unit[0] in movable)

    found: list[tuple[Gains, list[str]]] = []
    for have in itertools.product((True, False), repeat=len(units)):
        chosen = list(zip(units.values(), have, strict=True))
        there = {uid for unit, is_in in chosen if is_in for uid in unit}
        down = Counter(number for uid in movable - there for number in cluster.budgets.of.get(uid, ()))
        is_kept = all(down[number] <= allowed for number, allowed in enumerate(cluster.budgets.allowed))
        if is_kept and all(may_be(unit, is_in=is_in) for unit, is_in in chosen):
            found.append((gains(cluster, movable, there & waiting, movable - there), sorted(there)))
    stay = set(residents) - movable
    return ((won, there) for won, there in sorted(found, reverse=True) if packs(cluster, there, stay))


def best(cluster: Cluster, movable: set[str], waiting: set[str]) -> Gains:
    """Of all ways."""
    return next(ways(cluster, movable, waiting))[0]


def fewest_displaced(cluster: Cluster, movable: set[str], waiting: set[str]) -> int:
    """Running pods that move or go, of all ways with the best gains."""
    most, fewest = best(cluster, movable, waiting), len(movable)
    for _, there in itertools.takewhile(lambda way: way[0] == most, ways(cluster, movable, waiting)):
        keep = movable & set(there)
        for moved in (set(some) for size in range(len(keep)) for some in itertools.combinations(sorted(keep), size)):
            displaced = len(movable - keep) + len(moved)
            stay = set(cluster.state.residents) - (movable - keep) - moved
            if displaced < fewest and packs(cluster, sorted(set(there) - (keep - moved)), stay):
                fewest = displaced
    return fewest


def planned(kind: str, objects: list[dict[str, Any]], **question: Any) -> tuple[Plan, Cluster]:
    """A plan that holds, step by step, and its cluster."""
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
        one.setdefault("spec", {})
    file = taken(*objects)
    plan = plan_for(Request(kind, file, 1.0, **question), Deadline(0.05, WorkClock()))
    assert Referee(objects).judge(plan, question.get("max_moves")) == []
    return plan, cluster_of(file, question.get("usd_per_hour"))


def gained(plan: Plan, cluster: Cluster, movable: set[str]) -> Gains:
    placed = {step.pod for step in plan.steps if step.action == Action.PLACE}
    gone = {step.pod for step in plan.steps if step.action == Action.EVICT} - placed
    return gains(cluster, movable, placed - set(cluster.state.residents), gone)


def rescued(objects: list[dict[str, Any]]) -> tuple[Plan, Gains, Gains]:
    """The plan, what it gains, and what is possible."""
    plan, cluster = planned("rescue", objects)
    waiting = {pod.uid for pod in cluster.pending if not cluster.why_left_out(pod.spec)}
    movable = {r.uid for r in cluster.movable()}
    return plan, gained(plan, cluster, movable), best(cluster, movable, waiting)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_rescues_with_gangs_are_as_good_as_any_and_proved(first: int) -> None:
    ended = Counter[Ending]()
    for seed in range(first, first + 10):
        plan, found, possible = rescued(instance(seed))
        assert found == possible, f"seed {seed}"
        assert plan.bound is not None
        assert plan.bound >= plan.value
        ended[plan.ending] += 1
    assert ended[Ending.OPTIMAL] >= 9


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_rescues_with_rules_of_all_kinds_are_as_good_as_any_and_proved(first: int) -> None:
    """A budget may forbid on the way what it allows at the end, so a plan that keeps to one may be behind, and says so."""
    ended = Counter[Ending]()
    for seed in range(first, first + 40):
        plan, found, possible = rescued(instance(seed, is_plain=False))
        is_free = not any("disruption budget" in reason for reason in plan.reasons)
        assert found == possible if is_free else found <= possible, f"seed {seed}"
        assert plan.bound is not None
        assert plan.bound >= plan.value
        ended[plan.ending if is_free else Ending.OPTIMAL] += 1
        assert is_free or plan.ending == Ending.DEADLINE
    assert ended[Ending.OPTIMAL] + ended[Ending.INFEASIBLE] >= 38


@pytest.mark.parametrize("is_plain", [True, False])
def test_rescues_displace_as_few_as_any_and_say_so(*, is_plain: bool) -> None:
    """Where gangs may go, and where a budget is in the way, nothing is stated."""
    proved = 0
    for seed in range(60):
        plan, cluster = planned("rescue", instance(seed, is_plain=is_plain))
        waiting = {pod.uid for pod in cluster.pending if not cluster.why_left_out(pod.spec)}
        fewest = fewest_displaced(cluster, {r.uid for r in cluster.movable()}, waiting)
        displaced = plan.details.get("moves", 0.0) + plan.details.get("evictions", 0.0)
        is_free = not any("disruption budget" in reason for reason in plan.reasons)
        bound = plan.details.get("displaced_bound", 0.0)
        assert bound <= (fewest if is_free else displaced), f"seed {seed}"
        assert displaced >= fewest or not is_free, f"seed {seed}"
        proved += displaced == bound > 0
    assert proved >= 5


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_batches_with_rules_of_all_kinds_are_as_good_as_any_and_proved(first: int) -> None:
    for seed in range(first, first + 40):
        plan, cluster = planned("batch", instance(seed, is_plain=False))
        left = {pod.uid for pod in cluster.pending if any(f"pod {pod.name} is left" in r for r in plan.reasons)}
        waiting = {pod.uid for pod in cluster.pending} - left
        assert gained(plan, cluster, set()) == best(cluster, set(), waiting), f"seed {seed}"
        assert plan.value == plan.bound
        assert plan.ending in (Ending.OPTIMAL, Ending.INFEASIBLE)


def most_saved(cluster: Cluster, max_moves: int | None, max_nodes: int | None) -> float:
    """By trying all sets of nodes; ``cluster`` without pods that wait."""
    usd, residents = cluster.usd_per_hour or {}, cluster.state.residents
    movable = {r.uid for r in cluster.movable()}
    needed = Counter[tuple[Any, int]]()
    for uid in movable:
        needed.update((gang_of(residents[uid].spec), number) for number in cluster.budgets.of.get(uid, ()))
    torn = {gang for (gang, number), pods in needed.items() if gang and pods > cluster.budgets.allowed[number]}
    stay = {cluster.state.names[r.row] for uid, r in residents.items() if uid not in movable or gang_of(r.spec) in torn}
    is_open = {one.name for one in cluster.state.nodes if one and not (one.unschedulable or one.taints)}
    found = 0.0
    for size in range(1, len(usd) + 1 if max_nodes is None else max_nodes + 1):
        for gone in map(set, itertools.combinations(sorted(set(usd) - stay), size)):
            moved = [uid for uid in movable if cluster.state.names[residents[uid].row] in gone]
            is_allowed = (max_moves is None or len(moved) <= max_moves) and not (is_open and is_open <= gone)
            saved = sum(usd[name] for name in gone)
            if is_allowed and saved > found and packs(cluster, moved, set(residents) - set(moved), gone):
                found = saved
    return found


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_consolidations_with_rules_of_all_kinds_save_as_much_as_any_and_pay_back_when_they_say(first: int) -> None:
    for seed in range(first, first + 40):
        rng = random.Random(seed)
        objects = [one for one in instance(seed, is_plain=False) if one["kind"] != "Pod" or one["spec"]["nodeName"]]
        usd = {one["metadata"]["name"]: rng.choice([0.5, 1.0, 1.37]) for one in objects if one["kind"] == "Node"}
        moves, nodes, price = rng.choice([None, 1, 2, 3]), rng.choice([None, None, 1]), rng.choice([0.0, 0.01])
        question = {"usd_per_hour": usd, "max_moves": moves, "max_nodes": nodes, "usd_per_move": price}
        plan, cluster = planned("consolidate", objects, **question)
        most = most_saved(cluster, moves, nodes)
        gone = [step.source for step in plan.steps if step.action == Action.DELETE]
        assert plan.value == plan.usd_per_hour == pytest.approx(sum(usd[name] for name in gone))
        assert plan.bound is not None
        assert plan.value <= most + 1e-9 <= plan.bound + 2e-9, f"seed {seed}"
        assert plan.ending != Ending.OPTIMAL or plan.value == pytest.approx(most), f"seed {seed}"
        if plan.payback_s is None:
            assert not (gone and price and plan.count(Action.MOVE))
        else:
            assert plan.payback_s * plan.value / 3600 == pytest.approx(price * plan.count(Action.MOVE))


def test_small_clusters_without_gangs_are_planned_exactly_too() -> None:
    """The more important pod must take the place of the less unimportant one, for the other needs a node for itself."""
    runs = [pod("daemon-1", "500m", "a", owner="DaemonSet"), pod("low-1", "1", "a", priority=1), pod("x-1", "2", "b")]
    waits = [pod("p-1", "1", priority=3), pod("q-1", "2", priority=2), pod("y-1", "1")]
    plan, _ = planned("rescue", [node("a", 2), node("b", 2), *runs, *waits])
    assert sorted(step.name for step in plan.steps if step.action == Action.PLACE) == ["default/p-1", "default/q-1"]
    assert plan.ending == Ending.OPTIMAL


def test_a_gang_of_which_one_pod_is_not_modelled_does_not_keep_the_program_busy() -> None:
    claim: dict[str, Any] = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    gang = [member("g", 0, "", "1", 9), member("g", 1, "", "1", 9, **claim)]
    runs = [pod("daemon-1", "500m", "a", owner="DaemonSet"), pod("low-1", "1", "a", priority=1), pod("x-1", "2", "b")]
    waits = [pod("p-1", "1", priority=3), pod("q-1", "2", priority=2), pod("y-1", "1")]
    plan, _ = planned("rescue", [node("a", 2), node("b", 2), *runs, *waits, *gang])
    assert sorted(step.name for step in plan.steps if step.action == Action.PLACE) == ["default/p-1", "default/q-1"]
    assert plan.ending == Ending.OPTIMAL


def test_without_the_program_gangs_are_tried_whole_and_never_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_program, "MOST_PAIRS", 0)
    for seed, is_best in ((4, True), (24, True), (34, True), (20, False)):
        plan, found, possible = rescued(instance(seed))
        assert plan.ending == Ending.DEADLINE
        assert found == possible if is_best else found < possible, f"seed {seed}"


def test_a_budget_is_kept_by_the_program_too() -> None:
    low = [one_of("db", f"low-{i}", "2", f"n{i}", priority=0) for i in range(3)]
    gang = [member("w", i, "", "2", priority=9 - i) for i in range(3)]
    for allowed in (1, 2, 3):
        replica = one_of("db", "low-3", "9")  # waits, of the same budget
        objects = [*(node(f"n{i}", 2) for i in range(3)), *low, *gang, replica, budget(allowed)]
        plan = plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.05, WorkClock()))
        assert plan.count(Action.EVICT) == (3 if allowed == 3 else 0), "the gang is whole, or nobody goes for it"
        assert plan.count(Action.PLACE) == plan.count(Action.EVICT)


@pytest.mark.parametrize("is_small", [True, False])
def test_gangs_of_which_a_part_shares_a_budget_do_not_all_give_way(
    monkeypatch: pytest.MonkeyPatch, *, is_small: bool
) -> None:
    gangs = [member(f"g{k}", i, f"n{2 * k + i}") for k in range(2) for i in range(2)]
    for first in (gangs[0], gangs[2]):
        first["metadata"]["labels"]["app"] = "db"
    waiting = [pod(f"w{i}-1", "2", priority=9) for i in range(4)]
    objects = [*(node(f"n{i}", 2) for i in range(4)), *gangs, *waiting, budget(1)]
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
        one.setdefault("spec", {})
    if not is_small:
        monkeypatch.setattr(gang_program, "MOST_PAIRS", 0)
    plan = plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.05, WorkClock()))
    assert Referee(objects).judge(plan) == []
    assert (plan.count(Action.EVICT), plan.count(Action.PLACE)) == (2, 2), "one of them goes, whole"
