"""``ullage sweep``: options around :mod:`scheduler.planning.sweeper`, which is imported where it is called."""

from __future__ import annotations

import click

from scheduler.cli.cluster import CONTEXT, KUBECONFIG, with_client
from scheduler.errors import ApiError


@click.command()
@click.option("--deadline", default=180.0, type=click.FloatRange(min=0), help="Seconds.")
@click.option("--gang-deadline", default=1200.0, type=click.FloatRange(min=0), help="For gangs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@KUBECONFIG
@CONTEXT
def sweep(deadline: float, gang_deadline: float, dry_run: bool, kubeconfig: str, context: str) -> None:
    """Lift scheduling gates and clear nominations of ours that are older than the deadline.

    For a CronJob outside the Deployment: no pod waits for a planner that is not there. Exit code 1 if a pod could not
    be mended.
    """
    from scheduler.kube import KubeClient
    from scheduler.planning.sweeper import Swept
    from scheduler.planning.sweeper import sweep as run_sweep

    async def once(client: KubeClient) -> Swept:
        return await run_sweep(
            client, client.server_s, deadline_s=deadline, gang_deadline_s=gang_deadline, is_dry=dry_run
        )

    swept = with_client(kubeconfig, context, once)
    would = "would be " if dry_run else ""
    click.echo(f"{swept.seen} pods: {swept.lifted} gates {would}lifted, {swept.cleared} nominations {would}cleared")
    if swept.failed:
        raise ApiError(f"{len(swept.failed)} pods could not be mended, first: {swept.failed[0]}; run it again")
