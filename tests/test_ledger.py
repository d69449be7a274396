"""The live ledger under any history: nothing leaks, nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace as with_class
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from msgspec import Raw, json
from msgspec.structs import replace

from placement import log
from placement.learning.lifetimes import LifetimeForecaster
from placement.nodes import NodeSpec
from placement.playback import rebuild
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, DEVICES_ANNOTATION, GPU_SHARE, MAX_AMOUNT, MEMORY
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from scheduler.api import Who
from scheduler.ledger import TARGET_S, Ledger, Seen
from scheduler.metrics import Metrics
from scheduler.modes import MODE_LABEL, Modes
from scheduler.view import Reader, sinks

NODES = ("a", "b", "c")
SPECS = (
    PodSpec(request=((CPU, 500),)),
    PodSpec(request=((CPU, 100),), gpu=GpuRequest(1, 400)),
    PodSpec(request=((CPU, 200),), gpu=GpuRequest(2)),
)
DEVICES = {0: 0, 1: 0b10, 2: 0b101}


def node(name: str, size: int = 8, gpus: int = 4) -> NodeSpec:
    return NodeSpec(name, ((CPU, size * 1000),), num_gpus=gpus)


def pod(uid: str, kind: int = 0, version: int = 1, **changes: Any) -> Seen:
    return Seen(uid, f"pod-{uid}", "default", version, SPECS[kind], **changes)


def fresh(*names: str) -> Ledger:
    clock = iter(range(10**6))
    ledger = Ledger(ClusterState(), lambda: float(next(clock)), Metrics())
    for name in names:
        ledger.see_node(node(name))
    return ledger


def conflicts(ledger: Ledger, what: str) -> float | None:
    return ledger.metrics.registry.get_sample_value("ullage_ledger_conflicts_total", {"what": what})


class Histories(RuleBasedStateMachine):
    """An API server that changes, a watch that mangles what it says, and a scheduler that decides."""

    events: Any = Bundle("events")

    @initialize()
    def begin(self) -> None:
        self.ledger = fresh()
        self.nodes: dict[str, NodeSpec] = {}
        self.pods: dict[str, Seen] = {}
        self.kind_of: dict[str, int] = {}
        self.version = 0
        self.count = 0
        self.first_seen: dict[tuple[str, str], int] = {}

    # what the cluster does; every change is an event that somebody may deliver

    def change(self, uid: str, **changes: Any) -> Any:
        self.version += 1
        old = self.pods[uid]
        new = replace(old, version=self.version, **changes)
        self.pods[uid] = new
        return ("pod", new)

    @rule(target=events, kind=st.integers(0, 2))
    def create(self, kind: int) -> Any:
        self.count += 1
        uid = f"u{self.count}"
        self.version += 1
        self.pods[uid] = pod(uid, kind, self.version)
        self.kind_of[uid] = kind
        return ("pod", self.pods[uid])

    @rule(target=events, data=st.data(), name=st.sampled_from(NODES), records=st.booleans())
    def bind(self, data: Any, name: str, records: bool) -> Any:
        free = [u for u, p in self.pods.items() if not p.node and not p.has_ended]
        if not free or name not in self.nodes:
            return multiple()
        uid = data.draw(st.sampled_from(free))
        return self.change(uid, node=name, nominated="", devices=DEVICES[self.kind_of[uid]] if records else 0)

    @rule(target=events, data=st.data(), name=st.sampled_from(NODES), other=st.sampled_from(("", "b")))
    def nominate(self, data: Any, name: str, other: str) -> Any:
        """By us, or (``other``) cleared or replaced since."""
        free = [u for u, p in self.pods.items() if not p.node and not p.has_ended]
        if not free:
            return multiple()
        uid = data.draw(st.sampled_from(free))
        if self.pods[uid].planned and data.draw(st.booleans()):
            return self.change(uid, nominated=other)
        return self.change(uid, planned=name, nominated=name)

    @rule(target=events, data=st.data(), label=st.sampled_from(("x", "y")))
    def edit(self, data: Any, label: str) -> Any:
        """Labels are part of a class."""
        if not self.pods:
            return multiple()
        uid = data.draw(st.sampled_from(sorted(self.pods)))
        return self.change(uid, spec=with_class(self.pods[uid].spec, labels=(("app", label),)))

    @rule(target=events, data=st.data(), devices=st.sampled_from((0, 0b1, 0b10, 0b101, 1 << 9)))
    def annotate(self, data: Any, devices: int) -> Any:
        """Whoever may edit a pod may write what he likes."""
        bound = [u for u, p in self.pods.items() if p.node]
        return self.change(data.draw(st.sampled_from(bound)), devices=devices) if bound else multiple()

    @rule(target=events, data=st.data())
    def finish(self, data: Any) -> Any:
        if not self.pods:
            return multiple()
        return self.change(data.draw(st.sampled_from(sorted(self.pods))), has_ended=True)

    @rule(target=events, data=st.data())
    def delete(self, data: Any) -> Any:
        if not self.pods:
            return multiple()
        return ("gone", self.pods.pop(data.draw(st.sampled_from(sorted(self.pods)))))

    @rule(target=events, name=st.sampled_from(NODES), size=st.integers(7, 8), gpus=st.sampled_from((0, 1, 4)))
    def node_appears(self, name: str, size: int, gpus: int) -> Any:
        """Or changes; device plugins come, go and find devices broken."""
        self.nodes[name] = node(name, size, gpus)
        return ("node", self.nodes[name])

    @rule(target=events, name=st.sampled_from(NODES))
    def node_goes(self, name: str) -> Any:
        if self.nodes.pop(name, None) is None:
            return multiple()
        return ("no node", name)

    # what the watch makes of it: late, twice, in any order, or never

    def apply(self, event: Any) -> None:
        what, value = event
        if what == "pod":
            self.ledger.see(value)
        elif what == "gone":
            self.ledger.lose(value.uid)
        elif what == "node":
            self.ledger.see_node(value)
        else:
            self.ledger.lose_node(value)

    @rule(event=consumes(events))
    def deliver(self, event: Any) -> None:
        self.apply(event)

    @rule(event=events)
    def deliver_and_keep(self, event: Any) -> None:
        self.apply(event)

    @rule(event=consumes(events))
    def lose_event(self, event: Any) -> None:
        assert event

    # what we decide

    @rule(data=st.data(), name=st.sampled_from(NODES))
    def assume(self, data: Any, name: str) -> None:
        uids = sorted(self.kind_of)
        if uids:
            uid = data.draw(st.sampled_from(uids))
            kind = self.kind_of[uid]
            self.ledger.assume(Who(uid, "default", f"pod-{uid}"), SPECS[kind], name, DEVICES[kind])

    @rule(data=st.data())
    def forget(self, data: Any) -> None:
        if self.ledger.reservations:
            self.ledger.forget(data.draw(st.sampled_from(sorted(self.ledger.reservations))), "test")

    @rule(data=st.data())
    def the_api_takes_a_binding(self, data: Any) -> None:
        if self.ledger.reservations:
            held = self.ledger.reservations[data.draw(st.sampled_from(sorted(self.ledger.reservations)))]
            held.is_binding = held.is_accepted = True

    # what must hold

    @invariant()
    def columns_are_the_sum_of_residents(self) -> None:
        state = self.ledger.state
        taken = np.zeros_like(state.taken)
        free = np.zeros_like(state.gpu_free)
        for row, spec in enumerate(state.nodes):
            if spec is not None:
                free[row, : spec.num_gpus] = 1000  # those of a resident that are not there are below zero
        for resident in state.residents.values():
            taken[:, resident.row] += state.delta(resident.spec)
            for device in range(4):
                if resident.devices >> device & 1:
                    assert resident.spec.gpu is not None
                    free[resident.row, device] -= resident.spec.gpu.milli
        assert (taken == state.taken).all()
        hidden = [r for r in state.residents.values() if r.is_bound and r.spec.gpu and not r.devices]
        rows = sorted({resident.row for resident in hidden})
        assert sorted(state.unrecorded) == rows
        for row in rows:
            free[row] = state.free_devices(row)  # tests/test_unrecorded.py says what these are
        assert (free == state.gpu_free).all()

    @invariant()
    def whoever_runs_or_may_come_back_lives(self) -> None:
        """By the log alone."""
        alive: set[str] = set()
        for event in self.ledger.state.log:
            if event.kind in (log.POD_BOUND, log.POD_FOUND):
                alive.add(event.subject)
            elif event.kind in (log.POD_RELEASED, log.POD_ENDED):
                alive.discard(event.subject)
        runs = {uid for uid, resident in self.ledger.state.residents.items() if resident.is_bound}
        assert alive == runs | {
            uid for pods in self.ledger._waiting.values() for uid, has_run in pods.items() if has_run
        }

    @invariant()
    def devices_that_are_there_and_in_use_are_counted(self) -> None:
        state = self.ledger.state
        for uid, resident in state.residents.items():
            seen = self.ledger.pods.get(uid)
            if seen is not None and seen.node and resident.is_bound and seen.spec.gpu is not None:
                assert resident.devices == seen.devices or uid in state.unrecorded[resident.row]
                assert resident.devices in (0, seen.devices)

    @invariant()
    def a_bound_pod_stays_on_its_devices(self) -> None:
        """Whatever is written on it since."""
        for uid, seen in self.ledger.pods.items():
            if seen.node and seen.spec.gpu is not None:
                assert self.first_seen.setdefault((uid, seen.node), seen.devices) == seen.devices

    @invariant()
    def reservations_are_the_residents_not_seen_bound(self) -> None:
        assumed = {uid for uid, r in self.ledger.state.residents.items() if not r.is_bound}
        assert assumed == set(self.ledger.reservations)

    @invariant()
    def nominations_hold_the_room_that_they_name(self) -> None:
        for uid, held in self.ledger.reservations.items():
            seen = self.ledger.pods.get(uid)
            assert not held.is_nominated or (seen is not None and seen.planned == seen.nominated == held.node)

    @rule()
    def one_complete_list_heals_everything(self) -> None:
        for spec in self.nodes.values():
            self.ledger.see_node(spec)
        for name in set(self.ledger.state.row_of) - set(self.nodes):
            self.ledger.lose_node(name)
        for seen in self.pods.values():
            self.ledger.see(seen)
        for uid in set(self.ledger.pods) - set(self.pods):
            self.ledger.lose(uid)
        for held in self.ledger.overdue(-(10**9)):
            if held.uid not in self.pods:
                self.ledger.lose(held.uid)  # what a look-up of a missing pod does
        state = self.ledger.state
        counted = {u: state.names[r.row] for u, r in state.residents.items() if r.is_bound}
        assert counted == {u: p.node for u, p in self.pods.items() if p.node in self.nodes and not p.has_ended}
        assert set(self.ledger.reservations) <= {u for u, p in self.pods.items() if not p.node}
        assert set(state.row_of) == set(self.nodes)
        assert set(self.ledger._waiting) == {p.node for p in self.ledger.pods.values() if p.node} - set(self.nodes)


Histories.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


def test_a_decision_is_confirmed_by_the_watch_and_keeps_its_devices() -> None:
    ledger = fresh("a")
    assert ledger.assume(Who("u", "default", "p"), SPECS[1], "a", 0b10)
    ledger.see(pod("u", 1, 1))
    ledger.see(pod("u", 1, 2, node="a", devices=0b10))
    assert not ledger.reservations
    assert ledger.state.residents["u"].is_bound
    assert ledger.state.gpu_free[0, :4].tolist() == [1000, 600, 1000, 1000]


def test_the_api_wins_where_it_differs_from_the_decision() -> None:
    ledger = fresh("a", "b")
    ledger.assume(Who("u", "default", "p"), SPECS[1], "a", 0b10)
    ledger.see(pod("u", 1, 2, node="b", devices=0b1))
    assert ledger.state.gpu_free[:2, :4].tolist() == [[1000] * 4, [600, 1000, 1000, 1000]]


def test_a_pod_that_is_edited_goes_on_living() -> None:
    ledger = fresh("a")
    heard = LifetimeForecaster()
    ledger.state.log.also_tell(heard.hear)
    seen = pod("u", 1, node="a", devices=0b10)
    ledger.see(seen)
    since_s = ledger.state.residents["u"].since_s
    for version, milli in ((2, 400), (3, 700)):
        more = with_class(SPECS[1], labels=(("app", f"v{version}"),), gpu=GpuRequest(1, milli))
        ledger.see(replace(seen, version=version, spec=more))
    resident = ledger.state.residents["u"]
    assert (resident.spec, resident.devices, resident.since_s) == (more, 0b10, since_s)
    assert ledger.state.gpu_free[0, 1] == 300
    assert heard.history.running["u"].since_s == since_s, "one life"
    assert [e.kind for e in ledger.state.log if e.subject == "u"] == [log.POD_BOUND, log.POD_UPDATED, log.POD_UPDATED]
    again = rebuild(ledger.state.log)
    assert again.residents == ledger.state.residents
    assert (again.taken == ledger.state.taken).all()
    assert (again.gpu_free == ledger.state.gpu_free).all()


def test_a_label_gives_no_device_away_that_nobody_wrote_down() -> None:
    """Somebody else bound the pod: what we would have given it, nobody told its node."""
    ledger = fresh("a")
    ledger.assume(Who("u", "default", "p"), SPECS[1], "a", 0b10)
    for version, label in ((2, "x"), (3, "y")):
        ledger.see(replace(pod("u", 1, version, node="a"), spec=with_class(SPECS[1], labels=(("app", label),))))
        assert "u" in ledger.state.unrecorded[0]
        assert ledger.state.gpu_free[0].tolist() == [600] * 4, "it may be on any"


def test_nothing_is_kept_of_namespaces_that_are_gone() -> None:
    ledger, modes = fresh("a"), Modes("decide")
    sink = next(s for s in sinks(ledger, modes, Reader()) if s.kind == "namespaces")
    for name in ("one", "two"):
        labels = {"kubernetes.io/metadata.name": name, MODE_LABEL: "off"}
        raw = Raw(json.encode({"metadata": {"name": name, "labels": labels}}))
        assert sink.put(raw) == name
    assert sink.known().keys() == {"one", "two"}
    sink.drop(raw)
    sink.lose("one")
    assert (ledger.state.namespaces, ledger.state.rules.namespaces, modes.by_namespace) == ({}, {}, {})
    assert rebuild(ledger.state.log).namespaces == {}
    events = len(ledger.state.log)
    sink.put(Raw(json.encode({"metadata": {"name": "bare"}})))
    assert len(ledger.state.log) == events, "a namespace without labels tells nothing"


def test_pods_that_come_back_with_their_node_are_not_new() -> None:
    ledger = fresh("a")
    ledger.see(pod("old", node="a"))
    ledger.lose_node("a")
    ledger.see(pod("old", version=2, node="a"))
    ledger.see(pod("new", node="a"))
    ledger.see_node(node("a"))
    kinds = {event.subject: event.kind for event in ledger.state.log if event.subject in ("old", "new")}
    assert kinds == {"old": log.POD_FOUND, "new": log.POD_BOUND}


def test_a_pod_whose_node_goes_lives_on_until_it_is_gone_itself() -> None:
    """A Node that is made anew under running pods (a kubelet that registers again) ends no pod."""
    ledger, heard = fresh("a"), LifetimeForecaster()
    ledger.state.log.also_tell(heard.hear)
    for uid in ("back", "gone"):
        ledger.see(pod(uid, node="a"))
    since_s = {uid: running.since_s for uid, running in heard.history.running.items()}
    ledger.lose_node("a")
    assert {uid: running.since_s for uid, running in heard.history.running.items()} == since_s
    ledger.lose("gone")
    assert set(heard.history.running) == {"back"}
    ledger.see_node(node("a"))
    assert heard.history.running["back"].since_s == since_s["back"], "one life"
    ledger.lose("back")
    assert not heard.history.running
    kinds = [event.kind for event in ledger.state.log if event.subject == "back"]
    assert kinds == [log.POD_BOUND, log.POD_STRANDED, log.POD_FOUND, log.POD_RELEASED]
    kinds = [event.kind for event in ledger.state.log if event.subject == "gone"]
    assert kinds == [log.POD_BOUND, log.POD_STRANDED, log.POD_ENDED]
    assert rebuild(ledger.state.log).residents == {}


def test_a_target_that_was_met_before_the_evicted_pod_ended_stays_met() -> None:
    ledger, spec = fresh("a", "b"), PodSpec(((CPU, 100),), owner="ReplicaSet/web")
    evicted = Seen("old", "old", "default", 1, spec, node="a")
    ledger.see(evicted)
    ledger.see(replace(evicted, version=2, target="b", spec=with_class(evicted.spec, leaving=True)))
    ledger.see(Seen("new", "new", "default", 3, spec, node="b"))
    ledger.see(replace(evicted, version=4, target="b", spec=with_class(evicted.spec, leaving=True), oom_s=1))
    ledger.lose("old")
    assert ledger.target_for("third", spec) == ""
    assert not ledger.targets


def test_targets_of_owners_that_are_gone_are_forgotten() -> None:
    ledger = fresh("a", "b")
    now_s = 0.0
    ledger.clock = lambda: now_s
    for number in range(3):
        spec = PodSpec(((CPU, 100),), owner=f"Job/once-{number}")
        ledger.see(Seen(f"u{number}", "p", "default", 1, spec, node="a", target="b"))
        ledger.lose(f"u{number}")
        now_s += TARGET_S + 1
    assert len(ledger.targets) == 1


def test_pods_seen_before_the_view_is_complete_are_said_to_have_been_there() -> None:
    ledger, is_complete = fresh("a"), False
    ledger.is_complete = lambda: is_complete
    ledger.see(pod("old", node="a"))
    is_complete = True
    ledger.see(pod("new", node="a"))
    kinds = {event.subject: event.kind for event in ledger.state.log if event.subject in ("old", "new")}
    assert kinds == {"old": log.POD_FOUND, "new": log.POD_BOUND}
    again = rebuild(ledger.state.log)
    assert set(again.residents) == {"old", "new"}
    assert (again.taken == ledger.state.taken).all()


def test_a_late_event_of_a_deleted_pod_does_not_bring_it_back() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 0, 5, node="a"))
    ledger.lose("u")
    ledger.see(pod("u", 0, 5, node="a"))
    assert not ledger.assume(Who("u", "default", "p"), SPECS[0], "a", 0)
    assert not ledger.state.residents


def test_an_event_that_is_older_than_what_is_known_changes_nothing() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 0, 5, node="a"))
    ledger.see(pod("u", 0, 4, planned="a", nominated="a"))
    assert ledger.pods["u"].version == 5
    assert ledger.state.residents["u"].is_bound


def test_an_event_seen_twice_is_told_once() -> None:
    ledger = fresh("a")
    bound: list[str] = []
    killed: list[int] = []
    ledger.on_bound = lambda seen: bound.append(seen.uid)
    ledger.on_oom = lambda seen: killed.append(seen.oom_s)
    ledger.see(pod("u", 0, 1))
    for version, oom_s in ((2, 0), (2, 0), (3, 7), (3, 7), (4, 7), (5, 9)):
        ledger.see(pod("u", 0, version, node="a", oom_s=oom_s))
    assert bound == ["u"]
    assert killed == [7, 9]


def test_whoever_prepared_for_the_nodes_is_told_of_every_change() -> None:
    ledger = fresh("a")
    seen = [(ledger.topology, ledger.node_changes)]
    for change in (
        lambda: ledger.see_node(node("b")),
        lambda: ledger.see_node(node("b", size=4)),
        lambda: ledger.see_node(node("b", size=4)),
        lambda: ledger.lose_node("b"),
        lambda: ledger.lose_node("b"),
    ):
        change()
        seen.append((ledger.topology, ledger.node_changes))
    assert seen == [(1, 1), (2, 2), (2, 3), (2, 3), (3, 4), (3, 4)]


def test_only_what_is_old_is_looked_up() -> None:
    now = [100.0]
    ledger = Ledger(ClusterState(), lambda: now[0], Metrics())
    ledger.see_node(node("a"))
    for uid in ("first", "second"):
        ledger.assume(Who(uid, "default", uid), SPECS[0], "a", 0)
        now[0] += 10
    assert [held.uid for held in ledger.overdue(30)] == []
    assert [held.uid for held in ledger.overdue(20)] == ["first"]
    assert [held.uid for held in ledger.overdue(10)] == ["first", "second"]


def test_devices_that_nobody_wrote_down_are_neither_invented_nor_called_impossible() -> None:
    ledger = fresh("a", "b")
    ledger.assume(Who("u", "default", "p"), SPECS[1], "a", 0b10)
    ledger.see(pod("u", 1, 2, node="b"))
    assert ledger.state.residents["u"].devices == 0, "those it was given are on another node"
    assert (ledger.state.gpu_free[0, :4] == 1000).all()
    assert (ledger.state.gpu_free[1, :4] == 600).all(), "it may be on any"
    found = [conflicts(ledger, f"devices {what}") for what in ("impossible", "unrecorded")]
    assert (found, conflicts(ledger, "bound elsewhere")) == ([None, 1], 1)


def test_a_nomination_of_others_ends_no_decision_of_ours() -> None:
    ledger = fresh("a", "b")
    ledger.assume(Who("u", "default", "pod-u"), SPECS[0], "a", 0)
    ledger.see(pod("u", 0, 2, planned="a", nominated="b"))
    assert ledger.reservations["u"].node == "a"


def test_pods_of_a_node_not_yet_known_count_once_it_appears() -> None:
    ledger = fresh()
    ledger.see(pod("u", 2, 5, node="a", devices=0b101))
    assert not ledger.state.residents
    ledger.see_node(node("a"))
    assert ledger.state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000]


def test_devices_that_a_node_does_not_have_are_not_counted() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 1, 5, node="a", devices=1 << 9))
    assert ledger.state.residents["u"].devices == 0
    assert ledger.state.gpu_free[0].tolist() == [600] * 4, "it is somewhere"
    assert conflicts(ledger, "devices impossible") == 1


def test_devices_in_use_are_in_use_however_late_their_node_says_that_it_has_them() -> None:
    """A kubelet that begins, or whose device plugin begins anew, offers none for a while; its pods run on."""
    ledger = fresh()
    ledger.see(pod("u", 2, 5, node="a", devices=0b101))
    ledger.see_node(node("a", gpus=0))
    assert ledger.state.residents["u"].devices == 0
    ledger.see_node(node("a"))
    assert ledger.state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000]
    ledger.see_node(node("a", gpus=1))
    ledger.see(replace(pod("u", 2, 6, node="a", devices=0b101), spec=with_class(SPECS[2], leaving=True)))
    ledger.see_node(node("a"))
    assert ledger.state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000]
    ledger.lose("u")
    assert ledger.state.gpu_free[0, :4].tolist() == [1000] * 4


def test_a_finished_pod_gives_everything_back_while_it_is_still_listed() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 2, 5, node="a", devices=0b101))
    ledger.see(pod("u", 2, 6, node="a", devices=0b101, has_ended=True))
    ledger.see(pod("u", 2, 6, node="a", devices=0b101, has_ended=True))
    assert not ledger.state.residents
    assert (ledger.state.gpu_free[0, :4] == 1000).all()


def test_a_node_that_comes_back_finds_its_pods_again() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 0, 5, node="a"))
    ledger.lose_node("a")
    assert not ledger.state.residents
    ledger.see_node(node("a"))
    assert set(ledger.state.residents) == {"u"}


def test_devices_are_counted_only_as_many_as_asked_for_and_where_they_are_free() -> None:
    ledger = fresh("a")
    who = Who("u", "default", "pod-u")
    for wrong in (0, 0b1, 0b111, 0b110000):
        assert not ledger.assume(who, SPECS[2], "a", wrong)
    assert not ledger.assume(who, SPECS[0], "a", 0b1)
    assert ledger.assume(who, SPECS[2], "a", 0b101)
    assert not ledger.assume(Who("v", "default", "pod-v"), SPECS[1], "a", 0b100)


def test_a_target_that_nobody_came_for_is_forgotten_after_a_while() -> None:
    now = [0.0]
    ledger = Ledger(ClusterState(), lambda: now[0], Metrics())
    for name in ("a", "b"):
        ledger.see_node(node(name))
    spec = PodSpec(((CPU, 500),), owner="ReplicaSet/r")
    ledger.see(Seen("old", "old", "default", 1, with_class(spec, leaving=True), node="a", target="b"))
    now[0] = TARGET_S - 1
    assert ledger.target_for("new", spec) == "b"
    assert ledger.target_for("newer", spec) == ""
    now[0] = TARGET_S + 1
    assert ledger.target_for("new", spec) == ""


def test_a_target_whose_node_is_gone_is_nobodys() -> None:
    ledger, spec = fresh("a"), PodSpec(((CPU, 100),), owner="ReplicaSet/web")
    ledger.see(Seen("old", "old", "default", 1, with_class(spec, leaving=True), node="a", target="b"))
    assert ledger.target_for("new", spec) == ""
    ledger.see_node(node("b"))
    assert ledger.target_for("new", spec) == "b"


def test_one_pod_that_comes_meets_one_target() -> None:
    ledger, spec = fresh("a", "b"), PodSpec(((CPU, 500),), owner="ReplicaSet/r")
    for uid in ("old-1", "old-2"):
        ledger.see(Seen(uid, uid, "default", 1, with_class(spec, leaving=True), node="a", target="b"))
    ledger.see(Seen("new-1", "new-1", "default", 2, spec, node="b"))
    assert ledger.target_for("new-2", spec) == "b"
    assert ledger.target_for("new-3", spec) == ""


@pytest.mark.parametrize("written", [0, 0b11, 1 << 9])
def test_a_pod_that_we_bound_is_on_the_devices_that_we_gave_it_whatever_its_annotation_says(written: int) -> None:
    ledger = fresh("a")
    seen = pod("u", 2)
    ledger.see(seen)
    ledger.assume(seen.who, SPECS[2], "a", 0b101)
    held = ledger.reservations["u"]
    held.is_binding = held.is_accepted = True
    ledger.see(replace(seen, version=2, node="a", devices=written))
    ledger.see(replace(seen, version=3, node="a", devices=written, spec=with_class(seen.spec, leaving=True)))
    assert conflicts(ledger, "devices changed") == 1, "once for each edit"
    assert ledger.state.residents["u"].devices == 0b101
    assert ledger.state.residents["u"].is_bound
    assert ledger.state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000]


@pytest.mark.parametrize("written", [0, 0b10, 0b1100])
def test_an_annotation_that_is_edited_moves_no_pod_to_another_device(written: int) -> None:
    """Also after the node was away, and while its device plugin is: a tenant can write what he likes on a running pod."""
    ledger = fresh("a")
    first = pod("u", 2, node="a", devices=0b101)
    ledger.see(first)
    edited = replace(first, version=2, devices=written)
    ledger.see(edited)
    for step in (
        lambda: ledger.see(replace(edited, version=3, spec=with_class(edited.spec, leaving=True))),
        lambda: (ledger.lose_node("a"), ledger.see_node(node("a"))),
        lambda: (
            ledger.see_node(node("a", gpus=0)),
            ledger.see(replace(edited, version=4)),
            ledger.see_node(node("a")),
        ),
    ):
        step()
        assert ledger.state.residents["u"].devices == 0b101
        assert ledger.state.gpu_free[0].tolist() == [0, 1000, 0, 1000]
    assert conflicts(ledger, "devices changed") == 1
    ledger.see(replace(first, version=5))
    ledger.see(replace(edited, version=6))
    assert conflicts(ledger, "devices changed") == 2, "put right, and edited again"
    ledger.lose("u")
    assert ledger.state.gpu_free[0].tolist() == [1000] * 4


def test_devices_that_are_written_on_a_running_pod_are_not_believed_either() -> None:
    ledger = fresh("a")
    seen = pod("u", 1, node="a")
    ledger.see(seen)
    assert conflicts(ledger, "devices unrecorded") == 1
    ledger.see(replace(seen, version=2, devices=0b1))
    assert ledger.state.gpu_free[0].tolist() == [600] * 4, "nobody but who bound it knows"
    assert (conflicts(ledger, "devices unrecorded"), conflicts(ledger, "devices changed")) == (1, 1)


def test_a_request_that_is_edited_until_nobody_understands_it_holds_its_devices() -> None:
    """The count of devices is an annotation, and may be edited as any other."""
    ledger, reader = fresh("a"), Reader()
    body: dict[str, Any] = {
        "metadata": {"name": "u", "namespace": "default", "uid": "u", "annotations": {DEVICES_ANNOTATION: "0,2"}},
        "spec": {"nodeName": "a", "containers": [{"resources": {"requests": {GPU_SHARE: "2000"}}}]},
    }
    for version, count in enumerate(("2", "many", "3", "1", "")):
        body["metadata"] |= {"resourceVersion": str(version + 1)}
        body["metadata"]["annotations"]["ullage.dev/gpu-count"] = count
        ledger.see(reader.pod(json.encode(body)))
        assert ledger.state.gpu_free[0].tolist() == [0, 1000, 0, 1000]
        assert ledger.state.taken[ledger.state.lane(GPU_SHARE), 0] == 2000


def test_a_nomination_keeps_room_wherever_it_was_made_and_gives_it_back() -> None:
    ledger = fresh("a", "b")
    first, second = pod("u", planned="a", nominated="a"), pod("u", version=2, planned="b", nominated="b")
    ledger.see(first)
    assert [ledger.state.names[r.row] for r in ledger.state.residents.values()] == ["a"]
    ledger.see(second)
    assert [ledger.state.names[r.row] for r in ledger.state.residents.values()] == ["b"]
    assert not ledger.overdue(-(10.0**9)), "the watch ends it, not a timer"
    ledger.see(replace(second, version=3, nominated=""))
    assert not ledger.state.residents
    ledger.see(replace(second, version=4))
    ledger.see(replace(second, version=5, nominated="", node="b"))
    assert ledger.state.residents["u"].is_bound


def test_a_nomination_whose_devices_are_taken_keeps_its_room_without_them() -> None:
    """kube-scheduler counts the nominated pod on its node; without the room here, others would be sent there in vain."""
    ledger = fresh("a")
    ledger.see(pod("other", 2, node="a", devices=0b101))
    nominated = pod("u", 2, planned="a", nominated="a", planned_devices=0b101)
    ledger.see(nominated)
    held, state = ledger.reservations["u"], ledger.state
    assert (held.node, held.devices, held.is_nominated) == ("a", 0, True)
    assert (state.taken[:, 0] == 2 * state.delta(SPECS[2])).all()
    assert state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000], "who has the devices keeps them, and no others go"
    assert not ledger.keeps_devices(held), "nobody may bind it like this"
    ledger.see(replace(nominated, version=2))
    assert conflicts(ledger, "planned devices taken") == 1
    ledger.see(replace(nominated, version=3, nominated=""))
    assert (state.taken[:, 0] == state.delta(SPECS[2])).all()


def test_a_nomination_to_a_node_that_is_not_known_yet_keeps_room_once_it_appears() -> None:
    ledger = fresh()
    ledger.see(pod("u", 1, planned="a", nominated="a", planned_devices=0b10))
    assert not ledger.reservations
    ledger.see_node(node("a"))
    assert ledger.reservations["u"].is_nominated
    assert ledger.state.gpu_free[0, :4].tolist() == [1000, 600, 1000, 1000]
    ledger.lose_node("a")
    assert not ledger.reservations
    ledger.see_node(node("a"))
    assert ledger.reservations["u"].devices == 0b10


def test_a_pod_that_is_nominated_to_a_target_takes_it_and_one_that_lands_there_meets_it() -> None:
    owner = PodSpec(request=((CPU, 500),), owner="ReplicaSet/web")
    ledger = fresh("a", "b")
    for uid, target in (("old-a", "a"), ("old-b", "b")):
        ledger.see(Seen(uid, uid, "default", 1, owner, node="a", target=target))
        ledger.lose(uid)
    ledger.see(Seen("new", "new", "default", 2, owner, planned="a", nominated="a"))
    assert ledger.target_for("plain", owner) == "b"
    ledger.see(Seen("other", "other", "default", 3, owner, node="b"))
    assert ledger.target_for("plain", owner) == "b", "it was told to plain"
    ledger.see(Seen("plain", "plain", "default", 4, owner, node="b"))
    assert ledger.target_for("late", owner) == ""


def test_after_a_restart_the_target_of_a_pod_that_is_still_leaving_is_read_back() -> None:
    owner = PodSpec(request=((CPU, 500),), owner="ReplicaSet/web")
    leaving = Seen("old", "old", "default", 7, with_class(owner, leaving=True), node="a", target="b")
    ledger = fresh("a", "b")
    ledger.see(leaving)  # the first list of a process that knew nothing
    assert ledger.target_for("new", owner) == "b"
    gone = fresh("a", "b")
    assert gone.target_for("new", owner) == "", (
        "gone before the restart: nobody tells, and the plan's own process steers"
    )


def test_a_nomination_that_keeps_room_alone_gets_its_devices_once_they_are_free() -> None:
    ledger = fresh("a")
    ledger.see(pod("other", 2, node="a", devices=0b101))
    nominated = pod("u", 2, planned="a", nominated="a", planned_devices=0b101)
    ledger.see(nominated)
    ledger.lose("other")
    ledger.see(replace(nominated, version=2))
    held = ledger.reservations["u"]
    assert (held.devices, held.is_nominated) == (0b101, True)
    assert ledger.keeps_devices(held)
    assert ledger.state.gpu_free[0, :4].tolist() == [0, 1000, 0, 1000], "its own, to the last thousandth"


def test_a_binding_on_its_way_keeps_the_room_that_it_has_whatever_becomes_free() -> None:
    ledger = fresh("a")
    ledger.see(pod("other", 2, node="a", devices=0b101))
    nominated = pod("u", 2, planned="a", nominated="a", planned_devices=0b101)
    ledger.see(nominated)
    ledger.reservations["u"].is_binding = True
    ledger.lose("other")
    ledger.see(replace(nominated, version=2))
    assert ledger.reservations["u"].is_binding


def test_an_annotation_that_names_fewer_devices_than_a_pod_asks_for_is_not_believed() -> None:
    ledger = fresh("a")
    ledger.see(pod("u", 2, 5, node="a", devices=0b1))
    assert conflicts(ledger, "devices impossible") == 1
    assert ledger.state.residents["u"].devices == 0
    assert ledger.state.gpu_free[0, :4].tolist() == [0] * 4, "it has two, and nobody knows which"


def test_devices_are_given_twice_where_bound_pods_hold_more_than_there_is() -> None:
    ledger = fresh("a")
    half = PodSpec(((CPU, 100),), gpu=GpuRequest(1, 500))
    for number in range(2):
        ledger.see(Seen(f"half-{number}", "p", "default", 1, half, node="a", devices=0b10))
    assert ledger.devices_given_twice() == 0
    for number in range(2):
        ledger.see(pod(f"whole-{number}", 2, node="a", devices=0b1100))
    assert ledger.devices_given_twice() == 2, "not the one that is shared and full"
    ledger.lose("whole-0")
    assert ledger.devices_given_twice() == 0


def test_a_target_whose_pod_was_lost_is_the_next_ones() -> None:
    owner = PodSpec(request=((CPU, 500),), owner="ReplicaSet/web")
    ledger = fresh("a", "b")
    ledger.see(Seen("old", "old", "default", 1, with_class(owner, leaving=True), node="a", target="b"))
    ledger.see(Seen("new", "new", "default", 2, owner))
    assert ledger.target_for("new", owner) == "b"
    assert ledger.target_for("newer", owner) == ""
    ledger.lose("new")
    assert ledger.target_for("newer", owner) == "b"


def test_a_pod_that_goes_elsewhere_than_it_was_told_leaves_the_other_target_to_another() -> None:
    owner = PodSpec(request=((CPU, 500),), owner="ReplicaSet/web")
    ledger = fresh("a", "b", "c")
    for uid, target in (("old-b", "b"), ("old-c", "c")):
        ledger.see(Seen(uid, uid, "default", 1, with_class(owner, leaving=True), node="a", target=target))
    assert ledger.target_for("new", owner) == "b"
    ledger.see(Seen("new", "new", "default", 2, owner, node="c"))
    assert ledger.target_for("late", owner) == "c"
    assert ledger.target_for("later", owner) == "", "two were evicted, and one has come"


def test_a_pod_that_is_nominated_takes_one_target_of_two_on_a_node() -> None:
    owner = PodSpec(request=((CPU, 500),), owner="ReplicaSet/web")
    ledger = fresh("a", "b")
    for uid in ("old-1", "old-2"):
        ledger.see(Seen(uid, uid, "default", 1, with_class(owner, leaving=True), node="a", target="b"))
    nominated = Seen("new", "new", "default", 2, owner, planned="b", nominated="b")
    for version in (2, 3, 4):
        ledger.see(replace(nominated, version=version))
    assert ledger.target_for("late", owner) == "b"


@pytest.mark.parametrize("amount", [2**50, MAX_AMOUNT - 1])
@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("strategy", ["first-fit", "best-fit", "kube-default"])
def test_a_node_with_absurd_requests_bound_by_hand_is_full_until_they_leave(
    strategy: str, backend: str, amount: int
) -> None:
    """What they take in all is beyond int64; whatever size the node says it has, it looks neither free nor odd."""
    state = ClusterState(backend=backend)
    huge = PodSpec(((CPU, amount), (MEMORY, amount), ("x.io/y", amount)))
    small, absurd = PodSpec(((CPU, 1), (MEMORY, 1), ("x.io/y", 1))), 500
    for name, size in (("a", 2**40), ("b", MAX_AMOUNT - 1)):
        state.add_node(NodeSpec(name, ((CPU, size), (MEMORY, size), ("pods", 2 * absurd), ("x.io/y", size))))
    before = state.taken.copy()
    for number in range(absurd):
        for name in "ab":
            state.bind(f"{name}{number}", huge, name)
        if number in (0, 1, 2, 3, 4, 7, 15, absurd - 1):
            for asked in (small, huge):
                assert STRATEGIES[strategy].decide(state.snapshot(), asked).node == ""
            assert STRATEGIES[strategy].decide(state.snapshot(), PodSpec(())).node
            assert (state.taken >= 0).all()
    for number in range(absurd):
        for name in "ab":
            state.release(f"{name}{number}")
    assert (state.taken == before).all()
    assert STRATEGIES[strategy].decide(state.snapshot(), small).node
    assert STRATEGIES[strategy].decide(state.snapshot(), huge).node == ""
