"""What of a recording a model may be judged on: not what it was fitted on.

``ullage train`` serves models that were fitted on all of a recording, and keeps beside them those that were judged. On
later data the served ones are judged; on the recording that they know, the others, and only on what those had not seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256

from placement.errors import ConfigError
from placement.learning.spans import Span


def digest_of(name: str) -> str:
    """By which a card remembers a name: 8 hexadecimal digits.

    >>> digest_of("shop/Deployment/web")
    '84b75d05'
    """
    return sha256(name.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Judged:
    """A recording that a model is to be judged on, from ``begin_s`` (where its last third begins) to ``end_s``."""

    name: str
    digest: str
    calendar: bool
    first_s: int
    begin_s: int
    end_s: int
    members: Collection[str]
    """Digests of its workloads, or owners."""


@dataclass(frozen=True)
class Sight:
    """Who is judged, from when on, and what a person must be told of it."""

    before_refit: bool
    from_s: int
    note: str = ""
    knows_past: bool = False
    """What is served may have been fitted on days before ``from_s``: it is not tried on them."""


def sight_of(span: Span | None, trained_on: str, known: Collection[str], data: Judged) -> Sight:
    """How to judge a model whose card tells a ``span``, the recording's name, and digests of (some of) who was in it.

    It is the same cluster at the same time if the content is the same; or if the times overlap, both by a calendar, and
    somebody is in both; or, without a calendar, if the names are the same.

    Raises
    ------
    ConfigError : nothing is left that it had not seen.
    """
    if span is None:
        return Sight(False, data.begin_s)
    if span.digest == data.digest:
        shift = data.first_s - span.from_s  # the same recording may have been told when it began, or not
        span = replace(span, from_s=data.first_s, judged_s=span.judged_s + shift, to_s=span.to_s + shift)
    elif span.calendar != data.calendar or not (
        set(known) & set(data.members) if span.calendar else trained_on == data.name
    ):
        return Sight(False, data.begin_s)
    if data.begin_s >= span.to_s or data.end_s <= span.from_s:
        return Sight(False, data.begin_s, knows_past=data.first_s < span.to_s and data.end_s > span.from_s)
    if 2 * (data.end_s - span.to_s) >= data.end_s - data.begin_s:
        days = (data.end_s - span.to_s) / 86_400
        return Sight(
            False, span.to_s, f"{data.name}: judged on the {days:.1f} days that the model was not fitted on", True
        )
    begin = max(data.begin_s, span.judged_s)
    if begin >= data.end_s:
        raise ConfigError(
            f"{data.name}: the model was fitted on all of it, so nothing here would tell how good it is; "
            f"give a recording that goes on after {_moment(span)} of the one that it was trained on"
        )
    if span.judged_s == span.to_s:
        note = "" if begin == data.begin_s else f"{data.name}: judged on what was not fitted on"
        return Sight(False, begin, note, True)
    return Sight(
        True,
        begin,
        f"{data.name}: the models that are served were fitted on this; judged are those before that "
        "(judged-*), on what they had not seen. Judge what is served on a later recording",
        True,
    )


def _moment(span: Span) -> str:
    """From when on something can be judged, by the recording's clock."""
    if not span.calendar:
        return f"second {span.judged_s}"
    return f"{datetime.fromtimestamp(span.judged_s, UTC):%Y-%m-%d %H:%M} UTC"
