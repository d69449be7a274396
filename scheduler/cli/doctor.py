"""``ullage doctor``: finds the traps in a scheduler configuration, our settings, manifests, or a live cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import yaml

from placement.errors import ConfigError
from scheduler.doctor.doctor import (
    RULES,
    Finding,
    examine,
    explain,
    from_probes,
    rule_named,
    rules_markdown,
    to_dict,
    to_json,
    worst_first,
)
from scheduler.doctor.facts import KIND, Facts, read_facts
from scheduler.doctor.live import Found, Probe, endpoint, lacks, probe
from scheduler.doctor.rules import SEVERITIES, Hit
from scheduler.errors import ApiError
from scheduler.settings import KubeSettings

FORMATS = ("table", "json", "yaml", "markdown")


@click.group("doctor", invoke_without_command=True)
@click.option("--config", type=click.Path(), help="kube-scheduler's --config file, or rendered manifests.")
@click.option("--settings", "settings_path", type=click.Path(), help="Settings file of `ullage serve`.")
@click.option("--kube-version", default="", help="Version of kube-scheduler, like 1.36, where no manifest tells.")
@click.option("--live", is_flag=True, help="Also probe the cluster, with --config hop by hop.")
@click.option(
    "--kubeconfig",
    default="",
    help="With --live. Default: $KUBECONFIG, ~/.kube/config, then the pod's service account.",
)
@click.option("--context", default="", help="With --live: context of the kubeconfig.")
@click.option("--address", default="", metavar="HOST:PORT", help="With --live: connect here instead (port-forward).")
@click.option(
    "--certificates",
    default="",
    metavar="DIR",
    help="With --live: folder of ca.crt, client.crt and client.key (or tls.*).",
)
@click.option("--as", "account", default="", metavar="USER", help="With --live: check this account's rights.")
@click.option("--fail-on", type=click.Choice(SEVERITIES), default="warning", help="Mildest severity that exits 1.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="Format on standard output.")
@click.pass_context
def doctor(
    context_: click.Context,
    config: str | None,
    settings_path: str | None,
    kube_version: str,
    live: bool,
    kubeconfig: str,
    context: str,
    address: str,
    certificates: str,
    account: str,
    fail_on: str,
    output: str,
) -> None:
    """Find the traps of the extender contract. Exits 1 if there are findings, 0 if there are none."""
    if context_.invoked_subcommand is not None:
        return
    if config is None and settings_path is None and not live:
        raise ConfigError("nothing to examine: give --config FILE, --settings FILE, --live, or several of them")
    if certificates and (lacking := lacks(Path(certificates))):
        raise ConfigError(f"--certificates {certificates}: holds no {lacking}; give the folder of all three")
    if address:
        endpoint(address)
    facts = read_facts(config, settings_path, kube_version)
    if config is not None and not facts.configs:
        click.echo(
            f"note: {config} holds no {KIND}, so how kube-scheduler calls Ullage is not examined; give its --config file, or "
            "manifests that hold that",
            err=True,
        )
    if config is None and live:
        click.echo(
            "note: without --config only the API, rights and clocks are looked at, not how kube-scheduler reaches Ullage",
            err=True,
        )
    findings = []
    if live:
        kube = KubeSettings(kubeconfig=kubeconfig, context=context)
        found, facts = asyncio.run(_probe(facts, kube, Probe(address, certificates, account)))
        findings = from_probes(found)
    findings = worst_first([*examine(facts), *findings])
    click.echo(_rendered(findings, facts, output), nl=False)
    threshold = SEVERITIES.index(fail_on)
    if any(SEVERITIES.index(f.severity) >= threshold for f in findings):
        context_.exit(1)


async def _probe(facts: Facts, kube: KubeSettings, options: Probe) -> tuple[list[Found], Facts]:
    from scheduler.kube import KubeClient  # aiohttp: half a second that offline runs need not wait for

    try:
        client = await KubeClient.connect(kube)
    except ApiError as error:
        found, facts = await probe(facts, None, options)
        return [("UD413", Hit("(Kubernetes API)", str(error))), *found], facts
    async with client:
        return await probe(facts, client, options)


@doctor.command("explain")
@click.argument(
    "code",
    required=False,
    shell_complete=lambda _context, _code, begun: [r.code for r in RULES if r.code.startswith(begun.upper())],
)
@click.option("-o", "--output", type=click.Choice(("text", "markdown")), default="text", help="Format.")
def explain_code(code: str | None, output: str) -> None:
    """Say what CODE means and what to do; without CODE list all."""
    if code:
        click.echo(explain(rule_named(code)), nl=False)
    elif output == "markdown":
        click.echo(rules_markdown(), nl=False)
    else:
        for rule in RULES:
            click.echo(f"{rule.code}  {rule.severity:<8} {rule.title}")


def _rendered(findings: list[Finding], facts: Facts, output: str) -> str:
    if output == "json":
        return to_json(findings, facts) + "\n"
    if output == "yaml":
        text: str = yaml.safe_dump(to_dict(findings, facts), sort_keys=False, allow_unicode=True)
        return text
    if output == "markdown" and findings:
        lines = ["| code | severity | path | message | fix |", "|---|---|---|---|---|"]
        lines += [f"| {f.code} | {f.severity} | `{f.path}` | {f.message} | {f.fix} |" for f in findings]
        return "\n".join(lines) + "\n"
    return _table(findings, facts)


def _table(findings: list[Finding], facts: Facts) -> str:
    counts = to_dict(findings, facts)["checked"]
    entries, manifests = counts["extenders"], counts["manifests"]
    looked = (
        f"{entries} extender {'entry' if entries == 1 else 'entries'}, {manifests} manifest{'s' * (manifests != 1)}"
    )
    if not findings:
        return f"No findings ({looked}; {len(RULES)} rules).\n"
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    console = Console()
    if not console.is_terminal:
        console.width = max(100, console.width)
    colours = {"error": "red", "warning": "yellow"}
    with console.capture() as capture:
        for finding in findings:
            shade = colours[finding.severity]
            console.print(
                f"{finding.code}  [{shade}]{finding.severity}[/{shade}]  {escape(finding.path)}", highlight=False
            )
            words = f"{escape(finding.message)}\n[dim]→ {escape(finding.fix)}[/dim]"
            console.print(Padding(words, (0, 0, 1, 4)), highlight=False)
    summary = to_dict(findings, facts)["summary"]
    tail = ", ".join(f"{summary[s]} {s}{'s' * (summary[s] != 1)}" for s in reversed(SEVERITIES) if summary[s])
    shown = "\n".join(line.rstrip() for line in capture.get().splitlines())
    return f"{shown}\n{tail} ({looked}). More on a code: ullage doctor explain CODE\n"
