"""Made-up traces from a seed: owners, daily rhythm, heavy tails, gangs, rules, GPU shares.

Everything that ships is made here. Shapes of distributions follow what public traces show (lognormal lifetimes with a
heavy tail, a few owners with most pods, GPU shares that leave slivers); no row is taken from any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.nodes import NodeSpec, Taint
from placement.owners import HOSTNAME, ZONE
from placement.pods import GpuRequest, HostPort, NodeRules, PodRules, PodSpec, PodTerm, Requirement, Spread, Toleration
from placement.resources import CPU, MEMORY, PODS
from simulator.traces.trace import Manifest, Pods, Trace, Usage

DAY_S = 86_400
GIB = 1 << 30
ZONES = ("a", "b", "c")
GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")
TOLERATES_GPU = Toleration("nvidia.com/gpu", "Exists")


def _asked(default: float, text: str) -> Any:
    """A field that the command line offers as an option with this help."""
    return field(default=default, metadata={"help": text})


MOST = {
    "days": 1000,
    "load": 100,
    "owners": 100_000,
    "gpu-nodes": 100_000,
    "small-gpu-nodes": 100_000,
    "cpu-nodes": 100_000,
}
"""The largest trace that is made up: what is above is a slip, and would fill the memory first."""


@dataclass(frozen=True)
class Recipe:
    """What to make up."""

    seed: int = _asked(7, "Equal seeds make equal traces, byte for byte.")
    days: float = _asked(2.0, "Length, in days.")
    load: float = _asked(1.0, "Offered GPU time over the fleet's; above 1 something must wait.")
    gpu_nodes: int = _asked(40, "Nodes with eight A100.")
    small_gpu_nodes: int = _asked(20, "Nodes with four T4.")
    cpu_nodes: int = _asked(20, "Nodes without a GPU.")
    owners: int = _asked(60, "Workloads that pods belong to.")
    rules: bool = _asked(True, "Selectors, taints, anti-affinity, spreading, host ports.")
    usage: bool = _asked(False, "Samples of what pods used.")

    def __post_init__(self) -> None:
        if self.days <= 0 or self.load <= 0:
            raise ConfigError(f"synth: days={self.days} and load={self.load} must be > 0")
        if min(self.gpu_nodes, self.small_gpu_nodes, self.cpu_nodes) < 0 or self.owners < 1:
            raise ConfigError("synth: node counts must be >= 0 and owners >= 1")
        asked = {"days": self.days, "load": self.load, "owners": self.owners}
        asked |= {"gpu-nodes": self.gpu_nodes, "small-gpu-nodes": self.small_gpu_nodes, "cpu-nodes": self.cpu_nodes}
        for name, number in asked.items():
            if number > MOST[name]:
                raise ConfigError(f"synth: --{name} {number:g} is more than is made up; give at most {MOST[name]:,}")
        if self.gpu_nodes + self.small_gpu_nodes == 0:
            raise ConfigError("synth: needs at least one GPU node; load is measured in GPU time")


def synthesise(recipe: Recipe) -> Trace:
    """The trace of a recipe; equal recipes give equal traces, byte for byte.

    Raises
    ------
    ConfigError : no owner that was drawn asks for a GPU.
    """
    rng = np.random.default_rng(recipe.seed)
    nodes = _fleet(recipe)
    classes = [_owner(i, recipe, rng) for i in range(recipe.owners)]
    mean_s = rng.lognormal(np.log(5400), 0.9, recipe.owners)
    popularity = rng.pareto(1.3, recipe.owners) + 0.05
    gpu = np.array([0 if c.gpu is None else c.gpu.total_milli for c in classes], np.float64)
    popularity *= np.where(gpu > 4000, 0.15, 1.0)
    weight = popularity / popularity.sum()
    capacity = sum(n.num_gpus for n in nodes) * 1000
    per_pod = float((weight * gpu * mean_s * np.exp(0.5)).sum())
    if not per_pod:
        raise ConfigError("synth: no owner asks for a GPU, and load is measured in GPU time; give more --owners")
    rate = recipe.load * capacity / per_pod
    num = int(rate * recipe.days * DAY_S)
    arrival = np.sort(_diurnal(rng, num, recipe.days))
    owner = rng.choice(recipe.owners, num, p=weight)
    gang = np.full(num, -1, np.int64)
    _make_gangs(rng, owner, arrival, gang)
    lifetime = np.clip(rng.lognormal(np.log(mean_s[owner]), 1.0), 20, DAY_S).astype(np.int64)
    pods = Pods.of(
        name=np.array([f"{classes[o].owner.split('/')[1]}-{i:05d}" for i, o in enumerate(owner)], object),
        spec=owner,
        arrival_s=arrival,
        departure_s=arrival + lifetime,
        gang=gang,
    )
    specs, index = _distinct(classes)
    pods = Pods(pods.name, index[owner], pods.arrival_s, pods.departure_s, pods.gang)
    usage = _usage(rng, pods, specs) if recipe.usage and num else Usage.empty()
    notes = (f"made up: {recipe}",)
    trace = Trace(Manifest(f"synth-{recipe.seed}", "synth", recipe.seed, notes), specs, tuple(nodes), pods, usage=usage)
    trace.check()
    return trace


def _distinct(classes: list[PodSpec]) -> tuple[tuple[PodSpec, ...], np.ndarray]:
    known: dict[PodSpec, int] = {}
    index = np.array([known.setdefault(spec, len(known)) for spec in classes], np.int64)
    return tuple(known), index


def _fleet(recipe: Recipe) -> list[NodeSpec]:
    def node(name: str, i: int, cores: int, gib: int, gpus: int, model: str) -> NodeSpec:
        labels = tuple(sorted({ZONE: ZONES[i % 3], HOSTNAME: name}.items()))
        taints = (GPU_TAINT,) if gpus and recipe.rules else ()
        offered = ((CPU, cores * 1000 - 400), (MEMORY, gib * GIB - 2 * GIB), (PODS, 250))
        return NodeSpec(name, offered, labels, taints, num_gpus=gpus, gpu_model=model)

    fleet = [node(f"big-{i:03d}", i, 96, 768, 8, "A100") for i in range(recipe.gpu_nodes)]
    fleet += [node(f"small-{i:03d}", i, 64, 256, 4, "T4") for i in range(recipe.small_gpu_nodes)]
    fleet += [node(f"cpu-{i:03d}", i, 64, 256, 0, "") for i in range(recipe.cpu_nodes)]
    return fleet


def _owner(i: int, recipe: Recipe, rng: np.random.Generator) -> PodSpec:
    """One owner's pod class."""
    kind = str(rng.choice(["Deployment", "Job", "CronJob"], p=[0.4, 0.4, 0.2]))
    name = f"{kind.lower()}-{i:02d}"
    draw = rng.random()
    gpu: GpuRequest | None = None
    if draw > 0.2:
        models = ("A100",) if rng.random() < 0.12 else ()
        if draw < 0.6:
            gpu = GpuRequest(1, int(rng.integers(1, 20)) * 50, models)
        elif draw < 0.93:
            gpu = GpuRequest(1, 1000, models)
        else:
            gpu = GpuRequest(int(rng.choice([2, 4, 8], p=[0.5, 0.3, 0.2])), 1000, ("A100",))
    share = 1.0 if gpu is None else gpu.total_milli / 1000
    cores = float(np.clip(rng.lognormal(1.9, 0.7) * share, 0.25, 40))
    memory = float(np.clip(cores * rng.lognormal(1.4, 0.5), 0.5, 200))
    labels = (("app", name),)
    selector = (Requirement("app", "In", (name,)),)
    pod_rules, node_rules = PodRules(), NodeRules(tolerations=(TOLERATES_GPU,) if gpu or rng.random() < 0.3 else ())
    if recipe.rules:
        style = rng.random()
        if style < 0.06:
            pod_rules = PodRules(spread=(Spread(ZONE, 2, True, selector),))
        elif style < 0.12:
            pod_rules = PodRules(max_per_node=int(rng.integers(2, 6)))
        elif style < 0.16:
            pod_rules = PodRules(spread=(Spread(HOSTNAME, 1, False, selector),))
        elif style < 0.18 and gpu is None:
            pod_rules = PodRules(host_ports=(HostPort(9000 + i),))
        elif style < 0.22 and gpu is None:
            pod_rules = PodRules(anti_affinity=(PodTerm(HOSTNAME, selector),))
        elif style < 0.30:
            node_rules = NodeRules(((ZONE, str(rng.choice(list(ZONES)))),), tolerations=node_rules.tolerations)
    return PodSpec(
        ((CPU, int(cores * 1000)), (MEMORY, int(memory * GIB) >> 20 << 20)),
        gpu,
        namespace=f"team-{i % 6}",
        owner=f"{kind}/{name}",
        labels=labels,
        priority=int(rng.choice([0, 0, 0, 100])) if kind == "Deployment" and recipe.rules else 0,
        node_rules=node_rules,
        pod_rules=pod_rules,
    )


