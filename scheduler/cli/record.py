"""``ullage record``: options and progress around :mod:`scheduler.recording`.

The trace format belongs to the simulator, which this package does not import: the command line hands the writer in.
What records is imported where it is called: help is to answer at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from placement.errors import ConfigError, why
from placement.whole_files import require_file, require_folder
from scheduler.cli.progress import steps

if TYPE_CHECKING:
    from placement.recording import Recording
    from scheduler.settings import KubeSettings, UsageSettings

Write = Callable[["Recording", Path], str]
"""Makes a trace of a recording, and says what it is."""


def fetch(kube: KubeSettings, usage: UsageSettings, *, name: str, days: float, say: Callable[[str], None]) -> Recording:
    """The recording of the cluster and Prometheus that the settings name."""
    from scheduler.recording import record_with

    return asyncio.run(record_with(kube, usage, name=name, days=days, progress=say))


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


def command(writer: Callable[[], Write]) -> click.Command:
    """The command; ``writer`` finds what writes the trace, or that it is missed, before hours of recording."""

    @click.command()
    @click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
    @click.option("-p", "--prometheus", required=True, help="Address, such as http://localhost:9090.")
    @click.option("--days", type=click.FloatRange(0.01, 400), default=28, help="Of usage.")
    @click.option("--name", help="Of the trace; default: the file's.")
    @click.option("--kubeconfig", help="Default: $KUBECONFIG, ~/.kube/config, then the pod's service account.")
    @click.option("--context", help="Context of the kubeconfig.")
    @click.option("--busy-share", type=click.FloatRange(0.001, 1), default=0.5,
                  help="At most this share of the time is spent in queries.")  # fmt: skip
    @click.option("--timeout", "timeout_s", type=float, default=60, help="Of one query, seconds.")
    @click.option("--token-file", default="", help="Bearer token for Prometheus, or `Basic BASE64`.")
    @click.option("--ca", default="", help="PEM file of the authority behind Prometheus' certificate.")
    @click.option("--selector", default="", help='Label matchers for each metric, such as cluster="a".')
    @click.option("-q", "--quiet", is_flag=True, help="No progress.")
    def record_command(
        target: Path, prometheus: str, days: float, name: str | None, kubeconfig: str | None, context: str | None,
        busy_share: float, timeout_s: float, token_file: str, ca: str, selector: str, quiet: bool,
    ) -> None:  # fmt: skip
        """Record the cluster and what its pods used into the trace TARGET (.ullage).

        Nodes and pods come from the Kubernetes API, usage from Prometheus. Then: `ullage train TARGET -m MODEL`.
        """
        from scheduler.settings import read_settings

        write = writer()
        _check_place(target)
        keys = {
            "kube.kubeconfig": kubeconfig or "",
            "kube.context": context or "",
            "usage.prometheus": prometheus,
            "usage.busy_share": busy_share,
            "usage.timeout_s": timeout_s,
            "usage.prometheus_token_file": token_file,
            "usage.prometheus_ca": ca,
            "usage.prometheus_selector": selector,
        }
        settings = read_settings(None, keys)
        found = fetch(settings.kube, settings.usage, name=name or target.stem, days=days, say=steps(quiet=quiet))
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(write(found, target))
        click.echo(f"look at it: ullage trace info {target}; learn from it: ullage train {target} -m MODEL", err=True)

    record_command.name = "record"
    return record_command
