"""A model folder that appears, is replaced, or arrives in pieces while Ullage serves."""

from __future__ import annotations

import os
from pathlib import Path

from scheduler.learning.model_folder import ModelFolder


def test_a_card_that_changed_is_looked_at_once(tmp_path: Path) -> None:
    card, followed = tmp_path / "card.json", ModelFolder(str(tmp_path))
    card.write_text("{}")
    os.utime(card, (1000, 1000))
    assert followed.has_changed()
    followed.taken()
    assert followed.stamp == 1000
    assert not followed.has_changed()
    (tmp_path / "report.html").write_text("whatever")
    assert not followed.has_changed(), "a model that is used is used until its card changes"
    os.utime(card, (900, 900))
    assert followed.has_changed(), "an older one was put back"
    followed.taken()
    assert not followed.has_changed()


def test_a_folder_that_could_not_be_used_is_looked_at_again_with_every_file_that_comes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    followed = ModelFolder(str(folder))
    assert followed.has_changed()
    assert not followed.has_changed()
    folder.mkdir()
    (folder / "card.json").write_text("{}")
    assert followed.has_changed()
    assert not followed.has_changed()
    part = folder / "trees.txt"
    part.write_text("half")
    assert followed.has_changed()
    assert not followed.has_changed()
    part.write_text("half and the rest")
    assert followed.has_changed()
    followed.taken()
    part.write_text("more")
    assert not followed.has_changed()
