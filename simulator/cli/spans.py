"""Spans of time on the command line: ``24h``, ``30m``, ``7d``, or seconds."""

from __future__ import annotations

import click


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
