"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

SEED = click.option("--seed", type=click.IntRange(0), default=0, help="Of everything random.")
PRICES = click.option(
    "--prices", type=click.Path(path_type=Path), help="Price book (CSV); when absent TRACE's, else the one that ships."
)
