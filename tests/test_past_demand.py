"""What a policy expects of demand: the past as it was, nothing of the future, and what room and moves are worth."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.planning.past_demand import Seen, bought_again, room, wanted_room

GIB = 1 << 30


def seen(now_s: int, pods: list[tuple[int, int]], amount: tuple[int, int, int] = (1000, GIB, 0)) -> Seen:
    """Pods of one class as (arrival, end), -1 for those that run."""
    arrival, end = np.array(pods, np.int64).reshape(-1, 2).T
    return Seen(now_s, arrival, end, np.zeros(len(arrival), np.int64), np.array([amount], np.int64).T)


def test_demand_is_what_has_arrived_and_not_ended() -> None:
    demand = seen(50, [(0, 20), (10, -1), (35, -1)]).demand(0)
    assert demand[0].tolist() == [0, 1000, 2000, 1000, 2000, 2000]  # just before second 0, 10, 20, …
    assert demand[1].tolist() == [GIB * pods for pods in (0, 1, 2, 1, 2, 2)]


def test_rises_are_those_of_past_windows_in_mean_pods() -> None:
    pods = [(t, t + 5) for t in range(0, 60, 5)] + [(t, -1) for t in range(60, 120)]
    rises = seen(120, pods).rises(60, 60, 10)
    assert rises.shape == (7, 6)
    assert rises[0].tolist() == [0, 9, 19, 29, 39, 49]  # began at second 60, with one pod that left at once
    assert seen(30, pods[:1]).rises(60, 60, 10).shape[0] == 0


def test_a_peak_counts_for_as_long_as_the_node_bought_for_it_stays() -> None:
    pods = [(0, -1), (15, 25)]
    assert seen(60, pods).rises(60, 0, 10).tolist() == [[0, 1, 2, 1, 1, 1]]
    assert seen(60, pods).rises(60, 0, 30).tolist() == [[0, 1, 2, 2, 2, 1]]


def test_the_share_that_ended_counts_only_pods_seen_for_long_enough() -> None:
    pods = [(0, 100)] * 3 + [(0, -1)] + [(990, -1)] * 50
    shares = seen(1000, pods).ends_within(np.array([0, 500], np.int64), 200)
    assert shares.tolist() == [0.75, 0.0]
    assert seen(1000, pods).ends_within(np.array([0], np.int64), 0).tolist() == [0.0]


def test_room_is_counted_in_whole_mean_pods() -> None:
    free = np.array([[2500, 999, 9000], [3 * GIB, 9 * GIB, GIB], [0, 0, 0]], np.int64)
    assert room(free, np.array([1000.0, GIB, 0.0])).tolist() == [2, 0, 1]
    assert room(free, np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("least", "wanted"), [(0.0, 0.0), (0.5, 2.0), (1.0, 8.0)])
def test_room_is_wanted_where_it_would_be_missed_too_soon(least: float, wanted: float) -> None:
    assert wanted_room(np.array([[0.0, 1.0, 2.0, 4.0, 8.0]]), least) == wanted


def test_what_is_bought_again_is_what_demand_lacks_after_and_did_not_lack_before() -> None:
    rises = np.array([[0.0, 4.0, 8.0, 12.0]])
    assert bought_again(rises, 10.0, 5.0, 0, most=100.0).tolist() == [(3 + 5) / 4]
    late = bought_again(rises, 10.0, 5.0, 20, most=100.0)
    assert late.tolist() == [0.0]  # the nodes for the rise come too late to be paid for
    assert bought_again(rises, 10.0, 5.0, 0, most=100.0, whole=4.0).tolist() == [(4 + 8) / 4]
    assert bought_again(rises, 10.0, 5.0, 0, most=3.0).tolist() == [(3 + 3) / 4]
    assert bought_again(np.zeros((0, 4)), 10.0, 5.0, 0, most=3.0).tolist() == []
