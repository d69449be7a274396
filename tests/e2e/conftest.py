"""The end-to-end tests run only when asked for (``make e2e`` sets ULLAGE_E2E=1); then they never skip."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.control_plane import ControlPlane

collect_ignore_glob = [] if os.environ.get("ULLAGE_E2E") else ["test_*.py"]


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A fresh control plane with an API server; the test starts schedulers as it needs them."""
    control_plane = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        control_plane.start()
        yield control_plane
    finally:
        control_plane.stop()
