"""Pods on devices of which nobody recorded which: whatever is given beside them is free, wherever they are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from placement.devices import sure_of
from placement.nodes import NodeSpec
from placement.playback import rebuild
from placement.pods import GpuRequest, PodSpec
from placement.rejections import NO_DEVICE, UNRECORDED, rejections
from placement.resources import CPU
from placement.state import ClusterState, device_indices
from placement.strategies import strategy_named
from simulator.preemption import choose_victims
from tests.live_engine import Live

REQUESTS = st.one_of(
    st.builds(GpuRequest, st.just(1), st.integers(1, 10).map(lambda tenths: 100 * tenths)),
    st.builds(GpuRequest, st.integers(1, 2)),
)
LEFT = st.lists(st.integers(-2, 10).map(lambda tenths: 100 * tenths), min_size=1, max_size=3)


def share(milli: int, count: int = 1, **more: Any) -> PodSpec:
    return PodSpec(((CPU, 100),), GpuRequest(count, milli), **more)


def loads(left: Sequence[int], hidden: Sequence[GpuRequest]) -> Iterator[list[int]]:
    """What hidden pods take of each device, for every way in which they may lie."""
    ways = [list(itertools.combinations(range(len(left)), gpu.count)) for gpu in hidden]
    for places in itertools.product(*ways):
        load = [0] * len(left)
        for gpu, place in zip(hidden, places, strict=True):
            for device in place:
                load[device] += gpu.milli
        if all(taken == 0 or taken <= free for taken, free in zip(load, left, strict=True)):
            yield load


@given(LEFT, st.lists(REQUESTS, max_size=4))
def test_what_is_free_for_certain_is_free_wherever_the_others_are(left: list[int], hidden: list[GpuRequest]) -> None:
    found = list(loads(left, hidden))
    assume(found)
    sure = sure_of(left, hidden)
    for load in found:
        assert all(free <= known - taken for free, known, taken in zip(sure, left, load, strict=True))
    for device, free in enumerate(sure):  # and nothing is kept free for nobody, as far as one device tells
        sums = {
            sum(some) for n in range(len(hidden) + 1) for some in itertools.combinations([h.milli for h in hidden], n)
        }
        assert left[device] - free in sums | {0}


def test_where_they_do_not_fit_nothing_is_free() -> None:
    assert sure_of([300, 700], [GpuRequest(1, 800)]) == [0, 0]
    assert sure_of([300, 1000], [GpuRequest(2)]) == [0, 0]
    assert sure_of([500, -100], [GpuRequest(1, 300), GpuRequest(1, 300)]) == [0, -100]
    assert sure_of([], [GpuRequest(1, 300)]) == []
    assert sure_of([300, 1000], [GpuRequest(1)]) == [300, 0], "on the second, for the first is in use"


def node(gpus: int, name: str = "n") -> NodeSpec:
    return NodeSpec(name, ((CPU, 10**6),), num_gpus=gpus)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("seed", range(12))
def test_no_device_is_ever_given_twice(seed: int, backend: str) -> None:
    """The truth is kept beside the ledger: hidden pods lie where they fit in truth; others are decided, confirmed or dropped."""
    rng = random.Random(seed)
    state, strategy = ClusterState(backend=backend), strategy_named("best-fit")
    state.add_node(node(3))
    truth: dict[
        str, tuple[int, int]
    ] = {}  # UID → devices and thousandths on each; what is only assumed is not there yet

    def load(device: int) -> int:
        return sum(milli for mask, milli in truth.values() if mask >> device & 1)

    for number in range(150):
        spec, uid, what = share(rng.choice((200, 300, 500, 1000))), f"u{number}", rng.random()
        assert spec.gpu is not None
        milli = spec.gpu.milli
        if what < 0.15:
            possible = [device for device in range(3) if load(device) + milli <= 1000]
            if possible:
                truth[uid] = 1 << rng.choice(possible), milli
                state.bind(uid, spec, "n")
        elif what < 0.6:
            decision = strategy.decide(state.snapshot(), spec)
            if decision.is_placed:
                state.assume(uid, spec, "n", decision.devices)
        elif state.residents and what < 0.85:
            gone = rng.choice(sorted(state.residents))
            if truth.pop(gone, None):
                state.release(gone)
            else:
                state.forget(gone)
        for uid, resident in list(state.residents.items()):
            if not resident.is_bound and rng.random() < 0.5:
                if all(state.gpu_free[0, device] >= 0 for device in device_indices(resident.devices)):
                    truth[uid] = resident.devices, resident.spec.gpu.milli if resident.spec.gpu else 0
                    state.confirm(uid)
                else:
                    state.forget(uid)
        assert max(load(device) for device in range(3)) <= 1000
        assert state.gpu_free[0].tolist() == state.free_devices(0)
        hidden = state.unrecorded.get(0, {})
        known, certain = state.free_devices(0, hidden), state.gpu_free[0].tolist()
        for asked in (200, 500, 1000):
            hides = max(certain) < asked <= max(known)
            assert state.hides_devices(share(asked)).tolist() == [hides]
    assert any(mask for mask, _ in truth.values())
    again = rebuild(state.log)
    assert (again.gpu_free[0, :3] == state.gpu_free[0, :3]).all()
    assert again.unrecorded == state.unrecorded


def test_the_ledger_says_what_is_certain_through_every_change() -> None:
    state = ClusterState()
    state.add_node(node(2))
    state.bind("hidden", share(600), "n")
    assert state.gpu_free[0].tolist() == [400, 400]
    state.assume("ours", share(400), "n", 0b01)
    assert state.gpu_free[0].tolist() == [0, 400]
    state.bind("late", share(700), "n")
    assert state.gpu_free[0].tolist() == [-100, 300], "it may lie where ours is not yet"
    state.forget("ours")
    state.update_pod("hidden", share(600), 0b10)
    assert state.gpu_free[0].tolist() == [300, 400], "beside it there is no room for the other"
    state.update_node(node(4))
    assert state.gpu_free[0].tolist() == [300, 400, 300, 300]
    state.update_node(node(2))
    state.update_pod("hidden", PodSpec(((CPU, 100),)))
    assert state.gpu_free[0, :2].tolist() == [300, 300]
    state.assume("nobody", share(500), "n")
    assert state.gpu_free[0, :2].tolist() == [300, 300], "a reservation without devices is on none"
    version = state.version
    state.confirm("nobody")
    assert state.gpu_free[0, :2].tolist() == [300, 300], "one device does not hold both"
    assert state.version > version, "what was decided before is looked at again"
    state.release("late")
    assert state.gpu_free[0, :2].tolist() == [500, 500]
    state.release("nobody")
    assert not state.unrecorded
    state.bind("whole", share(1000, 2), "n")
    assert state.gpu_free[0, :2].tolist() == [0, 0]
    state.remove_node("n")
    assert not state.unrecorded
    state.add_node(node(2))
    assert state.gpu_free[0, :2].tolist() == [1000, 1000]


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_the_reason_names_what_keeps_the_devices(backend: str) -> None:
    state, strategy, asked = ClusterState(backend=backend), strategy_named("best-fit"), share(600)
    for name in ("hidden", "full", "both"):
        state.add_node(node(2, name))
    state.bind("a", share(500), "hidden")
    for device in (0, 1):
        state.bind(f"b{device}", share(500), "full", 1 << device)
        state.bind(f"c{device}", share(500), "both", 1 << device)
    state.bind("d", share(100), "both")
    masks = rejections(strategy, state.snapshot(), asked)
    assert {why: mask.tolist() for why, mask in masks.items()} == {
        UNRECORDED: [True, False, False],
        NO_DEVICE: [False, True, True],
    }
    assert state.hides_devices(PodSpec(((CPU, 100),))).tolist() == [False] * 3
    other = PodSpec(((CPU, 100),), GpuRequest(1, 600, ("A100",)))
    assert not state.hides_devices(other).any(), "devices of another model would not be free for it either"


def test_who_ends_gives_up_the_devices_that_it_might_have_had(tmp_path: Path) -> None:
    live = Live(tmp_path / "records.db")
    live.state.bind("hidden", share(600), "n1")
    live.state.bind("known", share(300), "n1", 0b1)
    engine, asked = live.engine, share(700, priority=5)
    assert engine.fits_without(asked, "n1", ["hidden"])
    assert not engine.fits_without(asked, "n1", ["known"])
    found = choose_victims(live.state, asked)
    assert found is not None
    assert found.victims == ("hidden",)
    live.recorder.close()
