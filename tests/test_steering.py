"""Who else looks at requests: read from an API server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from placement.resources import CPU, MEMORY
from scheduler.errors import ApiError
from scheduler.kube import Page
from scheduler.learning.steering import HPAS, LIMIT_RANGES, VPAS, who_steers


class Lists:
    """An API with objects by path; a number is a status."""

    def __init__(self, **lists: Any) -> None:
        self.lists: dict[str, Any] = {HPAS: [], VPAS: 404, LIMIT_RANGES: []} | lists

    async def list_pages(self, path: str, *, page_size: int) -> Any:
        found = self.lists[path]
        if isinstance(found, int):
            raise ApiError("no", found)
        for one in found:
            yield msgspec.json.decode(msgspec.json.encode({"items": [one]}), type=Page)


def hpa(name: str, target: str, metrics: list[Any] | None) -> dict[str, Any]:
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": target}} | ({"metrics": metrics} if metrics else {})
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def measure(resource: str, kind: str, of: str = "resource") -> dict[str, Any]:
    return {"type": "Resource", of: {"name": resource, "target": {"type": kind}}}


async def steered(**lists: Any) -> Any:
    return await who_steers(Lists(**lists))  # type: ignore[arg-type]  # only list_pages() is used


async def test_utilization_is_divided_by_the_request_other_measures_are_not() -> None:
    found = await steered(
        **{
            HPAS: [
                hpa("a", "web", [measure("cpu", "Utilization")]),
                hpa("b", "db", [measure("memory", "Utilization", "containerResource"), measure("cpu", "AverageValue")]),
                hpa("c", "by-queue", [{"type": "External", "external": {}}]),
                hpa("d", "plain", None),
            ]
        }
    )
    assert found.of("shop/Deployment/web") == {CPU: "HorizontalPodAutoscaler a scales on its utilization"}
    assert found.of("shop/StatefulSet/db").keys() == {MEMORY}
    assert found.of("shop/Deployment/by-queue") == {}
    assert found.of("shop/Deployment/plain").keys() == {CPU}, "the API's own default"
    assert found.of("other/Deployment/web") == {}


async def test_a_vpa_that_only_recommends_and_limits_that_bound_from_above_steer_nothing() -> None:
    def vpa(name: str, **more: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"targetRef": {"name": name}, **more}}

    def limits(namespace: str, *found: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"name": "l", "namespace": namespace}, "spec": {"limits": list(found)}}

    found = await steered(
        **{
            VPAS: [vpa("auto"), vpa("off", updatePolicy={"updateMode": "Off"}), vpa("on", updatePolicy={})],
            LIMIT_RANGES: [
                limits("least", {"type": "Container", "min": {"cpu": "100m"}, "default": {"memory": "1Gi"}}),
                limits("ratio", {"type": "Pod", "maxLimitRequestRatio": {"memory": "2"}}),
                limits("most", {"type": "Container", "max": {"cpu": "4"}}),
                limits("disks", {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}),
            ],
        }
    )
    assert found.of("shop/Deployment/auto").keys() == found.of("shop/Deployment/on").keys() == {CPU, MEMORY}
    assert found.of("shop/Deployment/off") == {}
    assert [set(found.of(f"{n}/Deployment/x")) for n in ("least", "ratio", "most", "disks")] == [
        {CPU},
        {MEMORY},
        set(),
        set(),
    ]


async def test_what_is_not_there_steers_nothing_and_what_may_not_be_read_is_said() -> None:
    found = await steered(**{HPAS: 403})
    assert (found.unknown, found.of("shop/Deployment/web")) == (("horizontalpodautoscalers",), {})
    odd = await steered(**{HPAS: [{"metadata": {"name": "a", "namespace": "b"}, "spec": {"scaleTargetRef": 7}}]})
    assert odd.unknown == ("horizontalpodautoscalers",)
    with pytest.raises(ApiError):
        await steered(**{HPAS: 500})
