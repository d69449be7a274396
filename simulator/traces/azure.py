"""Reader for ``azure-v1-vms``: VM arrivals, sizes, batches and durations (Azure V1, as prepared for SOSP'21).

``v1.dev`` names each VM's size, ``v1.dev.c2100000`` at the same places its duration bin. A duration is its bin's middle,
bin 0 is 150 s; VMs that still run at the end have no departure. A batch (VMs one tenant started together) is kept as a
gang if asked for: the recording does not say that a batch was all or nothing.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from placement.errors import ConfigError, why
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.traces.trace import NEVER, Manifest, Pods, Rows, Trace, TraceError

FIRST_BIN_S = 150
LENGTH_S = 2_100_000
"""Of the recording, in the name of the file of durations: who still runs then has none."""
MAX_S = 10**10
"""No time and no duration of a recording is longer: three hundred years."""


def read_azure(
    data: Path,
    *,
    window: str = "v1.dev",
    gangs: bool = True,
    skip_bad_rows: bool = False,
) -> Trace:
    """The 259,159 VMs of ``v1.dev``, which have durations.

    Parameters
    ----------
    gangs : whether batches are gangs, which start together or not at all; else every VM is for itself.

    Raises
    ------
    TraceError : a file is missing, cut short, or the two do not belong together.
    """
    sizes = _sizes(data / "flav_map.txt")
    durations = _bins(data / "v1.interval_map.txt")
    rows = Rows(data / f"{window}.txt.gz", skip_bad_rows)
    started = _rows(rows)
    ended = _rows(Rows(data / f"{window}.c{LENGTH_S}.txt.gz", skip_bad_rows))
    if len(started) != len(ended):
        raise TraceError(
            f"trace {window}: {len(started)} rows of VMs but {len(ended)} of durations; files of two windows are mixed "
            "up, or one is cut short: copy them again"
        )
    order = sorted(sizes)
    index = {letter: i for i, letter in enumerate(order)}
    columns = _vms(rows, started, ended, index, durations)
    if not columns[0]:
        raise TraceError(f"trace {window}: holds no VM; copy its files again")
    spec, arrival, departure, batch = (np.array(column, np.int64) for column in columns)
    names = np.array([f"vm-{i:06d}" for i in range(len(arrival))], object)
    pods = Pods.of(name=names, spec=spec, arrival_s=arrival, departure_s=departure, gang=batch if gangs else None)
    notes = ["durations are bin middles", "VMs alive before the window are missing: discard a day of warm-up"]
    notes += [f"{rows.skipped} bad rows or VMs skipped"] if rows.skipped else []
    manifest = Manifest(f"azure-{window}", "azure-v1-vms", notes=tuple(notes))
    trace = Trace(manifest, tuple(sizes[x] for x in order), (), pods)
    trace.check()
    return trace


Row = tuple[int, list[str]] | None
"""Second and tokens of a line; None where the line is damaged and skipped."""


def _vms(
    rows: Rows, started: list[Row], ended: list[Row], index: dict[str, int], durations: dict[str, int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Size index, arrival, departure and batch of every VM: the two files hold the same VMs at the same places."""
    spec: list[int] = []
    arrival: list[int] = []
    departure: list[int] = []
    batches: list[int] = []
    batch = 0
    for rows.row, (line, outcome) in enumerate(zip(started, ended, strict=True), start=1):
        if line is None or outcome is None:
            if line is not None:
                rows.skipped += 1
            continue
        (time_s, letters), (other_s, ends) = line, outcome
        if arrival and time_s < arrival[-1]:
            rows.bad(f"second {time_s} is before the second {arrival[-1]} of a row above", "copy both files again")
            continue
        if time_s != other_s or len(letters) != len(ends):
            rows.bad("holds other VMs than the same row of the durations", "take both files from one window")
            continue
        for letter, end in zip(letters, ends, strict=True):
            if letter == "|":
                batch += 1
            elif letter not in index:
                rows.bad(f"size letter {letter!r} is not in flav_map.txt", "take the map of this window")
            elif end[:1] not in ("U", "C") or end[1:] not in durations:
                rows.bad(f"duration {end!r} is not U<bin> or C<bin> with a bin of v1.interval_map.txt", "fix it")
            else:
                spec.append(index[letter])
                arrival.append(time_s)
                departure.append(time_s + durations[end[1:]] if end[0] == "U" else NEVER)
                batches.append(batch)
        batch += 1
    return spec, arrival, departure, batches


def _lines(path: Path) -> list[str]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError as error:
        windows = path.parent.glob("*.txt.gz") if path.suffix == ".gz" else ()
        names = sorted(p.name.removesuffix(".txt.gz") for p in windows)
        others = [name for name in names if any(other.startswith(f"{name}.c") for other in names)]  # with durations
        fix = f"windows there: {', '.join(others)}" if others else "give the folder of the azure-v1-vms files"
        raise ConfigError(f"trace {path}: no such file; {fix}") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TraceError(f"trace {path}: is cut short or not text ({why(error)}); copy it again") from error


def _sizes(path: Path) -> dict[str, PodSpec]:
    """Letter → class. ``<vCPU>,<GB> <letter>``."""
    found = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            size, letter = line.split()
            cores, gigabytes = (float(x) for x in size.split(","))
        except ValueError as error:
            raise TraceError(
                f"trace {path.name}, row {number}: {line!r} is not '<vCPU>,<GB> <letter>'; fix it"
            ) from error
        if not (0 < cores < 1e4 and 0 < gigabytes < 1e6):  # also false for NaN
            raise TraceError(f"trace {path.name}, row {number}: size {size!r} must be above 0; fix the row")
        amounts = ((CPU, int(cores * 1000)), (MEMORY, int(gigabytes * 2**30)))
        found[letter] = PodSpec(amounts, labels=(("size", letter),))
    return found


def _bins(path: Path) -> dict[str, int]:
    """Bin number → seconds: the middle of what falls in it. Each line is ``<seconds> <bin>``."""
    inside: dict[str, list[int]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            seconds, bin_number = (int(float(x)) for x in line.split())
            if not 0 <= seconds <= MAX_S:
                raise ValueError
        except (ValueError, OverflowError) as error:  # overflow: inf
            raise TraceError(
                f"trace {path.name}, row {number}: {line!r} is not '<seconds from 0 to {MAX_S}> <bin>'; fix it"
            ) from error
        inside.setdefault(str(bin_number), []).append(seconds)
    middles = {name: (min(seconds) + max(seconds)) // 2 for name, seconds in inside.items()}
    return {**middles, "0": FIRST_BIN_S}


def _rows(rows: Rows) -> list[Row]:
    """Lines ``<seconds> <token>,<token>,…``."""
    found: list[Row] = []
    lines = _lines(rows.path)
    for rows.row, line in enumerate(lines, start=1):
        seconds, _, rest = line.partition(" ")
        if seconds.isdigit() and len(seconds) <= len(str(MAX_S)):
            found.append((int(seconds), [t for t in rest.split(",") if t]))
        else:
            rows.bad(f"{seconds[:40]!r} is not a time in seconds", "check that it is this trace's file")
            found.append(None)
    return found
