"""Files that are written whole or not at all, whatever ends the writer, and whatever the machine.

A writer holds a lock on the file that it writes, which goes with its process. So a file beside a target that nobody
holds was left by a writer that was killed, and goes when the target is next written.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from placement.errors import why


def require_file(target: Path) -> None:
    """Refuse to put a file in the place of something else: a device (``/dev/null``), a pipe, a folder.

    Raises
    ------
    OSError : that is there.
    """
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is no file, and a file would take its place")


def require_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before the work whose result is to go there.

    Rights do not tell it all (``/proc`` refuses even root), so a file without a name is tried. Room is another matter: a
    service begins where there is none, and a full disk may be emptied by the time.

    Raises
    ------
    OSError : it cannot be, or what it would be made in cannot; the message names that.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{nearest} is read-only")
    try:
        TemporaryFile(dir=nearest).close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"no file can be made in {nearest}: {why(error)}") from error


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Where to write ``target``: a file beside it, empty at first, that takes its place and its rights once the block has
    ended well and all of it is on the disk, and goes otherwise. Of a link, what it leads to is written.

    Raises
    ------
    OSError : the folder cannot be written, or there is something else than a file.
    """
    require_file(target)
    try:
        target = target.resolve()
    except RuntimeError as error:
        raise OSError(errno.ELOOP, "it is a link that leads to itself") from error
    part, file = _new_beside(target)
    with file:
        try:
            with suppress(FileNotFoundError):
                part.chmod(target.stat().st_mode & 0o777 | 0o200)  # kept from others as it was; the block writes it
            yield part
            os.fsync(file.fileno())  # else a machine that stops may leave the new name without its content
            part.replace(target)
        except BaseException:
            with suppress(OSError):  # after a success the name is free, and another may have it by now
                part.unlink(missing_ok=True)
            raise


def _new_beside(target: Path) -> tuple[Path, IO[bytes]]:
    """A file that nobody else has, and our hold on it: of those who write the same target at once, each writes one, and the
    last one stays."""
    names = (target.with_name(f".{target.name}.{number}.tmp") for number in count())
    part = next(names)
    while True:
        try:
            file = part.open("xb")
        except FileExistsError:
            part = part if _was_left(part) else next(names)
            continue
        with suppress(OSError):  # a file system that has no locks: there nothing is taken for left
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_at(file, part):  # else another took it for left before it was locked
            break
        file.close()
    while (other := next(names)).exists():
        _was_left(other)
    return part, file


def _was_left(part: Path) -> bool:
    """Whether the name is free now: a file that nobody holds is removed."""
    try:
        with part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, part):
                part.unlink()
    except FileNotFoundError:
        return not part.is_symlink()  # one that leads to nothing
    except OSError:
        return False
    return True


def is_at(file: IO[bytes] | IO[str], path: Path) -> bool:
    """Whether an open file is the one that others would open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
