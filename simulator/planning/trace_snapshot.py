"""A trace at one moment as a snapshot, so that plans can be tried on recorded clusters.

The trace is replayed up to that moment with a strategy that is named; what then runs and waits is the snapshot. Every
pod counts as one that its owner would recreate, for a trace has nobody who would not. A gang that waits is a gang of the
snapshot, which one that is not complete yet may not be placed; whoever has run already is planned alone.
"""

from __future__ import annotations

from dataclasses import replace

from placement.planning.snapshots import KIND, VERSION, SnapshotFile, SnapshotPod
from placement.pods import PodSpec
from placement.strategies import strategy_named
from simulator.output import Progress, untold
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace, TraceError


def snapshot_of_trace(
    trace: Trace, *, strategy: str, at_s: int | None, seed: int, progress: Progress = untold
) -> SnapshotFile:
    """State after ``at_s`` seconds of the trace's own clock; None = when the last pod arrives. ``progress`` hears of pods.

    Raises
    ------
    TraceError : no pod runs or waits at that moment, or no node is left.
    """
    arrivals = trace.pods.arrival_s
    if not len(arrivals):
        raise TraceError(f"trace {trace.manifest.name}: has no pod, so there is nothing to plan")
    end_s = int(arrivals[-1]) if at_s is None else at_s
    replay = Replay(trace, strategy_named(strategy), ReplayOptions(end_s=end_s, seed=seed))
    replay.run(progress)
    specs: dict[PodSpec, int] = {}
    owner = f"Trace/{trace.manifest.name}"

    def row(uid: str, spec: PodSpec, node: str = "", devices: int = 0, waits: str = "") -> SnapshotPod:
        owned = spec if spec.owner else replace(spec, owner=owner)
        name = f"{spec.namespace}/{uid}"
        return SnapshotPod(uid, name, specs.setdefault(owned, len(specs)), node, devices, waits=waits)

    state = replay.state
    pods = [row(uid, r.spec, state.names[r.row], r.devices) for uid, r in state.residents.items()]
    pods += [row(replay.uids[p], replay.with_gang(p)) for p in replay.waiting()]
    early = replay.gangs.incomplete(replay.timeline.num_arrived)
    pods += [row(replay.uids[p], replay.with_gang(p), waits="others of its gang have not arrived") for p in early]
    if not pods:
        raise TraceError(
            f"trace {trace.manifest.name}: has no pod at second {end_s:,}; they arrive in seconds {int(arrivals[0]):,} to "
            f"{int(arrivals[-1]):,}, give another --at"
        )
    nodes = [node for node in state.nodes if node is not None]
    if not nodes:
        raise TraceError(f"trace {trace.manifest.name}: has no node at second {end_s}; give another --at")
    return SnapshotFile(KIND, VERSION, nodes, list(specs), pods)
