"""The cluster, and Prometheus, for commands that run once: how they are named on a command line, and read.

What talks to them is imported where it is called: help and shell completion are to answer at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scheduler.cli.progress import steps
from scheduler.settings import Settings, read_settings

if TYPE_CHECKING:
    from placement.planning.snapshots import SnapshotFile
    from placement.recording import Recording
    from scheduler.kube import KubeClient

T = TypeVar("T")
KUBECONFIG = click.option(
    "--kubeconfig", default="", help="Default: $KUBECONFIG, ~/.kube/config, then the pod's service account."
)
CONTEXT = click.option("--context", default="", help="Context of the kubeconfig.")
PROMETHEUS = click.option("-p", "--prometheus", required=True, help="Address, such as http://localhost:9090.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress.")


def prometheus_options(command: Any) -> Any:
    """How Prometheus is asked; parameters are named as the settings of :class:`scheduler.settings.UsageSettings` are."""
    for option in (
        click.option(
            "--selector", "prometheus_selector", default="", help='Label matchers for each metric, such as cluster="a".'
        ),
        click.option(
            "--ca", "prometheus_ca", default="", help="PEM file of the authority behind Prometheus' certificate."
        ),
        click.option(
            "--token-file", "prometheus_token_file", default="", help="Bearer token for Prometheus, or `Basic BASE64`."
        ),
        click.option(
            "--busy-share", type=click.FloatRange(0.001, 1), default=0.5,
            help="At most this share of the time is spent in queries.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def settings_of(kubeconfig: str | None, context: str | None, **usage: Any) -> Settings:
    """Settings that name the cluster and, by names of :class:`scheduler.settings.UsageSettings`, where usage comes from."""
    kube = {"kube.kubeconfig": kubeconfig or "", "kube.context": context or ""}
    return read_settings(None, kube | {f"usage.{name}": value for name, value in usage.items()})


def with_client(
    kubeconfig: str | None, context: str | None, work: Callable[[KubeClient], Awaitable[T]], purpose: str = ""
) -> T:
    """``work`` with a client of the cluster, by kubeconfig's conventions; ``purpose`` is the client's."""
    from scheduler.kube import KubeClient

    settings = settings_of(kubeconfig, context)

    async def run() -> T:
        async with await KubeClient.connect(settings.kube, purpose) as client:
            return await work(client)

    return asyncio.run(run())


def recorded(settings: Settings, *, name: str, days: float, quiet: bool = False) -> Recording:
    """What the pods of the cluster did in the last days, from the API and Prometheus."""
    from scheduler.recording import record_with

    return asyncio.run(record_with(settings.kube, settings.usage, name=name, days=days, progress=steps(quiet=quiet)))


@dataclass(frozen=True)
class Live:
    """The live cluster for commands that plan or record. The trace format is the simulator's, which this package does not
    import: the command line hands over what finds the maker of traces, or that it is missed."""

    tracer: Callable[[], Callable[[Recording], Any]]

    def snapshot(self, kubeconfig: str | None, context: str | None) -> SnapshotFile:
        """The cluster now."""
        from scheduler.cluster_reader import take_snapshot

        return with_client(kubeconfig, context, take_snapshot)

    def recording(self, kubeconfig: str | None, context: str | None, prometheus: str, days: float) -> Any:
        """The trace of what the cluster's pods did in the last days, from Prometheus."""
        settings = settings_of(kubeconfig, context, prometheus=prometheus)
        return self.tracer()(recorded(settings, name="history", days=days))
