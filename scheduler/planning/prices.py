"""What nodes cost, by group or instance type, from the price book of ``expander.prices``."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from placement.errors import ConfigError, why
from placement.rates import MOST_USD

Prices = Mapping[str, tuple[float, float]]
"""USD an hour by instance type or group: on demand, and as spot."""


def read_prices(path: Path) -> Prices:
    """Of a price book as ``ullage plan purchase --prices`` takes it, the columns of names and prices.

    Raises
    ------
    ConfigError : it cannot be read, lacks a column, or has a price that is none.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"price book {path}: cannot be read ({why(error)}); check expander.prices") from error
    prices: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows, 2):
        name = row.get("name") or ""
        usd = _usd(path, number, row.get("usd_per_hour") or "")
        spot_usd = _usd(path, number, row.get("spot_usd_per_hour") or "0")
        if not name or name in prices:
            raise ConfigError(f"price book {path}, row {number}: name {name!r} is empty, or there twice; fix the row")
        prices[name] = usd, spot_usd or usd
    if not prices:
        raise ConfigError(f"price book {path}: holds no prices; docs/traces.md shows what a price book holds")
    return prices


def _usd(path: Path, number: int, text: str) -> float:
    try:
        usd = float(text)
    except ValueError:
        usd = math.nan
    if not 0 <= usd <= MOST_USD:
        raise ConfigError(
            f"price book {path}, row {number}: {text!r} is no price; give USD an hour, {MOST_USD:g} at most"
        )
    return usd
