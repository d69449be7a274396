"""``ullage bundle``: everything needed to repeat a run, in one file; and a look at one.

A bundle holds the newest run of the event log, the settings file, and the versions of everything involved. It
replays on any build that reads its log format. Settings name files but never hold secrets; nothing else is read.
"""

from __future__ import annotations

import io
import json
import platform
import tarfile
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from placement.errors import ConfigError, why
from placement.whole_files import whole_file
from scheduler.cli.progress import now_and_then, steps
from scheduler.errors import RecordError

if TYPE_CHECKING:
    from placement.log import Event
    from placement.strategy import Strategy

PARTS = ("numpy", "numba", "msgspec", "ortools", "lightgbm", "grpcio", "protobuf", "kubernetes", "aiohttp", "ullage")


def versions() -> dict[str, str]:
    """Versions of Python, the system, and the libraries that matter."""
    known = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    return {"python": platform.python_version(), "system": platform.platform()} | {
        name: known[name] for name in PARTS if name in known
    }


def write_bundle(log_folder: Path, config: Path | None, target: Path) -> int:
    """Pack a run into ``target`` (``.tar.gz``); the number of segments.

    Raises
    ------
    ConfigError : there is no log, or the settings cannot be read.
    RecordError : the target cannot be written; what stood there before still does.
    """
    from placement.log_lines import segments

    files = segments(log_folder)
    facts = {"ullage_bundle": 1, "packed_unix_s": int(time.time()), "versions": versions()}
    try:
        settings = None if config is None else config.read_bytes()
    except OSError as error:
        raise ConfigError(f"settings {config}: cannot be read ({why(error)}); check the path and its rights") from error
    try:
        with whole_file(target) as part, tarfile.open(part, "w:gz") as archive:
            _add(archive, "bundle.json", json.dumps(facts, indent=2).encode())
            if config is not None and settings is not None:
                _add(archive, f"settings{config.suffix}", settings)
            for path in files:
                now = path if path.exists() else Path(f"{path}.gz")  # a service that runs compresses what is full
                archive.add(now, arcname=f"log/{now.name}")
    except OSError as error:
        raise RecordError(
            f"bundle {target}: cannot be written ({why(error)}); check the folder and its free space"
        ) from error
    return len(files)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mtime = int(time.time())
    archive.addfile(info, io.BytesIO(data))


def strategies_of(header: dict[str, Any]) -> list[Strategy]:
    """The strategies whose TOML the log carries."""
    from placement.strategies import strategy_from_toml

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for digest, text in header.get("strategies", {}).items():
            path = Path(folder) / f"{digest}.toml"
            path.write_text(text, encoding="utf-8")
            found.append(strategy_from_toml(path))
    return found


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings file to include."
)
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Default: ullage-bundle.tar.gz.")
@click.option("--verify", "verifies", is_flag=True, help="Pack nothing: ask every recorded decision of SOURCE again.")
def bundle(source: Path, config: Path | None, target: Path | None, verifies: bool) -> None:
    """Pack event log, settings and versions into one file: a bug report that replays.

    SOURCE is the folder given as log.folder. With --verify it may also be a bundle; then every recorded decision is
    made again by this build, and the exit code is 1 if any comes out otherwise.
    """
    if verifies:
        _verify(source)
        return
    target = target or Path("ullage-bundle.tar.gz")
    count = write_bundle(source, config, target)
    click.echo(
        f"{target}: {count} log segment{'s' * (count != 1)}; repeat it: ullage bundle {quote(str(target))} --verify",
        err=True,
    )


def _verify(source: Path) -> None:
    from placement.log import DECISION
    from placement.log_lines import read_log
    from placement.playback import verify

    header, events, lost = read_log(source)
    if lost:
        raise ConfigError(f"{source}: the disk lost {lost} events, so the log cannot be repeated; use a complete one")
    if (delivery := header.get("delivery")) is not None:
        raise ConfigError(
            f"{source}: a replay with --delivery {delivery} wrote it, and what kube-scheduler makes of a strategy's answers is "
            "not in a log; verify one of --delivery decide"
        )
    tell = now_and_then(steps(quiet=False), len(events))

    def passed() -> Iterator[Event]:
        for number, event in enumerate(events):
            tell(number)
            yield event

    differences = list(verify(passed(), strategies_of(header)))
    decisions = sum(e.kind == DECISION for e in events)
    click.echo(
        json.dumps(
            {
                "log": str(source),
                "written_by": header.get("version"),
                "events": len(events),
                "decisions": decisions,
                "different": len(differences),
                "first": [d._asdict() for d in differences[:10]],
            },
            indent=2,
        )
    )
    told = f"{len(differences):,} come out otherwise" if differences else "all come out as they were"
    click.echo(f"{decisions:,} decisions asked again: {told}", err=True)
    if differences:
        raise click.exceptions.Exit(1)
