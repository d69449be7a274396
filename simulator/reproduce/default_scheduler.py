"""What kube-scheduler 1.36 does with replica sets on plain nodes: the rival of "Priority Matters".

The strategy ``kube-default`` on a ledger, for pods that ask for CPU and memory only and belong to replica sets: the
default profile with the system's default spread, the rotating sample of nodes in large clusters, random ties, and
default preemption, which looks at every node.
"""

from __future__ import annotations

import numpy as np

from placement.nodes import NodeSpec
from placement.owners import DEFAULT_SPREAD, HOSTNAME
from placement.pods import PodRules, PodSpec, Requirement, Spread
from placement.resources import CPU, MEMORY, NOT_FEASIBLE, PODS, FloatArray, IntArray
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from simulator.delivery import num_sampled
from simulator.planning.instances import PriorityInstance, labelled_random
from simulator.preemption import Preemption, choose_victims

UNPLACED = -1
PROFILE = STRATEGIES["kube-default"]


def _spec(instance: PriorityInstance, s: int) -> PodSpec:
    """The class of a replica set's pods."""
    label = ("set", f"s{s}")
    siblings = (Requirement(label[0], "In", (label[1],)),)
    cpu, memory = instance.request[:, s].tolist()
    return PodSpec(
        ((CPU, cpu), (MEMORY, memory)),
        labels=(label,),
        priority=int(instance.priority[s]),
        pod_rules=PodRules(
            spread=tuple(Spread(key, skew, False, siblings, is_default=True) for key, skew in DEFAULT_SPREAD)
        ),
    )


class DefaultScheduler:
    """Nodes and pods while the default scheduler works through the queue; pods are replica sets one after the other."""

    def __init__(self, instance: PriorityInstance) -> None:
        self.set_of = np.repeat(np.arange(len(instance.replicas)), instance.replicas)
        self.specs = [_spec(instance, s) for s in range(len(instance.replicas))]
        self.node_of: IntArray = np.full(len(self.set_of), UNPLACED, np.int64)
        self.state = ClusterState()
        cpu, memory = instance.allocatable.tolist()
        offer = ((CPU, cpu), (MEMORY, memory), (PODS, instance.num_pods))
        for i in range(instance.num_nodes):
            self.state.add_node(NodeSpec(f"n{i}", offer, labels=((HOSTNAME, f"n{i}"),)))
        self._clock = 0
        self._next_node = 0

    def spec(self, pod: int) -> PodSpec:
        """The class of a pod."""
        return self.specs[self.set_of[pod]]

    def bind(self, pod: int, node: int) -> None:
        """A pod starts."""
        self._clock += 1
        self.node_of[pod] = node
        self.state.bind(str(pod), self.spec(pod), self.state.names[node], time_s=self._clock)

    def evict(self, pod: int) -> None:
        """A pod is gone, and pending again."""
        self.node_of[pod] = UNPLACED
        self.state.release(str(pod))

    def equals(self, pod: int) -> IntArray:
        """The best of the feasible nodes that are looked at, in that order; none where none is feasible."""
        spec, snapshot = self.spec(pod), self.state.snapshot()
        feasible = PROFILE.program(self.state).row(spec) > NOT_FEASIBLE
        num_nodes, wanted = len(feasible), num_sampled(len(feasible))
        order = np.roll(np.arange(num_nodes), -self._next_node)
        found = np.flatnonzero(feasible[order])[:wanted]
        processed = int(found[-1]) + 1 if len(found) == wanted else num_nodes
        self._next_node = (self._next_node + processed) % num_nodes
        nodes: IntArray = order[found]
        if not len(nodes):
            return nodes
        candidates = np.zeros(num_nodes, np.bool_)
        candidates[nodes] = True
        scores = PROFILE.scores(snapshot, spec, candidates)[nodes]
        return nodes[scores == scores.max()]

    def preempt(self, pod: int) -> Preemption | None:
        """Whom to evict for a pod, and where; None when that does not help."""
        return choose_victims(self.state, self.spec(pod), at_least=self.state.num_rows)


def default_placement(instance: PriorityInstance) -> IntArray:
    """``(P,)`` node of each pod, replica sets laid out one after the other; ``-1`` = pending.

    Replica sets arrive one by one; after a preemption its victims are recreated and everything pending is tried
    again, higher priority first. Ties are settled by the instance's own stream.
    """
    scheduler, ties = DefaultScheduler(instance), labelled_random(instance.seed, "ties")
    pending: list[int] = []
    for s in range(len(instance.replicas)):
        queue = _by_priority(scheduler, np.flatnonzero(scheduler.set_of == s).tolist())
        while queue:
            pod = queue.pop(0)
            best = scheduler.equals(pod)
            if len(best):
                scheduler.bind(pod, int(best[ties.randrange(len(best))]))
                continue
            plan = scheduler.preempt(pod)
            if plan is None:
                pending.append(pod)
                continue
            gone = [int(uid) for uid in plan.victims]
            for victim in gone:
                scheduler.evict(victim)
            scheduler.bind(pod, scheduler.state.row_of[plan.node])
            queue, pending = _by_priority(scheduler, queue + pending + gone), []
    return scheduler.node_of


def _by_priority(scheduler: DefaultScheduler, pods: list[int]) -> list[int]:
    return sorted(pods, key=lambda pod: -scheduler.spec(pod).priority)


def placed_share(instance: PriorityInstance, node_of: IntArray) -> FloatArray:
    """``(R,)`` share of what all nodes offer that placed pods ask for."""
    placed = np.repeat(instance.request, instance.replicas, axis=1)[:, node_of >= 0].sum(axis=1)
    return np.asarray(placed / (instance.allocatable * instance.num_nodes), np.float64)
