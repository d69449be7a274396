"""Hard rules as columns: which nodes a pod may go to, whatever is free there.

Labels are interned: one integer column per key. Rules about the node alone (name, selector, affinity, taints, device
model, volumes) become one *static* mask per class. Rules about other pods (ports, affinity, anti-affinity in both
directions, topology spread, our per-node limit) are *relational*: counters per term and node, kept in step on each
bind and release, summed over topology domains at the decision. No decision loops over nodes or pods.

The meaning is kube-scheduler's (``pkg/scheduler/framework/plugins`` of 1.36), down to its special cases, each noted
where it is handled. Free resources and devices are the ledger's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from placement.label_index import Homes, Pair, Terms, needs_of, owner_pair
from placement.label_index import Rows as HomeRows
from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.pods import HostPort, NodeTerm, PodSpec, PodTerm, Requirement, Spread, Toleration
from placement.resources import BoolArray, IntArray

Rows = slice | IntArray
"""Which nodes of a column."""

UNSCHEDULABLE_TAINT = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
NAME_FIELD = "metadata.name"
_NAME = "\0name"
"""Column of node names; no label key holds a NUL."""
ABSENT = -1
NOWHERE = -2
"""Number of a text that no node has."""
ANY_ADDRESS = "0.0.0.0"
MAX_DIGITS = 100
"""Leading zeros included; label values have at most 63 characters."""
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
MIN_TEXTS = 4096
"""Above, names and label values of nodes that have gone go, too: autoscalers give each node new ones."""
MIN_COUNTERS = 256
"""Above, counters that count nobody go: rules of pods that have gone must not slow down those that come."""


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """``Toleration.ToleratesTaint`` of k8s.io/api/core/v1. Numbers are compared whatever the feature
    ``TaintTolerationComparisonOperators`` says: where it is off, no API server takes a pod that asks for it."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    operator = toleration.operator
    if operator == "Exists":
        return True
    if operator in ("Gt", "Lt"):
        number, bound = integer(taint.value), integer(toleration.value)
        are_plain = (str(number), str(bound)) == (taint.value, toleration.value)  # neither "+7" nor "07"
        return are_plain and _compared(operator, number, bound)
    return operator in ("", "Equal") and bool(toleration.key) and toleration.value == taint.value


def is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """Whether any toleration covers the taint."""
    return any(tolerates(t, taint) for t in tolerations)


def matches_labels(selector: tuple[Requirement, ...] | None, labels: Mapping[str, str]) -> bool:
    """A label selector against one set of labels; None matches nothing, empty everything."""
    if selector is None:
        return False
    return all(_matches(r, labels) for r in selector)


