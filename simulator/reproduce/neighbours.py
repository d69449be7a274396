"""What other workloads tell of one: those of the same owner, those on the same host, both together.

Each estimate leaves the workload itself out, so that it may be used as a feature beside the workload's own history.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placement.learning.siblings import NOISE
from placement.learning.usage import SingleArray
from placement.resources import FloatArray, IntArray

PRIOR = 3.0
"""Members of an effect of nothing that each owner and host are counted with."""
ROUNDS = 5


def codes_of(names: Sequence[str]) -> IntArray:
    """(N,) a number for each distinct name."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def group_sums(values: FloatArray, keys: IntArray) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the finite (N, ...) values of each key: two (K, ...) arrays."""
    known = np.isfinite(values)
    shape = (int(keys.max(initial=-1)) + 1, *values.shape[1:])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, keys, np.where(known, values, 0.0))
    np.add.at(count, keys, known)
    return total, count


def mean_of_others(values: FloatArray | SingleArray, keys: IntArray) -> FloatArray:
    """(N, ...) mean over the *other* members of each key; NaN for a member without others."""
    total, count = group_sums(np.asarray(values, float), keys)
    known = np.isfinite(values)
    rest = total[keys] - np.where(known, values, 0.0)
    others = count[keys] - known
    out: FloatArray = np.where(others > 0, rest / np.maximum(others, 1), np.nan)
    return out


def number_of_others(values: FloatArray, keys: IntArray) -> FloatArray:
    """(N,) how many other members of each key have a finite value."""
    count = group_sums(values, keys)[1]
    out: FloatArray = count[keys] - np.isfinite(values)
    return out


def expected_of_others(values: FloatArray, owners: IntArray, hosts: IntArray) -> FloatArray:
    """(N,) level that owner and host together let expect, from the other workloads' ``values`` (NaN = unknown).

    A crossed random-effects model of the logarithm: mean + owner + host, each effect the mean of its residuals drawn
    to zero by :data:`PRIOR` pseudo-members, found by :data:`ROUNDS` of back-fitting; the workload's own residual is left out.
    """
    log = np.log(np.maximum(values, 0) + NOISE)
    known = np.isfinite(log)
    if not known.any():
        return np.full(len(values), np.nan)
    centred = log - log[known].mean()
    by_owner, by_host = np.zeros(int(owners.max()) + 1), np.zeros(int(hosts.max()) + 1)
    for _ in range(ROUNDS):
        total, count = group_sums(centred - by_host[hosts], owners)
        by_owner = total / (count + PRIOR)
        total, count = group_sums(centred - by_owner[owners], hosts)
        by_host = total / (count + PRIOR)
    effect = _left_out(centred - by_host[hosts], owners) + _left_out(centred - by_owner[owners], hosts)
    out: FloatArray = np.maximum(np.exp(log[known].mean() + effect) - NOISE, 0.0)
    return out


def _left_out(residual: FloatArray, keys: IntArray) -> FloatArray:
    total, count = group_sums(residual, keys)
    known = np.isfinite(residual)
    out: FloatArray = (total[keys] - np.where(known, residual, 0.0)) / (count[keys] - known + PRIOR)
    return out
