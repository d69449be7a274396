"""Who is meant is found by labels, and it is the same as when everybody is asked."""

from __future__ import annotations

import pickle
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from placement.label_index import MIN_CLASSES, Homes, Terms, needs_of, owner_pair, pairs_of
from placement.log import EventLog
from placement.nodes import NodeSpec
from placement.pods import PodRules, PodSpec, PodTerm, Requirement
from placement.rules import Match, RuleIndex
from placement.state import ClusterState

quick = settings(max_examples=100, deadline=None)
LABELS = [(), (("app", "a"),), (("app", "b"), ("tier", "web")), (("app", "a"), ("tier", "web"), ("job", "1"))]
requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(["app", "tier", "job"]),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(["a", "b", "web", "1", "no"]), max_size=3, unique=True).map(tuple),
    ),
    st.builds(Requirement, st.sampled_from(["app", "tier"]), st.sampled_from(["Exists", "DoesNotExist"])),
)
selectors = st.one_of(st.none(), st.lists(requirements, max_size=3).map(tuple))
matches = st.builds(Match, st.sampled_from([("default",), ("default", "other")]), st.none(), selectors)
specs = st.builds(
    lambda labels, namespace, owner: PodSpec((("cpu", 1),), namespace=namespace, owner=owner, labels=labels),
    st.sampled_from(LABELS),
    st.sampled_from(["default", "other"]),
    st.sampled_from(["", "Job/1"]),
)


@quick
@given(
    st.lists(st.tuples(specs, st.integers(0, 3), st.booleans()), max_size=20),
    st.lists(matches, min_size=1, max_size=2).map(tuple),
    st.booleans(),
)
def test_a_counter_made_late_counts_what_one_made_early_has_counted(
    history: list[tuple[PodSpec, int, bool]], meant: tuple[Match, ...], forgets: bool
) -> None:
    rules, placed = RuleIndex(), []
    for row in range(4):
        rules.add_node(row, NodeSpec(f"n{row}", ()))
    for key in (("all", meant), ("owner", ("default", "Job/1"))):
        rules.counter(key)
    for spec, row, leaves in history:
        rules.bind(spec, row)
        placed.append((spec, row))
        if leaves:
            rules.release(*placed.pop(0))
        if forgets:
            rules._homes._most = 0
            rules._bumps.clear()
    for key in (("all", meant), ("owner", ("default", "Job/1"))):
        expected = [sum(rules._counts(key, spec) for spec, at in placed if at == row) for row in range(4)]
        assert rules.counter(key).tolist() == expected
        rules._recount(key)
        assert rules.counter(key).tolist() == expected


@quick
@given(specs, selectors)
def test_a_term_is_found_by_every_class_that_it_means(spec: PodSpec, selector: tuple[Requirement, ...] | None) -> None:
    homes = Homes()
    for labels in LABELS:
        homes.of(replace(spec, labels=labels))
    terms: Terms[str] = Terms(homes)
    terms.add("term", needs_of([selector]))
    if Match(("default", "other"), None, selector).covers(spec, {}):
        assert list(terms.about(spec)) == ["term"]
        assert spec in dict(homes.carrying(needs_of([selector])))


def test_a_new_selector_asks_about_the_pods_under_its_label_alone() -> None:
    homes = Homes()
    many = [PodSpec((("cpu", 1),), labels=(("app", "batch"), ("job", str(i)))) for i in range(100)]
    for spec in many:
        homes.of(spec)[0] = 1
    own = (Requirement("app", "In", ("batch",)), Requirement("job", "In", ("7", "8")))
    assert [spec for spec, _ in homes.carrying(needs_of([own]))] == many[7:9]
    terms: Terms[int] = Terms(homes)
    for i in range(100):
        terms.add(i, needs_of([(Requirement("app", "In", ("batch",)), Requirement("job", "In", (str(i),)))]))
    assert list(terms.about(many[7])) == [7]
    terms.add(-1, needs_of([None]))
    assert list(terms.about(many[7])) == [7]
    assert not list(homes.carrying(needs_of([own, None])))


def test_classes_that_have_no_pod_any_more_are_forgotten() -> None:
    state = ClusterState(events=EventLog())
    state.add_node(NodeSpec("n0", (("cpu", 10**6),)))
    lasting = PodSpec((("cpu", 1),), labels=(("app", "lasting"),))
    state.bind("lasting", lasting, "n0")
    for number in range(2 * MIN_CLASSES):
        state.bind("passing", PodSpec((("cpu", 1),), labels=(("job", str(number)),)), "n0")
        state.release("passing")
    homes = state.rules._homes
    assert len(homes) <= MIN_CLASSES
    assert len(homes._at) <= MIN_CLASSES + len(pairs_of(lasting))
    assert homes.of(lasting) == {0: 1}
    term = PodTerm("kubernetes.io/hostname", (Requirement("app", "In", ("lasting",)),))
    asker = PodSpec((("cpu", 1),), pod_rules=PodRules(anti_affinity=(term,)))
    assert state.rules.counter(("all", (Match.of(term, asker.namespace),))).tolist() == [1]
    state.release("lasting")
    assert state.rules.counter(("owner", ("default", ""))).tolist() == [0]
    assert owner_pair("default", "") in pairs_of(lasting)


class Heard(str):
    """A text that counts how often its hash is asked for."""

    __slots__ = ()
    number = 0

    def __hash__(self) -> int:
        Heard.number += 1
        return super().__hash__()


def test_a_term_that_names_many_values_is_remembered_in_about_as_many_steps() -> None:
    """One with 18,000 values, a megabyte, took three seconds of whoever answers."""
    values = tuple(Heard(f"v{i}") for i in range(500))
    match = Match(("default",), None, (Requirement("app", "In", values),))
    terms: Terms[tuple[Match, str]] = Terms(Homes())
    terms.add((match, "zone"), needs_of([match.selector]))
    assert [*terms.about(PodSpec((), labels=(("app", "v7"),)))] == [(match, "zone")]
    assert Heard.number < 20 * len(values)
    again = pickle.loads(pickle.dumps(match))
    assert "_hash" not in vars(again), "it holds in one process only"
    assert again == match
