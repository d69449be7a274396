"""What the sweeper takes for stale, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from placement import objects
from scheduler.gates import GATE, NODE_ANNOTATION, TIME_ANNOTATION, timestamp
from scheduler.planning.sweeper import stale, sweep
from tests.api_server import api_server, client_of, pod_object

NOW_S = 1_000_000.0


def pod(
    age_s: float, *, gated: bool = True, planned: str = "", nominated: str = "", nominated_s: float = 0
) -> objects.Pod:
    """A pod of this age; its nomination by us is ``nominated_s`` old."""
    marks = {NODE_ANNOTATION: planned, TIME_ANNOTATION: timestamp(NOW_S - nominated_s)} if planned else {}
    return objects.Pod(
        objects.Metadata("p", "ns", "u", annotations=marks, creationTimestamp=timestamp(NOW_S - age_s)),
        objects.PodSpecObject(schedulingGates=[{"name": GATE}] if gated else [{"name": "somebody/else"}]),
        objects.PodStatus(nominatedNodeName=nominated or None),
    )


def is_stale(body: objects.Pod) -> tuple[bool, str]:
    """(gate, nomination) to be swept at a deadline of a minute, ten for gangs."""
    found = stale(body, NOW_S, 60, 600)
    return (False, "") if found is None else (found.is_gated, found.nominated)


def test_a_young_gate_is_left_alone_and_an_old_one_is_lifted() -> None:
    assert is_stale(pod(59)) == (False, "")
    assert is_stale(pod(61)) == (True, "")


def test_a_gate_of_somebody_else_is_never_lifted() -> None:
    assert is_stale(pod(10_000, gated=False)) == (False, "")


def test_an_old_nomination_of_ours_is_cleared_and_one_by_kube_scheduler_is_not() -> None:
    assert is_stale(pod(100, gated=False, planned="a", nominated="a", nominated_s=61)) == (False, "a")
    assert is_stale(pod(100, gated=False, planned="a", nominated="b", nominated_s=61)) == (False, "")
    assert is_stale(pod(100, gated=False, nominated="b")) == (False, "")
    assert is_stale(pod(100, gated=False, planned="a", nominated="a", nominated_s=5)) == (False, "")


def test_a_nomination_never_outlives_its_gate() -> None:
    assert is_stale(pod(61, planned="a", nominated="a", nominated_s=1)) == (True, "a")


def test_a_gang_has_its_own_longer_deadline() -> None:
    body = pod(100)
    body.metadata.labels = {"scheduling.x-k8s.io/pod-group": "g"}
    assert is_stale(body) == (False, "")
    body.metadata.creationTimestamp = timestamp(NOW_S - 601)
    assert is_stale(body) == (True, "")


def test_a_bound_or_finished_pod_is_left_alone() -> None:
    body = pod(1000, planned="a", nominated="a", nominated_s=1000)
    body.spec.nodeName = "a"
    assert is_stale(body) == (False, "")


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-45T00:00:00Z"])
def test_an_age_that_cannot_be_read_counts_as_old(text: str | None) -> None:
    body = pod(0)
    body.metadata.creationTimestamp = text
    assert is_stale(body) == (True, "")


async def test_a_pod_that_cannot_be_read_keeps_no_other_behind_its_gate(tmp_path: Path) -> None:
    """As an API server would send that is newer than we are."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in ("a-odd", "b-old"):
            body = pod_object(name, creationTimestamp=timestamp(NOW_S - 1000))
            body["spec"]["schedulingGates"] = [{"name": GATE}]
            api.put("pods", body)
        odd = api.pod("a-odd")
        api.put("pods", odd | {"spec": odd["spec"] | {"schedulingGroup": ["of another shape"]}})
        swept = await sweep(client, lambda: NOW_S, deadline_s=60, gang_deadline_s=600)
        assert (swept.seen, swept.lifted) == (2, 1)
        assert "cannot be read" in swept.failed[0]
        assert not api.pod("b-old")["spec"].get("schedulingGates")
