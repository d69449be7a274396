"""``ullage rightsize``: options and formats around :mod:`scheduler.learning.rightsizing`."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from placement.errors import ConfigError, PlacementError, nearest
from placement.learning.horizons import HORIZONS
from scheduler.cli.cluster import CONTEXT, KUBECONFIG, PROMETHEUS, QUIET, prometheus_options, settings_of
from scheduler.cli.progress import steps
from scheduler.settings import SIZERS, Settings

if TYPE_CHECKING:
    from placement.learning.rightsize import Recommendation, RightsizePolicy
    from scheduler.learning.rightsizing import Advice


@click.command()
@PROMETHEUS
@click.option("-m", "--model", default="", help="Folder of `ullage train`, or rule:NAME; default: rule:max7d.")
@click.option("--horizon", type=click.Choice(HORIZONS), default="24h-peak", help="What is predicted.")
@click.option("--days", type=click.FloatRange(0.01, 28), default=28, help="Of history.")
@click.option("--margin", type=click.FloatRange(1, 10), default=1.15,
              help="On the upper quantile; packed takes what its own forecasts were wrong by, once that is known.")  # fmt: skip
@click.option(
    "--sizer", type=click.Choice(SIZERS), default="forecast",
    help="Each pod by its own upper quantile, or so that pods packed together keep within the budget.",
)  # fmt: skip
@click.option(
    "--budget", type=click.FloatRange(0.0001, 0.5), default=0.01,
    help="With --sizer packed: of node-time over CPU.",
)  # fmt: skip
@click.option("-n", "--namespace", default="", help="Only this namespace (default: all).")
@click.option("--apply", "applies", is_flag=True, help="Write the ConfigMaps that the admission policy reads.")
@KUBECONFIG
@CONTEXT
@prometheus_options
@QUIET
@click.option("-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", help="Format.")
def rightsize(
    days: float, margin: float, sizer: str, budget: float, namespace: str, applies: bool, kubeconfig: str, context: str,
    quiet: bool, output: str, **usage: Any,
) -> None:  # fmt: skip
    """What each workload should ask for, what that saves, and how far to believe it. Changes nothing by itself."""
    from placement.learning.rightsize import RightsizePolicy

    settings = settings_of(kubeconfig, context, timeout_s=60, **usage)
    advice, written = asyncio.run(
        _run(settings, days, RightsizePolicy(margin=margin), sizer, budget, namespace, applies, steps(quiet=quiet))
    )
    click.echo(_rendered(advice, output))
    if applies:
        click.echo(f"written: ConfigMap ullage-rightsize in {', '.join(written) or 'no namespace'}", err=True)
    elif output == "table":
        click.echo("nothing was changed; --apply writes what the admission policy reads", err=True)


async def _run(
    settings: Settings, days: float, policy: RightsizePolicy, sizer: str, budget: float, namespace: str, applies: bool,
    say: Callable[[str], None],
) -> tuple[Advice, list[str]]:  # fmt: skip
    from placement.learning.prediction import load_rungs, target_of
    from scheduler.kube import KubeClient
    from scheduler.learning.prometheus import Prometheus
    from scheduler.learning.rightsizing import advise, apply, config_maps, namespaces_of, require_current_policy
    from scheduler.learning.steering import who_steers
    from scheduler.metrics import Metrics
    from scheduler.recording import record

    target = target_of(settings.usage.horizon)
    rungs = load_rungs(settings.usage.model, target)
    async with await KubeClient.connect(settings.kube) as client, Prometheus(settings.usage, Metrics()) as prometheus:
        if applies:
            await require_current_policy(client)
        known = await namespaces_of(client)
        if namespace and namespace not in (names := [n.name for n in known]):
            raise ConfigError(f"there is no namespace {namespace!r}; {nearest(namespace, names)}")
        steered = await who_steers(client)
        if steered.unknown:
            who = f"{', '.join(steered.unknown)}: cannot be read, so what they steer is not left alone"
            if applies:
                raise PlacementError(f"{who}; see that they can be listed, or run without --apply")
            click.echo(f"note: {who}", err=True)
        recording = await record(
            client, prometheus, name="rightsize", days=days, now_s=time.time(), page_size=settings.kube.page_size,
            progress=say,
        )  # fmt: skip
        advice = advise(recording, known, rungs, policy, sizer=sizer, budget=budget, steered=steered)
        if namespace:
            known = [n for n in known if n.name == namespace]
            mine = tuple(r for r in advice.recommendations if r.workload.startswith(f"{namespace}/"))
            restart = tuple(name for name in advice.restart if name.startswith(f"{namespace}/"))
            advice = replace(advice, recommendations=mine, restart=restart)
        left_out: list[str] = []
        data = config_maps(advice.recommendations, left_out)
        if left_out:
            which = f"{len(left_out)} workloads, such as {left_out[0]}"
            click.echo(f"note: {which}, have no place in their namespace's ConfigMap and keep their requests", err=True)
        written = await apply(client, data, known) if applies else []
        return advice, written


def _row(found: Recommendation) -> dict[str, Any]:
    from scheduler.learning.rightsizing import usd_per_month

    return {
        "workload": found.workload,
        "replicas": found.replicas,
        "cpu_millicores": found.cpu,
        "new_cpu_millicores": found.new_cpu,
        "memory_bytes": found.memory,
        "new_memory_bytes": found.new_memory,
        "usd_per_month": round(usd_per_month(found), 2),
        "rung": found.rung,
        "age_s": found.age_s,
        "kept": found.why_kept,
        "held": found.held,
    }


def _rendered(advice: Advice, output: str) -> str:
    rows = [_row(found) for found in advice.recommendations]
    if output == "json":
        body = {
            "apiVersion": "ullage.dev/v1",
            "kind": "RightsizeAdvice",
            "target": advice.target,
            "source": advice.source,
            "sizer": advice.sizer,
            "scale": advice.scale,
            "restart": advice.restart,
            "usd_per_month": round(advice.usd_per_month, 2),
            "items": rows,
        }
        return json.dumps(body, indent=2, ensure_ascii=False)
    if output == "csv":
        from placement.learning.rightsize import Recommendation

        text = io.StringIO()
        nobody = Recommendation("", 0, 0, 0, 0, 0, "", 0)
        writer = csv.DictWriter(text, list(_row(nobody)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    return _table(advice)


def _table(advice: Advice) -> str:
    from scheduler.learning.rightsizing import usd_per_month

    lines = [("DIFF CPU", "DIFF MEMORY", "WORKLOAD", "PODS", "CPU", "MEMORY", "USD/MONTH", "RUNG", "KEPT BECAUSE")]
    for r in advice.recommendations:
        lines.append(
            (
                f"{r.new_cpu - r.cpu:+d}m" if r.new_cpu != r.cpu else "-",
                f"{(r.new_memory - r.memory) / 2**20:+.0f}Mi" if r.new_memory != r.memory else "-",
                r.workload,
                str(r.replicas),
                f"{r.cpu}m -> {r.new_cpu}m",
                f"{r.memory / 2**20:.0f}Mi -> {r.new_memory / 2**20:.0f}Mi",
                f"{usd_per_month(r):,.2f}",
                r.rung,
                r.why_kept or r.held or "-",
            )
        )
    packed = f" CPU: {advice.scale:g} times each workload's 95th percentile." if advice.scale else ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    pads = (str.rjust, str.rjust, str.ljust, str.rjust, str.ljust, str.ljust, str.rjust, str.ljust, str.ljust)
    text = "\n".join("  ".join(p(w, n) for p, w, n in zip(pads, line, widths, strict=True)).rstrip() for line in lines)
    if advice.restart:
        packed += (
            "\nNodes were out of CPU in the last day: nothing is recommended, and these right-sized pods should restart, "
            f"after --apply has emptied the ConfigMaps: {', '.join(advice.restart)}"
        )
    return (
        f"{text}\n\n{advice.usd_per_month:,.2f} USD a month of requests (OpenCost's default prices; real only when nodes go). "
        f"Predicted: {advice.target}, 95 % of windows stay under it before the margin; source: {advice.source}.{packed}"
    )
