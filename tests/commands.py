"""Every command of the command line."""

from __future__ import annotations

from collections.abc import Iterator

import click


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            part = command.get_command(context, name)
            assert part is not None, f"{path} lists {name} and has no such command"
            yield from commands(part, f"{path} {name}".strip())
