"""Options that several commands have, and how they read times and places."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError, PlacementError
from placement.whole_files import require_file, require_folder
from simulator.output import FORMATS


class _Page(click.Path):
    """A page to write. A place that cannot be written is a complaint before the work, not after."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """The path, once its folder is there."""
        if str(value).endswith(os.sep):  # click sees a file where there is no such folder yet
            self.fail(f"{value} is a folder; name a file in it, such as {value}report.html.", param, context)
        path = Path(str(super().convert(value, param, context)))
        if context is None or not context.resilient_parsing:
            _check_writable(path)
        return path


def _check_writable(path: Path) -> None:
    if path.suffix in (".json", ".md"):
        raise ConfigError(f"report {path}: is the HTML file, JSON and Markdown come beside it; let it end in .html")
    try:
        require_file(path)
    except OSError as error:
        raise ConfigError(f"report {path}: {error.strerror}; name a file") from error
    try:
        require_folder(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlacementError(f"report {path}: {error.strerror}; choose another folder") from error


def _date(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """A date and time by ISO 8601, of UTC where it names no zone, as Unix seconds."""
    if text is None:
        return None
    from placement.learning.usage import CALENDAR_FROM_S  # and NumPy, for which help does not wait

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


def moment(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback that reads a time since a clock began: a span, or 0."""
    return 0 if text == "0" else seconds(context, parameter, text)


def seconds(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback that reads a span of time: ``24h``, ``30m``, ``7d``, or seconds."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:], 0)
    try:
        found = round(float(text[:-1]) * unit) if unit else int(text)
    except (ValueError, OverflowError):
        found = 0
    if not 0 < found < 10**10:
        raise click.BadParameter(
            f"{text!r} is no span of time; write it like 24h, 30m, 7d, or seconds", param=parameter
        )
    return found


DATA = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of recorded traces.",
)
REPORT = click.option("--report", type=_Page(), help="Write an HTML report here.")
SEED = click.option("--seed", type=click.IntRange(0), default=0, help="Of everything random.")
PRICES = click.option(
    "--prices", type=click.Path(path_type=Path), help="Price book (CSV); when absent TRACE's, else the one that ships."
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress.")
OUTPUT = click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="Format on standard output.")
BAD_ROWS = click.option(
    "--bad-rows",
    "skip_bad_rows",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    callback=lambda _context, _option, value: value == "skip",
    help="Of a recorded source: name the first damaged row and stop, or leave such rows out and count them.",
)
BEGINS = click.option(
    "--begins-at",
    "begins_s",
    metavar="DATE",
    callback=_date,
    help="When second 0 of a recording without a calendar was, such as 2026-03-01T00:00; "
    "else models do not look at hours and weekdays.",
)
