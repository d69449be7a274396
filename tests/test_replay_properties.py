"""Properties of whole replays of made-up traces: no look-ahead, no broken rule, a log that plays back, repeatability."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from placement.playback import rebuild, verify
from placement.strategies import STRATEGIES
from simulator.replay import Outcome, Replay, ReplayOptions
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import NodeEvent, Trace
from tests.slow_rules import On, fits, taints_ok, wants

few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.sampled_from(["best-fit", "priced", "atc23-fgd", "kube-default", "random", "priced-steady"])


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """A few hundred pods with rules, priorities and gangs on nine nodes, some of which fail and come back."""
    recipe = Recipe(
        seed=draw(st.integers(0, 10_000)),
        days=0.08,
        gpu_nodes=3,
        small_gpu_nodes=3,
        cpu_nodes=3,
        owners=12,
        load=draw(st.sampled_from([0.6, 1.3])),
    )
    made = synthesise(recipe)
    events = []
    for node in made.nodes[:: draw(st.integers(2, 9))]:
        at = draw(st.integers(0, 6000))
        events += [NodeEvent(at, "fail", node.name), NodeEvent(at + 900, "repair", node.name)]
    return made.but(failures=tuple(sorted(events)))


def replayed(trace: Trace, strategy: str) -> Outcome:
    return Replay(trace, STRATEGIES[strategy], ReplayOptions(seed=3, end_s=7000)).run()


@few
@given(traces(), names, st.floats(0.1, 0.9))
def test_cutting_the_trace_at_t_changes_nothing_before_t(trace: Trace, strategy: str, share: float) -> None:
    pods = trace.pods
    if not len(pods):
        return
    cut_s = int(np.quantile(pods.arrival_s, share))
    before_cut = np.flatnonzero(pods.arrival_s < cut_s)
    assume(len(before_cut))  # a replay begins with its first pod, so one without any begins elsewhere
    kept = tuple(e for e in trace.failures if e.time_s < cut_s)
    logs = [replayed(t, strategy).log for t in (trace, trace.but(pods=pods.pick(before_cut), failures=kept))]
    before = [[msgspec.structs.replace(e, detail=None) for e in log if e.time_s < cut_s] for log in logs]
    assert before[0] == before[1]


@few
@given(traces(), names)
def test_no_pod_lands_where_an_independent_checker_sees_a_broken_rule(trace: Trace, strategy: str) -> None:
    nodes = {node.name: node for node in trace.nodes}
    there: dict[str, dict[str, On]] = {name: {} for name in nodes}
    where: dict[str, str] = {}
    for event in replayed(trace, strategy).log:
        if event.kind in ("pod_bound", "pod_assumed") and event.detail is not None:
            node, spec = nodes[event.node], event.detail
            assert fits(spec, node, list(there[event.node].values()))
            assert wants(spec, node)
            assert taints_ok(spec, node)
            there[event.node][event.subject] = On(spec, node, event.devices)
            where[event.subject] = event.node
        elif event.kind in ("pod_released", "pod_forgotten"):
            del there[where.pop(event.subject)][event.subject]


@few
@given(traces(), names)
def test_playing_the_log_back_makes_every_decision_again(trace: Trace, strategy: str) -> None:
    outcome = replayed(trace, strategy)
    assert list(verify(outcome.log, [STRATEGIES[strategy]])) == []
    state = rebuild(outcome.log)
    assert state.knowledge.digest == outcome.knowledge_digest
    total = np.zeros_like(state.taken)
    for resident in state.residents.values():
        total[:, resident.row] += state.delta(resident.spec)
    assert (total == state.taken).all()


@few
@given(traces(), names)
def test_equal_replays_write_equal_logs(trace: Trace, strategy: str) -> None:
    assert replayed(trace, strategy).log.digest() == replayed(trace, strategy).log.digest()
