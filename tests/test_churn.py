"""What has gone leaves nothing behind: a ledger that has seen a hundred thousand jobs decides as fast as a new one."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement import program
from placement import state as ledger
from placement.log import EventLog
from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.pods import HostPort, NodeRules, PodRules, PodSpec, PodTerm, Requirement, WeightedPodTerm
from placement.rejections import Rejections, rejections
from placement.resources import NOT_FEASIBLE
from placement.rules import MIN_COUNTERS, MIN_TEXTS
from placement.state import MAX_CHANGED, ClusterState
from placement.strategies import STRATEGIES
from tests.generators import fleets, pod_specs

HOSTNAME = "kubernetes.io/hostname"
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def state_of(nodes: list[NodeSpec]) -> ClusterState:
    state = ClusterState(events=EventLog())
    for node in nodes:
        state.add_node(node)
    return state


def machine(name: str, **changes: object) -> NodeSpec:
    node = NodeSpec(name, (("cpu", 64_000), ("memory", 2**38)), ((HOSTNAME, name),))
    return replace(node, **changes)  # type: ignore[arg-type]  # fields by name


def job(number: int) -> PodSpec:
    """One of a kind: its rules speak of its own pods."""
    own = PodTerm(HOSTNAME, (Requirement("job-name", "In", (f"job-{number}",)),))
    return PodSpec(
        (("cpu", 100),),
        owner=f"Job/job-{number}",
        labels=(("job-name", f"job-{number}"),),
        pod_rules=PodRules(
            anti_affinity=(own,), preferred=(WeightedPodTerm(10, own),), host_ports=(HostPort(1024 + number),)
        ),
    )


def test_rules_of_pods_that_are_gone_are_forgotten_and_those_of_pods_that_run_are_not() -> None:
    state, strategy = state_of([machine(f"n{i}") for i in range(5)]), STRATEGIES["best-fit"]
    lasting = job(10_000)
    state.bind("lasting", lasting, "n0")
    for number in range(1000):
        spec = job(number)
        decision = strategy.decide(state.snapshot(), spec)
        state.bind("passing", spec, decision.node)
        state.release("passing")
    assert state.rules.num_counters <= MIN_COUNTERS
    assert len(state.rules._bumps) <= MIN_COUNTERS
    scores = strategy.scores(state.snapshot(), lasting)
    assert {state.names[row] for row in np.flatnonzero(scores > NOT_FEASIBLE).tolist()} == {"n1", "n2", "n3", "n4"}


@quick
@given(fleets(), st.lists(pod_specs(), min_size=2, max_size=10), st.data())
def test_an_answer_never_depends_on_when_idle_counters_were_dropped(
    nodes: list[NodeSpec], specs: list[PodSpec], data: st.DataObject
) -> None:
    kept, dropping = state_of(nodes), state_of(nodes)
    strategy = STRATEGIES[data.draw(st.sampled_from(["best-fit", "kube-default"]))]
    for i, spec in enumerate(specs * 2):
        dropping.rules._most_counters = 0
        dropping.rules._asked.clear()
        scores = [strategy.scores(state.snapshot(), spec) for state in (kept, dropping)]
        assert (scores[0] == scores[1]).all()
        best = int(scores[0].argmax())
        leaver = data.draw(st.sampled_from([None, *kept.residents]))
        for state in (kept, dropping):
            if scores[0][best] > NOT_FEASIBLE:
                devices = strategy.program(state).devices(spec, best, 0)
                state.bind(f"pod-{i}", spec, state.names[best], devices)
            if leaver is not None:
                state.release(leaver)
    for key, counter in dropping.rules._carried.items():
        assert (counter == kept.rules._carried[key]).all()


def test_a_namespace_that_nobody_selects_by_label_costs_no_count() -> None:
    state = state_of([machine("n0")])
    state.bind("a", job(1), "n0")
    before = state.rules.epoch
    state.set_namespace(NamespaceSpec("other", (("team", "b"),)))
    assert state.rules.epoch == before
    everywhere = PodTerm(HOSTNAME, (), namespace_selector=(Requirement("team", "In", ("b",)),))
    state.bind("b", replace(job(2), pod_rules=PodRules(anti_affinity=(everywhere,))), "n0")
    spec = PodSpec((("cpu", 1),), namespace="other")
    assert not state.rules.relational_mask(spec)[0]
    state.set_namespace(NamespaceSpec("other", (("team", "c"),)))
    assert state.rules.relational_mask(spec)[0]


def test_taints_with_the_time_in_them_are_forgotten_with_their_nodes() -> None:
    state, spec = state_of([machine("n0"), machine("n1")]), job(1)
    for time_s in range(500):
        state.update_node(machine("n0", taints=(Taint("ToBeDeletedByClusterAutoscaler", str(time_s)),)))
        assert state.rules.static_mask(spec).tolist() == [False, True]
    assert len(state.rules._taint_sets) < 200
    state.update_node(machine("n0"))
    assert state.rules.static_mask(spec).tolist() == [True, True]


def test_names_and_labels_of_nodes_that_are_gone_are_forgotten() -> None:
    """They would slow down every rule about topology, and take memory for ever."""
    state = state_of([machine("stays", labels=((HOSTNAME, "stays"), ("pool", "a")))])
    spec = replace(job(1), pod_rules=PodRules(), node_rules=NodeRules(node_selector=(("pool", "a"),)))
    for number in range(3 * MIN_TEXTS):
        name = f"node-{number}"
        labels = ((HOSTNAME, name), ("pool", "b"), (f"key-{number}", f"value-{number}"))
        state.add_node(machine(name, labels=labels))
        state.remove_node(name)
    assert len(state.rules._texts) == len(state.rules._ids) <= MIN_TEXTS + 4
    num_columns = len(state.rules._columns)
    assert num_columns < MIN_TEXTS
    for number in range(100):
        state.rules.static_mask(replace(spec, node_rules=NodeRules(node_selector=((f"asked-{number}", "x"),))))
    assert (len(state.rules._columns), len(state.rules._texts)) == (num_columns, len(state.rules._ids))
    state.add_node(machine("node-0", labels=((HOSTNAME, "node-0"), ("pool", "b"))))
    assert state.rules.static_mask(spec).tolist() == [True, False]
    assert state.rules.places(HOSTNAME).tolist() == state.rules.places("\0name").tolist()


def test_images_that_no_node_has_any_more_are_forgotten() -> None:
    state = state_of([machine("n0")])
    for build in range(100):
        state.update_node(machine("n0", images=((f"shop:{build}", 10),)))
    assert list(state.rules._images) == ["shop:99"]


@quick
@given(fleets(), st.lists(pod_specs(), min_size=2, max_size=5), st.data())
def test_classes_that_are_asked_about_now_and_then_see_every_change_of_nodes(
    nodes: list[NodeSpec], specs: list[PodSpec], data: st.DataObject
) -> None:
    state, strategy = state_of(nodes), STRATEGIES["best-fit"]
    changes = st.sampled_from(["cordon", "taint", "label", "cpu", "images", "remove", "add"])
    drops = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 8))):
        if drops:
            state.rules._most_texts = 0
        node = data.draw(st.sampled_from(nodes))
        known = None if node.name not in state.row_of else state.nodes[state.row_of[node.name]]
        change = data.draw(changes)
        if known is None:
            state.add_node(node)
        elif change == "cordon":
            state.update_node(replace(known, unschedulable=not known.unschedulable))
        elif change == "taint":
            state.update_node(replace(known, taints=(Taint("gpu", "x"),)))
        elif change == "label":
            state.update_node(replace(known, labels=(*node.labels[:-1], ("zone", "a"))))
        elif change == "cpu":
            state.update_node(replace(known, allocatable=(("cpu", 500), ("memory", 1 << 30), ("pods", 2))))
        elif change == "images":
            state.update_node(replace(known, images=(("shop", 10),)))
        elif change == "remove":
            state.remove_node(node.name)
        spec = data.draw(st.sampled_from(specs))
        fresh = ClusterState(events=EventLog())
        for row, other in enumerate(state.nodes):
            fresh.add_node(machine(f"hole-{row}") if other is None else other)
        alive = state.is_alive[: state.num_rows]
        expected = np.where(alive, strategy.scores(fresh.snapshot(), spec), NOT_FEASIBLE)
        assert (strategy.scores(state.snapshot(), spec) == expected).all()


def test_a_list_of_changed_nodes_that_grew_too_long_starts_over_unseen() -> None:
    state, strategy, spec = state_of([machine("n0"), machine("n1")]), STRATEGIES["best-fit"], job(1)
    strategy.decide(state.snapshot(), spec)
    state.changed_rows.extend([0] * MAX_CHANGED)
    state.update_node(machine("n0", unschedulable=True))
    assert len(state.changed_rows) == 1
    assert strategy.decide(state.snapshot(), spec).node == "n1"


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_more_classes_than_scores_are_kept_of_start_over_unseen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 8,446 nodes there is room for fewer classes than outlive new knowledge."""
    monkeypatch.setattr(program, "MAX_CACHED_SCORES", 0)
    state, strategy = ClusterState(events=EventLog(), backend=backend), STRATEGIES["best-fit"]
    for number in range(100):
        state.add_node(NodeSpec(f"n{number}", (("cpu", number),)))
    for number in (*range(100), *range(100)):
        assert strategy.decide(state.snapshot(), PodSpec((("cpu", number),))).node == f"n{number}"
    assert len(strategy.program(state).demands) < 100


