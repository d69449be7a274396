"""Cells that are kept: found again, mended where they are damaged, and never those of other code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from placement.errors import PlacementError
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU
from simulator import compare as compare_module
from simulator import kept as keeping
from simulator.comparison import Question
from simulator.kept import code_version, kept
from simulator.traces.trace import Trace


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
    with pytest.raises(PlacementError, match=r"cache .*file/cache: cannot be used .*choose another folder"):
        kept(tmp_path / "file" / "cache", "k", dict)


def test_cells_of_other_code_have_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "ROOT", tmp_path)
    module = tmp_path / "placement" / "learning" / "usage.py"
    module.parent.mkdir(parents=True)
    seen = set()
    for text in ("a = 1", "a = 2", "a = 1"):
        module.write_text(text)
        seen.add(code_version.__wrapped__())
    assert len(seen) == 2
    module.rename(module.with_name("use.py"))
    seen.add(code_version.__wrapped__())
    assert len(seen) == 3


def test_a_trace_of_equal_content_and_another_name_or_calendar_is_another_cell(tmp_path: Path) -> None:
    pod = PodSpec(((CPU, 1000),))
    trace = Trace.of("first", [NodeSpec("n", ((CPU, 4000),))], [("p", pod, 0, 60), ("q", pod, 90, -1)])
    dated = trace.but(manifest=replace(trace.manifest, name="second", begins_s=2_000_000_000))
    found = []
    for each in (trace, dated):
        each.save(tmp_path / "t.ullage")
        compare_module._trace.cache_clear()  # as in another process
        question = Question((str(tmp_path / "t.ullage"),), ("best-fit",))
        found.append(compare_module.compare(question, jobs=1, keep=tmp_path / "cache"))
    assert [comparison.rows[0]["trace"] for comparison in found] == ["first", "second"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_strategy_that_learns_something_else_is_another_cell(tmp_path: Path) -> None:
    question = Question(("demo",), (str(tmp_path / "s.toml"),))
    keys = set()
    for needs in ("[]", '["workload"]'):
        (tmp_path / "s.toml").write_text(f"needs = {needs}\n[scorers.leftover]\nweight = -1\n")
        (cell,) = compare_module.cells_of(question)
        keys.add(compare_module._key(cell))
    assert len(keys) == 2
