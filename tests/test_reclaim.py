"""Selling a node's unused part: offers keep the guaranteed pods whole, grow slowly, shrink at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from placement.knowledge import Forecast, Forecasts
from placement.learning.reclaim import Load, Offer, ReclaimedPod, ReclaimPolicy, expected, is_reclaimed, offer, to_evict
from placement.learning.rightsize import recommend
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY

GIB = 2**30
WEB = PodSpec(((CPU, 4000), (MEMORY, 8 * GIB)), namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4")
SAYS = Forecasts({"shop/Deployment/web": Forecast(1000, 2 * GIB, 500, GIB, rung="model")}, "6h-peak")
POLICY = ReclaimPolicy()
amounts = st.integers(0, 100_000)


@given(amounts, amounts, amounts, amounts)
def test_what_is_offered_and_what_is_expected_fit_into_the_node(
    total: int, expects: int, uses: int, before: int
) -> None:
    load = Load(total, 64 * GIB, expects, 0, uses, 0)
    found = offer(load, Offer(before, 0), POLICY)
    assert found.cpu_milli + max(expects, uses) <= total or found.cpu_milli == 0
    assert found.cpu_milli <= before + POLICY.growth_share * total
    assert found.cpu_milli % 100 == 0


def test_an_offer_shrinks_at_once_when_usage_rises_and_grows_back_slowly() -> None:
    calm, hot = Load(10_000, GIB, 2000, 0, 1500, 0), Load(10_000, GIB, 2000, 0, 8500, 0)
    sizes, now = [], Offer()
    for load in (calm, calm, calm, hot, calm):
        now = offer(load, now, POLICY)
        sizes.append(now.cpu_milli)
    assert sizes == [1000, 2000, 3000, 0, 1000]


def test_guaranteed_pods_marked_namespaces_and_the_unpredicted_count_with_their_request() -> None:
    assert expected(WEB, SAYS) == (1000, 2 * GIB)
    assert expected(WEB, None) == (4000, 8 * GIB)
    assert expected(WEB, SAYS, keeps=True) == (4000, 8 * GIB)
    sure = PodSpec(WEB.request, namespace="shop", owner=WEB.owner, guaranteed=True)
    assert expected(sure, SAYS) == (4000, 8 * GIB)
    small = PodSpec(((CPU, 500),), namespace="shop", owner=WEB.owner)
    assert expected(small, SAYS) == (500, 2 * GIB)


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 4000), st.integers(0, 3)), max_size=12), amounts, amounts
)
def test_evictions_make_the_rest_fit_and_nobody_leaves_in_vain(
    rows: list[tuple[int, int, int]], cpu: int, memory: int
) -> None:
    pods = [ReclaimedPod(f"p{i}", c, m, i, p) for i, (c, m, p) in enumerate(rows)]
    gone = to_evict(pods, Offer(cpu, memory))
    kept = [p for p in pods if p.uid not in gone]
    assert sum(p.cpu_milli for p in kept) <= cpu
    assert sum(p.memory_mib for p in kept) <= memory
    if gone:
        last = next(p for p in pods if p.uid == gone[-1])
        together = [*kept, last]
        assert sum(p.cpu_milli for p in together) > cpu or sum(p.memory_mib for p in together) > memory


def test_the_youngest_of_the_lowest_priority_leave_first() -> None:
    pods = [ReclaimedPod("old", 1000, 0, 1), ReclaimedPod("young", 1000, 0, 9), ReclaimedPod("vip", 1000, 0, 10, 5)]
    assert to_evict(pods, Offer(2000, 0)) == ["young"]
    assert to_evict(pods, Offer(999, 0)) == ["young", "old", "vip"]


def test_a_pod_is_reclaimed_by_what_it_asks_for() -> None:
    assert is_reclaimed(PodSpec((("ullage.dev/reclaimed-cpu-milli", 500),)))
    assert not is_reclaimed(WEB)


# ── right-sizing ──────────────────────────────────────────────────────────────────────────────


def test_a_recommendation_has_a_margin_and_memory_never_falls_below_its_record() -> None:
    (found,) = recommend([(WEB, 3)], SAYS, most_memory={"shop/Deployment/web": 4 * GIB})
    assert (found.new_cpu, found.replicas, found.rung) == (1150, 3, "model")
    assert found.new_memory >= 4 * GIB * 1.15
    assert found.saved_cpu == 3 * 2850


def test_requests_are_kept_where_they_must_be() -> None:
    sure = PodSpec(WEB.request, namespace="shop", owner=WEB.owner, guaranteed=True)
    assert recommend([(sure, 1)], SAYS)[0].why_kept == "Guaranteed"
    assert (
        recommend([(WEB, 1)], SAYS, kept_namespaces=frozenset(("shop",)))[0].why_kept == "its namespace keeps requests"
    )
    assert recommend([(WEB, 1)], None)[0].why_kept == "no prediction that is trusted"
    fallen = Forecasts({"shop/Deployment/web": Forecast(4000, 8 * GIB, 0, 0, rung="request")})
    assert recommend([(WEB, 1)], fallen)[0].new_cpu == 4000
    assert recommend([(PodSpec(WEB.request), 1)], SAYS) == [], "a bare pod has no workload"


@given(st.integers(1, 64_000), st.integers(0, 80_000), st.integers(0, 64 * GIB))
def test_a_recommendation_never_asks_for_more(cpu: int, predicted: int, memory: int) -> None:
    spec = PodSpec(((CPU, cpu), (MEMORY, 16 * GIB)), namespace="shop", owner=WEB.owner)
    says = Forecasts({"shop/Deployment/web": Forecast(predicted, memory, 0, 0, rung="history")})
    (found,) = recommend([(spec, 1)], says)
    assert found.new_cpu <= cpu
    assert found.new_memory <= 16 * GIB
    assert found.new_cpu >= min(cpu, predicted)
    assert found.new_memory >= min(16 * GIB, memory)
