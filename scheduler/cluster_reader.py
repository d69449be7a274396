"""A cluster's state in one go, for commands that run once: the objects that a plan needs, listed and made a snapshot.

The lists are read one after another, so they are not of one instant: a pod that appears on a node that came later is
left out, and whoever acts on a plan looks again before each step.
"""

from __future__ import annotations

from typing import Any

import msgspec

from placement import objects
from placement.errors import UNREADABLE
from placement.gangs import KINDS, Groups, Kind
from placement.marks import Budget
from placement.planning.snapshots import SnapshotError, SnapshotFile, snapshot_of
from scheduler.errors import ApiError
from scheduler.kube import KubeClient

BUDGETS = "/apis/policy/v1/poddisruptionbudgets"


async def listed(client: KubeClient, path: str, kind: Any) -> list[Any]:
    """Every object of a list, decoded as ``kind``.

    Raises
    ------
    ApiError : it cannot be listed, or an object cannot be read.
    """
    decode = msgspec.json.Decoder(kind).decode
    found = []
    async for page in client.list_pages(path, page_size=client.settings.page_size):
        try:
            found += [decode(raw) for raw in page.items or ()]
        except UNREADABLE as error:
            raise ApiError(f"GET {path}: an object cannot be read: {error}") from error
    return found


async def listed_namespaces(client: KubeClient) -> list[objects.Metadata]:
    """Names and labels of all namespaces. Raises as :func:`listed` does."""
    return [one.metadata for one in await listed(client, "/api/v1/namespaces", objects.Node)]


async def listed_groups(client: KubeClient) -> Groups:
    """What objects say of gangs; kinds that the server does not serve or grant say nothing, and gangs of those that it cannot
    list now wait, as do those whose own object cannot be read.

    Raises
    ------
    ApiError : the API does not answer.
    """
    groups, unread = Groups(), set[Kind]()
    groups.is_unread = unread.__contains__
    for kind in KINDS:
        try:
            found = await listed(client, f"/apis/{kind.version}/{kind.plural}", msgspec.Raw)
        except ApiError as error:
            if error.status >= 500:
                unread.add(kind)
            elif error.status not in (403, 404):
                raise
            continue
        groups.served.add(kind)
        for one in found:
            groups.read(kind, one)
    return groups


async def take_snapshot(client: KubeClient) -> SnapshotFile:
    """Nodes, pods, namespaces, disruption budgets and what says how many pods gangs need, now.

    Raises
    ------
    ApiError : a list is refused or cut. SnapshotError : the cluster has no node.
    """
    pods = await listed(client, "/api/v1/pods", objects.Pod)
    nodes = await listed(client, "/api/v1/nodes", objects.Node)
    spaces = await listed_namespaces(client)
    budgets = await listed(client, BUDGETS, Budget)
    groups = await listed_groups(client)
    if not nodes:
        raise SnapshotError(f"{client.base} has no nodes, so there is nothing to plan; check --context")
    return snapshot_of(nodes, pods, spaces, budgets, groups)
