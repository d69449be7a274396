"""Questions as Cluster Autoscaler asks them: its ``expander.proto`` with Kubernetes' own messages, more of them than we read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BestOptionsRequest": {
        "options": (1, "*Option"),
        "nodeMap": (2, "*Node by name"),
        "nodeBytesMap": (3, "*bytes by name"),
    },
    "Option": {
        "nodeGroupId": (1, "string"),
        "nodeCount": (2, "int32"),
        "debug": (3, "string"),
        "pod": (4, "*Pod"),
        "podBytes": (5, "*bytes"),
    },
    "Quantity": {"string": (1, "string")},
    "OwnerReference": {"kind": (1, "string"), "name": (3, "string"), "uid": (4, "string")},
    "ObjectMeta": {
        "name": (1, "string"),
        "generateName": (2, "string"),
        "namespace": (3, "string"),
        "uid": (5, "string"),
        "generation": (7, "int32"),
        "labels": (11, "*string by name"),
        "annotations": (12, "*string by name"),
        "ownerReferences": (13, "*OwnerReference"),
    },
    "ResourceRequirements": {"limits": (1, "*Quantity by name"), "requests": (2, "*Quantity by name")},
    "EnvVar": {"name": (1, "string"), "value": (2, "string")},
    "Container": {
        "name": (1, "string"),
        "image": (2, "string"),
        "command": (3, "*string"),
        "env": (7, "*EnvVar"),
        "resources": (8, "ResourceRequirements"),
        "stdin": (16, "bool"),
        "restartPolicy": (24, "string"),
    },
    "PodSpec": {
        "containers": (2, "*Container"),
        "restartPolicy": (3, "string"),
        "nodeSelector": (7, "*string by name"),
        "hostNetwork": (11, "bool"),
        "schedulerName": (19, "string"),
        "initContainers": (20, "*Container"),
        "priority": (25, "int32"),
        "overhead": (32, "*Quantity by name"),
        "resources": (40, "ResourceRequirements"),
    },
    "PodStatus": {"phase": (1, "string"), "message": (3, "string")},
    "Pod": {"metadata": (1, "ObjectMeta"), "spec": (2, "PodSpec"), "status": (3, "PodStatus")},
    "Taint": {"key": (1, "string"), "value": (2, "string"), "effect": (3, "string")},
    "NodeSpec": {"providerID": (3, "string"), "unschedulable": (4, "bool"), "taints": (5, "*Taint")},
    "NodeStatus": {
        "capacity": (1, "*Quantity by name"),
        "allocatable": (2, "*Quantity by name"),
        "phase": (3, "string"),
    },
    "Node": {"metadata": (1, "ObjectMeta"), "spec": (2, "NodeSpec"), "status": (3, "NodeStatus")},
}
"""Message → field → its number and type; ``*`` many, ``by name`` a map. Numbers are those of Kubernetes 1.36."""
PLAIN = {"string": FIELD.TYPE_STRING, "bytes": FIELD.TYPE_BYTES, "int32": FIELD.TYPE_INT32, "bool": FIELD.TYPE_BOOL}


def _field(into: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    many, kind = kind.startswith("*"), kind.removeprefix("*")
    found = into.field.add(name=name, number=number, label=FIELD.LABEL_REPEATED if many else FIELD.LABEL_OPTIONAL)
    if kind.endswith(" by name"):
        entry = into.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, kind.removesuffix(" by name"))
        found.type, found.type_name = FIELD.TYPE_MESSAGE, f".upstream.{into.name}.{entry.name}"
    elif kind in PLAIN:
        found.type = PLAIN[kind]
    else:
        found.type, found.type_name = FIELD.TYPE_MESSAGE, f".upstream.{kind}"


def upstream(message: str) -> Any:
    """The class of a message as the autoscaler has it."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"upstream.{message}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="upstream.proto", package="upstream", syntax="proto3")
    for name, parts in MESSAGES.items():
        into = file.message_type.add(name=name)
        for field, (number, kind) in parts.items():
            _field(into, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def amounts(quantities: Mapping[str, str]) -> dict[str, Any]:
    """Quantities of a message."""
    return {name: upstream("Quantity")(string=text) for name, text in quantities.items()}


def container(requests: Mapping[str, str], **more: Any) -> Any:
    """A container with what nobody here reads."""
    resources = upstream("ResourceRequirements")(limits=amounts({"cpu": "64"}), requests=amounts(requests))
    env = [upstream("EnvVar")(name="MODE", value="fast")]
    return upstream("Container")(name="c", image="app:1", command=["run"], env=env, resources=resources, **more)


def pod(
    name: str,
    cpu: str = "1",
    memory: str = "1Gi",
    more: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Any:
    """A pod that waits; ``more`` are further requests, ``spec`` what else it says."""
    owner = upstream("OwnerReference")(kind="ReplicaSet", name="web", uid="o")
    meta = upstream("ObjectMeta")(
        name=name,
        namespace="shop",
        uid=f"uid-{name}",
        labels={"app": "web"},
        annotations={"a": "b"},
        ownerReferences=[owner],
    )
    plain = {
        "containers": [container({"cpu": cpu, "memory": memory, **(more or {})})],
        "restartPolicy": "Always",
        "nodeSelector": {"pool": "any"},
        "priority": 7,
    }
    status = upstream("PodStatus")(phase="Pending", message="0/3 nodes are available")
    return upstream("Pod")(metadata=meta, spec=upstream("PodSpec")(**{**plain, **(spec or {})}), status=status)


def node(
    shape: str, cpu: str, memory: str, more: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
) -> Any:
    """What a group's next node would be."""
    offered = {"cpu": cpu, "memory": memory, "pods": "110", **(more or {})}
    meta = upstream("ObjectMeta")(
        name=f"template-{shape}", labels={"node.kubernetes.io/instance-type": shape, **(labels or {})}
    )
    spec = upstream("NodeSpec")(providerID="x://1", taints=[upstream("Taint")(key="k", effect="NoSchedule")])
    status = upstream("NodeStatus")(capacity=amounts({"cpu": "999"}), allocatable=amounts(offered), phase="Running")
    return upstream("Node")(metadata=meta, spec=spec, status=status)


def question(
    options: Mapping[str, tuple[int, Iterable[Any]]], nodes: Mapping[str, Any], *, as_bytes: bool = False
) -> bytes:
    """Group → how many nodes and for which pods; ``as_bytes`` as autoscalers for Kubernetes 1.35 and newer put it."""
    asked = upstream("BestOptionsRequest")()
    for group, (count, pods) in options.items():
        option = asked.options.add(nodeGroupId=group, nodeCount=count, debug=f"{group} x {count}")
        if as_bytes:
            option.podBytes.extend(each.SerializeToString() for each in pods)
        else:
            option.pod.extend(pods)
    for group, each in nodes.items():
        if as_bytes:
            asked.nodeBytesMap[group] = each.SerializeToString()
        else:
            asked.nodeMap[group].CopyFrom(each)
    data: bytes = asked.SerializeToString()
    return data
