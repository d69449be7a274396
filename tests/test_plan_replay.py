"""Plans over traces: the peak, fleets with devices, policies in replay, and what an act promised."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from placement.devices import DEVICE_UNITS, device_units
from placement.errors import ConfigError
from placement.planning import purchase
from placement.planning.plans import Deadline
from placement.pods import GpuRequest, PodSpec
from placement.rates import Rates
from simulator.cost import PriceBook, shape
from simulator.delivery import delivery_of
from simulator.output import table
from simulator.planning.peak_fleet import demand_of, fleet_row, peak, within, without_departures
from simulator.planning.replays import Question, _replay, judge, judge_all, replay_row, since
from simulator.traces.trace import Trace
from tests.test_policies import BOOK, HOUR_S, waves

GPU_BOOK = PriceBook({s.name: s for s in (shape("plain", 16, 64), shape("gpu", 16, 64, gpus=2, model="T4"))}, Rates())


def pod(cpu: int, **more: object) -> PodSpec:
    return PodSpec(request=(("cpu", cpu), ("memory", 1 << 30)), **more)  # type: ignore[arg-type]  # by name


def test_the_peak_counts_who_runs_when_most_is_asked_for() -> None:
    small, large = pod(500), pod(4000)
    rows = [("a", small, 0, 100), ("b", large, 50, 60), ("c", large, 55, -1), ("d", large, 60, 70)]
    count, when = peak(Trace.of("t", (), rows), BOOK)
    assert (count.tolist(), when) == ([1, 2], 55)


def test_who_leaves_in_a_second_makes_room_for_who_comes_in_it() -> None:
    rows = [("a", pod(1000), 0, 10), ("b", pod(1000), 10, 20)]
    assert peak(Trace.of("t", (), rows), BOOK)[0].tolist() == [1]


@pytest.mark.parametrize(("milli", "units"), [(1000, 1024), (501, 1024), (500, 512), (300, 512), (250, 256), (1, 2)])
def test_shares_of_a_device_are_rounded_up_to_powers_of_two(milli: int, units: int) -> None:
    assert device_units(GpuRequest(1, milli)) == units
    assert units / DEVICE_UNITS >= milli / 1000


def test_pods_go_only_to_shapes_with_their_devices_and_model() -> None:
    specs = [pod(100), pod(200, gpu=GpuRequest(2)), pod(300, gpu=GpuRequest(1, 400, ("A100",)))]
    trace = Trace.of("t", (), [(f"p{i}", spec, 0, -1) for i, spec in enumerate(specs)])
    demand, shapes, exact = demand_of(trace, np.ones(3, np.int64), list(GPU_BOOK.shapes.values()))
    assert purchase.unplaceable(demand, shapes) == [2]
    assert exact.tolist() == [0.0, 2 * DEVICE_UNITS, 0.4 * DEVICE_UNITS]
    row = fleet_row(trace, GPU_BOOK, Deadline(1.0, time.perf_counter))
    assert (row["pods"], row["left_out"], row["nodes"]) == (2, 1, "1xgpu")


def test_headings_of_a_fleet_are_words() -> None:
    row = fleet_row(without_departures(waves()), BOOK, Deadline(1.0, time.perf_counter))
    shown = table([row], 60)
    assert "_" not in shown
    assert all(words in shown for words in ("PEAK S", "BOUND USD/MONTH", "GAP %", "LEFT OUT"))


def test_a_fleet_for_nobody_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="trace nobody: holds no pods, so it needs no fleet"):
        fleet_row(Trace.of("nobody", [], []), BOOK, Deadline(1.0, time.perf_counter))


def test_a_fleet_states_usd_a_month_and_a_bound_below_it() -> None:
    row = fleet_row(without_departures(waves()), BOOK, Deadline(1.0, time.perf_counter))
    assert row["pods"] == 120
    cost, bound, rival = (float(row[key] or 0) for key in ("usd_per_month", "bound_usd_per_month", "ffd_usd_per_month"))
    assert 0 < bound <= cost <= rival


def test_requests_that_no_shape_offers_are_left_out_and_named() -> None:
    odd = PodSpec(request=(("cpu", 100), ("example.com/rdma", 25)))
    trace = Trace.of("t", (), [("a", odd, 0, -1), ("b", PodSpec(request=(("cpu", 100),)), 1, -1)])
    kept, ignored = within(trace, list(BOOK.shapes.values()))
    assert ignored == ("example.com/rdma",)
    assert [spec.request for spec in kept.specs] == [(("cpu", 100),)]
    assert kept.pods.spec.tolist() == [0, 0]
    assert within(kept, list(BOOK.shapes.values())) == (kept, ())


def test_a_catalogue_without_shapes_is_refused() -> None:
    with pytest.raises(ConfigError, match="sells no shape"):
        fleet_row(waves(), PriceBook(), Deadline(1.0, time.perf_counter))


def test_strategy_planned_nominates_unless_told_otherwise() -> None:
    assert delivery_of("planned", "decide") == "nominate"
    assert delivery_of("planned", "stock") == "stock"
    assert delivery_of("best-fit", "decide") == "decide"


def test_an_act_saves_what_it_promised_while_demand_holds_still() -> None:
    """Pods of the first hour that stay: what goes at the end of the second hour stays away."""
    row = judge(waves(), BOOK, Question("kube-default", "planned", moves_share=1.0, every_s=HOUR_S), 3, HOUR_S // 2)
    assert float(row["promised_usd_per_hour"] or 0) > 0
    assert float(row["realised_share"] or 0) == pytest.approx(1.0, abs=0.25)


def test_a_move_costs_its_restart_and_the_work_since_the_last_checkpoint() -> None:
    def row(**costs: Any) -> dict[str, Any]:
        return replay_row(waves(), BOOK, Question("kube-default", "karpenter-prefix", every_s=HOUR_S, **costs))

    free, quick, far = row(restart_s=0), row(restart_s=60), row(restart_s=60, checkpoint_s=600)
    assert free["evictions"] != 0
    assert free["lost_pod_hours"] == 0
    assert 0 < float(str(quick["lost_pod_hours"])) < float(str(far["lost_pod_hours"]))


def test_an_act_cannot_be_judged_beyond_the_next() -> None:
    with pytest.raises(ConfigError, match="until the next one"):
        judge(waves(), BOOK, Question("kube-default", "planned", every_s=600), 1, 700)


def test_judging_every_act_says_what_judging_each_says() -> None:
    question = Question("kube-default", "planned", moves_share=1.0, every_s=HOUR_S, history_s=HOUR_S, end_s=5 * HOUR_S)
    rows = judge_all(waves(), BOOK, question)
    assert [row["act"] for row in rows] == [1, 2, 3, 4]
    told = [row for row in rows if row["promised_low"] is not None]
    assert told, "no act had enough of a past"
    for row in told:
        low, promised, high = (float(row[f"promised_{end}"] or 0) for end in ("low", "usd_per_hour", "high"))
        assert low <= promised <= high
        assert row["within"] == (low <= float(row["realised_usd_per_hour"] or 0) <= high)
    for row in rows:
        single = judge(waves(), BOOK, question, int(row["act"] or 0), HOUR_S)
        assert row == {**single, "realised_usd_per_hour": pytest.approx(single["realised_usd_per_hour"], abs=1e-9)} | (
            {"realised_share": pytest.approx(single["realised_share"])} if single["realised_share"] is not None else {}
        )


def test_what_an_act_saved_adds_up_from_the_nodes_that_went_stayed_and_came() -> None:
    question = Question("kube-default", "planned", moves_share=1.0, every_s=HOUR_S, history_s=HOUR_S, end_s=5 * HOUR_S)
    rows = judge_all(waves(), BOOK, question)
    assert any(row["others"] for row in rows)
    for row in rows:
        act = int(row["act"] or 0)
        bills = []
        for last in (act - 1, act):
            outcome, _ = _replay(waves(), BOOK, replace(question, end_s=(act + 1) * HOUR_S), last)
            hours = {name: s / 3600 for (name, _), s in outcome.timeline.node_s.items()}
            bills.append(sum(number * BOOK.shapes[name].usd_per_hour for name, number in hours.items()))
        parts = [float(row[key] or 0) for key in ("stayed", "others", "again")]
        assert row["realised_usd_per_hour"] == pytest.approx(bills[0] - bills[1])
        assert row["realised_usd_per_hour"] == pytest.approx(parts[0] - parts[1] - parts[2])
        expected = [float(row[f"expected_{key}"] or 0) for key in ("stays", "moves", "again")]
        assert row["promised_usd_per_hour"] == pytest.approx(expected[0] - expected[1] - expected[2])
        assert parts[0] <= float(row["deleted_usd_per_hour"] or 0) + 1e-9


def test_judging_every_act_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="needs an end"):
        judge_all(waves(), BOOK, Question("kube-default", "planned"))


def test_a_trace_begun_later_has_everybody_who_runs_by_then() -> None:
    rows = [
        ("ended", pod(100), 0, 50),
        ("runs", pod(100), 10, 200),
        ("stays", pod(100), 20, -1),
        ("new", pod(100), 80, 90),
    ]
    later = since(Trace.of("t", (), rows), 60)
    assert list(later.pods.name) == ["runs", "stays", "new"]
    assert later.pods.arrival_s.tolist() == [60, 60, 80]
    assert later.pods.departure_s.tolist() == [200, -1, 90]


def test_a_trace_begun_later_is_replayed_and_measured_from_there() -> None:
    rows = [("ended", pod(100), 0, 50), ("runs", pod(100), 10, 700), ("new", pod(100), 80, 900)]
    row: dict[str, Any] = replay_row(Trace.of("t", (), rows), BOOK, Question("best-fit", "none", since_s=60))
    assert (row["placed"], row["evictions"]) == (2, 0)
    assert row["usd"] > 0
