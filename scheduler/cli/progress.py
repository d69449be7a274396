"""How far long work is, in lines on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

TELL_S = 30.0
"""How often work that is not watched says how far it is."""


def steps(*, quiet: bool) -> Callable[[str], None]:
    """Says on standard error what was done, and after how many seconds."""
    began = time.monotonic()

    def say(message: str) -> None:
        if not quiet:
            click.echo(f"{time.monotonic() - began:7.1f} s  {message}", err=True)

    return say


def now_and_then(say: Callable[[str], None], total: int) -> Callable[[int], None]:
    """What says how many of so many events have been read, now and then."""
    told_s = time.monotonic()

    def tell(number: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            say(f"{number:,} of {total:,} events")

    return tell