def _diurnal(rng: np.random.Generator, num: int, days: float) -> np.ndarray:
    """``(num,)`` int64 seconds: a Poisson process with a daily wave, by thinning uniform draws."""
    times = rng.random(3 * num) * days * DAY_S
    keep = rng.random(3 * num) < 0.6 + 0.4 * np.sin(2 * np.pi * (times / DAY_S - 0.3))
    kept = times[keep][:num]
    extra = rng.random(num - len(kept)) * days * DAY_S
    return np.concatenate([kept, extra]).astype(np.int64)


def _make_gangs(rng: np.random.Generator, owner: np.ndarray, arrival: np.ndarray, gang: np.ndarray) -> None:
    """Turn some arrivals into gangs: the next few pods become the same owner's, at the same second."""
    num = len(owner)
    for number, start in enumerate(np.flatnonzero(rng.random(num) < 0.01)):
        members = slice(start, min(start + int(rng.integers(2, 9)), num))
        owner[members] = owner[start]
        arrival[members] = arrival[start]
        gang[members] = number


def _usage(rng: np.random.Generator, pods: Pods, specs: tuple[PodSpec, ...]) -> Usage:
    """What each pod used, every five minutes: a level far below the request, a daily wave, bursts."""
    step = 300
    request = np.array([[s.amount(CPU), s.amount(MEMORY)] for s in specs], np.float64)[pods.spec]
    level = rng.beta(1.5, 6, len(pods))
    pod, time, cpu, memory = [], [], [], []
    for i in range(len(pods)):
        times = np.arange(pods.arrival_s[i] // step * step, pods.departure_s[i], step)
        wave = 1 + 0.4 * np.sin(2 * np.pi * times / DAY_S)
        burst = np.where(rng.random(len(times)) < 0.02, rng.uniform(1.5, 4), 1.0)
        pod.append(np.full(len(times), i))
        time.append(times)
        cpu.append(np.minimum(request[i, 0] * level[i] * wave * burst, request[i, 0] * 1.1))
        memory.append(
            np.minimum(request[i, 1] * (0.2 + 0.6 * level[i]) * np.linspace(0.8, 1, len(times)), request[i, 1])
        )
    joined = [np.concatenate(c).astype(np.int64) for c in (pod, time, cpu, memory)]
    return Usage(*joined)
