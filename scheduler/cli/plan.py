"""``ullage plan apply`` and ``ullage plan status``.

What acts is imported where it is called: help and shell completion are to answer at once.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from placement.errors import ConfigError, why, yaml_fault
from scheduler.cli.cluster import CONTEXT, KUBECONFIG, with_client

if TYPE_CHECKING:
    from placement.planning.plans import Plan
    from scheduler.kube import KubeClient
    from scheduler.planning.applier import Applier, ApplyLimits
    from scheduler.planning.record import PlanRecord

OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="Format.")


def _read_plan(path: Path) -> Plan:
    import yaml

    from placement.planning.make import plan_of_document

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"plan {path}: cannot be read ({why(error)}); make one with `ullage plan … -o json`"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(
            f"plan {path}: is neither JSON nor YAML ({yaml_fault(error)}); make one with `ullage plan … -o json`"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"plan {path}: is not a plan; make one with `ullage plan … -o json`")
    return plan_of_document(document)


@click.command()
@click.argument("path", metavar="PLAN", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Really do it; without this, only say what would be done.")
@click.option("--abandon", is_flag=True, help="Give the plan up: open the nodes that it cordoned and did not empty.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Default: PLAN.record.json.")
@click.option("--max-evictions", type=click.IntRange(min=0), help="Stop before one more. Default: the plan's own.")
@click.option("--refusal-deadline", "refusal_s", type=click.FloatRange(0), default=300,
              help="Seconds to wait for a disruption budget.")  # fmt: skip
@click.option("--settle-deadline", "settle_s", type=click.FloatRange(0), default=180,
              help="Seconds beyond its grace period until an evicted pod ends; again until its replacement runs.")  # fmt: skip
@KUBECONFIG
@CONTEXT
@OUTPUT
def apply(
    path: Path, yes: bool, abandon: bool, record: Path | None, max_evictions: int | None, refusal_s: float,
    settle_s: float, kubeconfig: str | None, context: str | None, output: str,
) -> None:  # fmt: skip
    """Act on a plan (JSON or YAML of `ullage plan … -o`), step by step. Says what it would do until told --yes.

    Pods are evicted through the Eviction API. It stops when the cluster is no longer the one that was planned for, and
    can be interrupted at any time (Ctrl-C, SIGTERM): the same command goes on. Exit code 1 when the plan was stopped.
    """
    from scheduler.planning.applier import ApplyLimits
    from scheduler.planning.record import SUFFIX, PlanState, alone, fresh_record, read_record

    plan = _read_plan(path)
    where = record or path.with_name(path.name + SUFFIX)
    limits = ApplyLimits(refusal_s, settle_s, max_evictions=max_evictions)
    with alone(where) if yes or abandon else nullcontext():
        kept = read_record(where, plan)
        found = kept or fresh_record(plan)
        if abandon:
            if kept is None:
                raise ConfigError(f"record {where}: there is none, so nothing was begun; check --record")
            _abandon(found, where, limits, kubeconfig, context)
        elif yes:
            _go_on(found, where, limits, kubeconfig, context)
        else:
            _say(found, kubeconfig, context)
    _print(found, output)
    if found.outcome in (PlanState.STOPPED, PlanState.ABANDONED):
        click.echo(f"it has ended (record: {where}); plan again on the cluster as it is now", err=True)
    if found.outcome == PlanState.STOPPED:
        click.get_current_context().exit(1)


def _applier(client: KubeClient, record: PlanRecord, where: Path, limits: ApplyLimits) -> Applier:
    from scheduler.planning.applier import Applier
    from scheduler.planning.record import save_record

    began = time.monotonic()

    def say(number: int, message: str) -> None:
        step = f"step {number + 1}/{len(record.steps)}: " if number >= 0 else ""
        click.echo(f"{time.monotonic() - began:7.1f} s  {step}{message}", err=True)

    return Applier(client, record, lambda: save_record(record, where), limits, say)


def _go_on(record: PlanRecord, where: Path, limits: ApplyLimits, kubeconfig: str | None, context: str | None) -> None:
    from scheduler.planning.record import save_record, summary
    from scheduler.rights import APPLIES

    save_record(record, where)
    click.echo(f"record: {where}", err=True)
    try:
        with_client(kubeconfig, context, lambda client: _applier(client, record, where, limits).run(), APPLIES)
    except KeyboardInterrupt:  # SIGTERM, too
        click.echo(f"{summary(record)}; the same command goes on, --abandon gives it up", err=True)
        raise


def _abandon(record: PlanRecord, where: Path, limits: ApplyLimits, kubeconfig: str | None, context: str | None) -> None:
    from scheduler.rights import APPLIES

    with_client(kubeconfig, context, lambda client: _applier(client, record, where, limits).abandon(), APPLIES)


def _say(record: PlanRecord, kubeconfig: str | None, context: str | None) -> None:
    """Dry: whether the plan still holds on the cluster as it is."""
    from scheduler.planning.applier import why_not_valid
    from scheduler.planning.record import PlanState, State
    from scheduler.rights import APPLIES

    plan = record.to_plan
    if record.outcome != PlanState.RUNNING:
        return  # what is printed of it says how it ended
    if any(step.state != State.PENDING for step in record.steps):
        click.echo("begun before; --yes goes on, --abandon gives it up", err=True)
        return
    wrong = with_client(kubeconfig, context, lambda client: why_not_valid(client, plan), APPLIES)
    for problem in wrong:
        click.echo(f"would stop: {problem}", err=True)
    if wrong or not plan.steps:
        why = "" if wrong else ": the plan has no steps"
        click.echo(f"nothing would be done{why}", err=True)
        return
    click.echo(f"{len(plan.steps)} steps would be done; nothing was changed, --yes does it", err=True)


def _print(record: PlanRecord, output: str) -> None:
    from scheduler.planning.record import rows, summary

    listed = rows(record)
    document = {
        "apiVersion": "ullage.dev/v1",
        "kind": "PlanProgress",
        "outcome": str(record.outcome),
        "reason": record.reason,
        "evictions": record.evictions,
        "steps": listed,
    }
    if output == "table":
        for row in listed:
            gone = f" ({row['actual']})" if row["actual"] and row["actual"] != row["planned"] else ""
            click.echo(f"{row['step']:4}  {row['state']:8}  {row['what']}{gone}  {row['reason']}".rstrip())
        click.echo(summary(record))  # last: a long plan would push it off the screen
    else:
        click.echo(_dumped(document, output))


def _dumped(document: dict[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True)).rstrip()


@click.command()
@click.option("-n", "--namespace", default="", help="Only this namespace (default: all).")
@click.option("--differs", is_flag=True, help="Only pods that are not where they were planned.")
@KUBECONFIG
@CONTEXT
@OUTPUT
def status(namespace: str, differs: bool, kubeconfig: str | None, context: str | None, output: str) -> None:
    """Live batches: planned against actual, pod by pod, with the reason for each difference, and what gated pods wait
    for. Reads the API alone."""
    from scheduler.planning.adherence import adherence

    found = with_client(kubeconfig, context, lambda client: adherence(client, namespace))
    shown = [pod for pod in found if not differs or pod.reason != "as planned"]
    counts: dict[str, int] = {}
    for pod in found:
        counts[pod.outcome] = counts.get(pod.outcome, 0) + 1
    if output != "table":
        items = [
            {
                "pod": p.pod,
                "planned": p.planned,
                "actual": p.actual,
                "planned_devices": p.planned_devices,
                "actual_devices": p.actual_devices,
                "outcome": p.outcome,
                "reason": p.reason,
            }
            for p in shown
        ]
        click.echo(_dumped({"apiVersion": "ullage.dev/v1", "kind": "PlanAdherence", **counts, "items": items}, output))
        return
    width = max((len(p.pod) for p in shown), default=0)
    click.echo(", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "no pod of ours is planned")
    for pod in shown:
        places = (_place(pod.planned or "-", pod.planned_devices), _place(pod.actual or "-", pod.actual_devices))
        click.echo(f"{pod.pod:{width}}  {' -> '.join(places)}  {pod.reason}")


def _place(node: str, devices: str) -> str:
    return f"{node} [{devices}]" if devices else node


COMMANDS = (apply, status)
"""What the live side adds to ``ullage plan``."""
