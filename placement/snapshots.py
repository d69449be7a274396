"""Snapshots: one cluster at one moment, as a plain value that plans can be made from anywhere.

A snapshot holds what the ledger holds (node and pod specs, who runs where), what waits, and what must not be touched;
classes of pods are written once. It is made from Kubernetes objects, as ``kubectl get … -o json`` prints them or the
API lists them. Files are read and written elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from placement import objects
from placement.errors import ConfigError, PlacementError
from placement.nodes import NamespaceSpec, NodeSpec
from placement.pods import Pod, PodSpec
from placement.problems import Cluster
from placement.rules import matches_labels
from placement.state import ClusterState

KIND = "ClusterSnapshot"
VERSION = 1
NEVER = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "karpenter.sh/do-not-evict": "true",
}
"""Annotations on pods and nodes that forbid touching them, and the value that does."""


FORBIDDEN = "annotation "
"""Begins the reason of what is marked for good; other reasons, such as a disruption budget, come and go."""


class SnapshotError(PlacementError):
    """A snapshot file that cannot be read or used."""


class SnapshotPod(msgspec.Struct, omit_defaults=True):
    """One pod; ``spec`` is an index into the file's specs; ``node`` empty = pending; ``stays`` = why it must not move."""

    uid: str
    name: str
    spec: int
    node: str = ""
    devices: int = 0
    stays: str = ""


class SnapshotFile(msgspec.Struct):
    """The file."""

    kind: str
    version: int
    nodes: list[NodeSpec]
    specs: list[PodSpec]
    pods: list[SnapshotPod]
    namespaces: list[NamespaceSpec] = []
    never_delete: dict[str, str] = {}
    """Node name → why it must stay."""


def cluster_of(snapshot: SnapshotFile, usd_per_hour: Mapping[str, float] | None = None) -> Cluster:
    """The ledger and marks of a snapshot."""
    state = ClusterState()
    for namespace in snapshot.namespaces:
        state.set_namespace(namespace)
    for node in snapshot.nodes:
        state.add_node(node)
    pending, names, never = [], {}, {}
    for pod in snapshot.pods:
        if not 0 <= pod.spec < len(snapshot.specs):
            raise SnapshotError(f"pod {pod.name}: spec number {pod.spec} is not in the snapshot; take a new one")
        spec = snapshot.specs[pod.spec]
        names[pod.uid] = pod.name
        if pod.stays:
            never[pod.uid] = pod.stays
        if pod.node:
            state.bind(pod.uid, spec, pod.node, pod.devices)
        else:
            pending.append(Pod(pod.uid, pod.name, spec))
    return Cluster(state, tuple(pending), names, never, snapshot.never_delete, usd_per_hour)


# ── from Kubernetes objects ───────────────────────────────────────────────────────────────────────────────────


class Budget(msgspec.Struct):
    """policy/v1 PodDisruptionBudget, as far as we read it."""

    class Spec(msgspec.Struct):
        selector: objects.Selector | None = None

    class Status(msgspec.Struct):
        disruptionsAllowed: int = 0

    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


class _List(msgspec.Struct):
    items: list[msgspec.Raw] = []


class _Kind(msgspec.Struct):
    kind: str = ""


def snapshot_of_objects(data: bytes) -> SnapshotFile:
    """Snapshot of a ``kubectl get … -o json`` list. Finished pods are left out; unknown kinds are ignored."""
    try:
        by_kind: dict[str, list[msgspec.Raw]] = {}
        for item in msgspec.json.decode(data, type=_List).items:
            by_kind.setdefault(msgspec.json.decode(item, type=_Kind).kind, []).append(item)
        nodes = [msgspec.json.decode(item, type=objects.Node) for item in by_kind.get("Node", ())]
        pods = [msgspec.json.decode(item, type=objects.Pod) for item in by_kind.get("Pod", ())]
        spaces = [msgspec.json.decode(item, type=objects.Node).metadata for item in by_kind.get("Namespace", ())]
        budgets = [msgspec.json.decode(item, type=Budget) for item in by_kind.get("PodDisruptionBudget", ())]
    except msgspec.DecodeError as error:
        raise SnapshotError(
            f"the input is not a list of Kubernetes objects ({error}); "
            "pipe in `kubectl get nodes,pods,namespaces,pdb -A -o json`"
        ) from error
    if not nodes:
        raise SnapshotError("the input holds no Node; pipe in `kubectl get nodes,pods,namespaces,pdb -A -o json`")
    return snapshot_of(nodes, pods, spaces, budgets)


def snapshot_of(
    nodes: Iterable[objects.Node],
    pods: Iterable[objects.Pod],
    namespaces: Iterable[objects.Metadata] = (),
    budgets: Iterable[Budget] = (),
) -> SnapshotFile:
    """Snapshot of decoded objects; finished pods are left out.

    Raises
    ------
    ConfigError : a quantity does not parse.
    SnapshotError : two pods have one UID, or a priority is not a 32-bit integer.
    """
    nodes, budgets = list(nodes), list(budgets)
    specs: dict[PodSpec, int] = {}
    rows: list[SnapshotPod] = []
    seen: set[str] = set()
    for pod in pods:
        if pod.status.phase in ("Succeeded", "Failed"):
            continue
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        try:
            spec = objects.pod_spec(pod)
        except ConfigError as error:
            raise _named(f"pod {name}", error) from error
        number = specs.setdefault(spec, len(specs))
        stays, uid = _why_stays(pod, budgets), pod.metadata.uid or name
        if uid in seen:
            raise SnapshotError(f"pod {name}: another pod has the same UID {uid}; take a fresh snapshot")
        if not -(2**31) <= spec.priority < 2**31:
            raise SnapshotError(
                f"pod {name}: priority {spec.priority} is out of range; Kubernetes has 32-bit priorities"
            )
        seen.add(uid)
        rows.append(SnapshotPod(uid, name, number, pod.spec.nodeName or "", stays=stays))
    described = []
    for node in nodes:
        try:
            described.append(objects.node_spec(node))
        except ConfigError as error:
            raise _named(f"node {node.metadata.name}", error) from error
    never = {n.metadata.name: why for n in nodes if (why := forbidden(n.metadata))}
    return SnapshotFile(
        KIND,
        VERSION,
        described,
        list(specs),
        rows,
        [objects.namespace_spec(m.name, m.labels) for m in namespaces],
        never,
    )


def _named(what: str, error: ConfigError) -> ConfigError:
    """The same refusal, with the object that it is about."""
    text = str(error)
    return ConfigError(text if text.startswith(what) else f"{what}: {text}")


def forbidden(metadata: objects.Metadata) -> str:
    """The annotation that forbids touching a pod or node, in words; empty when there is none."""
    annotations = metadata.annotations or {}
    return next((f"{FORBIDDEN}{key}={value}" for key, value in NEVER.items() if annotations.get(key) == value), "")


def _why_stays(pod: objects.Pod, budgets: list[Budget]) -> str:
    """Why a plan must not move this pod; empty when nothing says so."""
    if why := forbidden(pod.metadata):
        return why
    if pod.metadata.deletionTimestamp:
        return "it is being deleted"
    labels = pod.metadata.labels or {}
    for budget in budgets:
        same = budget.metadata.namespace == pod.metadata.namespace
        if (
            same
            and budget.status.disruptionsAllowed < 1
            and matches_labels(objects.selector(budget.spec.selector), labels)
        ):
            return f"disruption budget {budget.metadata.name} allows none"
    return ""
