"""Files of recorded usage as checked tables: columns that are there, numbers that are numbers, keys that are never missing.

Whatever is wrong becomes one :class:`simulator.traces.trace.TraceError` that names the file, and the row where there is one.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import polars as pl

from placement.errors import why
from simulator.traces.trace import TraceError


def load(
    path: Path, *, keys: tuple[str, ...] = (), numbers: tuple[str, ...] = (), texts: tuple[str, ...] = ()
) -> pl.DataFrame:
    """Columns of a Parquet file or a gzipped CSV.

    Parameters
    ----------
    keys : columns without which a row says nothing; none may be missing.
    numbers : columns that are measurements; missing ones and NaN become null. A column in both is a number that is never
        missing.
    texts : columns of names, which may be missing.

    Raises
    ------
    TraceError : the file is damaged, of another format, or holds text where numbers belong.
    """
    wanted = tuple(dict.fromkeys((*keys, *numbers, *texts)))
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except pl.exceptions.NoDataError as error:
        raise TraceError(f"{path} is empty; copy it again") from error
    except pl.exceptions.PanicException as error:  # how polars meets some damaged bytes; no Exception
        raise TraceError(f"{path} is damaged; copy it again") from error
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path} is damaged or of another format ({why(error)}); copy it again") from error
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise TraceError(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(frame.columns)}); is it another format?"
        )
    frame = frame.select(wanted).with_columns(_number(path, frame[name]) for name in numbers)
    frame = frame.cast(dict.fromkeys(texts, pl.String))
    for name in keys:
        lacks = frame[name].is_null()
        if lacks.any():
            raise TraceError(
                f"{path}, row {_first(lacks) + 1}: {name} is missing; remove the row, or copy the file again"
            )
    return frame


def _number(path: Path, column: pl.Series) -> pl.Series:
    if not column.dtype.is_numeric():
        number = column.cast(pl.Float64, strict=False)
        text = number.is_null() & column.is_not_null()
        if text.any() or not (column.dtype == pl.String or column.null_count() == len(column)):
            at = _first(text)
            raise TraceError(
                f"{path}, row {at + 1}: {column.name} is {column[at]!r}; expected a number, is it another format?"
            )
        column = number
    return column.fill_nan(None) if column.dtype.is_float() else column


def _first(mask: pl.Series) -> int:
    return int(mask.arg_max() or 0)


def require_unique(path: Path, frame: pl.DataFrame) -> None:
    """Look that no machine or job is described twice.

    Raises
    ------
    TraceError : one is.
    """
    twice = frame["id"].filter(frame["id"].is_duplicated())
    if len(twice):
        raise TraceError(f"{path}: id {twice[0]} appears twice; keep one row of each")


def without_repeats(frame: pl.DataFrame, *keys: str) -> tuple[pl.DataFrame, list[tuple[str, int]]]:
    """The last of the rows that agree in ``keys``, in the order of the file, and what was left out."""
    kept = frame.unique(keys, keep="last", maintain_order=True)
    lost = frame.height - kept.height
    return kept, [("duplicate samples", lost)] if lost else []
