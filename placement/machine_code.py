"""Compiling with numba where that is installed; without it functions stay as they are, and slower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from numba import njit

    HAS_NUMBA = True
except ImportError:
    HAS_NUMBA = False


def compiled(function: Callable[..., Any], *, nogil: bool = True, **options: Any) -> Callable[..., Any]:
    """``function`` compiled, once per machine: the result is kept beside the source, in ``NUMBA_CACHE_DIR``, or at home.

    Where nothing can be written to any of them, every process compiles anew. ``options`` are numba's.
    """
    if not HAS_NUMBA:
        return function
    kernel: Callable[..., Any]
    try:
        kernel = njit(cache=True, nogil=nogil, **options)(function)
    except RuntimeError:  # "no locator available": nowhere to keep it
        kernel = njit(nogil=nogil, **options)(function)
    return kernel


def is_kept(kernel: Any) -> bool:
    """Whether an earlier process kept machine code of the file that ``kernel`` is in; without any, first calls take long."""
    if not HAS_NUMBA:
        return True
    source = Path(kernel.py_func.__code__.co_filename)
    kept = Path(kernel.stats.cache_path).glob(f"{source.stem}.*.nbi") if kernel.stats.cache_path else ()
    return any(index.stat().st_mtime >= source.stat().st_mtime for index in kept)
