"""The rules of the house that a machine can check: layers, purity, and where libraries may be imported."""

from __future__ import annotations

import ast
from dataclasses import asdict
from pathlib import Path

import pytest

from placement.rates import RATES

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("placement", "scheduler", "simulator")
FILES = [path for package in PACKAGES for path in sorted((REPO / package).rglob("*.py")) if "_pb" not in path.parts]
CONFINED = {
    "lightgbm": {"placement/learning/boosted.py"},
    "ortools": {"placement/prices.py", "placement/planning/solver.py"},
    "numba": {
        "placement/kernels.py",
        "placement/machine_code.py",
        "scheduler/wire_kernels.py",
    },
    "grpc": {
        "scheduler/grpc_guard.py",
        "scheduler/planning/expander.py",
        "scheduler/planning/service.py",
        "scheduler/service.py",
    },
    "prometheus_client": {"scheduler/metrics.py"},
    "kubernetes": {"scheduler/kube.py"},
    "aiohttp": {"scheduler/kube.py", "scheduler/learning/prometheus.py"},
    "sqlite3": {"scheduler/records.py"},
    "polars": {
        "simulator/reproduce/fgd.py",
        "simulator/traces/trace.py",
        "simulator/traces/usage_readers.py",
        "simulator/traces/usage_tables.py",
    },
    "pyarrow": {"scheduler/decisions.py"},
}
"""Third-party library → the only files that may import it."""
IMPURE = {"time", "datetime", "os", "random", "logging", "socket", "requests", "aiohttp", "subprocess", "threading"}
"""Modules that placement/ may not import: clocks, environment, network, global randomness, logs."""
PURE_EXCEPTIONS = {
    "placement/__init__.py": {"time"},
    "placement/planning/solver.py": {"datetime"},
    "placement/whole_files.py": {"os"},
}
"""OR-Tools takes a limit, which is an argument here, as a ``timedelta``; a file is on the disk once ``os.fsync`` says so;
what changed since the modules were loaded is not kept as machine code of them."""


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_respect_the_layers(path: Path) -> None:
    package, found = path.relative_to(REPO).parts[0], imports(path)
    if package == "placement":
        assert not found & {"scheduler", "simulator"}
        assert not found & IMPURE - PURE_EXCEPTIONS.get(name(path), set())
    other = {"scheduler": "simulator", "simulator": "scheduler"}.get(package)
    if other and name(path) != "scheduler/__main__.py":
        assert other not in found, f"{name(path)} imports {other}; only the command line may know both"
    for library, allowed in CONFINED.items():
        assert library not in found or name(path) in allowed, f"{library} belongs in {', '.join(sorted(allowed))}"


FORBIDDEN = {
    "placement": ("placement.learning", "placement.planning"),
    "placement.learning": ("placement.planning",),
    "placement.planning": ("placement.learning",),
    "scheduler": ("scheduler.cli", "scheduler.doctor"),
    "scheduler.planning": ("scheduler.cli", "scheduler.doctor", "scheduler.learning"),
    "scheduler.learning": ("scheduler.cli", "scheduler.doctor", "scheduler.planning"),
    "scheduler.doctor": ("scheduler.cli", "scheduler.learning"),
    "simulator": ("simulator.cli", "simulator.learning", "simulator.reproduce"),
    "simulator.traces": ("simulator.cli", "simulator.learning", "simulator.planning", "simulator.reproduce"),
    "simulator.usage": ("simulator.cli", "simulator.learning", "simulator.planning", "simulator.reproduce"),
    "simulator.learning": ("simulator.cli", "simulator.planning", "simulator.reproduce"),
    "simulator.planning": ("simulator.cli", "simulator.learning"),
    "simulator.reproduce": ("simulator.cli",),
}
"""Sub-package → those that no module right in it may import: the core knows neither plans nor what is learned."""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_sub_packages_depend_one_way(path: Path) -> None:
    package = ".".join(path.relative_to(REPO).parts[:-1])
    if name(path) == "scheduler/__main__.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            wrong = [far for far in FORBIDDEN.get(package, ()) if f"{node.module}.".startswith(f"{far}.")]
            assert not wrong, f"{name(path)}:{node.lineno} imports {node.module}"


def knows(path: Path) -> set[str]:
    """Modules of ours that a file names in an import: those that functions load when they run and types count as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_modules_know_each_other_in_a_circle() -> None:
    graph = {name(path).removesuffix(".py").replace("/", "."): knows(path) for path in FILES}
    left = dict(graph)
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {', '.join(left)}"


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(REPO / "placement")], ids=name)
def test_placement_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name(path)}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "random":
            assert node.attr in ("Generator", "default_rng"), f"{name(path)}:{node.lineno} uses global randomness"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_module_says_why_it_exists(path: Path) -> None:
    if path.name != "__init__.py":
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


def test_default_rates_stand_in_one_place() -> None:
    numbers = [number for number in asdict(RATES).values() if number < 0.1]
    assert len(numbers) == 4
    for path in FILES:
        found = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert name(path) == "placement/rates.py" or not found.intersection(numbers), f"{name(path)} repeats a rate"


def test_compiled_code_multiplies_no_matrices() -> None:
    """numba hands those to scipy, which nobody who installs ``fast`` alone has."""
    asks, num_kernels = [], 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            if not any(isinstance(each, ast.Name) and each.id == "compiled" for each in node.decorator_list):
                continue
            num_kernels += 1
            for part in ast.walk(node):
                is_product = isinstance(part, ast.BinOp) and isinstance(part.op, ast.MatMult)
                if is_product or (isinstance(part, ast.Attribute) and part.attr in ("dot", "vdot", "linalg")):
                    asks.append(f"{path.name}:{node.name}")
    assert num_kernels > 20
    assert not asks


def test_the_protobuf_pin_that_ortools_needs_holds() -> None:
    from importlib.metadata import version

    assert version("ortools") == "9.15.6755"
    assert version("protobuf").startswith("6.33.")
