"""Exact fillings: what is said not to fit fits nowhere by brute force, and what fits is never denied."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.planning.fullness import all_fit, fillings
from placement.planning.plans import Deadline
from placement.planning.repair import Packing
from placement.planning.rescue import pack
from placement.resources import IntArray
from tests.test_rescue import ticking

LARGE = 10**6
"""Sizes are multiples of this plus a little, so that the leftover is tiny beside a node."""


def fits_by_trying(request: IntArray, count: IntArray, capacity: IntArray, num_nodes: int) -> bool:
    """Every way to deal the pods."""
    pods = np.repeat(np.arange(len(count)), count)
    for where in itertools.product(range(num_nodes), repeat=len(pods)):
        load = np.zeros((len(request), num_nodes), np.int64)
        for pod, node in zip(pods, where, strict=True):
            load[:, node] += request[:, pod]
        if (load <= capacity[:, None]).all():
            return True
    return False


@st.composite
def tight(draw: st.DrawFn) -> tuple[IntArray, IntArray, IntArray, int]:
    """At most seven pods for two or three nodes that offer just what the pods ask for, or one unit more."""
    num_classes, num_nodes = draw(st.integers(1, 4)), draw(st.integers(2, 3))
    size = st.integers(1, 5).map(lambda units: units * LARGE)
    request = np.array([[draw(size) + draw(st.integers(0, 1)) for _ in range(num_classes)] for _ in range(2)], np.int64)
    count = np.array([draw(st.integers(1, 2)) for _ in range(num_classes)], np.int64)
    while count.sum() > 7:
        count[int(np.argmax(count))] -= 1
    capacity = -(-(request @ count) // num_nodes) + draw(st.integers(0, 1))
    return request, count, capacity, num_nodes


@settings(max_examples=300, deadline=None)
@given(tight())
def test_what_is_said_about_tight_nodes_is_true(case: tuple[IntArray, IntArray, IntArray, int]) -> None:
    answer = all_fit(*case)
    if answer is not None:
        assert answer == fits_by_trying(*case)


def test_the_question_is_answered_both_ways() -> None:
    """Two nodes of ten: 6+4 and 7+3 fill them; 6, 8, 3 and 3 cannot."""
    capacity = np.array([10 * LARGE])
    yes = np.array([[6, 4, 7, 3]]) * LARGE, np.ones(4, np.int64)
    no = np.array([[6, 8, 3]]) * LARGE, np.array([1, 1, 2])
    assert all_fit(*yes, capacity, 2) is True
    assert all_fit(*no, capacity, 2) is False


def test_where_much_is_left_over_the_question_stays_open() -> None:
    assert all_fit(np.array([[3 * LARGE]]), np.array([2]), np.array([10 * LARGE]), 1) is None


def test_every_exact_filling_is_listed() -> None:
    request = np.array([[1, 2, 3, 4, 6]]) * LARGE
    count = np.array([2, 1, 2, 1, 1])
    listed = fillings(request, count, np.array([10 * LARGE]), np.array([0]))
    assert listed is not None
    choices = itertools.product(*(range(n + 1) for n in count))
    wanted = sorted(c for c in choices if np.dot(c, [1, 2, 3, 4, 6]) == 10)
    assert sorted(map(tuple, listed.tolist())) == wanted


def test_a_rescue_that_leaves_one_pod_out_is_proved_where_not_all_can_fit() -> None:
    """Three nodes that offer just what six pods ask for; sizes are a little off, so that no sum hits the mark."""
    request = np.array([[6 * LARGE + 1, 4 * LARGE, 2 * LARGE - 3, 8 * LARGE + 3]])
    class_of = np.array([0, 0, 1, 2, 3, 1])
    total = int(request[0, class_of].sum())
    free = np.full((1, 3), -(-total // 3))
    packing = Packing(
        request, class_of, np.zeros(4, np.int64), free, np.ones((4, 3), bool), np.full(6, -1), np.ones(6, bool)
    )
    packed = pack(packing, Deadline(5.0, ticking()))
    assert packed.is_proved
    assert (sum(packed.counts) == 6) == fits_by_trying(request, np.bincount(class_of), free[:, 0], 3)
