"""Who belongs to a gang: batches, the planner and the sweeper read it alike."""

from __future__ import annotations

import pytest

from placement import objects
from placement.gangs import LABELS, SIZE, gang_size
from placement.pods import PodSpec
from placement.problems import batch_problem
from placement.resources import CPU
from placement.snapshots import cluster_of
from scheduler.gates import GATE, timestamp
from scheduler.ledger import Seen
from scheduler.nominator import unit_of
from scheduler.sweeper import stale
from tests.test_plan_cli import node, pod, taken

NOW_S = 1_000_000.0


def _seen(uid: str, labels: dict[str, str]) -> Seen:
    return Seen(uid, uid, "default", 1, PodSpec(((CPU, 1),), labels=tuple(sorted(labels.items()))))


@pytest.mark.parametrize(
    ("labels", "is_gang"),
    [
        *(({label: "g"}, True) for label in LABELS),
        *(({label: ""}, False) for label in LABELS),
        ({LABELS[0]: "", LABELS[2]: "g"}, True),
        ({"app": "g"}, False),
    ],
)
def test_a_pod_is_of_a_gang_for_all_who_ask_or_for_none(labels: dict[str, str], is_gang: bool) -> None:
    """A label without a value names no gang; before, the planner took all such pods of a namespace for one."""
    meta = {"metadata": {"labels": labels}}
    problem = batch_problem(cluster_of(taken(node("a"), pod("x-1", "1", **meta), pod("x-2", "2", **meta))))
    assert (problem.batch.gang >= 0).tolist() == [is_gang] * 2
    assert (unit_of(_seen("1", labels)) == unit_of(_seen("2", labels))) is is_gang
    metadata = objects.Metadata("p", "default", "u", labels=labels, creationTimestamp=timestamp(NOW_S - 100))
    old = objects.Pod(metadata, objects.PodSpecObject(schedulingGates=[{"name": GATE}]))
    assert (stale(old, NOW_S, 60, 600) is None) is is_gang


@pytest.mark.parametrize(("text", "size"), [("3", 3), ("", 1), ("-2", 1), ("many", 1), ("1234567", 1)])
def test_the_size_of_a_gang_is_what_it_says_or_one(text: str, size: int) -> None:
    assert gang_size({SIZE: text}) == size
    assert gang_size({}) == 1


def test_a_class_of_pods_knows_the_size_of_its_gang_if_it_says_so() -> None:
    said, other, silent = (
        objects.Pod(objects.Metadata("p", "n", "u", annotations=a)) for a in ({SIZE: "3"}, {SIZE: "4"}, {})
    )
    assert [objects.pod_spec(pod).gang_size for pod in (said, other, silent)] == [3, 4, 0]
    assert len({objects.class_key(pod) for pod in (said, other, silent)}) == 3
