"""From what a user types to a trace: a ``.ullage`` file, ``demo``, or ``READER:PATH[:OPTION]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from placement.errors import ConfigError, nearest
from simulator.traces.openb import read_openb
from simulator.traces.trace import Trace

DEMO = Path(__file__).parent.parent / "samples" / "demo.ullage"
"""The bundled sample; `make demo-trace` makes it again from its seed."""


BUNDLED = "demo"
"""What the trace that ships is called."""


def _openb(path: Path, option: str, skip: bool) -> Trace:
    variant, *extras = (option or "default").split(",")
    unknown = sorted({*extras} - {"all-nodes", "no-departures"})
    if unknown:
        raise ConfigError(f"trace openb: {unknown[0]!r}; {nearest(unknown[0], ['all-nodes', 'no-departures'])}")
    nodes = "all" if "all-nodes" in extras else "gpu"
    departures = "no-departures" not in extras
    return read_openb(path, variant=variant, nodes=nodes, departures=departures, skip_bad_rows=skip)


def _azure(path: Path, option: str, skip: bool) -> Trace:
    from simulator.traces.azure import read_azure

    window, *extras = option.split(",")
    if extras not in ([], ["gangs"]):
        raise ConfigError(f"trace azure-v1-vms: unknown option {','.join(extras)!r}; there is 'gangs'")
    return read_azure(path, window=window or "v1.dev", gangs=bool(extras), skip_bad_rows=skip)


def _dlrm(path: Path, option: str, skip: bool) -> Trace:
    from simulator.traces.dlrm import read_dlrm

    _no_option("alibaba-dlrm-2025", option)
    return read_dlrm(path, skip_bad_rows=skip)


def _recorded(path: Path, option: str, skip: bool) -> Trace:
    _no_option("ullage-log", option)
    return trace_of_service(path)


def trace_of_service(path: Path) -> Trace:
    """What a service's own log, or a bundle, says happened, with the log itself.

    Raises
    ------
    PlacementError : it cannot be read, or holds no pod or no node.
    """
    from placement.log_lines import begin_of, read_log
    from simulator.traces.from_log import trace_of

    header, events, num_lost = read_log(path)
    notes = ["made from a live log"] + ([f"{num_lost} events were lost by its recorder"] if num_lost else [])
    trace = trace_of(events, path.name.partition(".")[0], begins_s=begin_of(header, events.events))
    manifest = replace(trace.manifest, source="ullage-log", notes=tuple(notes))
    return trace.but(manifest=manifest, events=tuple(events))


def _no_option(reader: str, option: str) -> None:
    if option:
        raise ConfigError(f"trace {reader}: takes no option, {option!r} was given; leave it out")


READERS: dict[str, Callable[[Path, str, bool], Trace]] = {
    "openb": _openb,
    "azure-v1-vms": _azure,
    "alibaba-dlrm-2025": _dlrm,
    "ullage-log": _recorded,
}
"""Recorded sources by name; the option after the second colon is the reader's: openb's pod list, Azure's window
(with ``,gangs`` its batches start together or not at all)."""
MARKS = {
    "openb_node_list_gpu_node.csv": "openb",
    "flav_map.txt": "azure-v1-vms",
    "disaggregated_DLRM_trace.csv.gz": "alibaba-dlrm-2025",
}
"""A file that tells what a folder holds."""


def _meant(path: Path) -> str:
    """What may have been meant by a path at which there is nothing."""
    if path.name in READERS:
        return f"to name what the reader {path.name} is to read: {path.name}:PATH"
    here = [str(path.with_name(near.name)) for near in path.parent.glob("*.ullage")]
    hint = nearest(str(path), [BUNDLED, *READERS, *here])
    return hint if hint.startswith("did") else f"give a path or `{BUNDLED}`"


def _no_trace(folder: Path) -> str:
    """Why a folder is not replayed, and what to do with it."""
    from simulator.traces.usage_readers import usage_kind

    usage = usage_kind(folder)
    if usage is None:
        return f"a folder with no trace in it; to name its reader: openb:{folder}:default"
    return (
        f"a folder of recorded usage ({usage}), in which no pod arrives; `ullage train` and `evaluate` read it, "
        "`ullage trace join` gives its usage to a trace"
    )


def open_trace(text: str, *, skip_bad_rows: bool = False, check: bool = True) -> Trace:
    """The trace that ``text`` names. ``check`` False lets in a native trace that contradicts itself.

    Raises
    ------
    TraceError : it cannot be read.
    ConfigError : no such file, reader, or option of it; or the folder holds no trace.
    """
    if text == BUNDLED:
        return Trace.load(DEMO)
    reader, _, rest = text.partition(":")
    if rest:
        if reader not in READERS:
            raise ConfigError(f"trace {text!r}: unknown reader {reader!r}; {nearest(reader, list(READERS))}")
        path, _, option = rest.partition(":")
        return READERS[reader](Path(path), option, skip_bad_rows)
    given = Path(text)
    if not given.exists():
        raise ConfigError(f"trace {text}: no such file; {_meant(given)}")
    if given.is_dir() and not (given / "manifest.json").exists():
        kind = next((kind for file, kind in MARKS.items() if (given / file).exists()), None)
        if kind is None:
            raise ConfigError(f"trace {text!r}: {_no_trace(given)}")
        return READERS[kind](given, "", skip_bad_rows)
    return Trace.load(given, check=check)
