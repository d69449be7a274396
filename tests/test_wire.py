"""The extender codec: what Go writes is read, what Go reads is written."""

from __future__ import annotations

import contextlib
import json
import string
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler import name_groups, name_table, wire
from scheduler.errors import WireError
from scheduler.name_table import NameTable

META = {"name": "web-0", "namespace": "shop", "uid": "u-1", "resourceVersion": "7"}
POD = {"metadata": META, "spec": {"containers": None}}
NAME = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=40)
NAMES = st.lists(NAME, unique=True, max_size=40)
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture that chooses the back end holds for all examples of a test, as it should."""


def go(value: Any) -> bytes:
    """JSON as Go's encoder writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


def args(names: list[str] | None, **extra: Any) -> bytes:
    return go({"Pod": POD, "Nodes": None, "NodeNames": names, **extra})


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def back_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of the codec runs with the compiled look-up and with the plain one."""
    if request.param == "numpy":
        monkeypatch.setattr(name_table, "wire_kernels", None)
    else:
        assert name_table.wire_kernels is not None, "tests run with every extra installed"


@given(NAMES, st.randoms())
@SETTINGS
def test_every_name_finds_its_row_in_the_order_asked(names: list[str], random: Any) -> None:
    table = NameTable(names)
    asked = names[:]
    random.shuffle(asked)
    question = wire.read_question(args(asked), table)
    assert question.rows.tolist() == [names.index(name) for name in asked]
    assert (question.head.name, question.head.namespace, question.head.uid) == ("web-0", "shop", "u-1")


@given(NAMES, NAMES)
@SETTINGS
def test_a_name_we_do_not_know_is_never_taken_for_one_we_do(known: list[str], asked: list[str]) -> None:
    question = wire.read_question(args(asked), NameTable(known))
    assert question.rows.tolist() == [known.index(name) if name in known else -1 for name in asked]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300))
@SETTINGS
def test_every_name_has_a_place_of_its_own_unless_somebody_chose_names_that_collide(numbers: list[int]) -> None:
    """Equal windows stand for names whose hashes are equal."""
    _, bits, places, is_free = name_groups._table(name_groups.mix(np.array([numbers], np.uint64)))
    assert (np.flatnonzero(~is_free) == np.unique(places[places >= 0])).all()
    placed = places[places >= 0]
    assert len(np.unique(placed)) == len(placed)
    assert (placed < 1 << bits).all()
    if len(set(numbers)) == len(numbers):
        assert len(placed) == len(numbers)
    assert all(place < 0 for place, number in zip(places, numbers, strict=True) if numbers.count(number) > 1)


def test_names_that_found_no_place_are_looked_up_without_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(mixed: Any, buckets: Any, order: Any, unused: Any, is_free: Any, shifts: Any, places: Any) -> bool:
        return False

    monkeypatch.setattr(name_groups, "displace", none)
    names = [f"node-{i:06d}" for i in range(50)]
    question = wire.read_question(args(names[::-1]), NameTable(names))
    assert question.rows.tolist() == list(range(50))[::-1]


@given(NAMES, st.lists(st.lists(st.tuples(st.integers(0, 45), st.one_of(st.just(""), NAME)), max_size=4), max_size=4))
@SETTINGS
def test_a_table_that_follows_nodes_is_as_one_made_anew(names: list[str], changes: list[list[tuple[int, str]]]) -> None:
    table = NameTable(names)
    for some in changes:
        names = names[:]
        for row, name in some:
            if row < len(names) and (not name or name not in names):
                names[row] = name
            elif name and name not in names:
                names.append(name)
        asked = [name for name in names if name]
        table = table.follow(names)
        question = wire.read_question(args(asked), table)
        assert question.rows.tolist() == [names.index(name) for name in asked]
        marks = np.arange(len(names)) % 11
        answer = json.loads(bytes(wire.priorities(question, table, marks)))
        assert {a["Host"]: a["Score"] for a in answer} == {name: names.index(name) % 11 for name in asked}
        passed = json.loads(wire.filter_some(question, table, np.ones(len(asked), np.bool_)))
        assert passed["NodeNames"] == asked
        assert wire.read_question(args([*asked, "gone"]), table).rows.tolist()[-1] == table.row_of.get("gone", -1)


def test_a_table_of_nodes_that_come_one_by_one_stays_as_small_as_its_names_allow() -> None:
    """It is to stay in the processor's caches."""
    rows, text = name_groups.columns_of((i, f"node-{i:06d}".encode()) for i in range(4000))[11]
    group: name_groups.Group | None = name_groups.Group(rows[:100], text[:100])
    for first in range(100, 4000, 20):
        assert group is not None
        group = group.but((), rows[first : first + 20], text[first : first + 20])
        assert group is not None
        assert len(group.entries) <= 8 * len(group.rows)


