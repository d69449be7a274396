"""Kernels where their machine code can be kept, where it cannot, and without numba."""

from __future__ import annotations

from collections.abc import Callable
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


def test_without_numba_a_function_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "HAS_NUMBA", False)
    assert machine_code.compiled(double) is double
