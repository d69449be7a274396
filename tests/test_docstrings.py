"""What docstrings show by example is so."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHOWING = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts)
    for package in ("placement", "scheduler", "simulator")
    for path in (REPO / package).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", SHOWING)
def test_examples_give_what_they_say(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted
    assert not outcome.failed