@pytest.mark.parametrize("shape", ["node-{i:06d}", "ip-{i}.internal"])
def test_a_table_of_thousands_follows_by_changing_its_own(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [shape.format(i=i) for i in range(2000)]
    table, before = NameTable(names), tuple(names)
    wire.priorities(wire.read_question(args(names), table), table, np.zeros(2000, np.int64))
    names = [*names[:7], "", *names[8:], shape.format(i=5000), "another-pool-with-a-very-long-name-1"]
    followed = table.follow(names)
    if name_table.wire_kernels is not None:
        assert followed is table
        monkeypatch.setattr(wire, "_read_plain", None)
    asked = [name for name in names[::-1] if name]
    question = wire.read_question(args(asked), followed)
    assert [names[row] for row in question.rows] == asked
    answer = json.loads(bytes(wire.priorities(question, followed, np.arange(2002) % 11)))
    assert [a["Score"] for a in answer] == [int(row) % 11 for row in question.rows]
    assert before == tuple(shape.format(i=i) for i in range(2000))


def test_two_questions_at_once_do_not_share_their_rows() -> None:
    names = [f"node-{i:06d}" for i in range(50)]
    table = NameTable(names)
    first = wire.read_question(args(names), table)
    for _ in range(3):
        assert wire.read_question(args(names[::-1]), table).rows.tolist() == list(range(50))[::-1]
    assert first.rows.tolist() == list(range(50))


@pytest.mark.parametrize("shape", ["node-{i:06d}", "{x}worker-{i}"])
def test_thousands_of_known_names_take_the_path_without_objects_per_node(shape: str) -> None:
    names = [shape.format(i=i, x="x" * (i % 17)) for i in range(3000)]
    question = wire.read_question(args(names[::-1]), NameTable(names))
    assert question.names is None
    assert question.rows.tolist() == list(range(len(names)))[::-1]


def test_equal_length_names_that_differ_in_one_byte_are_told_apart() -> None:
    names = [f"{'a' * i}b{'a' * (40 - i)}" for i in range(41)]
    table = NameTable(names[:-1])
    assert wire.read_question(args(names[:-1]), table).rows.tolist() == list(range(40))
    assert wire.read_question(args(names), table).rows.tolist() == [*range(40), -1]


@pytest.mark.parametrize(
    "body",
    [
        go({"pod": POD, "nodenames": ["a-node-1", "b"], "nodes": None}),
        go({"POD": POD, "nodeNames": ["a-node-1", "b"]}),
        go({"Pod": POD, "Nodes": {"items": [{"metadata": {"name": "a-node-1"}}, {"metadata": {"name": "b"}}]}}),
        json.dumps({"NodeNames": ["a-node-1", "b"], "Pod": POD}, indent=2).encode(),
    ],
)
def test_any_case_any_order_and_both_forms_are_understood(body: bytes) -> None:
    question = wire.read_question(body, NameTable(["b", "a-node-1"]))
    assert question.rows.tolist() == [1, 0]
    assert question.head.uid == "u-1"


@pytest.mark.parametrize("names", [None, []])
def test_null_lists_and_empty_lists_are_no_nodes(names: list[str] | None) -> None:
    question = wire.read_question(args(names), NameTable(["a"]))
    assert len(question.rows) == 0
    assert json.loads(wire.filter_all(question))["NodeNames"] == []
    assert json.loads(wire.neutral_priorities(question, NameTable(["a"]))) == []


def test_a_pod_whose_text_looks_like_a_name_list_changes_nothing() -> None:
    names = ["node-0001", "node-0002"]
    trap = POD | {"metadata": META | {"annotations": {"x": '","NodeNames":["node-0001"]}'}}}
    question = wire.read_question(go({"Pod": trap, "Nodes": None, "NodeNames": names}), NameTable(names))
    assert question.rows.tolist() == [0, 1]
    assert json.loads(bytes(question.pod)) == trap


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"x"',
        b"\xff\xfe",
        b'{"Pod":null}',
        b'{"Pod":{},"NodeNames":7}',
        b'{"Pod":{},"NodeNames":[1]}',
        b"[" * 100_000,
        b'{"Pod":{"metadata":{"name":"\xff"}},"Nodes":null,"NodeNames":["node-0001"]}',
        b'{"Pod":{"metadata":{"name":"\xff"}},"Nodes":{"metadata":{},"items":[]},"NodeNames":null}',
        b'{"Pod":{"metadata":{},"x":' + b"[" * 10_000 + b"]" * 10_000 + b'},"Nodes":null,"NodeNames":["node-0001"]}',
    ],
)
def test_what_is_not_a_request_is_one_clean_error(body: bytes) -> None:
    with pytest.raises(WireError):
        wire.read_question(body, NameTable(["a", "node-0001"]))


