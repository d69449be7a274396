"""Each rule about traces, both ways: silent on a good trace, loud on the same with one thing wrong; and what is mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.log import DECISION, Event
from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, GPU_SHARE, MEMORY
from simulator.fleet import Shape
from simulator.traces.trace import Manifest, NodeEvent, Pods, Trace, Usage
from simulator.traces.validate import RULES, fixed, take, validate

GIB = 1 << 30
SMALL, GPU = PodSpec(((CPU, 1000), (MEMORY, GIB))), PodSpec(((CPU, 2000), (MEMORY, GIB)), GpuRequest(2, 1000, ("T4",)))


def node(name: str, **columns: Any) -> NodeSpec:
    labels = ((HOSTNAME, name),)
    return replace(NodeSpec(name, ((CPU, 4000), (MEMORY, 16 * GIB)), labels=labels, shape="m"), **columns)


def good() -> Trace:
    rows = [("p", SMALL, 0, 500), ("q", GPU, 10, 90), ("r", SMALL, 20, -1), ("s", SMALL, 20, 21)]
    failures = [NodeEvent(5, "fail", "a"), NodeEvent(5, "repair", "a"), NodeEvent(9, "drain", "b")]
    trace = Trace.of("good", [node("a", num_gpus=2, gpu_model="T4"), node("b")], rows, failures=failures)
    return trace.but(
        manifest=Manifest("good", begins_s=2_000_000_000),
        pods=replace(trace.pods, gang=np.array([-1, -1, 3, 3])),
        usage=Usage(np.array([0, 3]), np.array([60, 60]), np.array([0, 900]), np.array([0, GIB])),
        prices=(Shape("m", ((CPU, 4000),), 1.0),),
        events=(Event(0, DECISION, "p"), Event(0, DECISION, "q"), Event(7, DECISION, "r")),
    )


def pods(**columns: list[Any]) -> Callable[[Trace], Trace]:
    def spoil(trace: Trace) -> Trace:
        arrays = {key: np.array(column, object if key == "name" else np.int64) for key, column in columns.items()}
        return trace.but(pods=replace(trace.pods, **arrays))

    return spoil


def spec(pod: PodSpec) -> Callable[[Trace], Trace]:
    return lambda trace: trace.but(specs=(pod, trace.specs[1]))


def second_node(**columns: Any) -> Callable[[Trace], Trace]:
    return lambda trace: trace.but(nodes=(trace.nodes[0], replace(trace.nodes[1], **columns)))


def failures(*rows: tuple[int, str, str]) -> Callable[[Trace], Trace]:
    return lambda trace: trace.but(failures=tuple(NodeEvent(*row) for row in rows))


def usage(**columns: list[int]) -> Callable[[Trace], Trace]:
    return lambda trace: trace.but(usage=replace(trace.usage, **{k: np.array(c) for k, c in columns.items()}))


def asks(cpu: int = 1000, memory: int = GIB, gpu: GpuRequest | None = None, other: str = "") -> PodSpec:
    return PodSpec(((CPU, cpu), (MEMORY, memory), *([(other, 1)] if other else ())), gpu)


SPOILS: list[tuple[str, Callable[[Trace], Trace]]] = [
    ("T001", lambda t: t.but(pods=take(t, np.zeros(0, np.int64)).pods, usage=Usage.empty())),
    ("T002", pods(departure_s=[500, 90, -1, 20])),
    ("T003", spec(asks(0, 0))),
    ("T003", spec(PodSpec(()))),
    ("T004 T005", spec(asks(4_096_001))),
    ("T004", spec(asks(memory=(1 << 20) - 1))),
    ("T004", spec(asks(memory=1))),
    ("T004 T005", spec(asks(memory=(1 << 46) + 1))),
    ("T005", spec(asks(4001))),
    ("T005", spec(asks(other="example.com/fpga"))),
    ("T005", spec(asks(gpu=GpuRequest(3)))),
    ("T006", spec(asks(gpu=GpuRequest(1, 1000, ("V100", "A100"))))),
    ("T007", lambda t: t.but(nodes=(), failures=())),
    ("T008", failures((5, "fail", "ghost"), (6, "fail", "a"))),
    ("T009", failures((6, "fail", "a"), (5, "repair", "a"))),
    ("T010", pods(arrival_s=[0, 10, 20, 26], departure_s=[1, 11, -1, 27])),
    ("T011", pods(gang=[-1, -1, 3, -1])),
    ("T011", pods(gang=[-1, 0, 3, 3])),
    ("T012", usage(pod=[0, 4])),
    ("T012", usage(pod=[-1, 3])),
    ("T012", usage(cpu_millicores=[0, -2])),
    ("T012", usage(time_s=[0, -1])),
    ("T012", usage(memory_bytes=[0, -2])),
    ("T012", usage(cpu_millicores=[0, -1], memory_bytes=[0, -1])),
    ("T013", spec(asks(other=GPU_SHARE))),
    ("T014", pods(departure_s=[500, 9, -1, 21])),
    ("T015", pods(name=["p", "q", "p", "s"])),
    ("T015", lambda t: t.but(nodes=(*t.nodes, t.nodes[1]))),
    ("T016", pods(arrival_s=[0, 20, 10, 20])),
    ("T017", pods(spec=[0, 1, 0, 2])),
    ("T017", pods(spec=[0, 1, 0, -1])),
    ("T018", second_node(allocatable=((MEMORY, 16 * GIB),))),
    ("T018", second_node(allocatable=((CPU, 4000), (MEMORY, 0)))),
    ("T018", second_node(allocatable=((CPU, 4000), (MEMORY, (1 << 20) - 1)))),
    ("T018", second_node(gpu_model="T4")),
    ("T019", second_node(shape="odd")),
    ("T020", lambda t: t.but(events=(Event(1, DECISION, "p"), Event(0, DECISION, "q")))),
    ("T021", pods(arrival_s=[-7, 10, 20, 20])),
    ("T022", failures((5, "fail", "a"), (9, "explode", "b"))),
]
"""Every code that a change to the good trace brings, the meant one first."""

NEARLY: list[Callable[[Trace], Trace]] = [
    lambda trace: trace,
    spec(asks(0, GIB)),
    spec(asks(1000, 0)),
    spec(asks(0, 0, GpuRequest(1))),
    spec(asks(memory=1 << 20)),
    spec(asks(4000)),
    spec(asks(gpu=GpuRequest(2))),
    spec(asks(gpu=GpuRequest(1, 1000, ("V100", "T4")))),
    pods(departure_s=[500, 11, -1, -1]),
    pods(departure_s=[-1, -1, -1, -1]),
    pods(arrival_s=[0, 10, 20, 25], departure_s=[1, 11, -1, 26]),
    failures(*((i, kind, "a") for i, kind in enumerate(("fail", "repair", "add", "remove", "drain", "spot")))),
    second_node(allocatable=((CPU, 1), (MEMORY, 1 << 20))),
    usage(cpu_millicores=[-1, 0], memory_bytes=[0, -1]),
    second_node(shape=""),
    lambda trace: trace.but(prices=(), nodes=(trace.nodes[0], replace(trace.nodes[1], shape="odd"))),
    lambda trace: trace.but(usage=Usage.empty(), events=(), failures=()),
]
"""What is next to a mistake and is none."""


def codes(trace: Trace) -> set[str]:
    return {finding.code for finding in validate(trace)}


@pytest.mark.parametrize(("found", "spoil"), SPOILS, ids=[f"{c}-{i}" for i, (c, _) in enumerate(SPOILS)])
def test_each_rule_sees_its_mistake_and_mends_what_it_says_it_mends(
    found: str, spoil: Callable[[Trace], Trace]
) -> None:
    spoiled = spoil(good())
    assert codes(spoiled) == set(found.split())
    mends = {rule.code for rule in RULES if rule.repair is not None}
    mended, said = fixed(spoiled)
    assert set(said) == codes(spoiled) & mends
    assert codes(mended) == codes(spoiled) - mends
    if not codes(mended) & {"T012", "T017"}:
        mended.check()
    assert fixed(mended) == (mended, [])


@pytest.mark.parametrize("change", NEARLY)
def test_what_is_next_to_a_mistake_is_none(change: Callable[[Trace], Trace]) -> None:
    trace = change(good())
    assert codes(trace) == set()
    assert fixed(trace) == (trace, [])


def test_every_rule_is_spoiled_here_and_is_the_one_that_is_documented() -> None:
    assert {rule.code for rule in RULES} == {found.split()[0] for found, _ in SPOILS}
    assert len({rule.code for rule in RULES}) == len(RULES)
    lines = ["| code | severity | what | what to do | `--fix` |", "|---|---|---|---|---|"]
    for rule in RULES:
        mends = "yes" if rule.repair is not None else ""
        lines.append(f"| {rule.code} | {rule.severity} | {rule.title} | {rule.fix} | {mends} |")
    assert "\n".join(lines) in (Path(__file__).parent.parent / "docs" / "traces.md").read_text()


def test_what_is_mended_is_all_that_changes() -> None:
    trace = good()
    early = fixed(pods(departure_s=[500, 9, -1, 21])(trace))[0]
    assert early.pods.name.tolist() == ["p", "r", "s"]
    assert early.usage.pod.tolist() == [0, 2], "usage stays with its pod"
    assert early.usage.cpu_millicores.tolist() == [0, 900]
    shuffled = trace.but(
        pods=Pods(*(column[[2, 0, 1, 3]] for column in vars(trace.pods).values())),
        usage=replace(trace.usage, pod=np.array([1, 3])),
    )
    assert fixed(shuffled)[0].digest == trace.digest
    assert fixed(pods(departure_s=[500, 90, -1, 20])(trace))[0].digest == trace.digest, "one second is added"
    assert fixed(pods(gang=[-1, 0, 3, 3])(trace))[0].digest == trace.digest
    strangers = failures(*trace.failures, (9, "explode", "b"), (9, "fail", "ghost"))
    assert fixed(strangers(trace))[0].digest == trace.digest


def test_a_clock_that_begins_earlier_moves_everything_alike() -> None:
    trace = good()
    late = fixed(pods(arrival_s=[-7, 10, 20, 20])(trace))[0]
    assert late.pods.arrival_s.tolist() == [0, 17, 27, 27]
    assert late.pods.departure_s.tolist() == [507, 97, -1, 28]
    assert [event.time_s for event in late.failures] == [12, 12, 16]
    assert late.usage.time_s.tolist() == [67, 67]
    assert [event.time_s for event in late.events] == [7, 7, 14]
    assert late.manifest.begins_s == trace.manifest.begins_s - 7
    nowhere = trace.but(manifest=Manifest("nowhere"))
    assert fixed(pods(arrival_s=[-7, 10, 20, 20])(nowhere))[0].manifest.begins_s == 0, "nobody knows the date"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "a.2", "a.3", "a.2.2", "b"]), min_size=1, max_size=9))
def test_names_are_made_unique_and_the_first_of_each_keeps_its_own(names: list[str]) -> None:
    rows = [(f"uid-{i}", SMALL, 0, 100) for i in range(len(names))]
    trace = pods(name=names)(Trace.of("twice", [node("n")], rows)).but(nodes=tuple(node(name) for name in names))
    mended = fixed(trace)[0]
    made = mended.pods.name.tolist()
    assert len(set(made)) == len(names)
    assert [made[names.index(name)] for name in names] == names
    assert all(new == name or new.startswith(f"{name}.") for new, name in zip(made, names, strict=True))
    assert [each.name for each in mended.nodes] == made
    assert [dict(each.labels)[HOSTNAME] for each in mended.nodes] == made, "a node is its own topology domain"
