"""Hard rules, one at a time, on clusters small enough to read: the bounds that random clusters rarely hit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.playback import rebuild
from placement.pods import GpuRequest, NodeRules, NodeTerm, PodRules, PodSpec, PodTerm, Requirement, Spread, Toleration
from placement.resources import CPU
from placement.rules import matches_labels
from placement.state import (
    GPU_CLASSES,
    MEMORY_ROW,
    PODS_ROW,
    SCORED_CPU,
    SCORED_MEMORY,
    ClusterState,
    devices_mask,
    devices_text,
)

PLAIN = PodSpec(((CPU, 100),), labels=(("app", "web"),))
WEB = (Requirement("app", "In", ("web",)),)
DB = (Requirement("app", "In", ("db",)),)
DISKS = ("3", "a", "", "-5", "9223372036854775808")


def state_of(*nodes: NodeSpec) -> ClusterState:
    state = ClusterState()
    for node in nodes:
        state.add_node(node)
    return state


def node(name: str, *, zone: str = "", **more: object) -> NodeSpec:
    labels = (("kubernetes.io/hostname", name), *((("zone", zone),) if zone else ()))
    return NodeSpec(name, ((CPU, 8000), ("pods", 10)), labels, **more)  # type: ignore[arg-type]


def zones() -> ClusterState:
    """Two nodes in zone a, one in b, one in none."""
    return state_of(node("a0", zone="a"), node("a1", zone="a"), node("b0", zone="b"), node("bare"))


def permitted(state: ClusterState, spec: PodSpec) -> list[str]:
    mask = state.rules.static_mask(spec) & state.rules.relational_mask(spec)
    return [state.names[row] for row in mask.nonzero()[0].tolist()]


# ── the node alone ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("operator", "bound", "met"), [("Gt", "900", ["950"]), ("Lt", "900", ["-5"]), ("Lt", "9e2", []), ("Gt", "+9", [])]
)
def test_a_toleration_compares_numbers(operator: str, bound: str, met: list[str]) -> None:
    """``TaintTolerationComparisonOperators`` of Kubernetes 1.35: a value above or below another one."""
    state = state_of(*(node(value, taints=(Taint("sla", value, "NoExecute"),)) for value in ("950", "-5", "0950", "a")))
    tolerations = (Toleration("sla", operator, bound, "NoExecute"),)
    assert permitted(state, replace(PLAIN, node_rules=NodeRules(tolerations=tolerations))) == met


@pytest.mark.parametrize(
    ("operator", "values", "met"),
    [
        ("In", ("3", "a"), ("3", "a")),
        ("NotIn", ("3", "a"), ("", "-5", "9223372036854775808")),
        ("Exists", (), ("3", "a", "-5", "9223372036854775808")),
        ("DoesNotExist", (), ("",)),
        ("Gt", ("2",), ("3",)),
        ("Gt", ("3",), ()),
        ("Gt", ("+2",), ("3",)),
        ("Gt", ("-6",), ("3", "-5")),
        ("Lt", ("4",), ("3", "-5")),
        ("Lt", ("3",), ("-5",)),
        ("Gt", ("a",), ()),
        ("Lt", ("9223372036854775808",), ()),
        ("Lt", ("9223372036854775807",), ("3", "-5")),
        ("Lt", (), ()),
    ],
)
def test_every_operator_means_the_same_for_nodes_and_for_pods(
    operator: str, values: tuple[str, ...], met: tuple[str, ...]
) -> None:
    requirement = Requirement("disk", operator, values)
    nodes = (NodeSpec(f"n{i}", ((CPU, 1),), (("disk", disk),) if disk else ()) for i, disk in enumerate(DISKS))
    mask = state_of(*nodes).rules.term_mask(NodeTerm((requirement,)))
    assert tuple(disk for disk, is_met in zip(DISKS, mask.tolist(), strict=True) if is_met) == met
    assert (
        tuple(disk for disk in DISKS if matches_labels((requirement,), {"disk": disk} if disk else {"other": "3"}))
        == met
    )


def test_a_pod_may_name_its_node_or_nodes() -> None:
    state = zones()
    by_field = NodeTerm((), (Requirement("metadata.name", "In", ("a1", "bare")),))
    by_other_field = NodeTerm((), (Requirement("metadata.namespace", "NotIn", ("a1",)),))
    assert permitted(state, replace(PLAIN, node_rules=NodeRules(node_name="b0"))) == ["b0"]
    assert permitted(state, replace(PLAIN, node_rules=NodeRules(node_name="gone"))) == []
    assert permitted(state, replace(PLAIN, node_rules=NodeRules(affinity=(by_field,)))) == ["a1", "bare"]
    assert permitted(state, replace(PLAIN, node_rules=NodeRules(affinity=(by_other_field,)))) == []


def test_nodes_without_a_label_stay_without_it_however_many_come() -> None:
    first = node("first", zone="a", taints=(Taint("t", "", "NoSchedule"),), num_gpus=1, gpu_model="A")
    others = [NodeSpec(f"n{i}", ((CPU, 1),), num_gpus=1, gpu_model="B") for i in range(300)]
    state = state_of(node("zero", zone="b", num_gpus=1, gpu_model="A"), first, *others)
    inside = replace(PLAIN, node_rules=NodeRules(affinity=(NodeTerm((Requirement("zone", "Exists"),)),)))
    outside = replace(PLAIN, node_rules=NodeRules(affinity=(NodeTerm((Requirement("zone", "DoesNotExist"),)),)))
    assert permitted(state, inside) == ["zero"]
    assert permitted(state, outside) == [other.name for other in others]
    assert permitted(state, replace(PLAIN, gpu=GpuRequest(1, 500, ("A",)))) == ["zero"]


# ── other pods ────────────────────────────────────────────────────────────────────────────────


def with_affinity(*terms: PodTerm) -> PodSpec:
    return replace(PLAIN, pod_rules=PodRules(affinity=terms))


def test_affinity_goes_where_a_pod_that_is_meant_is_and_the_first_of_a_group_anywhere_with_the_key() -> None:
    state = zones()
    to_db, to_web = with_affinity(PodTerm("zone", DB)), with_affinity(PodTerm("zone", WEB))
    assert state.rules.is_relational(to_db)
    assert permitted(state, to_db) == []
    assert permitted(state, to_web) == ["a0", "a1", "b0"], "the first one is the first of its own group"
    state.bind("db", replace(PLAIN, labels=(("app", "db"),)), "a0")
    assert permitted(state, to_db) == ["a0", "a1"]
    state.bind("web", PLAIN, "b0")
    assert permitted(state, to_web) == ["b0"]
    state.release("db")
    assert permitted(state, to_db) == []


def test_anti_affinity_holds_both_ways_for_classes_never_asked_about_before() -> None:
    state = zones()
    alone = replace(PLAIN, labels=(("app", "db"),), pod_rules=PodRules(anti_affinity=(PodTerm("zone", WEB),)))
    state.bind("db", alone, "a0")
    state.rules._most_counters = 0  # the next new class makes the index anew
    state.bind("other", PodSpec(((CPU, 1),), labels=(("app", "other"),)), "b0")
    assert state.rules.is_relational(PLAIN)
    assert permitted(state, PLAIN) == ["b0", "bare"]
    state.bind("web", PLAIN, "b0")
    assert permitted(state, alone) == ["a0", "a1", "bare"]


@pytest.mark.parametrize(
    ("in_a", "in_b", "counts_itself", "least_domains", "may"),
    [
        (1, 0, True, 1, ["b0"]),
        (1, 0, False, 1, ["a0", "a1", "b0"]),
        (2, 0, False, 1, ["b0"]),
        (1, 1, True, 1, ["a0", "a1", "b0"]),
        (1, 1, True, 2, ["a0", "a1", "b0"]),
        (1, 1, True, 3, []),
        (0, 0, True, 3, ["a0", "a1", "b0"]),
    ],
)
def test_spread_counts_whom_it_selects_the_pod_itself_too(
    in_a: int, in_b: int, counts_itself: bool, least_domains: int, may: list[str]
) -> None:
    state = zones()
    for zone, number in (("a0", in_a), ("b0", in_b)):
        for i in range(number):
            state.bind(f"{zone}-{i}", replace(PLAIN, labels=(("app", "web" if counts_itself else "db"),)), zone)
    selector = WEB if counts_itself else DB
    soft = Spread("kubernetes.io/hostname", 1, False, selector)
    hard = Spread("zone", 1, True, selector, least_domains)
    spec = replace(PLAIN, pod_rules=PodRules(spread=(soft, hard)))
    assert state.rules.is_relational(spec)
    assert permitted(state, spec) == may


def test_whom_a_namespaces_labels_select_is_counted_anew_when_they_change() -> None:
    state = zones()
    state.set_namespace(NamespaceSpec("shop", (("team", "b"),)))
    state.bind("db", replace(PLAIN, namespace="shop"), "a0")
    to_team = with_affinity(PodTerm("zone", WEB, (), (Requirement("team", "In", ("c",)),)))
    assert permitted(state, to_team) == []
    version = state.version
    state.set_namespace(NamespaceSpec("shop", (("team", "c"),)))
    assert state.version > version
    assert permitted(state, to_team) == ["a0", "a1"]
    again = rebuild(state.log.events)
    assert again.namespaces == state.namespaces
    assert permitted(again, to_team) == ["a0", "a1"]


def test_a_soft_taint_alone_is_a_wish() -> None:
    assert not zones().rules.has_wishes
    assert state_of(node("n", taints=(Taint("t", "", "PreferNoSchedule"),))).rules.has_wishes


# ── the ledger's columns ──────────────────────────────────────────────────────────────────────


def test_what_is_taken_is_the_sum_over_residents_and_nothing_is_left_when_they_go() -> None:
    state = state_of(node("n", num_gpus=8))
    gpu_pods = {
        "share": (GpuRequest(1, 300), 0b1, 0),
        "one": (GpuRequest(1), 0b10, 1),
        "two": (GpuRequest(2), 0b1100, 2),
        "four": (GpuRequest(4), 0b11110000, 3),
    }
    for uid, (gpu, devices, _) in gpu_pods.items():
        state.bind(uid, PodSpec(((CPU, 100), ("memory", 1 << 30)), gpu), "n", devices)
    state.bind("none", PodSpec(((CPU, 100), ("memory", 1 << 30))), "n")
    taken = state.snapshot().taken[:, 0]
    assert taken[PODS_ROW] == 5
    assert taken[state.lane(CPU)] == 500
    assert taken[MEMORY_ROW] == 5 << 30
    assert taken[GPU_CLASSES : GPU_CLASSES + 5].tolist() == [1, 1, 1, 1, 0]
    assert state.snapshot().gpu_free[0].tolist() == [700] + [0] * 7
    for uid in list(state.residents):
        state.release(uid)
    assert not state.snapshot().taken.any()
    assert state.snapshot().gpu_free[0].tolist() == [1000] * 8


def test_what_a_pod_is_scored_by_may_be_more_than_it_asks_for() -> None:
    state = state_of(node("n"))
    state.bind("none", PodSpec((), nonzero_cpu=100, nonzero_memory=200 << 20), "n")
    state.bind("some", PodSpec(((CPU, 500), ("memory", 1 << 30))), "n")
    taken = state.snapshot().taken[:, 0]
    assert (taken[SCORED_CPU], taken[SCORED_MEMORY]) == (600, (1 << 30) + (200 << 20))
    assert (taken[state.lane(CPU)], taken[MEMORY_ROW]) == (500, 1 << 30)


def test_devices_are_read_as_they_are_written() -> None:
    assert devices_mask("0, 3") == 0b1001
    assert devices_text(0b1001) == "0,3"
    assert [devices_mask(devices_text(mask)) for mask in range(256)] == list(range(256))
