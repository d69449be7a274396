"""Kernels where their machine code can be kept, where it cannot, and without numba."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from placement import machine_code


def double(number: int) -> int:
    return 2 * number


@pytest.mark.skipif(not machine_code.HAS_NUMBA, reason="numba is not installed")
def test_where_nothing_can_be_kept_kernels_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = machine_code.njit  # type: ignore[attr-defined]  # it is numba's

    def homeless(**options: Any) -> Callable[..., Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available for file")
        made: Callable[..., Any] = real(**options)
        return made

    monkeypatch.setattr(machine_code, "njit", homeless)
    kernel = machine_code.compiled(double, error_model="numpy")
    assert kernel(21) == 42
    assert kernel is not double
    assert [options.get("cache", False) for options in asked] == [True, False]
    assert all(options["error_model"] == "numpy" for options in asked)


@pytest.mark.skipif(not machine_code.HAS_NUMBA, reason="numba is not installed")
def test_what_is_kept_is_known_until_its_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "doubling.py"
    source.write_text("def double(number):\n    return 2 * number\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    kernel = machine_code.compiled(importlib.import_module("doubling").double)
    assert not machine_code.is_kept(kernel)
    assert kernel(21) == 42
    assert machine_code.is_kept(kernel)
    later = source.stat().st_mtime + 1000
    os.utime(source, (later, later))
    assert not machine_code.is_kept(kernel)


def test_without_numba_a_function_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "HAS_NUMBA", False)
    assert machine_code.compiled(double) is double
    assert machine_code.is_kept(double)