def test_a_list_of_names_that_no_cluster_has_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_NAMES_BYTES", 1000)
    names = [f"node-{i:06d}" for i in range(100)]
    assert len(wire.read_question(args(names), NameTable(names)).rows) == 100
    with pytest.raises(WireError, match="NodeNames exceeds 1000 bytes") as caught:
        wire.read_question(args([*names, "stranger"]), NameTable(names))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("read", "begin", "item", "end"),
    [
        (wire.read_question, b'{"Pod":{},"Nodes":{"items":[', b"{}", b']},"NodeNames":null}'),
        (wire.read_question, b'{"pod":{},"nodes":{"items":[', b'{"metadata":{}}', b"]}}"),
        (wire.read_question, b"{", b'"a":1', b',"Pod":{}}'),
        (wire.read_preemption, b'{"Pod":{},"NodeNameToMetaVictims":{', b'"n":{"Pods":[]}', b"}}"),
        (wire.read_preemption, b'{"Pod":{},"NodeNameToMetaVictims":{"n":{"Pods":[', b'{"UID":"u"}', b"]}}}"),
        (wire.read_preemption, b'{"Pod":{},"NodeNameToVictims":{"n":{"Pods":[', b"{}", b"]}}}"),
        (wire.read_binding, b"{", b'"PodName":"p"', b"}"),
    ],
)
def test_a_request_of_more_parts_than_any_cluster_has_is_refused_before_it_becomes_objects(
    read: Any, begin: bytes, item: bytes, end: bytes
) -> None:
    """A hundred megabytes of tiny items would be gigabytes of objects; decoding ends at the limit."""
    many = wire.MAX_ITEMS + 1
    body = begin + b",".join([item]) + end
    with contextlib.suppress(WireError):  # a bind request needs more than a name
        read(body, *((NameTable(["a"]),) if read is wire.read_question else ()))
    body = begin + b",".join([item] * many) + end
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=f"more than {wire.MAX_ITEMS} members, nodes and victims") as caught:
            read(body, *((NameTable(["a"]),) if read is wire.read_question else ()))
        assert tracemalloc.get_traced_memory()[1] < 100 * many
    finally:
        tracemalloc.stop()
    assert caught.value.status == 413


def test_items_that_are_no_objects_end_the_reading_at_the_first() -> None:
    for items in (b"1", b'"a"', b"null", b"[]"):
        body = b'{"Pod":{},"Nodes":{"items":[' + b",".join([items] * 1000) + b']},"NodeNames":null}'
        with pytest.raises(WireError, match="Nodes cannot be read") as caught:
            wire.read_question(body, NameTable(["a"]))
        assert caught.value.status == 400


