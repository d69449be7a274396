"""``ullage explain pod/NAME``: why a pod went where it went, from the records of a live service or a replay."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING

import click

from placement.errors import ConfigError
from scheduler.errors import RecordError

if TYPE_CHECKING:
    from scheduler.records import Query, RecordReader

RECORDS = click.option(
    "--records",
    envvar="ULLAGE_RECORDS",
    default="records.db",
    help="File written by `ullage serve --records` or `ullage decisions from-log`.",
)

RECENT = 1000
"""So many decisions are searched for a name that is like one without a record."""
FORMS = "pod/NAME, uid/UID or decision/ID"


@click.command()
@click.argument("what", metavar="pod/NAME")
@click.option("-n", "--namespace", default="default", help="Namespace of the pod.")
@click.option("--node", default="", help="Also say why not this node.")
@click.option("--all", "every", is_flag=True, help="Every decision about the pod, oldest first, not just the last.")
@click.option("-o", "--output", type=click.Choice(("text", "json")), default="text", help="Format.")
@RECORDS
def explain(what: str, namespace: str, node: str, every: bool, output: str, records: str) -> None:
    """Why a pod went where it went. Ask about pod/NAME (or NAME alone), uid/UID or decision/ID."""
    from scheduler.explain import answer, in_words
    from scheduler.records import RecordReader

    query = _query(what, namespace)
    with RecordReader(records) as reader:
        found = list(reader.find(query))
        if not found:
            raise RecordError(_nothing(what, namespace, reader))
        chosen = found[::-1] if every else found[:1]
        if output == "json":
            told = [answer(r, reader.fleet(r.fleet), node, len(found)) for r in chosen]
            click.echo(json.dumps(told if every else told[0], indent=2, ensure_ascii=False))
            return
        click.echo("\n".join(in_words(r, reader.fleet(r.fleet), node, len(found)) for r in chosen), nl=False)


def _query(what: str, namespace: str) -> Query:
    from scheduler.records import Query

    kind, slash, name = what.partition("/")
    if not slash:
        kind, name = "pod", what
    if kind in ("pod", "pods", "po"):
        return Query(name=name, namespace=namespace)
    if kind == "uid":
        return Query(uid=name)
    if kind == "decision":
        return Query(id=name)
    raise ConfigError(f"{what!r}: explain {FORMS}")


def _nothing(what: str, namespace: str, reader: RecordReader) -> str:
    from scheduler.records import Query

    kind, _, name = what.rpartition("/")
    elsewhere = sorted({r.namespace for r in reader.find(Query(name=name, limit=100))})
    if elsewhere:
        return f"{what} has no record in namespace {namespace}; it has in {', '.join(elsewhere)}: use -n"
    recent = list(dict.fromkeys(r.name for r in reader.find(Query(namespace=namespace, limit=RECENT))))
    near = [other for other in recent if other.startswith(name)][:3] or difflib.get_close_matches(name, recent, 3)
    meant = f"; did you mean {' or '.join(near)}?" if near and kind not in ("uid", "decision") else ""
    asked = what if kind else f"{what}, read as pod/{what},"
    wrong = "" if kind else f", or no pod: explain takes {FORMS}"
    return (
        f"{asked} is in none of the {reader.count():,} records of {reader.path}; it may be older than what is kept, or never "
        f"asked about: a scheduler that finds no node by itself does not ask (kubectl describe says why){wrong}{meant}"
    )
