"""The report: what must be in it, in HTML, JSON and Markdown alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from placement.scorers import FRAGMENT_CAUSES
from simulator.compare import Comparison, Question, compare, document
from simulator.report import Cell, Table, _turned, to_html, to_markdown
from simulator.synth import Recipe, synthesise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    path = tmp_path_factory.mktemp("report") / "t.ullage"
    synthesise(Recipe(seed=5, days=0.2, gpu_nodes=3, small_gpu_nodes=3, cpu_nodes=2, owners=15, load=1.3)).save(path)
    return compare(
        Question((str(path),), ("best-fit", "kube-default"), seeds=(0, 1)), jobs=1, command="ullage compare …"
    )


def test_the_page_says_all_that_the_comparison_found(made: Comparison) -> None:
    page = to_html(made)
    for title in (
        "Side by side",
        "Every seed",
        "Over time",
        "Against what arrived",
        "Why GPU is fragmented",
        "What it cost",
    ):
        assert title in page
    assert made.headline.split(",")[0] in page
    assert "ullage compare …" in page
    assert made.rows[0]["trace_digest"] in page
    assert made.rows[0]["strategy_digest"] in page
    assert made.rows[0]["trace_digest"] in to_markdown(made)


def test_fragments_by_cause_add_up_to_the_fragmented_share(made: Comparison) -> None:
    for row in document(made)["cells"]:
        assert set(row["fragments"]) <= set(FRAGMENT_CAUSES)
        assert sum(row["fragments"].values()) == pytest.approx(row["metrics"]["fragmented_gpu_share_end"], abs=1e-5)


def test_a_phone_finds_the_names_of_lines_below_the_chart(made: Comparison) -> None:
    below = re.findall(r'<div class="names">(.*?)</div>', to_html(made))
    assert below
    assert all("best-fit" in names and "kube-default" in names for names in below)


def test_few_strategies_become_columns_and_many_stay_rows() -> None:
    table = Table(["strategy", "a", "b"], [[Cell("x"), Cell("1", True), Cell("2")]])
    turned = _turned(table)
    assert turned.heads == ["strategy", "x"]
    assert turned.rows == [[Cell("a"), Cell("1", True)], [Cell("b"), Cell("2")]]
    many = Table(["strategy", "a"], [[Cell(str(i)), Cell("1")] for i in range(12)])
    assert _turned(many) is many


def test_the_page_stands_alone(made: Comparison, tmp_path: Path) -> None:
    page = to_html(made)
    assert not re.search(r"(src|href)=", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