@given(NAMES.filter(bool), st.data())
@settings(max_examples=100, deadline=None)
def test_every_node_asked_gets_one_integer_score(names: list[str], data: Any) -> None:
    table = NameTable(names)
    marks = data.draw(st.lists(st.integers(0, 10), min_size=len(names), max_size=len(names)))
    order = data.draw(st.permutations(range(len(names))))
    for strangers in ([], ["a stranger"]):
        asked = [*(names[row] for row in order), *strangers]
        question = wire.read_question(args(asked), table)
        answer = bytes(wire.priorities(question, table, np.array(marks)))
        decoded = json.loads(answer)
        assert [entry["Host"] for entry in decoded] == asked
        assert [entry["Score"] for entry in decoded] == [marks[row] for row in order] + [0] * len(strangers)
        assert all(type(entry["Score"]) is int for entry in decoded)


@given(NAMES.filter(bool), st.data())
@settings(max_examples=100, deadline=None)
def test_passed_and_failed_together_are_exactly_the_question(names: list[str], data: Any) -> None:
    table = NameTable(names)
    passes = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    first = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    question = wire.read_question(args(names), table)
    answer = json.loads(wire.filter_some(question, table, passes, (("one", first), ("two", ~first))))
    assert answer["NodeNames"] == [n for n, keep in zip(names, passes, strict=True) if keep]
    assert answer["FailedNodes"] == {
        n: "one" if f else "two" for n, keep, f in zip(names, passes, first, strict=True) if not keep
    }
    assert (answer["Error"], answer["Nodes"]) == ("", None)


def test_full_nodes_come_back_as_they_were_sent() -> None:
    nodes = [{"metadata": {"name": f"n{i}"}, "status": {"x": [i, {"y": None}]}} for i in range(3)]
    question = wire.read_question(
        go({"Pod": POD, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None}), NameTable(["n1"])
    )
    assert json.loads(wire.filter_all(question))["Nodes"]["items"] == nodes
    one = json.loads(wire.filter_some(question, NameTable(["n1"]), np.array([False, True, False])))
    assert one["Nodes"]["items"] == [nodes[1]]
    assert one["NodeNames"] is None


