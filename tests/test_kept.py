"""Cells that are kept: found again, mended where they are damaged, and never those of other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from placement.errors import PlacementError
from simulator import kept as keeping
from simulator.kept import code_version, kept


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    assert kept(folder, "k", lambda: {"a": 1}) == {"a": 1}
    assert kept(folder, "k", lambda: pytest.fail("it was kept")) == {"a": 1}
    assert [path.name for path in folder.iterdir()] == ["k.json"]


@pytest.mark.parametrize("damage", ["", '{"a": 1', "null", "7", "[3]"])
def test_a_damaged_cell_is_made_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "k.json").write_text(damage)
    assert kept(tmp_path, "k", lambda: {"a": 2}) == {"a": 2}
    assert kept(tmp_path, "k", lambda: pytest.fail("it was kept")) == {"a": 2}


def test_an_interrupted_cell_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> dict[str, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, "k", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlacementError, match=r"cache .*file/cache: cannot be used .*choose another --cache"):
        kept(tmp_path / "file" / "cache", "k", dict)


def test_cells_of_code_that_answers_otherwise_have_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_version()
    monkeypatch.setattr(keeping, "FORMAT", keeping.FORMAT + 1)
    assert code_version() != before
