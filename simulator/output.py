"""Printing results: rows as a table, JSON, YAML, CSV or Markdown. Standard output is data; progress is standard error."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from placement.errors import PlacementError
from placement.whole_files import require_folder, whole_file

FORMATS = ("table", "json", "yaml", "csv", "markdown")
Progress = Callable[[float, float], None]
"""Told how much is done, of how much in all."""
TELL_S = 30.0
"""How often work that is not watched says how far it is."""


def untold(done: float, total: float) -> None:
    """Progress that nobody hears of."""


@contextmanager
def _data_only() -> Iterator[None]:
    """Send what native libraries print (HiGHS does, at times), workers' too, to standard error: standard output is data."""
    if sys.stdout is None:  # it is closed, and its number may be that of a file by now
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C keeps it until the end of the process where this is no terminal
        os.dup2(kept, 1)
        os.close(kept)


def write_whole(texts: Mapping[Path, str], what: str = "report") -> None:
    """Write files whole and in this order, and all of them or none; ``what`` they are, for complaints.

    Raises
    ------
    PlacementError : a place cannot be written (read-only, full).
    """
    target = next(iter(texts))
    try:
        with ExitStack() as parts:
            for target, text in reversed(list(texts.items())):  # who is entered last takes its place first
                part = parts.enter_context(whole_file(target))
                part.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text
    except OSError as error:
        raise PlacementError(
            f"{what} {target}: cannot be written ({error.strerror}); nothing was kept, choose another place"
        ) from error


def check_folder(folder: Path) -> None:
    """Complain about a folder for a model before the work, not after.

    Raises
    ------
    PlacementError : it is not there and cannot be made, or cannot be written to.
    """
    try:
        require_folder(folder)
    except OSError as error:
        raise PlacementError(f"model {folder}: {error.strerror}; choose another folder") from error


def render(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: str) -> str:
    """``document`` for JSON and YAML, ``rows`` (equal keys) for the tables."""
    if output == "json":
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    if output == "yaml":
        import yaml

        return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, allow_unicode=True).rstrip()
    if output == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().rstrip()
    return markdown(rows) if output == "markdown" else table(rows, _terminal_columns())


def emit(kind: str, document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print a document of ours, or its ``rows``, as ``-o`` asked for."""
    click.echo(render({"apiVersion": "ullage.dev/v1", "kind": kind, **document}, rows, output))


def cell(value: Any) -> str:
    """A value for people."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A GitHub table."""
    if not rows:
        return "(nothing)"
    keys = list(rows[0])
    numeric = [all(isinstance(row[k], int | float) or row[k] is None for row in rows) for k in keys]
    lines = ["| " + " | ".join(keys) + " |", "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    lines += ["| " + " | ".join(cell(row[k]) for k in keys) + " |" for row in rows]
    return "\n".join(lines)


NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+|[-–]?")
"""A number as text, or none."""
MOST_STANDING = 3
"""More rows than this are there to be compared, column by column, however wide they are."""
LEAST_WRAPPED = 24
"""A last column narrower than this is not wrapped: it would be all height."""


def _terminal_columns() -> int | None:
    """How wide the terminal is; None where standard output is none, so that files are the same everywhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def heading(key: str) -> str:
    """A key as tables for people have it: ``bound_usd_per_month`` is BOUND USD/MONTH, ``gap_percent`` GAP %."""
    return key.replace("_percent", " %").replace("_per_", "/").replace("_", " ").upper()


def table(rows: Sequence[Mapping[str, Any]], columns: int | None = None) -> str:
    """Aligned columns, plain text; the words of the last one go on below themselves beyond ``columns`` letters.

    Few rows that are half as wide again nonetheless stand one below the other, a line for each key.
    """
    if not rows:
        return "(nothing)"
    keys = list(rows[0])
    cells = [[cell(row[k]) for k in keys] for row in rows]
    widths = [max(len(heading(k)), *(len(line[i]) for line in cells)) for i, k in enumerate(keys)]
    right = [any(map(str.strip, column)) and all(map(NUMBER.fullmatch, column)) for column in zip(*cells, strict=True)]
    start = sum(widths[:-1]) + 2 * (len(keys) - 1)
    room = 0 if columns is None or right[-1] else columns - start
    wraps = widths[-1] > room >= LEAST_WRAPPED
    is_far_too_wide = columns is not None and not wraps and 2 * (start + widths[-1]) > 3 * columns
    if is_far_too_wide and len(rows) <= MOST_STANDING:
        wide = max(len(heading(k)) for k in keys)
        return "\n\n".join("\n".join(f"{heading(k):{wide}}  {v}" for k, v in zip(keys, c, strict=True)) for c in cells)

    def line(parts: Sequence[str]) -> str:
        padded = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    def lines(parts: Sequence[str]) -> str:
        first, *more = textwrap.wrap(parts[-1], room, break_on_hyphens=False) if wraps and parts[-1] else parts[-1:]
        return "\n".join([line([*parts[:-1], first]), *(" " * start + text for text in more)])

    return "\n".join([line([heading(k) for k in keys]), *(lines(c) for c in cells)])


def told_now_and_then(what: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Says in lines how far something is, so that logs of long work are not silent and of short work not longer."""
    began = told = clock()

    def advance(done: float, total: float) -> None:
        nonlocal told
        if (now := clock()) - told >= TELL_S:
            told = now
            click.echo(f"{now - began:7.0f} s  {what}: {done:,.0f} of {total:,.0f}", err=True)

    return advance


@contextmanager
def progress(what: str, *, quiet: bool = False, is_time: bool = False, kernel: Any = None) -> Iterator[Progress]:
    """A bar with rate and time left on standard error; a line now and then when it is no terminal, or with NO_COLOR.
    Nobody writes to standard output in it: that is data, and what solvers print goes where the bar is.

    ``is_time``: what is done is seconds of a limit, which have no rate. ``kernel``: what is compiled first unless an
    earlier run has done so, which may take a minute in which nothing moves.
    """
    if kernel is not None:
        from placement.machine_code import is_kept  # numba: half a second that most commands spare

        if not is_kept(kernel):
            what += " (the first run compiles)"
            if not (quiet or sys.stderr.isatty()):  # or nothing would be heard of it before it is over
                click.echo(f"{what} …", err=True)
    if quiet or not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        with _data_only():
            yield untold if quiet else told_now_and_then(what)
        return
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        """How many a minute."""

        def render(self, task: Task) -> Text:
            return Text(f"{60 * task.speed:,.1f} a minute" if task.speed else "")

    bar_columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""))
    columns = (*(bar_columns[:2] if is_time else bar_columns), TimeRemainingColumn())
    with _data_only(), rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: float, total: float) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
