"""Reader for ``azure-v1-vms``: VM arrivals, sizes, batches and durations (Azure V1, as prepared for SOSP'21).

``v1.dev`` names each VM's size, ``v1.dev.c2100000`` at the same places its duration bin. A duration is its bin's middle,
bin 0 is 150 s; VMs that still run at the end have no departure. A batch (VMs one tenant started together) is the owner.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.trace import NEVER, Manifest, Pods, Trace, TraceError

FIRST_BIN_S = 150


def read_azure(data: Path, *, window: str = "v1.dev", censored_at_s: int = 2_100_000) -> Trace:
    """The 259,159 VMs of ``v1.dev``, which have durations.

    Raises
    ------
    TraceError : a file is missing, cut short, or the two do not belong together.
    """
    sizes = _sizes(data / "flav_map.txt")
    durations = _bins(data / "v1.interval_map.txt")
    letters, arrivals, batches = _arrivals(data / f"{window}.txt.gz")
    outcomes = _outcomes(data / f"{window}.c{censored_at_s}.txt.gz")
    if len(outcomes) != len(letters):
        raise TraceError(
            f"trace {window}: {len(letters)} VMs but {len(outcomes)} durations; files of two windows are mixed up"
        )
    unknown = sorted(set(letters) - set(sizes))
    if unknown:
        raise TraceError(f"trace {window}: size letter {unknown[0]!r} is not in flav_map.txt")
    order = sorted(sizes)
    index = {letter: i for i, letter in enumerate(order)}
    spec = np.array([index[letter] for letter in letters], np.int64)
    arrival = np.array(arrivals, np.int64)
    departure = np.full(len(arrival), NEVER, np.int64)
    for i, token in enumerate(outcomes):
        number = token[1:]
        if token[:1] not in ("U", "C") or number not in durations:
            raise TraceError(f"trace {window}, VM {i}: duration {token!r} is not U<bin> or C<bin>; is the file whole?")
        if token[0] == "U":
            departure[i] = arrival[i] + durations[number]
    names = np.array([f"vm-{i:06d}" for i in range(len(arrival))], object)
    pods = Pods.of(name=names, spec=spec, arrival_s=arrival, departure_s=departure, gang=np.array(batches, np.int64))
    notes = ("durations are bin middles", "VMs alive before the window are missing: discard a day of warm-up")
    trace = Trace(Manifest(f"azure-{window}", "azure-v1-vms", notes=notes), tuple(sizes[x] for x in order), (), pods)
    trace.check()
    return trace


def _lines(path: Path) -> list[str]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError as error:
        raise TraceError(f"trace {path}: no such file; give the folder of the azure-v1-vms files") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"trace {path}: is cut short or not text ({error}); copy it again") from error


def _sizes(path: Path) -> dict[str, PodSpec]:
    """Letter → class. ``<vCPU>,<GB> <letter>``."""
    found = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            size, letter = line.split()
            cores, gigabytes = (float(x) for x in size.split(","))
        except ValueError as error:
            raise TraceError(f"trace {path.name}, row {number}: {line!r} is not '<vCPU>,<GB> <letter>'") from error
        found[letter] = PodSpec(
            ((CPU, int(cores * 1000)), (MEMORY, int(gigabytes * 2**30))), labels=(("size", letter),)
        )
    return found


def _bins(path: Path) -> dict[str, int]:
    """Bin number → seconds: the middle of what falls in it. Each line is ``<seconds> <bin>``."""
    inside: dict[str, list[int]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            seconds, bin_number = (int(float(x)) for x in line.split())
        except ValueError as error:
            raise TraceError(f"trace {path.name}, row {number}: {line!r} is not '<seconds> <bin>'") from error
        inside.setdefault(str(bin_number), []).append(seconds)
    middles = {name: (min(seconds) + max(seconds)) // 2 for name, seconds in inside.items()}
    return {**middles, "0": FIRST_BIN_S}


def _arrivals(path: Path) -> tuple[list[str], list[int], list[int]]:
    """Size letters, arrival seconds, batch numbers."""
    letters: list[str] = []
    arrivals: list[int] = []
    batches: list[int] = []
    batch = 0
    for time_s, tokens in _rows(path):
        for token in tokens:
            if token == "|":
                batch += 1
            else:
                letters.append(token)
                arrivals.append(time_s)
                batches.append(batch)
        batch += 1
    return letters, arrivals, batches


def _outcomes(path: Path) -> list[str]:
    return [token for _, tokens in _rows(path) for token in tokens if token != "|"]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        seconds, _, rest = line.partition(" ")
        if not seconds.isdigit():
            raise TraceError(
                f"trace {path.name}, row {number}: {seconds!r} is not a time in seconds; is it this trace?"
            )
        rows.append((int(seconds), [t for t in rest.split(",") if t]))
    return rows
