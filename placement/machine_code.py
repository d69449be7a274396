"""Compiling with numba where that is installed; without it functions stay as they are, and slower.

Machine code holds constants and kernels of other modules as they were when it was compiled; numba keeps it until the
function's own file changes. Here its files bear a digest of every source that it was made of.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from placement import BEGAN_S

try:
    from numba import config, njit
    from numba.core.caching import CompileResultCacheImpl, FunctionCache
except ImportError:
    HAS_NUMBA = False
else:
    HAS_NUMBA = not config.DISABLE_JIT

    class _Files(CompileResultCacheImpl):  # type: ignore[misc]  # numba has no types
        """numba's files of a function, with a digest in their names."""

        def __init__(self, function: Callable[..., Any]) -> None:
            self._digest = made_of(function.__module__)
            super().__init__(function)

        def get_filename_base(self, fullname: str, abiflags: str) -> str:
            return f"{super().get_filename_base(fullname, abiflags)}-{self._digest}"

    class _Kept(FunctionCache):  # type: ignore[misc]
        """What is kept of a function. Where it cannot be read or written, the function is compiled and works."""

        _impl_class = _Files

        def load_overload(self, *about: Any) -> Any:
            try:
                return super().load_overload(*about)
            except Exception:  # a node that went down leaves any half of a file
                with suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, *about: Any) -> None:
            with suppress(OSError):
                super().save_overload(*about)
                _drop_older(Path(self.cache_path), _stem(self._py_func), made_of(self._py_func.__module__))


_imports = re.compile(rb"^(?:from|import) ([\w.]+)(?: import (\([^)]*\)|.*))?", re.MULTILINE).findall
_words = re.compile(r"\w+").findall


@cache
def _read(path: Path) -> tuple[bytes, frozenset[str]]:
    """Digest of a source, and the names of all that it imports, which may be modules."""
    source = path.read_bytes()
    names: set[str] = set()
    for origin, listed in _imports(source):
        module = origin.decode()
        names |= {module, *(f"{module}.{name}" for name in _words(listed.decode()))}
    return sha256(source).digest(), frozenset(names)


def sources(name: str) -> dict[str, Path]:
    """Names and files of a loaded module and of those of ours that its imports lead to."""
    ours = {name.partition(".")[0], __name__.partition(".")[0]}
    found: dict[str, Path] = {}
    todo = {name}
    while todo:
        one = todo.pop()
        file = getattr(sys.modules.get(one), "__file__", None)
        if file and one not in found and one.partition(".")[0] in ours:
            found[one] = Path(file)
            todo |= _read(found[one])[1]
    return found


@cache
def made_of(name: str) -> str:
    """Digest of the sources that a module's kernels are made of.

    Empty where one has changed since ours were loaded: what is in memory may be what it was before.
    """
    found = sources(name)
    if name not in found or any(path.stat().st_ctime > BEGAN_S for path in found.values()):
        return ""
    return sha256(repr([(one, _read(found[one])[0]) for one in sorted(found)]).encode()).hexdigest()[:16]


def _stem(function: Callable[..., Any]) -> str:
    """What the names of the files that are kept of a function begin with."""
    return Path(function.__code__.co_filename).stem


@cache
def _drop_older(folder: Path, stem: str, digest: str) -> None:
    """Drop what was kept of a module when it was made of something else."""
    for path in folder.glob(f"{stem}.*.nb[ci]"):
        if f"-{digest}." not in path.name:
            path.unlink(missing_ok=True)


def compiled(function: Callable[..., Any], *, nogil: bool = True, **options: Any) -> Callable[..., Any]:
    """``function`` compiled, once per machine: the result is kept beside the source, in ``NUMBA_CACHE_DIR``, or at home.

    Where nothing can be written to any of them, every process compiles anew. ``options`` are numba's. Functions copy arrays
    number by number: with a slice numba compiles the text of its error as well, which takes seconds.
    """
    if not HAS_NUMBA:
        return function
    kernel: Any = njit(nogil=nogil, **options)(function)
    if made_of(function.__module__):
        with suppress(RuntimeError):  # "no locator available": nowhere to keep it
            kernel._cache = _Kept(function)  # as numba's enable_caching does
    return kernel


def is_kept(kernel: Any) -> bool:
    """Whether an earlier process kept machine code of the file that ``kernel`` is in; without any, first calls take long."""
    if not HAS_NUMBA:
        return True
    folder, function = kernel.stats.cache_path, kernel.py_func
    kept = Path(folder).glob(f"{_stem(function)}.*-{made_of(function.__module__)}.nbi") if folder else ()
    return any(kept)
