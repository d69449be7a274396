"""The time from which a folder's models have learned: what lies in it they may remember, and it proves nothing of them.

``ullage train`` judges models that have not seen the newest part of a recording, then fits them again on all of it and
serves those. So there is a time about which the served ones cannot be asked honestly, but the judged ones can, and an
earlier one about which neither can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from placement.errors import ModelError
from placement.resources import IntArray

SPAN = "span"
"""Of the model card, and of its section on lifetimes."""
NOBODY, JUDGED, SERVED = 0, 1, 2
"""Who may be asked about a moment."""


@dataclass(frozen=True)
class Span:
    """Seconds of the recording's clock, which is Unix time where it has a calendar, else its own."""

    from_s: int
    judged_s: int
    """The judged models used nothing from here on, not even to stop, to mix or to calibrate."""
    to_s: int
    """The served models used nothing from here on."""
    digest: str
    """Of the recording's content."""
    calendar: bool = True

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Span | None:
        """Of a card or a section; None in those of older builds.

        Raises
        ------
        ModelError : it cannot be read.
        """
        found = section.get(SPAN)
        if found is None:
            return None
        try:
            from_s, judged_s, to_s = (int(found[name]) for name in ("from_s", "judged_s", "to_s"))
            return cls(from_s, judged_s, to_s, str(found["digest"]), bool(found["calendar"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the model card's {SPAN} cannot be read ({error}); train again") from error

    @property
    def card(self) -> dict[str, object]:
        """For the card."""
        return asdict(self)

    def who(self, times_s: IntArray) -> IntArray:
        """For windows that begin then (any shape), who has not learned from them: of :data:`NOBODY` and the others."""
        inside = (times_s >= self.from_s) & (times_s < self.to_s)
        found: IntArray = np.where(inside, np.where(times_s >= self.judged_s, JUDGED, NOBODY), SERVED)
        return found
