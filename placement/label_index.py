"""Who speaks of whom, found by labels: which classes of pods a term may mean, and which terms may mean a class.

A term that names its pods by a label's values (nearly all do, Jobs that name themselves among them) can only mean pods that
carry one of them. So a new term looks at the classes under those labels and at no other resident, and a new class looks at
the terms under its own. What is found here *may* be meant; whether it is, :class:`placement.rules.Match` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from placement.pods import PodSpec, Requirement

Pair = tuple[str, str]
"""Label and value."""
Rows = dict[int, int]
"""Node row → number of pods, none of them 0."""
Key = TypeVar("Key")

OWNER = "\0owner"
"""Label that every pod has here: its namespace and owner. No label of Kubernetes holds a NUL."""
MIN_CLASSES = 1024
"""Above, classes without a pod are forgotten once they are half of all."""


def owner_pair(namespace: str, owner: str) -> Pair:
    """The label of pods of one owner.

    >>> owner_pair("shop", "Job/bill")
    ('\\x00owner', 'shop/Job/bill')
    """
    return OWNER, f"{namespace}/{owner}"


def pairs_of(spec: PodSpec) -> tuple[Pair, ...]:
    """All labels of a class."""
    return (*spec.labels, owner_pair(spec.namespace, spec.owner))


def needs_of(selectors: Iterable[tuple[Requirement, ...] | None]) -> list[tuple[Pair, ...]]:
    """What a pod must carry to be meant by all ``selectors``: one pair at least of each tuple, none of an empty one.

    >>> needs_of([(Requirement("app", "In", ("a", "b")), Requirement("tier", "Exists"))])
    [(('app', 'a'), ('app', 'b'))]
    """
    needs: list[tuple[Pair, ...]] = []
    for selector in selectors:
        if selector is None:  # means nobody
            needs.append(())
        else:
            needs += [tuple((r.key, v) for v in dict.fromkeys(r.values)) for r in selector if r.operator == "In"]
    return needs


class Homes:
    """Where the pods of each class are."""

    def __init__(self) -> None:
        self._rows: dict[PodSpec, Rows] = {}
        self._at: dict[Pair, dict[PodSpec, Rows]] = {}
        self._most = MIN_CLASSES

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, spec: PodSpec) -> Rows:
        """Rows of one class, the caller's to keep in step; known from now on if it was not."""
        rows = self._rows.get(spec)
        if rows is None:
            rows = self._rows[spec] = {}
            for pair in pairs_of(spec):
                self._at.setdefault(pair, {})[spec] = rows
        return rows

    @property
    def is_full(self) -> bool:
        """Whether it is time for :meth:`forget_empty`."""
        return len(self._rows) >= self._most

    def forget_empty(self) -> None:
        """Forget classes without a pod; their rows are nobody's any more, so whoever holds some asks again."""
        kept = {spec: rows for spec, rows in self._rows.items() if rows}
        self._rows, self._at = {}, {}
        for spec, rows in kept.items():
            self._rows[spec] = rows
            for pair in pairs_of(spec):
                self._at.setdefault(pair, {})[spec] = rows
        self._most = max(MIN_CLASSES, 2 * len(kept))

    def number(self, pairs: Iterable[Pair]) -> int:
        """How many classes carry one of ``pairs`` of one label."""
        return sum(len(self._at.get(pair, ())) for pair in pairs)

    def carrying(self, needs: list[tuple[Pair, ...]]) -> Iterator[tuple[PodSpec, Rows]]:
        """Classes that may be meant by who has these ``needs``, each once, and where their pods are."""
        if not needs:
            yield from self._rows.items()
            return
        for pair in min(needs, key=self.number):
            yield from self._at.get(pair, {}).items()


class Terms(Generic[Key]):
    """Terms, to be found by a class that they may mean."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._at: dict[Pair, dict[Key, None]] = {}
        self._others: dict[Key, None] = {}
        """Those that no label tells."""

    def add(self, key: Key, needs: list[tuple[Pair, ...]]) -> None:
        """Remember a term under the need that fewest classes meet, and then fewest other terms have."""
        if not needs:
            self._others[key] = None
            return
        for pair in min(needs, key=lambda pairs: (self._homes.number(pairs), self._number(pairs))):
            self._at.setdefault(pair, {})[key] = None

    def _number(self, pairs: Iterable[Pair]) -> int:
        return sum(len(self._at.get(pair, ())) for pair in pairs)

    def about(self, spec: PodSpec) -> Iterator[Key]:
        """Those that may mean a class, each once."""
        yield from self._others
        for pair in pairs_of(spec):
            yield from self._at.get(pair, ())
