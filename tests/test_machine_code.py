"""Kernels where their machine code can be kept, where it cannot, and without numba; and that what is kept is never stale."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from placement import machine_code

REPO = Path(__file__).resolve().parent.parent
KERNELS = [
    ".".join(path.relative_to(REPO).with_suffix("").parts)
    for package in ("placement", "scheduler", "simulator")
    for path in sorted((REPO / package).rglob("*.py"))
    if "import compiled\n" in path.read_text() or "HAS_NUMBA, compiled\n" in path.read_text()
]
needs_numba = pytest.mark.skipif(not machine_code.HAS_NUMBA, reason="numba is not installed")

PACKAGE = {
    "far.py": "NUMBER = 100\n",
    "deep.py": "from made.far import NUMBER\nALL = (NUMBER, 7)\n\ndef of(number):\n    return number + ALL[0]\n",
    "inner.py": """
from made import deep
from placement.machine_code import compiled

BASE = deep.of(0)

@compiled
def inner(number):
    return number * 2
""",
    "outer.py": """
from made.inner import (
    BASE,
    inner,
)
from placement.machine_code import compiled

@compiled
def outer(number):
    return inner(number) + BASE
""",
    "other.py": "NOBODY_ASKS = 1\n",
}
ASK = """
import json, sys
{first}
from made import other
from made.outer import outer
answer = outer(1)
print(json.dumps([answer, sum(outer.stats.cache_hits.values()), sum(outer.stats.cache_misses.values())]))
"""


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A kernel that stands on constants and a kernel of other modules."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name, source in PACKAGE.items():
        (folder / name).write_text(source, encoding="utf-8")
    return folder


def python(script: str, folder: Path, **environment: str) -> str:
    """What a process of its own prints."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    known |= {"PYTHONPATH": f"{folder}{os.pathsep}{REPO}", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    ran = subprocess.run([sys.executable, "-c", script], env=known, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def ask(package: Path, first: str = "") -> tuple[int, bool]:
    """What the kernel answers in a process of its own, and whether it was kept by an earlier one."""
    answer, hits, misses = json.loads(python(ASK.format(first=first), package.parent))
    assert hits + misses == 1
    return answer, hits == 1


def kept(package: Path) -> set[str]:
    """The files that are kept, and the digests in their names."""
    return {path.name.partition(".nb")[0] for path in (package / "__pycache__").glob("outer.*.nbi")}


@needs_numba
def test_what_is_kept_is_used_until_something_changes_that_it_was_made_of(package: Path) -> None:
    assert ask(package) == (102, False)
    assert ask(package) == (102, True)
    (package / "other.py").write_text("NOBODY_ASKS = 2\n", encoding="utf-8")
    assert ask(package) == (102, True)
    changes = [
        ("far.py", "NUMBER = 200\n", 202),  # a constant, three imports away
        ("inner.py", PACKAGE["inner.py"].replace("* 2", "* 5"), 205),  # a kernel of another file
        ("deep.py", PACKAGE["deep.py"].replace("number + ", "number - "), -195),  # a function, two imports away
    ]
    for name, source, answer in changes:
        before = kept(package)
        (package / name).write_text(source, encoding="utf-8")
        assert ask(package) == (answer, False), name
        assert ask(package) == (answer, True), name
        assert len(kept(package)) == 1, "what was kept before is dropped"
        assert kept(package) != before


@needs_numba
def test_a_process_keeps_nothing_of_sources_that_changed_while_it_ran(package: Path) -> None:
    change = f"""
import time
from pathlib import Path
import placement
from made import far
time.sleep(0.1)  # files bear times of a clock that ticks
Path({str(package / "far.py")!r}).write_text("NUMBER = 200")
"""
    assert ask(package, change) == (102, False)  # as it was loaded
    assert not kept(package)
    assert ask(package) == (202, False)


@needs_numba
def test_what_was_half_written_is_made_anew(package: Path) -> None:
    ask(package)
    for path in (package / "__pycache__").glob("*.nb?"):
        path.write_bytes(path.read_bytes()[:20])
    assert ask(package) == (102, False)
    assert ask(package) == (102, True)
    for path in (package / "__pycache__").glob("*.nbc"):
        path.write_bytes(b"")
    assert ask(package) == (102, False)
    assert ask(package) == (102, True)


@needs_numba
def test_a_full_disk_costs_no_answer(package: Path) -> None:
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    assert ask(package, full) == (102, False)
    assert ask(package) == (102, False)
    assert ask(package) == (102, True)


@needs_numba
def test_where_nothing_can_be_kept_kernels_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(function: Any) -> None:
        raise RuntimeError("cannot cache function 'double': no locator available for file")

    monkeypatch.setattr(machine_code, "_Kept", homeless)
    kernel: Any = machine_code.compiled(double, error_model="numpy")
    assert kernel(21) == 42
    assert kernel is not double
    assert kernel.targetoptions["error_model"] == "numpy"
    assert not machine_code.is_kept(kernel)


@needs_numba
def test_it_is_known_whether_something_was_kept(package: Path) -> None:
    script = "from made.outer import outer\nfrom placement.machine_code import is_kept\nprint(is_kept(outer))\nouter(1)"
    assert python(script, package.parent) == "False\n"
    assert python(script, package.parent) == "True\n"
    (package / "far.py").write_text("NUMBER = 200\n", encoding="utf-8")
    assert python(script, package.parent) == "False\n"


def test_without_numba_a_function_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "HAS_NUMBA", False)
    assert machine_code.compiled(double) is double
    assert machine_code.is_kept(double)


@needs_numba
def test_numba_may_be_told_not_to_compile(package: Path) -> None:
    script = "from placement.program import has_compiled\nfrom scheduler.name_table import wire_kernels\n"
    script += "from made.outer import outer\nprint(has_compiled(), wire_kernels, outer(1))"
    assert python(script, package.parent, NUMBA_DISABLE_JIT="1") == "False None 102\n"


def imports(module: str) -> Iterator[str]:
    """What a module imports when it is loaded, wherever in it."""
    path = REPO / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = REPO / module.replace(".", "/") / "__init__.py"
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


@needs_numba
@pytest.mark.parametrize("module", KERNELS)
def test_every_import_that_kernels_stand_on_is_found(module: str) -> None:
    importlib.import_module(module)
    found: set[str] = set()
    todo = {module}
    while todo:
        one = todo.pop()
        if one in sys.modules and one.split(".")[0] in ("placement", "scheduler") and one not in found:
            found.add(one)
            todo |= set(imports(one))
    assert set(machine_code.sources(module)) == found
    assert "placement.machine_code" in found


def test_the_modules_of_kernels_are_found() -> None:
    assert {"placement.kernels", "placement.planning.chains", "scheduler.wire_kernels"} < set(KERNELS)
