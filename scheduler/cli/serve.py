"""``ullage serve``: options, signals and exit codes around :class:`scheduler.app.App`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError, PlacementError, why
from placement.whole_files import require_folder
from scheduler.jsonlog import log_to_stderr
from scheduler.settings import MODES, HttpSettings, Settings, read_settings
from scheduler.settings_toml import settings_to_toml

log = logging.getLogger(__name__)


@click.command()
@click.option("--config", "config", type=click.Path(dir_okay=False), help="Settings, TOML or YAML; options below win.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="off: silent; shadow: silent, but it records its choices; score: it marks nodes; decide: it names the node. "
    f"Default: {Settings.mode}.",
)
@click.option("--strategy", help=f"Name or TOML of the strategy. Default: {Settings.strategy}.")
@click.option("--workload", "knowledge", help="Workload file to price devices by; default: learn from the cluster.")
@click.option("--model", help="Folder of `ullage train` to predict usage and lifetimes with, or rule:NAME for usage.")
@click.option("--prometheus", help="Where usage comes from, such as http://prometheus.monitoring:9090.")
@click.option("--kubeconfig", help="Default: $KUBECONFIG, ~/.kube/config, then the pod's service account.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--host", help="Address to listen on. Default: every one.")
@click.option("--port", type=int, help=f"Port to listen on; 0 picks a free one. Default: {HttpSettings.port}.")
@click.option("--admin-port", type=int, help="Loopback port for switching modes while running. Default: none.")
@click.option("--log-dir", help="Folder of the event log. Default: none is kept.")
@click.option("--records", help="SQLite file of decision records. Default: none are kept.")
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Mildest that is logged, as JSON lines on standard error.",
)
@click.option("--check", is_flag=True, help="Read the settings, say what is wrong with them, and end.")
@click.option(
    "--print-settings", is_flag=True, help="Print every setting, what it means and its value here, as TOML, and end."
)
def serve(config: str | None, log_level: str, check: bool, print_settings: bool, **options: Any) -> None:
    """Answer kube-scheduler as its extender.

    SIGTERM ends it gracefully; SIGHUP reads --config again (mode, exempt namespaces, ignored wishes). Renewed
    certificates are taken for new connections by themselves.
    """
    overrides = _overrides(options)
    settings = read_settings(config, overrides, here=not print_settings)
    if print_settings:
        click.echo(settings_to_toml(settings), nl=False)
        return
    if check:
        _read_files(settings)
        click.echo("settings are good", err=True)
        return
    log_to_stderr(log_level)
    asyncio.run(_serve(settings, config, overrides))


def _read_files(settings: Settings) -> None:
    """Whether the files that settings name can be used. A service that runs waits for a model to appear; this does not.

    Raises
    ------
    PlacementError : one cannot.
    """
    from placement.learning.lifetime_model import load_lifetimes
    from placement.learning.prediction import RULE_PREFIX, load_rungs, target_of
    from scheduler.learning.learner import read_workload
    from scheduler.planning.prices import read_prices

    _check_places(settings)
    if settings.kube.kubeconfig:
        asyncio.run(_read_kubeconfig(settings))
    if settings.knowledge:
        read_workload(settings.knowledge)
    if settings.expander.prices:
        read_prices(Path(settings.expander.prices))
    if settings.usage.model:
        load_rungs(settings.usage.model, target_of(settings.usage.horizon))
        if not settings.usage.model.startswith(RULE_PREFIX):
            load_lifetimes(Path(settings.usage.model))


async def _read_kubeconfig(settings: Settings) -> None:
    from scheduler.kube import KubeClient

    await (await KubeClient.connect(settings.kube)).close()


def _check_places(settings: Settings) -> None:
    """Whether what settings say to write to is of the kind that it must be, as far as it exists.

    Raises
    ------
    ConfigError : it is not, or this user may not write to it.
    """
    for name, text, is_folder in (
        ("log.folder", settings.log.folder, True),
        ("records.path", settings.records.path, False),
        ("plan.records", settings.plan.records if settings.plan.applies else "", True),
    ):
        path = Path(text)
        problem = ""
        if not text:
            continue
        if path.exists():
            if path.is_dir() != is_folder:
                problem = "is a file; give a folder" if is_folder else "is a folder; give a file"
            elif not os.access(path, os.W_OK):
                problem = "may not be written by this user; change its rights, or give another"
        else:
            try:
                require_folder(path.parent)
            except OSError as error:
                problem = f"cannot be made, because {why(error)}; give another"
        if problem:
            raise ConfigError(f"{name} {text}: {problem}")


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Options as dotted settings."""
    keys = {
        "kubeconfig": "kube.kubeconfig",
        "context": "kube.context",
        "host": "http.host",
        "port": "http.port",
        "admin_port": "http.admin_port",
        "log_dir": "log.folder",
        "records": "records.path",
        "model": "usage.model",
        "prometheus": "usage.prometheus",
    }
    return {keys.get(name, name): value for name, value in options.items() if value is not None}


async def _serve(settings: Settings, config: str | None, overrides: dict[str, Any]) -> None:
    from scheduler.app import App
    from scheduler.kube import KubeClient
    from scheduler.quiet import Quiet
    from scheduler.server import Unhandled

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has hard limits that nobody can have
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (most, most)
        )  # callers and watches may need more than the usual 1,024
    client = await KubeClient.connect(settings.kube)
    try:
        app = App(settings, client, Quiet(is_ours=True))
    except PlacementError:
        await client.close()
        raise
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(Unhandled())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(app, config, overrides))
    try:
        if await _unless(stop, app.start()):
            await app.run(stop)
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await app.stop()
    if app.is_compiling:  # a minute on a machine that never did, for nobody, and no thread can be told to stop
        logging.shutdown()
        os._exit(0)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do it, and give it up when ``stop`` is set meanwhile: an API server that does not answer is no reason to stay."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
    return not stop.is_set()


def _reload(app: Any, config: str | None, overrides: dict[str, Any]) -> None:
    """Bad settings change nothing: the old ones stay in force."""
    try:
        app.reload(read_settings(config, overrides))
    except PlacementError as error:
        log.error("settings not taken over", extra={"error": str(error)})
