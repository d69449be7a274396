"""What a plan is: moves in order, what they gain, how far from optimal they can be, and how planning ended.

A plan is a plain value. Somebody else acts on it, step by step, and may stop at any step: every step is feasible by
itself, given the steps before it. Money is optional: a plan without prices says so (``usd_per_hour`` None), never
zero. Time never comes from here; :class:`Deadline` carries the caller's clock in, which may count work instead of time
(:class:`WorkClock`): then a plan is the same whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

from placement.errors import ConfigError

FIRST_SHARE = 0.7
"""Of the time, for a plan that may have to be made again with less allowed."""
ROUNDING = 1e-6
"""Less than this is nothing: solvers and sums of floating-point numbers are that inexact."""
LOOK_S = 1e-5
"""What a :class:`WorkClock` counts for the work between two looks, when nobody says more."""


class Ending(StrEnum):
    """Why planning stopped; every plan has exactly one."""

    OPTIMAL = "optimal"
    """Proved: nothing better exists."""
    DEADLINE = "deadline"
    """The time limit; the bound says how much better a plan could be at most."""
    CANCELLED = "cancelled"
    """Somebody asked to stop; the plan is the best so far."""
    INFEASIBLE = "infeasible"
    """What was asked for cannot be; ``reasons`` says why."""


class Action(StrEnum):
    """What one step does."""

    PLACE = "place"
    """A pending pod gets a node."""
    MOVE = "move"
    """A running pod is evicted and its replacement is steered to another node."""
    EVICT = "evict"
    """A running pod loses its place to a more important one, or waits for a later step."""
    CORDON = "cordon"
    """A node takes no more pods."""
    DELETE = "delete"
    """An empty node goes."""
    BUY = "buy"
    """A node is added."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``pod`` is a UID, empty for steps about nodes; ``source`` and ``target`` are node names or ''."""

    action: Action
    pod: str = ""
    name: str = ""
    source: str = ""
    target: str = ""
    devices: str = ""
    """Indices of the GPU devices of ``target`` that the pod gets, comma-separated; empty for none."""
    gang: str = ""
    """Of a running pod that is evicted or moved: its gang, if it has one. Such steps of a gang are one: :func:`together`."""


def together(steps: Sequence[Step]) -> Iterator[range]:
    """Numbers of steps that are done as one: evictions and moves of one gang, where all leave before any comes back, and
    placements in a row, where all are nominated before any may start; every other step is one by itself.

    >>> a, b = Step(Action.MOVE, "a", gang="ns/g"), Step(Action.MOVE, "b", gang="ns/g")
    >>> [list(some) for some in together((Step(Action.CORDON), a, b, Step(Action.MOVE, "c")))]
    [[0], [1, 2], [3]]
    """

    def key(numbered: tuple[int, Step]) -> tuple[bool, str, int]:
        number, step = numbered
        is_placed = step.action == Action.PLACE
        is_alone = not (is_placed or (step.gang and step.action in (Action.MOVE, Action.EVICT)))
        return is_placed, step.gang, number if is_alone else -1

    for _, some in groupby(enumerate(steps), key):
        numbers = [number for number, _ in some]
        yield range(numbers[0], numbers[-1] + 1)


@dataclass(frozen=True)
class Plan:
    """What to do, what it gains, and how good it is.

    ``value`` and ``bound`` are in ``unit``; the plan is a maximisation unless ``minimised``. ``gap_share`` is
    ``|bound − value| / |bound|``, 0 when both are 0, None when no bound is known.
    """

    kind: str
    ending: Ending
    unit: str
    value: float
    bound: float | None
    steps: tuple[Step, ...] = ()
    reasons: tuple[str, ...] = ()
    minimised: bool = False
    usd_per_hour: float | None = None
    """What the plan saves (consolidation) or costs (purchase); None without prices."""
    payback_s: float | None = None
    """Seconds until savings have paid for the moves; None without prices or moves."""
    time_s: float = 0.0
    details: dict[str, float] = field(default_factory=dict)
    """Further figures by name, for reports: counts per priority, nodes emptied, …"""

    def __post_init__(self) -> None:
        if self.bound is None:
            return
        slack = ROUNDING * max(1.0, abs(self.bound))
        above = self.value - self.bound if not self.minimised else self.bound - self.value
        if not above <= slack:
            raise ValueError(f"plan {self.kind}: value {self.value} is beyond its bound {self.bound}")

    @property
    def gap_share(self) -> float | None:
        """Certified distance from the optimum, as a share of the bound."""
        if self.bound is None:
            return None
        if self.bound == self.value:
            return 0.0
        return abs(self.bound - self.value) / max(abs(self.bound), 1e-12)

    def count(self, action: Action) -> int:
        """Steps of one kind."""
        return sum(step.action == action for step in self.steps)


@dataclass
class WorkClock:
    """A clock that counts work: it moves by :data:`LOOK_S` when somebody looks, and by what planners and solvers did.

    Its seconds are about those of one core, and the same on every machine.
    """

    done_s: float = 0.0

    def __call__(self) -> float:
        self.done_s += LOOK_S
        return self.done_s

    def spend(self, seconds: float) -> None:
        """Count so much work."""
        self.done_s += seconds


@dataclass(frozen=True)
class Deadline:
    """A time limit on the caller's clock, with a way to cancel.

    ``clock`` returns seconds that never fall; ``cancelled`` is asked between slices of work; ``note`` is told the value
    and the bound (None = not known yet) of the best plan so far, each time one of them gets better.

    Raises
    ------
    ConfigError : ``time_s`` is not above 0.
    """

    time_s: float
    clock: Callable[[], float]
    cancelled: Callable[[], bool] = lambda: False
    start_s: float = field(default=-1.0)
    note: Callable[[float, float | None], None] = lambda _value, _bound: None

    def __post_init__(self) -> None:
        if not self.time_s > 0:
            raise ConfigError(f"time limit {self.time_s} s leaves nothing to plan in; give more than 0 seconds")
        if self.start_s < 0:
            object.__setattr__(self, "start_s", self.clock())

    @property
    def elapsed_s(self) -> float:
        """Seconds since planning began."""
        return self.clock() - self.start_s

    @property
    def left_s(self) -> float:
        """Seconds until the limit, never negative."""
        return max(0.0, self.time_s - self.elapsed_s)

    @property
    def is_over(self) -> bool:
        """Time to return the best so far."""
        return self.left_s <= 0.0 or self.cancelled()

    @property
    def is_late(self) -> bool:
        """The same for looks within what a :class:`WorkClock` counts as one piece of work: there only cancelling ends it."""
        return self.cancelled() if self.work is not None else self.is_over

    def part(self, share: float) -> Deadline:
        """A deadline over ``share`` of what is left now."""
        return Deadline(max(1e-6, share * self.left_s), self.clock, self.cancelled, note=self.note)

    @property
    def work(self) -> WorkClock | None:
        """The clock, where it counts work."""
        return self.clock if isinstance(self.clock, WorkClock) else None

    def spend(self, seconds: float) -> None:
        """Say what work was done, about so many seconds of one core; of no effect on a clock that sees it by itself."""
        if self.work is not None:
            self.work.spend(seconds)

    @property
    def ending(self) -> Ending:
        """How a plan that stops now ends, when nothing better can be said."""
        return Ending.CANCELLED if self.cancelled() else Ending.DEADLINE
