"""Contention on nodes: nothing is made up, nothing is lost, and kubelet's order decides who dies."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulator.usage.contention import share_cpu, to_kill


@st.composite
def pods_on_nodes(draw):
    num_nodes = draw(st.integers(1, 4))
    num = draw(st.integers(0, 24))
    column = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=num, max_size=num)), np.int64)  # noqa: E731
    capacity = np.array(draw(st.lists(st.integers(1, 5000), min_size=num_nodes, max_size=num_nodes)), np.float64)
    return (
        column(0, num_nodes - 1),
        column(1, 4000).astype(float),
        column(0, 4000).astype(float),
        column(0, 3),
        capacity,
    )


@given(pods_on_nodes())
def test_cpu_is_conserved_and_divided_by_weight(case):
    node, weight, want, _, capacity = case
    got = share_cpu(node, weight, want, capacity)
    assert (got <= want + 1e-6).all()
    assert (got >= 0).all()
    demand = np.bincount(node, weights=want, minlength=len(capacity))
    given_ = np.bincount(node, weights=got, minlength=len(capacity))
    assert np.allclose(given_, np.minimum(demand, capacity), rtol=1e-9, atol=1e-6)
    for n in range(len(capacity)):
        short = np.flatnonzero((node == n) & (got < want - 1e-6))
        levels = got[short] / weight[short]
        assert np.allclose(levels, levels[:1], rtol=1e-9)
        if len(short):
            assert (got[node == n] / weight[node == n] <= levels[0] + 1e-6).all()


@given(pods_on_nodes())
def test_kills_make_memory_suffice_and_stop_there(case):
    node, request, used, priority, capacity = case
    killed = to_kill(node, used, request, priority, capacity)
    left = np.bincount(node, weights=np.where(killed, 0, used), minlength=len(capacity))
    assert (left <= capacity + 1e-6).all()
    for n in range(len(capacity)):
        dead = np.flatnonzero((node == n) & killed)
        if len(dead):
            assert max(left[n] + used[dead]) > capacity[n], "one fewer would not have sufficed"


def test_who_exceeds_his_request_dies_first_then_low_priority_then_the_largest_excess():
    node = np.zeros(4, np.int64)
    request = np.array([10.0, 10, 10, 50])
    used = np.array([20.0, 30, 15, 40])
    priority = np.array([1, 1, 0, 0])
    assert to_kill(node, used, request, priority, np.array([95.0])).tolist() == [False, False, True, False]
    assert to_kill(node, used, request, priority, np.array([89.0])).tolist() == [False, True, True, False]
    assert to_kill(node, used, request, np.array([9, 9, 9, 0]), np.array([60.0])).tolist() == [True, True, False, False]