@pytest.mark.parametrize(
    "node",
    [
        {"metadata": {"name": "a-node-1"}},
        {"metadata": {"labels": {"name": "b"}, "name": "a-node-1"}},
        {"status": {"name": "b"}, "metadata": {"name": "a-node-1"}},
        {"kind": "Node", "metadata": {"name": "a-node-1", "annotations": {"x": '{"metadata":{"name":"b"}}'}}},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_full_node_is_known_by_its_name_wherever_that_stands(node: dict[str, Any], indent: int | None) -> None:
    nodes = {"metadata": {}, "items": [node, {"metadata": {"name": "caf\u00e9 \\"}}]}
    separators = (",", ":") if indent is None else None
    body = json.dumps({"Pod": POD, "Nodes": nodes, "NodeNames": None}, indent=indent, separators=separators).encode()
    question = wire.read_question(body, NameTable(["b", "a-node-1"]))
    assert question.rows.tolist() == [1, -1]
    assert question.names == ["a-node-1", "caf\u00e9 \\"]
    assert json.loads(bytes(question.pod)) == POD


TRAPS = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\\\{}[],:\u00e9 \n'), max_size=90),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('{}[]"\\\\', max_size=9), inner, max_size=4),
    max_leaves=12,
)
"""Values full of what a reader of brackets could stumble over."""


@given(st.lists(st.tuples(st.integers(0, 60), TRAPS), unique_by=lambda entry: entry[0], max_size=8))
@SETTINGS
def test_full_nodes_are_found_whatever_is_in_them(asked: list[tuple[int, Any]]) -> None:
    names = [f"node-{i:0{8 + i % 30}d}" for i in range(61)]
    table = NameTable(names)
    nodes = [{"metadata": {"name": names[row]}, "status": trap} for row, trap in asked]
    body = go({"Pod": POD, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None})
    question = wire.read_question(body, table)
    assert question.rows.tolist() == [row for row, _ in asked]
    assert json.loads(wire.filter_all(question))["Nodes"]["items"] == nodes
    for row, node in zip(question.rows.tolist(), nodes, strict=True):
        assert json.loads(wire.filter_one(question, table, row))["Nodes"]["items"] == [node]
    scores = json.loads(bytes(wire.priorities(question, table, np.arange(61) % 11)))
    assert scores == [{"Host": names[row], "Score": row % 11} for row, _ in asked]
    assert json.loads(bytes(question.pod)) == POD


def test_thousands_of_full_nodes_take_the_path_without_objects_per_node() -> None:
    names = [f"node-{i:06d}" for i in range(500)]
    nodes = [{"metadata": {"name": name, "labels": {"x": "y" * 40}}} for name in names]
    body = go({"Pod": POD, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None})
    question = wire.read_question(body, NameTable(names))
    assert question.rows.tolist() == list(range(500))
    assert (question.names is None) == (name_table.wire_kernels is not None)


@pytest.mark.parametrize(
    "items",
    [
        '{"metadata":{"name":"node-000001"}},',
        '{"metadata":{"name":"node-000001"}} {"metadata":{"name":"node-000002"}}',
        '{"metadata":{"name":"node-000001"}',
        '{"metadata":{"name":"node-000001"}}}',
        '{"metadata":{"name":"node-000001',
        '["metadata",{"name":"node-000001"}]',
        "7",
    ],
)
def test_a_damaged_list_of_full_nodes_is_one_clean_error(items: str) -> None:
    body = b'{"Pod":%b,"Nodes":{"metadata":{},"items":[%b]},"NodeNames":null}' % (go(POD), items.encode())
    table = NameTable(["node-000001", "node-000002"])
    if items.startswith(("[", "7")):  # JSON, if no Node: a stranger without a name, or an error
        try:
            assert (wire.read_question(body, table).rows == -1).all()
        except WireError:
            return
    else:
        with pytest.raises(WireError):
            wire.read_question(body, table)


@pytest.mark.parametrize("nodes", [{"items": None}, {"items": []}, {}])
def test_no_node_objects_are_no_nodes(nodes: dict[str, Any]) -> None:
    question = wire.read_question(go({"Pod": POD, "Nodes": nodes, "NodeNames": None}), NameTable(["a"]))
    assert len(question.rows) == 0
    assert json.loads(wire.filter_all(question))["Nodes"]["items"] == []


def test_bind_requests_need_every_field() -> None:
    whole = {"PodName": "p", "PodNamespace": "n", "PodUID": "u", "Node": "x"}
    assert wire.read_binding(go(whole)) == wire.Binding("p", "n", "u", "x")
    assert wire.read_binding(go({k.lower(): v for k, v in whole.items()})) == wire.Binding("p", "n", "u", "x")
    for key in whole:
        with pytest.raises(WireError, match=key.lower()):
            wire.read_binding(go(whole | {key: ""}))


def test_preemption_answers_in_the_meta_form_whatever_came() -> None:
    meta = {"Pod": POD, "NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "a"}], "NumPDBViolations": 1}}}
    full = {"Pod": POD, "NodeNameToVictims": {"n1": {"Pods": [{"metadata": {"uid": "a"}}], "NumPDBViolations": 1}}}
    for body in (meta, full):
        asked = wire.read_preemption(go(body))
        assert asked.victims == (wire.Victims("n1", ("a",), 1),)
        assert json.loads(wire.preempt_answer(asked.victims)) == {
            "NodeNameToMetaVictims": {"n1": {"Pods": [{"UID": "a"}], "NumPDBViolations": 1}}
        }
    assert wire.read_preemption(go({"Pod": POD, "NodeNameToVictims": None})).victims == ()


def test_a_node_without_victims_is_left_out_of_the_answer() -> None:
    assert json.loads(wire.preempt_answer([wire.Victims("n1", (), 0)])) == {"NodeNameToMetaVictims": {}}
