"""Shared fixtures: where the recorded traces are, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of recorded traces; a test that needs it is skipped, visibly, where it is absent."""
    folder = Path(os.environ.get("ULLAGE_TRACES", REPO.parent / "shared" / "traces"))
    if not folder.is_dir():
        pytest.skip(f"no recorded traces at {folder}; set ULLAGE_TRACES")
    return folder
