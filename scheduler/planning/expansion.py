"""Cluster Autoscaler's question, from bytes to bytes; in a worker, for a question may be as large as all pods that wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # the library has no types

from placement import objects
from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.planning.expansion import Costs, Offer, Request, costs_of
from placement.planning.plans import Deadline
from placement.requests import effective_requests
from placement.specs import node_spec
from scheduler._pb import expander_pb2 as pb
from scheduler.planning.prices import Prices, read_prices

TIME_S = 1.5
"""To plan; the autoscaler waits 5 s."""
TOLD = 4
"""Groups that are told of in words; there may be hundreds."""


class Unpriced(ConfigError):
    """What groups cost is not known."""


class Advice(NamedTuple):
    """The answer's bytes, and what it says in words."""

    answer: bytes
    groups: tuple[str, ...]
    words: str


def _read(kind: Any, data: bytes, what: str) -> Any:
    message = kind()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{what} cannot be read; is this Cluster Autoscaler, of a version that is supported?"
        ) from error
    return message


def _quantities(amounts: Mapping[str, pb.Quantity]) -> objects.Quantities:
    return {name: quantity.string for name, quantity in amounts.items()}


def _resources(found: pb.ResourceRequirements) -> objects.Resources:
    return objects.Resources(_quantities(found.requests))


def _containers(found: Iterable[pb.Container]) -> list[objects.Container]:
    return [objects.Container(c.name, "", _resources(c.resources), None, c.restartPolicy) for c in found]


def _request(pod: pb.Pod) -> Request:
    """What a pod asks for. Where it may run the autoscaler says."""
    spec = objects.PodSpecObject(
        containers=_containers(pod.spec.containers),
        initContainers=_containers(pod.spec.initContainers),
        resources=_resources(pod.spec.resources),
        overhead=_quantities(pod.spec.overhead),
    )
    asked = effective_requests(objects.Pod(spec=spec))
    return tuple(sorted((name, amount) for name, amount in asked.items() if amount))


def _node(group: str, data: bytes) -> NodeSpec:
    found = _read(pb.Node, data, f"the node of group {group}")
    meta = objects.Metadata(labels=dict(found.metadata.labels))
    status = objects.NodeStatus(_quantities(found.status.allocatable))
    return node_spec(objects.Node(meta, objects.NodeSpecObject(), status))


def _offers(request: pb.BestOptionsRequest, prices: Prices, book: str) -> list[Offer]:
    """One for each option.

    Raises
    ------
    Unpriced : a group has no price. ConfigError : an option makes no sense.
    """
    offers, unpriced = [], []
    for option in request.options:
        group, nodes = option.nodeGroupId, request.nodeBytesMap or request.nodeMap
        if group not in nodes or option.nodeCount < 1:
            raise ConfigError(
                f"group {group!r} has no node, or is to get none: {option.nodeCount} of {len(nodes)} groups"
            )
        node = _node(group, nodes[group])
        price = prices.get(group) or prices.get(node.shape)
        if price is None:
            unpriced.append(f"{group} ({node.shape or 'no instance type'})")
        else:
            offers.append(Offer(group, option.nodeCount, price[node.spot], node.amounts))
    if unpriced:
        more = f" and {len(unpriced) - TOLD} more" if len(unpriced) > TOLD else ""
        named = f"{', '.join(unpriced[:TOLD])}{more}"
        raise Unpriced(f"{book} has no price of group {named}; name the group there, or its instance type")
    return offers


def _pods(option: pb.Option) -> list[bytes]:
    """Each of them; a message that begins with its first field begins with a line feed, and no group's id does."""
    return list(option.pod) or [data for data in option.podBytes if data[:1] == b"\n"]


def _waiting(options: Iterable[pb.Option]) -> Counter[tuple[Request, frozenset[int]]]:
    """Pods by what they ask for and which options would run them. Every option has its own copy of a pod."""
    runs: dict[bytes, set[int]] = {}
    for number, option in enumerate(options):
        for data in _pods(option):
            runs.setdefault(data, set()).add(number)
    known: dict[str, tuple[Request, set[int]]] = {}
    for data, numbers in runs.items():
        pod = _read(pb.Pod, data, "a pod")
        known.setdefault(pod.metadata.uid or str(len(known)), (_request(pod), set()))[1].update(numbers)
    return Counter((request, frozenset(numbers)) for request, numbers in known.values())


def _words(offers: list[Offer], waiting: Counter[tuple[Request, frozenset[int]]], costs: Costs) -> str:
    """Whom the best ones house at what cost, and whom the next ones would."""
    said, everybody = [], waiting.total()
    order = sorted(range(len(offers)), key=lambda n: (n not in costs.best, costs.found.get(n, costs.least[n])))
    for n in order[:TOLD]:
        offer, total = offers[n], costs.found.get(n)
        then = f"{costs.least[n]:.4f} or more" if total is None else f"{total:.4f}"
        runs = sum(count for (_, those), count in waiting.items() if n in those)
        nodes = f"{offer.nodes} at {offer.usd_per_hour:.4f} USD an hour for {runs} of {everybody} pods"
        said.append(f"{offer.group}: {nodes}, {then} with all who wait")
    return "; ".join(said)


def advise(data: bytes, book: str) -> Advice:
    """The answer to a question, by the price book as it is now.

    Raises
    ------
    Unpriced : a group that is offered has no price, or the book makes no sense. ConfigError : the question makes none.
    """
    deadline = Deadline(TIME_S, time.perf_counter)
    request = _read(pb.BestOptionsRequest, data, "the question")
    try:
        prices = read_prices(Path(book))
    except ConfigError as error:
        raise Unpriced(str(error)) from error
    offers = _offers(request, prices, book)
    waiting = _waiting(request.options)
    if not waiting:
        raise ConfigError("the question has no pods, or no options; nothing is to be grown")
    costs = costs_of(offers, waiting, deadline)
    words = _words(offers, waiting, costs)
    answer = pb.BestOptionsResponse()
    for n in costs.best:
        option = request.options[n]
        similar = [data for data in option.podBytes if data[:1] != b"\n"]
        answer.options.add(nodeGroupId=option.nodeGroupId, nodeCount=option.nodeCount, debug=words, podBytes=similar)
    return Advice(answer.SerializeToString(), tuple(offers[n].group for n in costs.best), words)
