"""``ullage record``: options and progress around :mod:`scheduler.recording`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from placement.errors import ConfigError, why
from placement.whole_files import require_file, require_folder
from scheduler.cli.cluster import (
    CONTEXT,
    KUBECONFIG,
    PROMETHEUS,
    QUIET,
    Live,
    prometheus_options,
    recorded,
    settings_of,
)


def _check_place(target: Path) -> None:
    """Complain about a place that cannot be written before hours of recording, not after.

    Raises
    ------
    ConfigError : something else than a file is there, or its folder is read-only or cannot be made.
    """
    try:
        require_file(target)
        require_folder(target.parent)
    except OSError as error:
        raise ConfigError(f"trace {target}: cannot be written ({why(error)}); choose another place") from error


@click.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@PROMETHEUS
@click.option("--days", type=click.FloatRange(0.01, 400), default=28, help="Of usage.")
@click.option("--name", help="Of the trace; default: the file's.")
@KUBECONFIG
@CONTEXT
@prometheus_options
@click.option("--timeout", "timeout_s", type=float, default=60, help="Of one query, seconds.")
@QUIET
@click.pass_obj
def record(
    live: Live, /, target: Path, days: float, name: str | None, kubeconfig: str, context: str, quiet: bool, **usage: Any
) -> None:
    """Record the cluster and what its pods used into the trace TARGET (.ullage).

    Nodes and pods come from the Kubernetes API, usage from Prometheus. Then: `ullage train TARGET -m MODEL`.
    """
    trace_of = live.tracer()  # what is missed is said before hours of recording
    _check_place(target)
    settings = settings_of(kubeconfig, context, **usage)
    found = recorded(settings, name=name or target.stem, days=days, quiet=quiet)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    trace = trace_of(found)
    trace.save(target)
    held = f"{len(trace.nodes):,} nodes, {len(trace.pods):,} pods, {len(trace.usage.pod):,} usage samples"
    click.echo(f"{target}: {held}")
    named = quote(str(target))
    click.echo(f"look at it: ullage trace info {named}; learn from it: ullage train {named} -m MODEL", err=True)
