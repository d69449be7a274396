"""What the sweeper takes for stale, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from placement import objects
from scheduler.errors import ApiError
from scheduler.gates import GATE, NODE_ANNOTATION, TIME_ANNOTATION, timestamp
from scheduler.planning import sweeper
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


def test_a_gate_stays_while_one_of_somebody_else_keeps_the_pod_too_unless_all_are_to_go() -> None:
    """Or the planner would never see a pod that waited for its quota for longer than the deadline."""
    body = pod(10_000)
    assert body.spec.schedulingGates is not None
    body.spec.schedulingGates.append({"name": "kueue.x-k8s.io/admission"})
    assert is_stale(body) == (False, "")
    at_once = stale(body, NOW_S, 0, 0)
    assert at_once is not None
    assert at_once.is_gated
    body.spec.schedulingGates.pop()
    assert is_stale(body) == (True, "")


def test_at_a_deadline_of_zero_what_is_of_this_second_goes_too() -> None:
    """The API server's clock is known to the second: by it such a pod may even be of the future."""
    for age_s in (0, -1):
        at_once = stale(pod(age_s, planned="a", nominated="a", nominated_s=age_s), NOW_S, 0, 0)
        assert at_once is not None
        assert (at_once.is_gated, at_once.nominated) == (True, "a")
        at_once = stale(pod(age_s, gated=False, planned="a", nominated="a", nominated_s=age_s), NOW_S, 0, 0)
        assert at_once is not None
        assert at_once.nominated == "a"


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


def left_behind(name: str, node: str) -> dict[str, Any]:
    """A pod that an old planner nominated to ``node`` and left behind its gate."""
    marks = {NODE_ANNOTATION: node, TIME_ANNOTATION: timestamp(NOW_S - 1000)}
    body = pod_object(name, creationTimestamp=timestamp(NOW_S - 1000), annotations=marks)
    body["spec"]["schedulingGates"] = [{"name": GATE}]
    body["status"]["nominatedNodeName"] = node
    return body


async def test_a_sweep_takes_nominations_and_gates_and_a_dry_one_says_how_many(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in ("a", "b"):
            api.put("pods", left_behind(name, "n"))
        only = pod_object("c", creationTimestamp=timestamp(NOW_S - 1000))
        only["spec"]["schedulingGates"] = [{"name": GATE}]
        api.put("pods", only)
        for is_dry in (True, False):
            swept = await sweep(client, lambda: NOW_S, deadline_s=60, gang_deadline_s=600, is_dry=is_dry)
            assert (swept.seen, swept.lifted, swept.cleared, swept.failed) == (3, 3, 2, ())
            is_swept = [
                not (api.pod(name)["spec"].get("schedulingGates") or api.pod(name)["status"].get("nominatedNodeName"))
                for name in "abc"
            ]
            assert is_swept == [not is_dry] * 3


async def test_a_patch_that_fails_is_reported_keeps_its_own_gate_and_no_other(tmp_path: Path) -> None:
    """A pod that is gone meanwhile is no failure."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in ("a", "b", "c", "d"):
            api.put("pods", left_behind(name, "n"))
        api.fail_next("PATCH", "/pods/a/status", 403)
        api.fail_next("PATCH", "/pods/b", 404)
        api.fail_next("PATCH", "/pods/c", 409)
        swept = await sweep(client, lambda: NOW_S, deadline_s=60, gang_deadline_s=600)
        assert len(swept.failed) == 1
        assert "403" in swept.failed[0]
        assert api.pod("a")["spec"]["schedulingGates"] == [{"name": GATE}], "it would outlive its gate"
        assert not api.pod("d")["spec"].get("schedulingGates")
        assert not api.pod("d")["status"].get("nominatedNodeName")


async def test_what_is_read_is_mended_before_more_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large cluster on a slow API server the list may be too old before its last page, or the job be ended, each time."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in ("a", "b", "c"):
            api.put("pods", left_behind(name, "n"))
        monkeypatch.setattr(sweeper, "PAGE", 1)
        gated: list[str] = []

        def now_s() -> float:
            gated.append("".join(name for name in "abc" if api.pod(name)["spec"].get("schedulingGates")))
            if len(gated) == 2:
                api.fail_next("GET", "/api/v1/pods", 410)
            return NOW_S

        with pytest.raises(ApiError, match="410"):
            await sweep(client, now_s, deadline_s=60, gang_deadline_s=600)
        assert gated == ["abc", "bc"]
        assert api.pod("c")["spec"]["schedulingGates"]
        assert not api.pod("b")["spec"].get("schedulingGates")
