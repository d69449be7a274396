"""``--begins-at``: when second 0 of a recording was that does not say so itself."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from placement.errors import ConfigError
from placement.learning.usage import CALENDAR_FROM_S


def check_begin(name: str, has_calendar: bool) -> None:
    """For a recording that is told when it began.

    Raises
    ------
    ConfigError : it says so itself.
    """
    if has_calendar:
        raise ConfigError(f"{name}: says itself when it began; leave out --begins-at")


def moment(context: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """A date and time by ISO 8601, of UTC where it names no zone, as Unix seconds."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no date and time; write 2026-03-01T00:00 (UTC) or 2026-03-01T00:00+02:00"
        ) from None
    unix_s = int(found.replace(tzinfo=found.tzinfo or UTC).timestamp())
    if unix_s < CALENDAR_FROM_S:
        raise click.BadParameter(f"{text!r} lies before 1990; give the date on which the recording began")
    return unix_s


BEGINS = click.option(
    "--begins-at",
    "begins_s",
    metavar="DATE",
    callback=moment,
    help="When second 0 of a recording without a calendar was, such as 2026-03-01T00:00; "
    "else models do not look at hours and weekdays.",
)