def _matches(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    operator = requirement.operator
    if operator == "In":
        return value in requirement.values and value is not None
    if operator == "NotIn":
        return value is None or value not in requirement.values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    return _compared(operator, integer(value), integer(requirement.values[0] if requirement.values else None))


def _compared(operator: str, number: int | None, bound: int | None) -> bool:
    """Whether a number is above (``Gt``) or else below another one; not where either is none."""
    if number is None or bound is None:
        return False
    return number > bound if operator == "Gt" else number < bound


def integer(text: str | None) -> int | None:
    """As Go's ParseInt: optional sign, digits, within int64."""
    text = text or ""
    body = text[1:] if text.startswith(("-", "+")) else text
    if not body.isascii() or not body.isdigit() or len(body) > MAX_DIGITS:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


@dataclass(frozen=True)
class Match:
    """Which pods a term speaks of: namespaces by name or label, and their labels."""

    namespaces: tuple[str, ...]
    namespace_selector: tuple[Requirement, ...] | None
    selector: tuple[Requirement, ...] | None

    @cached_property
    def _hash(self) -> int:
        return hash((self.namespaces, self.namespace_selector, self.selector))

    def __hash__(self) -> int:
        """Found once: a selector may name twenty thousand values, and under each of them its term is looked up."""
        return self._hash

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: all but the hash, which holds in this process only."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @classmethod
    def of(cls, term: PodTerm, namespace: str) -> Match:
        """A term as a pod in ``namespace`` means it."""
        if not term.namespaces and term.namespace_selector is None:
            return cls((namespace,), None, term.selector)
        return cls(tuple(sorted(set(term.namespaces))), term.namespace_selector, term.selector)

    def covers(self, spec: PodSpec, namespaces: Mapping[str, NamespaceSpec]) -> bool:
        """Whether a pod of this class is meant."""
        if spec.namespace not in self.namespaces:
            if self.namespace_selector is None:
                return False
            known = namespaces.get(spec.namespace)
            labels = dict(known.labels) if known else {}
            labels.setdefault(NAMESPACE_NAME_LABEL, spec.namespace)
            if not matches_labels(self.namespace_selector, labels):
                return False
        return matches_labels(self.selector, dict(spec.labels))


Counted = tuple[str, object]
"""Key of a counter: its kind and what it counts. ``all``: pods that each of some matches means; ``staying``: those of them
that are not being deleted; ``owner``: pods of a namespace and owner."""


def _needs(key: Counted) -> list[tuple[Pair, ...]]:
    """What a pod must carry to be counted."""
    kind, what = key
    if kind == "owner":
        return [(owner_pair(*what),)]  # type: ignore[misc]  # namespace and owner
    return needs_of(match.selector for match in what)  # type: ignore[attr-defined]  # tuple of Match


def _reads_labels(key: Counted) -> bool:
    """Whether whom a counter counts depends on labels of namespaces."""
    kind, what = key
    return kind != "owner" and any(match.namespace_selector is not None for match in what)  # type: ignore[attr-defined]  # tuple of Match


def hard_taints(node: NodeSpec) -> tuple[Taint, ...]:
    """Taints that keep pods off a node."""
    return tuple(t for t in node.taints if t.effect in ("NoSchedule", "NoExecute"))


class RuleIndex:
    """Columns and counters of one ledger. Rows are the ledger's."""

    def __init__(self) -> None:
        self.nodes: list[NodeSpec | None] = []
        self.namespaces: dict[str, NamespaceSpec] = {}
        self._ids: dict[str, int] = {}
        """Names and label values of nodes → their number in the columns."""
        self._texts: list[str] = []
        self._most_texts = MIN_TEXTS
        self._columns: dict[str, IntArray] = {}
        self._absent = np.full(64, ABSENT, np.int64)
        self._capacity = 64
        self._alive = np.zeros(64, np.bool_)
        self._unschedulable = np.zeros(64, np.bool_)
        self._taints = np.zeros(64, np.int64)
        self._taint_sets: dict[tuple[Taint, ...], int] = {(): 0}
        self._models = np.full(64, ABSENT, np.int64)
        self._counters: dict[Counted, IntArray] = {}
        self._homes = Homes()
        self._bumps: dict[PodSpec, tuple[HomeRows, tuple[IntArray, ...]]] = {}
        """Class → where its pods are, and every counter that counts them."""
        self._carried: dict[tuple[Match, str], IntArray] = {}
        """Required anti-affinity of residents: how many on each node carry the term."""
        self._ports: dict[HostPort, IntArray] = {}
        self._wishes: dict[tuple[Match, str, int], IntArray] = {}
        """Residents' preferred terms by weight, and required affinity as weight 0: how many carry each."""
        self._index_terms()
        self._soft_taints: dict[int, tuple[Taint, ...]] = {}
        self._num_soft: dict[Taint, int] = {}
        """PreferNoSchedule taint → nodes that have it, at least one."""
        self._images: dict[str, dict[int, int]] = {}
        """Image name → row → bytes."""
        self._against: dict[PodSpec, list[tuple[str, IntArray]]] = {}
        """Class → required anti-affinity of residents that speaks of it: topology key and counter."""
        self._for: dict[PodSpec, list[tuple[str, int, IntArray]]] = {}
        """Class → wishes of residents that speak of it: topology key, weight and counter."""
        self._asked: set[Counted] = set()
        """Counters that somebody asked for since idle ones went."""
        self._most_counters = MIN_COUNTERS
        self.epoch = 0
        """Grows when classes may have become relational, or may be so no longer."""

    def _index_terms(self) -> None:
        """Find all terms by the classes that they may mean."""
        self._counting: Terms[Counted] = Terms(self._homes)
        self._carrying: Terms[tuple[Match, str]] = Terms(self._homes)
        self._wishing: Terms[tuple[Match, str, int]] = Terms(self._homes)
        for key in self._counters:
            self._counting.add(key, _needs(key))
        for term in self._carried:
            self._carrying.add(term, needs_of([term[0].selector]))
        for wish in self._wishes:
            self._wishing.add(wish, needs_of([wish[0].selector]))

    @property
    def num_counters(self) -> int:
        """Counters that every bind and release may change."""
        return len(self._counters) + len(self._carried) + len(self._ports) + len(self._wishes)

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────

    @property
    def num_rows(self) -> int:
        """Rows ever used."""
        return len(self.nodes)

    def _id(self, text: str) -> int:
        return self._ids.get(text, NOWHERE)

    def _new_id(self, text: str) -> int:
        number = self._ids.get(text)
        if number is None:
            number = self._ids[text] = len(self._texts)
            self._texts.append(text)
        return number

    def _drop_texts(self) -> None:
        """Number anew, in the same order, what nodes have; keys that none has lose their column."""
        self._columns = {key: column for key, column in self._columns.items() if (column != ABSENT).any()}
        columns = [*self._columns.values(), self._models]
        is_used = np.zeros(len(self._texts) + 1, np.bool_)  # the last stands for ABSENT
        for column in columns:
            is_used[column] = True
        is_used[ABSENT] = False
        kept = np.flatnonzero(is_used)
        number = np.full(len(is_used), ABSENT)
        number[kept] = np.arange(len(kept))
        for column in columns:
            column[:] = number[column]
        self._texts = [self._texts[i] for i in kept.tolist()]
        self._ids = {text: i for i, text in enumerate(self._texts)}
        self._most_texts = max(MIN_TEXTS, 2 * len(self._texts))

    def _grow(self, num_rows: int) -> None:
        if num_rows <= self._capacity:
            return
        self._capacity = capacity = 2 * num_rows

        def grown(old: IntArray, fill: int) -> IntArray:
            new = np.full(capacity, fill, old.dtype)
            new[: len(old)] = old
            return new

        self._alive = grown(self._alive, 0)  # type: ignore[assignment,arg-type]  # dtype is kept
        self._unschedulable = grown(self._unschedulable, 0)  # type: ignore[assignment,arg-type]  # as above
        self._taints = grown(self._taints, 0)
        self._models = grown(self._models, ABSENT)
        self._columns = {key: grown(column, ABSENT) for key, column in self._columns.items()}
        self._absent = grown(self._absent, ABSENT)
        self._counters = {key: grown(counter, 0) for key, counter in self._counters.items()}
        self._carried = {key: grown(counter, 0) for key, counter in self._carried.items()}
        self._ports = {key: grown(counter, 0) for key, counter in self._ports.items()}
        self._wishes = {key: grown(counter, 0) for key, counter in self._wishes.items()}
        self._forget_classes()

    def _column(self, key: str) -> IntArray:
        """``(capacity,)`` int64: number of each node's value of a label; pods may ask for keys that no node has."""
        return self._columns.get(key, self._absent)

    def _set(self, key: str, row: int, text: str) -> None:
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = self._absent.copy()
        column[row] = self._new_id(text)

    def add_node(self, row: int, node: NodeSpec) -> None:
        """A node took a row."""
        self._grow(row + 1)
        if len(self._texts) >= self._most_texts:
            self._drop_texts()
        while len(self.nodes) <= row:
            self.nodes.append(None)
        self.nodes[row] = node
        self._alive[row] = True
        self._unschedulable[row] = node.unschedulable
        self._taints[row] = self._taint_set(node)
        self._models[row] = self._new_id(node.gpu_model) if node.gpu_model else ABSENT
        self._set(_NAME, row, node.name)
        for key, value in node.labels:
            self._set(key, row, value)
        soft = tuple(t for t in node.taints if t.effect == "PreferNoSchedule")
        if soft:
            self._soft_taints[row] = soft
        for taint in soft:
            self._num_soft[taint] = self._num_soft.get(taint, 0) + 1
        for name, size in node.images:
            self._images.setdefault(name, {})[row] = size

    def _taint_set(self, node: NodeSpec) -> int:
        """Number of a node's hard taints. Autoscalers write the time into some: numbers that no node has any more go."""
        hard = hard_taints(node)
        if hard not in self._taint_sets and len(self._taint_sets) > 2 * self._capacity:
            self._taint_sets = {(): 0}
            for row, other in enumerate(self.nodes):
                if other is not None:
                    self._taints[row] = self._taint_sets.setdefault(hard_taints(other), len(self._taint_sets))
        return self._taint_sets.setdefault(hard, len(self._taint_sets))

    def remove_node(self, row: int) -> None:
        """The node left its row; residents' counters are the ledger's to release."""
        node = self.nodes[row]
        assert node is not None, "a node is removed once"
        self._alive[row] = False
        self._taints[row] = 0
        self._models[row] = ABSENT
        for key in (_NAME, *(key for key, _ in node.labels)):
            self._columns[key][row] = ABSENT
        for taint in self._soft_taints.pop(row, ()):
            self._num_soft[taint] -= 1
            if not self._num_soft[taint]:
                del self._num_soft[taint]
        for name, _ in node.images:
            holders = self._images.get(name, {})
            holders.pop(row, None)
            if not holders:
                self._images.pop(name, None)
        self.nodes[row] = None

    def set_namespace(self, namespace: NamespaceSpec) -> None:
        """Labels of a namespace changed: every term that selects by them is counted anew."""
        if namespace.labels:
            self.namespaces[namespace.name] = namespace
        else:
            self.namespaces.pop(namespace.name, None)
        reading = [key for key in self._counters if _reads_labels(key)]
        terms = (*(match for match, _ in self._carried), *(match for match, _, _ in self._wishes))
        if not reading and all(match.namespace_selector is None for match in terms):
            return
        self._forget_classes()
        for key in reading:
            self._recount(key)

    def _forget_classes(self) -> None:
        """What is remembered of classes may no longer hold."""
        self._bumps.clear()
        self._against.clear()
        self._for.clear()
        self.epoch += 1

    def _drop_idle(self) -> None:
        """Drop counters that count nobody, before there are too many. None of them has a say in any answer: nobody is
        there to be met, kept away from or pleased, and who asks for one again gets a new one. So it is with classes that
        have no pod any more."""
        if self._homes.is_full:
            self._homes.forget_empty()
            self._bumps.clear()
        if self.num_counters >= self._most_counters:
            self._drop_counters()

    def forget_idle(self) -> None:
        """Keep nothing of classes that have no pod."""
        self._homes.forget_empty()
        self._asked.clear()
        self._drop_counters()

    def _drop_counters(self) -> None:
        self._counters = {k: c for k, c in self._counters.items() if k in self._asked or c.any()}
        self._carried = {key: counter for key, counter in self._carried.items() if counter.any()}
        self._ports = {port: counter for port, counter in self._ports.items() if counter.any()}
        self._wishes = {wish: counter for wish, counter in self._wishes.items() if counter.any()}
        self._most_counters = max(MIN_COUNTERS, 2 * self.num_counters)
        self._asked.clear()
        self._index_terms()
        self._forget_classes()

    # ── rules about the node alone ────────────────────────────────────────────────────────────

    def static_mask(self, spec: PodSpec, rows: Rows | None = None) -> BoolArray:
        """``(N,)`` bool, or for ``rows`` alone: nodes that the pod's own rules and the nodes' taints permit."""
        rows = slice(0, self.num_rows) if rows is None else rows
        mask = self._alive[rows].copy()
        for _, rule in self._static_rules(spec):
            mask &= rule(rows)
        return mask

    def _static_rules(self, spec: PodSpec) -> list[tuple[str, Callable[[Rows], BoolArray]]]:
        """The rules that concern this class, in kube-scheduler's order, with its words."""
        rules: list[tuple[str, Callable[[Rows], BoolArray]]] = []
        node_rules, tolerations = spec.node_rules, spec.node_rules.tolerations
        if not is_tolerated(UNSCHEDULABLE_TAINT, tolerations):
            rules.append(("node(s) were unschedulable", lambda rows: ~self._unschedulable[rows]))
        if node_rules.node_name:
            name = self._id(node_rules.node_name)
            rules.append(
                ("node(s) didn't match the requested node name", lambda rows: self._column(_NAME)[rows] == name)
            )
        if len(self._taint_sets) > 1:
            rules.append(("node(s) had untolerated taint(s)", lambda rows: self._tolerable(spec, rows)))
        if node_rules.node_selector or node_rules.affinity is not None:
            rules.append(("node(s) didn't match Pod's node affinity/selector", lambda rows: self._wanted(spec, rows)))
        for volume in node_rules.volume_affinity:
            rules.append(
                ("node(s) had volume node affinity conflict", lambda rows, terms=volume: self._any_term(terms, rows))  # type: ignore[misc]  # default argument binds now
            )
        if spec.gpu is not None and spec.gpu.models:
            models = np.array([self._id(model) for model in spec.gpu.models], np.int64)
            rules.append(("no device of an accepted model", lambda rows: np.isin(self._models[rows], models)))
        return rules

    def _tolerable(self, spec: PodSpec, rows: Rows) -> BoolArray:
        numbers, tolerations = self._taints[rows], spec.node_rules.tolerations
        present, sets = np.bincount(numbers), list(self._taint_sets)
        accepted = np.zeros(len(present), np.bool_)
        for number in np.flatnonzero(present).tolist():
            accepted[number] = all(is_tolerated(taint, tolerations) for taint in sets[number])
        return accepted[numbers]

    def _wanted(self, spec: PodSpec, rows: Rows) -> BoolArray:
        """Node selector and required node affinity."""
        mask: BoolArray = np.ones(len(self._alive[rows]), np.bool_)
        for key, value in spec.node_rules.node_selector:
            mask &= self._column(key)[rows] == self._id(value)
        if spec.node_rules.affinity is not None:
            mask &= self._any_term(spec.node_rules.affinity, rows)
        return mask

    def _any_term(self, terms: tuple[NodeTerm, ...], rows: Rows) -> BoolArray:
        mask: BoolArray = np.zeros(len(self._alive[rows]), np.bool_)
        for term in terms:
            mask |= self.term_mask(term, rows)
        return mask

    def term_mask(self, term: NodeTerm, rows: Rows | None = None) -> BoolArray:
        """``(n,)`` bool for one node selector term; a term without expressions matches nothing."""
        rows = slice(0, self.num_rows) if rows is None else rows
        mask: BoolArray = np.full(len(self._alive[rows]), bool(term.expressions or term.fields))
        for requirement in term.expressions:
            mask &= self._requirement(requirement, self._column(requirement.key)[rows])
        for requirement in term.fields:
            if requirement.key != NAME_FIELD:
                mask[:] = False
                continue
            mask &= self._requirement(requirement, self._column(_NAME)[rows])
        return mask

    def _requirement(self, requirement: Requirement, column: IntArray) -> BoolArray:
        operator = requirement.operator
        if operator in ("In", "NotIn"):
            ids = np.array([self._id(value) for value in requirement.values], np.int64)
            inside = np.isin(column, ids)
            return inside if operator == "In" else ~inside
        if operator in ("Exists", "DoesNotExist"):
            return (column != ABSENT) if operator == "Exists" else (column == ABSENT)
        present = np.unique(column)
        met = [i for i in present.tolist() if i != ABSENT and _matches(requirement, {requirement.key: self._texts[i]})]
        return np.isin(column, np.array(met, np.int64))

    # ── residents ─────────────────────────────────────────────────────────────────────────────

    def homes(self) -> Iterable[tuple[PodSpec, HomeRows]]:
        """Classes, and where their pods are: row → number. Some may have no pod."""
        return self._homes.carrying([])

    def bind(self, spec: PodSpec, row: int) -> None:
        """A resident of this class appeared."""
        rows, counters = self._bumps.get(spec) or self._bumps_of(spec)
        rows[row] = rows.get(row, 0) + 1
        for counter in counters:
            counter[row] += 1

    def release(self, spec: PodSpec, row: int) -> None:
        """A resident of this class left."""
        rows, counters = self._bumps.get(spec) or self._bumps_of(spec)
        if rows[row] == 1:
            del rows[row]
        else:
            rows[row] -= 1
        for counter in counters:
            counter[row] -= 1

    def _bumps_of(self, spec: PodSpec) -> tuple[HomeRows, tuple[IntArray, ...]]:
        """Where pods of this class are, and every counter that one of them changes."""
        self._drop_idle()
        zeros = np.zeros
        for term in spec.pod_rules.anti_affinity:
            key = (Match.of(term, spec.namespace), term.topology_key)
            if key not in self._carried:
                self._carried[key] = zeros(self._capacity, np.int64)
                self._carrying.add(key, needs_of([key[0].selector]))
                self._against.clear()
                self.epoch += 1
        for port in spec.pod_rules.host_ports:
            if port not in self._ports:
                self._ports[port] = zeros(self._capacity, np.int64)
        carried = [(Match.of(w.term, spec.namespace), w.term.topology_key, w.weight) for w in spec.pod_rules.preferred]
        carried += [(Match.of(term, spec.namespace), term.topology_key, 0) for term in spec.pod_rules.affinity]
        for wish in carried:
            if wish not in self._wishes:
                self._wishes[wish] = zeros(self._capacity, np.int64)
                self._wishing.add(wish, needs_of([wish[0].selector]))
                self._for.clear()
        bumps = [self._counters[key] for key in self._counting.about(spec) if self._counts(key, spec)]
        bumps += [self._wishes[wish] for wish in carried]
        bumps += [
            self._carried[Match.of(term, spec.namespace), term.topology_key] for term in spec.pod_rules.anti_affinity
        ]
        bumps += [self._ports[port] for port in spec.pod_rules.host_ports]
        found = self._bumps[spec] = self._homes.of(spec), tuple(bumps)
        return found

    def _counts(self, key: Counted, spec: PodSpec) -> bool:
        kind, what = key
        if kind == "owner":
            return (spec.namespace, spec.owner) == what
        if kind == "staying" and spec.leaving:
            return False
        return all(match.covers(spec, self.namespaces) for match in what)  # type: ignore[attr-defined]  # tuple of Match

    def counter(self, key: Counted) -> IntArray:
        """``(N,)`` int64: residents per node that a key counts; made from the ledger when first asked for."""
        if key not in self._counters:
            self._drop_idle()
            self._counters[key] = np.zeros(self._capacity, np.int64)
            self._counting.add(key, _needs(key))
            self._bumps.clear()
            self._recount(key)
        self._asked.add(key)
        return self._counters[key][: self.num_rows]

    def _recount(self, key: Counted) -> None:
        rows: list[int] = []
        numbers: list[int] = []
        for spec, homes in self._homes.carrying(_needs(key)):
            if homes and self._counts(key, spec):
                rows += homes
                numbers += homes.values()
        counter = self._counters[key]
        counter[:] = np.bincount(np.array(rows, np.int64), np.array(numbers, np.int64), len(counter))

    # ── rules about other pods ────────────────────────────────────────────────────────────────

    def is_relational(self, spec: PodSpec) -> bool:
        """Whether any rule about other pods concerns this class now."""
        rules = spec.pod_rules
        return bool(
            rules.host_ports
            or rules.affinity
            or rules.anti_affinity
            or rules.max_per_node
            or any(spread.hard for spread in rules.spread)
            or self._terms_against(spec)
        )

    def _terms_against(self, spec: PodSpec) -> list[tuple[str, IntArray]]:
        """Required anti-affinity of residents against a class: topology key, and how many on each node carry it."""
        terms = self._against.get(spec)
        if terms is None:
            carried, spaces = self._carried, self.namespaces
            about = [key for key in self._carrying.about(spec) if key[0].covers(spec, spaces)]
            terms = self._against[spec] = [(key[1], carried[key]) for key in about]
        return terms

    def relational_mask(self, spec: PodSpec) -> BoolArray:
        """``(N,)`` bool: nodes that every rule about other pods permits."""
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        for _, rule in self._relational_rules(spec):
            mask &= rule(spec)
        return mask

    def _relational_rules(self, spec: PodSpec) -> list[tuple[str, Callable[[PodSpec], BoolArray]]]:
        rules = spec.pod_rules
        return [
            (text, rule)
            for text, rule, applies in (
                ("node(s) didn't have free ports for the requested pod ports", self._free_ports, rules.host_ports),
                ("node(s) didn't match pod topology spread constraints", self._spread, rules.spread),
                ("node(s) didn't match pod affinity rules", self._affinity, rules.affinity),
                ("node(s) didn't match pod anti-affinity rules", self._anti_affinity, rules.anti_affinity),
                (
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                    self._unresisted,
                    self._terms_against(spec),
                ),
                ("too many pods of this owner on the node", self._within_limit, rules.max_per_node),
            )
            if applies
        ]

    def domain_sums(self, topology_key: str, counts: IntArray, where: BoolArray | None = None) -> IntArray:
        """``(N,)`` int64: the sum of ``counts`` over each node's topology domain, 0 for nodes without the key.

        ``where (N,)`` restricts which nodes are summed.
        """
        column = self._column(topology_key)[: self.num_rows]
        valid = column != ABSENT
        summed = valid if where is None else valid & where
        sums = np.bincount(column[summed], weights=counts[summed], minlength=len(self._texts) + 1)
        return np.where(valid, sums[np.where(valid, column, 0)], 0).astype(np.int64)

    def has_key(self, topology_key: str) -> BoolArray:
        """``(N,)`` bool: nodes with the label."""
        return self._column(topology_key)[: self.num_rows] != ABSENT

    def places(self, topology_key: str) -> IntArray:
        """``(N,)`` int64: a number per topology domain, the same for nodes of one domain; -1 without the label."""
        return self._column(topology_key)[: self.num_rows]

    def _free_ports(self, spec: PodSpec) -> BoolArray:
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        for wanted in spec.pod_rules.host_ports:
            for taken, counter in self._ports.items():
                clash = taken.port == wanted.port and taken.protocol == wanted.protocol
                if clash and (ANY_ADDRESS in (taken.address, wanted.address) or taken.address == wanted.address):
                    mask &= counter[: self.num_rows] == 0
        return mask

    def company(self, spec: PodSpec) -> IntArray:
        """``(N,)`` int64: residents per node that match all terms of a class's required affinity: others do not count
        (``updateWithAffinityTerms``)."""
        return self.counter(("all", tuple(Match.of(term, spec.namespace) for term in spec.pod_rules.affinity)))

    def _affinity(self, spec: PodSpec) -> BoolArray:
        """Required affinity. The first pod of a group that matches its own terms may go anywhere with the keys."""
        terms = spec.pod_rules.affinity
        counter = self.company(spec)
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        has_keys = mask.copy()
        anywhere = False
        for term in terms:
            sums = self.domain_sums(term.topology_key, counter)
            anywhere |= bool(sums.any())
            has_keys &= self.has_key(term.topology_key)
            mask &= sums > 0
        if not anywhere and all(Match.of(term, spec.namespace).covers(spec, self.namespaces) for term in terms):
            return has_keys
        return mask & has_keys

    def _anti_affinity(self, spec: PodSpec) -> BoolArray:
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        for term in spec.pod_rules.anti_affinity:
            counter = self.counter(("all", (Match.of(term, spec.namespace),)))
            mask &= self.domain_sums(term.topology_key, counter) == 0
        return mask

    def _unresisted(self, spec: PodSpec) -> BoolArray:
        """The symmetric rule: residents' anti-affinity against this pod."""
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        for topology_key, counter in self._terms_against(spec):
            mask &= self.domain_sums(topology_key, counter[: self.num_rows]) == 0
        return mask

    def spread_nodes(self, spec: PodSpec, constraint: Spread, keys: Iterable[str]) -> BoolArray:
        """``(N,)`` bool: nodes that count for a constraint: every key present, inclusion policies met."""
        rows = slice(0, self.num_rows)
        mask = self._alive[rows].copy()
        for key in keys:
            mask &= self.has_key(key)
        if constraint.honor_affinity:
            mask &= self._wanted(spec, rows)
        if constraint.honor_taints:
            mask &= self._tolerable(spec, rows)
        return mask

    def _spread(self, spec: PodSpec) -> BoolArray:
        """``DoNotSchedule`` constraints (``podtopologyspread/filtering.go``)."""
        hard = [c for c in spec.pod_rules.spread if c.hard]
        keys = [c.topology_key for c in hard]
        mask: BoolArray = np.ones(self.num_rows, np.bool_)
        for constraint in hard:
            counted = self.spread_nodes(spec, constraint, keys)
            match = Match((spec.namespace,), None, constraint.selector)
            counter = self.counter(("staying", (match,)))
            sums = self.domain_sums(constraint.topology_key, counter, counted)
            if not constraint.selector:
                sums = np.zeros_like(sums)  # an empty selector counts nobody (countPodsMatchSelector)
            domains = np.unique(self._column(constraint.topology_key)[: self.num_rows][counted])
            least = int(sums[counted].min()) if len(domains) >= max(constraint.min_domains, 1) else 0
            own = int(match.covers(spec, self.namespaces))
            mask &= self.has_key(constraint.topology_key) & (sums + own - least <= constraint.max_skew)
        return mask

    def _within_limit(self, spec: PodSpec) -> BoolArray:
        return self.counter(("owner", (spec.namespace, spec.owner))) < spec.pod_rules.max_per_node

    # ── what soft rules ask ───────────────────────────────────────────────────────────────────

    @property
    def has_wishes(self) -> bool:
        """Whether nodes or residents may be liked more or less by pods that wish nothing themselves."""
        return bool(self._soft_taints or self._wishes)

    def soft_taints(self) -> frozenset[Taint]:
        """Every PreferNoSchedule taint that a node has."""
        return frozenset(self._num_soft)

    def soft_tainted(self) -> list[tuple[int, tuple[Taint, ...]]]:
        """Rows with PreferNoSchedule taints, and those taints."""
        return [(row, self._soft_taints[row]) for row in self._soft_taints]

    def num_domains(self, topology_key: str, where: BoolArray) -> int:
        """Distinct values of a topology key among some nodes."""
        column = self._column(topology_key)[: self.num_rows][where]
        return len(np.unique(column[column != ABSENT]))

    def wished_by_residents(self, spec: PodSpec, hard_weight: int) -> IntArray:
        """``(N,)`` int64: what residents' own affinity terms give a node for a pod of this class."""
        wishes = self._for.get(spec)
        if wishes is None:
            wished, spaces = self._wishes, self.namespaces
            about = [wish for wish in self._wishing.about(spec) if wish[0].covers(spec, spaces)]
            wishes = self._for[spec] = [(topology_key, w, wished[m, topology_key, w]) for m, topology_key, w in about]
        total = np.zeros(self.num_rows, np.int64)
        for topology_key, weight, counter in wishes:
            factor = hard_weight if weight == 0 else weight
            total += factor * self.domain_sums(topology_key, counter[: self.num_rows])
        return total

    def images(self, wanted: Iterable[str]) -> IntArray:
        """``(N,)`` int64: bytes of the wanted images on each node, each scaled by the share of nodes that have it.

        kube-scheduler counts on every node what the first one said that had the image; a ledger that is rebuilt cannot know
        which that was.
        """
        total = np.zeros(self.num_rows, np.int64)
        num_nodes = int(self._alive[: self.num_rows].sum())
        for name in wanted:
            holders = self._images.get(name, {})
            spread = len(holders) / max(num_nodes, 1)
            for row, size in holders.items():
                total[row] += int(size * spread)
        return total

    # ── why not ───────────────────────────────────────────────────────────────────────────────

    def permissions(self, spec: PodSpec, rows: IntArray, *, alone: bool = False) -> list[tuple[str, BoolArray]]:
        """Each rule that concerns this class, in kube-scheduler's order: its words when broken, and ``(n,)`` bool
        where among ``rows (n,)`` it holds. ``alone``: those of the nodes, as if no other pod ran, which come first."""
        rules = [(text, rule(rows)) for text, rule in self._static_rules(spec)]
        if self.is_relational(spec) and not alone:
            rules += [(text, rule(spec)[rows]) for text, rule in self._relational_rules(spec)]
        return rules
