"""End-to-end tests run when asked for (``make e2e`` passes ``-m e2e``), and then never skip for want of a tool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.control_plane import ControlPlane

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is here; without ``-m`` leave it out, for it takes minutes and builds Kubernetes."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.e2e)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
    if ours and not config.getoption("markexpr"):
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say why a test is tried once more; pytest-rerunfailures keeps it to itself."""
    if str(report.outcome) == "rerun":
        print(f"\n{report.when} of {report.nodeid} failed at first:\n{report.longreprtext}")


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A fresh control plane with an API server; the test starts schedulers as it needs them."""
    control_plane = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        control_plane.start()
        yield control_plane
    finally:
        control_plane.stop()