def test_sums_of_classes_that_were_forgotten_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MIN_CLASSES_BYTES", 100_000)
    state = state_of([machine("n0")])
    first = PodSpec((("cpu", 7),))
    state.bind("first", first, "n0")
    for i in range(500):
        state.delta(PodSpec((("cpu", 7),), owner=f"Job/{i}"))
    assert len(state._deltas) < 100
    state.release("first")
    assert not state.taken.any()


def large(number: int) -> PodSpec:
    """What a tenant may write: a job whose labels and terms take some 100 kB."""
    spec, names = job(number), tuple(f"value-{number}-{i}" for i in range(200))
    term = PodTerm(HOSTNAME, (Requirement("job-name", "In", names),))
    labels = (*spec.labels, *((name, name) for name in names))
    return replace(spec, labels=labels, pod_rules=replace(spec.pod_rules, anti_affinity=(term,)))


@pytest.mark.parametrize("name", ["best-fit", "kube-default", "emptying"])
def test_of_large_classes_that_have_gone_little_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a megabyte took 2.5 to 33 MB in all tables, each of which had room for thousands of classes."""
    state, strategy, known = state_of([machine(f"n{i}") for i in range(3)]), STRATEGIES[name], Rejections()
    state.log.append = lambda event: None
    monkeypatch.setattr(state, "_most_bytes", 20 * large(0).held_bytes)
    monkeypatch.setattr(ledger, "MIN_CLASSES_BYTES", 20 * large(0).held_bytes)
    lasting = [large(10_000 + number) for number in range(3)]
    for number, spec in enumerate(lasting):
        state.bind(f"lasting-{number}", spec, f"n{number}")
    gone: weakref.WeakSet[PodSpec] = weakref.WeakSet()
    for number in range(60):
        spec = large(number)
        gone.add(spec)
        known.of(strategy, state.snapshot(), spec, None, chosen=-1)
        state.bind("passing", spec, strategy.decide(state.snapshot(), spec).node)
        state.release("passing")
    del spec
    gc.collect()
    assert len(gone) <= 21
    fresh = state_of([machine(f"n{i}") for i in range(3)])
    for number, spec in enumerate(lasting):
        fresh.bind(f"lasting-{number}", spec, f"n{number}")
    for spec in (*lasting, large(7), job(8)):
        assert (strategy.scores(state.snapshot(), spec) == strategy.scores(fresh.snapshot(), spec)).all()
        assert known.of(strategy, state.snapshot(), spec, None, chosen=-1).masks().keys() == (
            rejections(strategy, fresh.snapshot(), spec).keys()
        )
    for number in range(3):
        state.release(f"lasting-{number}")
    assert not state.taken.any()
