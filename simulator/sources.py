"""From what a user types to a trace: a ``.ullage`` file, ``demo``, or ``READER:PATH[:OPTION]``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from placement.strategies import nearest
from simulator.openb import read_openb
from simulator.trace import Trace, TraceError

DEMO = Path(__file__).parent / "samples" / "demo.ullage"
"""The bundled sample; `make demo-trace` makes it again from its seed."""


def _openb(path: Path, option: str, skip: bool) -> Trace:
    return read_openb(path, variant=option or "default", skip_bad_rows=skip)


def _azure(path: Path, option: str, skip: bool) -> Trace:
    from simulator.azure import read_azure

    return read_azure(path)


def _dlrm(path: Path, option: str, skip: bool) -> Trace:
    from simulator.dlrm import read_dlrm

    return read_dlrm(path, skip_bad_rows=skip)


READERS: dict[str, Callable[[Path, str, bool], Trace]] = {
    "openb": _openb,
    "azure-v1-vms": _azure,
    "alibaba-dlrm-2025": _dlrm,
}
"""Recorded sources by name; the option after the second colon is the reader's (openb: the pod list)."""


def open_trace(text: str, *, skip_bad_rows: bool = False) -> Trace:
    """The trace that ``text`` names.

    Raises
    ------
    TraceError : it names nothing that can be read.
    """
    if text == "demo":
        return Trace.load(DEMO)
    reader, _, rest = text.partition(":")
    if rest:
        if reader not in READERS:
            raise TraceError(f"trace {text!r}: unknown reader {reader!r}; {nearest(reader, list(READERS))}")
        path, _, option = rest.partition(":")
        return READERS[reader](Path(path), option, skip_bad_rows)
    path_given = Path(text)
    if path_given.is_dir() and path_given.name in READERS:
        return READERS[path_given.name](path_given, "", skip_bad_rows)
    if path_given.is_dir():
        raise TraceError(f"trace {text!r}: is a folder; say how to read it, as in openb:{text}:default")
    return Trace.load(path_given)
