"""Hypothesis strategies for small clusters and pods, shared by every property test."""

from __future__ import annotations

from hypothesis import strategies as st

from placement.nodes import NodeSpec, Taint
from placement.pods import (
    GpuRequest,
    HostPort,
    NodeRules,
    NodeTerm,
    PodRules,
    PodSpec,
    PodTerm,
    Requirement,
    Spread,
    Toleration,
)

KEYS = ("zone", "disk", "kubernetes.io/hostname")
VALUES = ("a", "b", "3")
APPS = ("web", "db")

taints = st.builds(
    Taint,
    st.sampled_from(["gpu", "spot"]),
    st.sampled_from(["", "x"]),
    st.sampled_from(["NoSchedule", "PreferNoSchedule"]),
)


@st.composite
def node_specs(draw: st.DrawFn, index: int = 0) -> NodeSpec:
    """A node with a few labels, taints and devices."""
    labels = {key: draw(st.sampled_from(VALUES)) for key in KEYS[:2] if draw(st.booleans())}
    labels[KEYS[2]] = f"node-{index}"
    return NodeSpec(
        f"node-{index}",
        (
            ("cpu", draw(st.integers(0, 16)) * 1000),
            ("memory", draw(st.integers(0, 64)) << 30),
            ("pods", draw(st.integers(1, 6))),
        ),
        tuple(sorted(labels.items())),
        tuple(draw(st.lists(taints, max_size=2))),
        draw(st.integers(0, 9)) == 0,
        num_gpus=draw(st.sampled_from([0, 0, 1, 2, 4])),
        gpu_model=draw(st.sampled_from(["A", "B"])),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 7) -> list[NodeSpec]:
    """One to ``most`` nodes."""
    return [draw(node_specs(i)) for i in range(draw(st.integers(1, most)))]


requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(KEYS[:2]),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=2, unique=True).map(tuple),
    ),
    st.builds(Requirement, st.sampled_from(KEYS[:2]), st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement, st.sampled_from(KEYS[:2]), st.sampled_from(["Gt", "Lt"]), st.sampled_from([("2",), ("4",), ("x",)])
    ),
)
fields = st.builds(
    Requirement, st.just("metadata.name"), st.sampled_from(["In", "NotIn"]), st.sampled_from([("node-0",), ("node-1",)])
)
node_terms = st.builds(NodeTerm, st.lists(requirements, max_size=2).map(tuple), st.lists(fields, max_size=1).map(tuple))
app_selectors = st.one_of(
    st.none(),
    st.just(()),
    st.sampled_from(APPS).map(lambda app: (Requirement("app", "In", (app,)),)),
    st.sampled_from(APPS).map(lambda app: (Requirement("app", "NotIn", (app,)),)),
)
pod_terms = st.builds(PodTerm, st.sampled_from(KEYS), app_selectors, st.sampled_from([(), ("default",), ("other",)]))
spreads = st.builds(
    Spread,
    st.sampled_from(KEYS),
    st.integers(1, 2),
    st.just(True),
    app_selectors,
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
tolerations = st.builds(
    Toleration,
    st.sampled_from(["", "gpu", "spot"]),
    st.sampled_from(["Exists", "Equal"]),
    st.sampled_from(["", "x"]),
    st.sampled_from(["", "NoSchedule"]),
)
gpus = st.one_of(
    st.none(),
    st.builds(
        GpuRequest, st.just(1), st.integers(1, 20).map(lambda n: n * 50), st.sampled_from([(), ("A",), ("A", "B")])
    ),
    st.builds(GpuRequest, st.sampled_from([1, 2]), st.just(1000), st.just(())),
)


@st.composite
def pod_specs(draw: st.DrawFn, *, rules: bool = True) -> PodSpec:
    """A class of pods; with ``rules``, some of the hard ones."""
    node_rules, pod_rules = NodeRules(), PodRules()
    if rules:
        node_rules = NodeRules(
            node_selector=draw(st.sampled_from([(), (), (("zone", "a"),)])),
            affinity=draw(st.one_of(st.none(), st.none(), st.lists(node_terms, max_size=2).map(tuple))),
            tolerations=tuple(draw(st.lists(tolerations, max_size=2))),
        )
        pod_rules = PodRules(
            affinity=tuple(draw(st.lists(pod_terms, max_size=1))) if draw(st.booleans()) else (),
            anti_affinity=tuple(draw(st.lists(pod_terms, max_size=1))) if draw(st.booleans()) else (),
            spread=tuple(draw(st.lists(spreads, max_size=2))) if draw(st.booleans()) else (),
            host_ports=draw(
                st.sampled_from([(), (), (HostPort(80),), (HostPort(80, "TCP", "10.0.0.1"),), (HostPort(80, "UDP"),)])
            ),
            max_per_node=draw(st.sampled_from([0, 0, 1, 2])),
        )
    return PodSpec(
        (("cpu", draw(st.integers(0, 6)) * 500), ("memory", draw(st.integers(0, 8)) << 30)),
        draw(gpus),
        namespace=draw(st.sampled_from(["default", "other"])),
        owner=draw(st.sampled_from(["", "Job/a"])),
        labels=(("app", draw(st.sampled_from(APPS))),),
        priority=draw(st.sampled_from([0, 0, 10])),
        node_rules=node_rules,
        pod_rules=pod_rules,
        leaving=draw(st.sampled_from([False, False, False, True])),
    )
