"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def require_file(target: Path) -> None:
    """Refuse to put a file in the place of something else: a device (``/dev/null``), a pipe, a folder.

    Raises
    ------
    OSError : that is there.
    """
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is no file, and a file would take its place")


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Where to write ``target``: a file beside it, empty at first, that takes its place and its rights once the block has
    ended well, and goes otherwise. Of a link, what it leads to is written.

    Raises
    ------
    OSError : the folder cannot be written, or there is something else than a file.
    """
    require_file(target)
    try:
        target = target.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, "it is a link that leads to itself") from error
    part = _new_beside(target)
    try:
        with suppress(FileNotFoundError):
            part.chmod(target.stat().st_mode & 0o777 | 0o200)  # what was kept from others still is; the block writes it
        yield part
        part.replace(target)
    except BaseException:
        with suppress(OSError):  # after a success the name is free, and another may have it by now
            part.unlink(missing_ok=True)
        raise


def _new_beside(target: Path) -> Path:
    """A file that nobody else has: of those who write the same target at once, each writes one, and the last one stays."""
    number = 0
    while True:
        part = target.with_name(f".{target.name}.{number}.tmp")
        try:
            part.touch(exist_ok=False)
            return part
        except FileExistsError:
            number += 1
