"""Snapshots: one cluster at one moment, as a plain value that plans can be made from anywhere.

A snapshot holds what the ledger holds (node and pod specs, who runs where), what waits, and what must not be touched;
classes of pods are written once. It is made from Kubernetes objects, as ``kubectl get … -o json`` prints them or the
API lists them. Files are read and written elsewhere.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from placement import objects
from placement.errors import UNREADABLE, ConfigError, PlacementError
from placement.gangs import KINDS, Groups
from placement.marks import Budget, deletion_cost, why_node_stays, why_stays, why_waits
from placement.nodes import NamespaceSpec, NodeSpec
from placement.planning.cluster import Budgets, Cluster
from placement.pods import Labels, Pod, PodSpec
from placement.resources import DEVICES_ANNOTATION, MOST_COUNTED, format_amount
from placement.specs import Axis, namespace_spec, node_spec, pod_spec
from placement.state import ClusterState, devices_mask

KIND = "ClusterSnapshot"
VERSION = 1


class SnapshotError(PlacementError):
    """A snapshot file that cannot be read or used."""


class SnapshotPod(msgspec.Struct, omit_defaults=True):
    """One pod; ``spec`` is an index into the file's specs; ``node`` empty = pending; ``stays`` = why it must not move.

    ``waits`` = why a pending pod is not to be placed now; ``budgets`` are indices into the file's budgets.
    """

    uid: str
    name: str
    spec: int
    node: str = ""
    devices: int = 0
    stays: str = ""
    waits: str = ""
    budgets: tuple[int, ...] = ()
    deletion_cost: int = 0


class SnapshotBudget(msgspec.Struct):
    """A disruption budget: how many of its pods may be down at a time, beyond those that are."""

    name: str
    allowed: int


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
    budgets: list[SnapshotBudget] = []
    left_out: list[str] = []
    """Names of the pods that are bound to nodes that were not listed; they are in no other field."""


def cluster_of(snapshot: SnapshotFile, usd_per_hour: Mapping[str, float] | None = None) -> Cluster:
    """The ledger and marks of a snapshot."""
    state = ClusterState()
    for namespace in snapshot.namespaces:
        state.set_namespace(namespace)
    num_devices: dict[str, int] = {}
    for node in snapshot.nodes:
        if node.name in num_devices:
            raise SnapshotError(f"node {node.name} is in the snapshot twice; take a new one")
        num_devices[node.name] = node.num_gpus
        state.add_node(node)
    pending, not_now, never = [], [], {}
    names: dict[str, str] = {}
    costs: dict[str, int] = {}
    budgets: dict[str, tuple[int, ...]] = {}
    for pod in snapshot.pods:
        if not 0 <= pod.spec < len(snapshot.specs):
            raise SnapshotError(f"pod {pod.name}: spec number {pod.spec} is not in the snapshot; take a new one")
        spec = snapshot.specs[pod.spec]
        _require_row(pod, spec, num_devices, names)
        names[pod.uid] = pod.name
        if pod.stays:
            never[pod.uid] = pod.stays
        if pod.deletion_cost:
            costs[pod.uid] = pod.deletion_cost
        if any(not 0 <= b < len(snapshot.budgets) for b in pod.budgets):
            raise SnapshotError(f"pod {pod.name}: a budget of it is not in the snapshot; take a new one")
        if pod.budgets:
            budgets[pod.uid] = pod.budgets
        if pod.node:
            state.bind(pod.uid, spec, pod.node, pod.devices)
        elif pod.waits:
            not_now.append((Pod(pod.uid, pod.name, spec), pod.waits))
        else:
            pending.append(Pod(pod.uid, pod.name, spec))
    return Cluster(
        state,
        tuple(pending),
        names,
        never,
        snapshot.never_delete,
        usd_per_hour,
        tuple(not_now),
        costs,
        Budgets(budgets, tuple(b.name for b in snapshot.budgets), tuple(b.allowed for b in snapshot.budgets)),
    )


def _require_row(pod: SnapshotPod, spec: PodSpec, num_devices: Mapping[str, int], seen: Container[str]) -> None:
    """Refuse what only a damaged or edited file says."""
    if pod.uid in seen:
        raise SnapshotError(f"pod {pod.name}: another pod has the same UID {pod.uid}; take a fresh snapshot")
    if pod.node and pod.node not in num_devices:
        raise SnapshotError(f"pod {pod.name} is on node {pod.node}, which is not in the snapshot; take a new one")
    if not -(2**31) <= spec.priority < 2**31:
        raise SnapshotError(
            f"pod {pod.name}: priority {spec.priority} is out of range; Kubernetes has 32-bit priorities"
        )
    if pod.devices and (spec.gpu is None or not 0 < pod.devices < 1 << num_devices.get(pod.node, 0)):
        raise SnapshotError(
            f"pod {pod.name} holds devices that it did not ask for, or its node has not; take a new one"
        )


# ── from Kubernetes objects ───────────────────────────────────────────────────────────────────────────────────


class _List(msgspec.Struct):
    items: list[msgspec.Raw] = []


class _Kind(msgspec.Struct):
    kind: str = ""
    apiVersion: str = ""


def snapshot_of_objects(data: bytes) -> SnapshotFile:
    """Snapshot of a ``kubectl get … -o json`` list. Finished pods are left out; unknown kinds are ignored.

    A list that holds any object of a kind that says how many pods a gang needs is taken to hold all of that kind.
    """
    group_kinds, groups = {(kind.version, kind.name): kind for kind in KINDS}, Groups()
    try:
        by_kind: dict[str, list[msgspec.Raw]] = {}
        for item in msgspec.json.decode(data, type=_List).items:
            what = msgspec.json.decode(item, type=_Kind)
            if group := group_kinds.get((what.apiVersion, what.kind)):
                groups.read(group, item)
            else:
                by_kind.setdefault(what.kind, []).append(item)
        nodes = [msgspec.json.decode(item, type=objects.Node) for item in by_kind.get("Node", ())]
        pods = [msgspec.json.decode(item, type=objects.Pod) for item in by_kind.get("Pod", ())]
        spaces = [msgspec.json.decode(item, type=objects.Node).metadata for item in by_kind.get("Namespace", ())]
        budgets = [msgspec.json.decode(item, type=Budget) for item in by_kind.get("PodDisruptionBudget", ())]
    except UNREADABLE as error:
        raise SnapshotError(
            f"the input is not a list of Kubernetes objects ({error}); "
            "pipe in `kubectl get nodes,pods,namespaces,pdb -A -o json`"
        ) from error
    if not nodes and msgspec.json.decode(data, type=_Kind).kind == KIND:
        raise SnapshotError("the input is a snapshot already: ullage plan batch --snapshot FILE")
    if not nodes:
        raise SnapshotError("the input holds no Node; pipe in `kubectl get nodes,pods,namespaces,pdb -A -o json`")
    return snapshot_of(nodes, pods, spaces, budgets, groups)


def snapshot_of(
    nodes: Iterable[objects.Node],
    pods: Iterable[objects.Pod],
    namespaces: Iterable[objects.Metadata] = (),
    budgets: Iterable[Budget] = (),
    groups: Groups | None = None,
) -> SnapshotFile:
    """Snapshot of decoded objects; finished pods are left out, and by name those on nodes that are not listed.

    What ``groups`` say is in the pods that wait. A pod that asks for what makes no sense is neither placed nor moved.

    Raises
    ------
    ConfigError : a quantity does not parse.
    SnapshotError : two pods have one UID, or a priority is not a 32-bit integer.
    """
    nodes, budgets, groups = list(nodes), list(budgets), groups or Groups()
    described = []
    for node in nodes:
        try:
            described.append(node_spec(node))
        except ConfigError as error:
            raise _named(f"node {node.metadata.name}", error) from error
    places = {"", *(node.name for node in described)}
    pods = [p for p in pods if p.status.phase not in ("Succeeded", "Failed")]
    left_out = [f"{p.metadata.namespace}/{p.metadata.name}" for p in pods if (p.spec.nodeName or "") not in places]
    pods = [p for p in pods if (p.spec.nodeName or "") in places]
    waits = why_waits(pods, groups)
    covered: dict[tuple[str, Labels], tuple[int, ...]] = {}  # pods with the same labels have the same budgets
    num_devices = {node.name: node.num_gpus for node in described}
    specs: dict[PodSpec, int] = {}
    rows: list[SnapshotPod] = []
    seen: set[str] = set()
    axis = Axis()
    for offering in described:
        axis.offer(offering)
    for pod in pods:
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        spec, nonsense = _spec(name, pod)
        spec = groups.resolved(axis.limited(spec))
        number = specs.setdefault(spec, len(specs))
        kind = spec.namespace, spec.labels
        if kind not in covered:
            covered[kind] = tuple(b for b, budget in enumerate(budgets) if budget.covers(pod))
        covering = covered[kind]
        stays, uid = why_stays(pod, [budgets[b] for b in covering]) or nonsense, pod.metadata.uid or name
        if uid in seen:
            raise SnapshotError(f"pod {name}: another pod has the same UID {uid}; take a fresh snapshot")
        if not -(2**31) <= spec.priority < 2**31:
            raise SnapshotError(
                f"pod {name}: priority {spec.priority} is out of range; Kubernetes has 32-bit priorities"
            )
        seen.add(uid)
        home = pod.spec.nodeName or ""
        devices = 0
        if home and spec.gpu is not None:
            given = devices_mask((pod.metadata.annotations or {}).get(DEVICES_ANNOTATION, ""))
            if given.bit_count() == spec.gpu.count and not given >> num_devices.get(home, 0):
                devices = given  # else nobody knows which, as the ledger has it
        waiting = (waits.get(uid, "") or nonsense) if not home else ""
        rows.append(SnapshotPod(uid, name, number, home, devices, stays, waiting, covering, deletion_cost(pod)))
    never = {n.metadata.name: why for n in nodes if (why := why_node_stays(n.metadata))}
    return SnapshotFile(
        KIND,
        VERSION,
        described,
        list(specs),
        rows,
        [namespace_spec(m.name, m.labels) for m in namespaces],
        never,
        [SnapshotBudget(f"{b.metadata.namespace}/{b.metadata.name}", b.status.disruptionsAllowed) for b in budgets],
        left_out,
    )


def _spec(name: str, pod: objects.Pod) -> tuple[PodSpec, str]:
    """The class of a pod, and why it is neither placed nor moved where it asks for what makes no sense: that is one tenant's
    mistake, and no reason to plan for nobody.

    Raises
    ------
    ConfigError : a quantity does not parse, which no API server takes.
    """
    try:
        spec = pod_spec(pod)
    except ConfigError as error:
        why = str(error).removeprefix(f"pod {name}: ")
    else:
        absurd = next((resource for resource, amount in spec.request if amount > MOST_COUNTED), "")
        if not absurd:
            return spec, ""
        why = f"it asks for {format_amount(spec.amounts[absurd], absurd)} of {absurd}"
    try:
        return pod_spec(pod, at_any_rate=True), why
    except ConfigError as error:
        raise _named(f"pod {name}", error) from error


def _named(what: str, error: ConfigError) -> ConfigError:
    """The same refusal, with the object that it is about."""
    text = str(error)
    return ConfigError(text if text.startswith(what) else f"{what}: {text}")
