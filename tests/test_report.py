"""The report: what must be in it, in HTML, JSON and Markdown alike."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement import pages
from placement.fragments import FRAGMENT_CAUSES
from placement.pages import Best
from placement.strategies import STRATEGIES
from simulator.charts import (
    BOTTOM,
    HEIGHT,
    TOP,
    Line,
    Spot,
    Spots,
    bar_chart,
    dot_chart,
    frontier_chart,
    heat_map,
    line_chart,
    reliability_chart,
    shortened,
    ticks,
)
from simulator.compare import compare
from simulator.comparison import Comparison, Question
from simulator.report import (
    COLUMNS,
    MEANINGS,
    Table,
    _table,
    _turned,
    to_html,
    to_markdown,
)
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace_facts import duration


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
    ):
        assert title in page
    assert "What it cost" not in page  # bars of one length: the fleet is the trace's
    assert "USD on synth-5 with each strategy: the fleet is the same" in page
    assert made.headline.split(",")[0] in page
    assert "ullage compare …" in page
    assert made.rows[0]["trace_digest"] in page
    assert made.rows[0]["strategy_digest"] in page
    assert made.rows[0]["trace_digest"] in to_markdown(made)


def test_a_picture_comes_before_the_numbers_and_has_them_too(made: Comparison, tmp_path: Path) -> None:
    page = to_html(made)
    assert page.index("<svg") < page.index("<table")
    means = [f"{100 * line['gpu_allocated_share']:.2f} %</text>" for line in made.summary]
    assert all(mean in page for mean in means)
    alone = replace(made, rows=made.rows[:1], question=replace(made.question, seeds=(0,)))
    assert to_html(alone).index("<svg") < to_html(alone).index("<table")


def test_what_stands_between_backticks_is_shown_as_code(made: Comparison) -> None:
    assert pages.coded("a < `b` at 5 %") == "a &lt; <code>b</code> at 5\N{NO-BREAK SPACE}%"
    whole = '<span class="option">--d-e</span>'
    assert pages.coded("`b --d-e` or --d-e, c--d") == f"<code>b {whole}</code> or {whole}, c--d"
    assert "<code>ullage serve</code>" in to_html(made)
    assert "`" not in to_html(made)


def test_the_page_says_whose_prices_usd_are_by(made: Comparison) -> None:
    assert "<dt>prices</dt><dd>what a trace itself keeps, else OpenCost" in to_html(made)
    told = replace(made, question=replace(made.question, prices="books/mine.csv"))
    assert "<dt>prices</dt><dd>mine.csv</dd>" in to_html(told)


def test_a_dashed_line_marks_what_dots_are_held_against() -> None:
    chart = dot_chart("c", [("a", [120.0]), ("b", [])], x_label="x", mark_x=100)
    x = [
        float(found)
        for found in re.findall(r'class="mark" x1="([\d.]+)"|<circle cx="([\d.]+)"', chart)
        for found in found
        if found
    ]
    assert len(x) == 2
    assert 0 < x[0] < x[1]


def test_the_page_explains_its_words_and_its_strategies(made: Comparison) -> None:
    page = to_html(made)
    assert STRATEGIES["best-fit"].description in page
    assert "<dt>Fragmented GPU %</dt><dd>Free GPU that an average pod could not use" in page
    assert "pods arrived; measured over" in page
    assert all(key in MEANINGS for key, *_ in COLUMNS)


def test_one_replay_on_a_fleet_that_grows_shows_what_it_cost_and_no_knot(tmp_path: Path) -> None:
    path = tmp_path / "t.ullage"
    synthesise(Recipe(seed=5, days=0.1, gpu_nodes=3, small_gpu_nodes=3, cpu_nodes=2, owners=15)).save(path)
    page = to_html(compare(Question((str(path),), ("best-fit",), fleet="elastic", spot_share=0.5), jobs=1))
    assert "Ullage · replay" in page
    assert "best is marked" not in page
    assert "What it cost" in page
    assert "Against what arrived" not in page  # shares of a fleet that shrinks go back and forth
    assert "Every seed" not in page


def test_who_looks_as_good_as_the_best_is_marked_as_well_and_nobody_where_all_look_alike(made: Comparison) -> None:
    first, second, *_ = made.summary
    close = {"placed": 100.2, "usd_per_month": 10.4}, {"placed": 100.4, "usd_per_month": 10.1}
    lines = [{**line, **values} for line, values in zip((first, second), close, strict=True)]
    lines.append({**second, "strategy": "third", "placed": 99.0, "usd_per_month": 9.6})
    table = _table(lines)
    best = zip(*([isinstance(cell, Best) for cell in row] for row in table.rows), strict=True)
    marked = dict(zip(table.heads, best, strict=True))
    assert marked["Pods placed"] == (True, True, False)
    assert marked["USD a month"] == (False, False, False)


def test_fragments_by_cause_add_up_to_the_fragmented_share(made: Comparison) -> None:
    for row in made.document()["cells"]:
        assert set(row["fragments"]) <= set(FRAGMENT_CAUSES)
        assert sum(row["fragments"].values()) == pytest.approx(row["metrics"]["fragmented_gpu_share_end"], abs=1e-5)


def test_a_phone_finds_the_names_of_lines_below_the_chart(made: Comparison) -> None:
    below = re.findall(r'<div class="names"[^>]*>(.*?)</div>', to_html(made))
    assert below
    assert all("best-fit" in names and "kube-default" in names for names in below)


def test_lines_that_lie_on_each_other_are_both_seen() -> None:
    same = [Line(name, [0, 1], [1, 2]) for name in "abc"]
    chart = line_chart("t", [*same, Line("d", [0, 1], [1, 3])], x_label="hours", y_label="%")
    drawn, named = (re.findall(r'stroke-dasharray="([^"]*)"', part) for part in chart.split('<div class="names"'))
    assert drawn == named == ["12 12", "8 16"]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e7), num=st.integers(3, 7))
def test_ticks_say_where_they_are(low: float, span: float, num: int) -> None:
    found = ticks(low, low + span, num)
    assert len(found) <= num + 1
    assert len({text for _, text in found}) == len(found)
    assert [float(text.replace(",", "")) for _, text in found] == pytest.approx(
        [at for at, _ in found], abs=1e-4 * span
    )


def test_long_ticks_have_room_at_the_left() -> None:
    for top, left in ((100, 64), (90_000, 94)):
        chart = line_chart("t", [Line("a", [0, 1], [0, top])], x_label="hours", y_label="pods")
        assert f'x1="{left}"' in chart


def test_a_point_alone_is_a_dot() -> None:
    chart = line_chart("t", [Line("a", [0, 1, 2, 3], [1, None, 2, 3])], x_label="hours", y_label="%")
    (path,) = re.findall(r'd="([^"]*)" fill="none" [^>]*stroke-linecap="round"><title>a<', chart)
    assert re.fullmatch(r"M[\d.,]+h0M[\d.,]+h0L[\d.,]+", path)
    assert reliability_chart("t", [(0.9, 1.0)], x_label="said", y_label="seen") == ""


def test_only_a_long_name_of_a_row_wraps_and_makes_the_column_that_wide() -> None:
    table = pages.table(["strategy", "x"], [[name, "1"] for name in ("short", "a" * 25)], label="t")
    assert f'<th scope="row">short</th><td>1</td></tr><tr><th scope="row" class="long">{"a" * 25}</th>' in table


def test_a_cell_is_marked_or_a_whole_row_by_its_name() -> None:
    table = pages.table((), [["a", Best("1 < 2"), "3"], [Best("b"), "4", "5"]], label="t")
    assert '<tr><th scope="row">a</th><td class="best">1 &lt; 2</td><td>3</td></tr>' in table
    assert '<tr class="best"><th scope="row">b</th><td>4</td><td>5</td></tr>' in table
    assert "<thead>" not in table


def test_few_strategies_become_columns_and_many_stay_rows() -> None:
    turned = _turned(Table(["strategy", "a", "b"], [["x", Best("1"), "2"]]))
    assert turned.heads == ("strategy", "x")
    assert turned.rows == [("a", "1"), ("b", "2")]
    assert isinstance(turned.rows[0][1], Best)
    many = Table(["strategy", "a"], [[str(i), "1"] for i in range(12)])
    assert _turned(many) is many


def test_the_page_stands_alone(made: Comparison, tmp_path: Path) -> None:
    page = to_html(made)
    assert not re.search(r"src=", page)
    links = re.findall(r'href="([^"]*)"', page)
    assert links
    assert all(f'id="{link[1:]}"' in page for link in links)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_shapes_stand_out_from_what_they_are_on() -> None:
    """WCAG 2 AA: 4.5 for text, 3 for shapes."""
    look = pages
    for text in (*look.TEXTS, look.INK, look.SOFT, look.MARK):
        assert _contrast(text, look.CARD) >= 4.5
    for text in (*look.DARK, look.DARK_INK, look.DARK_SOFT, look.DARK_MARK):
        assert _contrast(text, look.DARK_CARD) >= 4.5
    assert all(_contrast(shape, look.CARD) >= 3 for shape in (*look.SHAPES, *look.PARTS))
    assert all(_contrast(shape, look.DARK_CARD) >= 3 for shape in (*look.DARK, *look.DARK_PARTS))
    assert set(look.PARTS).isdisjoint(look.SHAPES), "a part of a bar is not taken for a strategy"
    assert _contrast(look.MARK, look.WASH) >= 4.5
    assert _contrast(look.DARK_MARK, look.DARK_WASH) >= 4.5
    assert _contrast(look.SOFT, look.PAPER) >= 4.5
    assert _contrast(look.DARK_SOFT, look.DARK_PAPER) >= 4.5


def test_every_chart_says_in_words_what_it_shows(made: Comparison) -> None:
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', to_html(made))
    assert labels
    assert all("best-fit" in label and "kube-default" in label for label in labels)


def test_long_names_of_lines_stand_below_the_chart_on_every_screen() -> None:
    short, long = (line_chart("c", [Line(n, [0, 1], [0, 1])], x_label="x", y_label="y") for n in ("a", "a" * 40))
    assert '<text class="name"' in short
    assert 'class="bare"' not in short
    assert '<text class="name"' not in long
    assert 'class="bare"' in long


def test_parts_of_bars_have_no_colour_of_a_strategy(made: Comparison) -> None:
    page = to_html(made)
    bars = "".join(re.findall(r'aria-label="(?:Fragmentation by cause|Unplaced pods|Cost).*?</svg>', page, re.S))
    assert "var(--p0)" in bars
    assert "var(--c" not in bars


def test_lines_that_share_a_colour_differ_in_their_dashes() -> None:
    chart = line_chart("c", [Line(str(i), [0, 1], [0, i]) for i in range(10)], x_label="x", y_label="y")
    looks = [
        re.findall(r'stroke="([^"]*)" stroke-width="2"( stroke-dasharray="[^"]*")?', part)
        for part in chart.split('<div class="names"')
    ]
    assert len(looks[0]) == len(set(looks[0])) == 10
    assert looks[0] == looks[1], "a name stands behind a piece of its own line"


@pytest.mark.parametrize(
    ("name", "letters", "short"),
    [
        ("node-1", 16, "node-1"),
        ("ip-10-0-12-123.eu-central-1.compute.internal", 16, "ip-10-0-12-123…"),
        ("ip-10-110-112-123.eu-central-1.compute.internal", 16, "ip-10-1…112-123"),
        ("aks-agentpool-12345678-vmss000001", 16, "aks-age…s000001"),
        ("kube-default-1.35 (decide+rounding+ties)", 38, "kube-default-1.35 …ide+rounding+ties)"),
    ],
)
def test_a_name_without_room_keeps_what_tells_it_from_others(name: str, letters: int, short: str) -> None:
    assert shortened(name, letters) == short
    assert len(short) <= letters


@pytest.mark.parametrize(
    "chart",
    [
        dot_chart("c", [("a" * 60, [1.0, 2.0])], x_label="x"),
        bar_chart("c", [("a" * 60, [("p", 1.0)])], unit="USD"),
        heat_map("c", ["a" * 60], [0, 1], [[0.5, 1.2]], x_label="hours"),
    ],
)
def test_a_name_too_long_for_its_row_is_cut_and_whole_for_who_points_at_it(chart: str) -> None:
    shown = re.search(r"<title>(a+)</title>(a+…a+)</text>", chart)
    assert shown is not None
    assert len(shown[1]) == 60 > len(shown[2])


def test_a_frontier_fills_its_chart_and_tells_groups_of_one_colour_apart() -> None:
    groups = [Spots(str(i), [Spot(i, 900 + i, "")], [[Spot(i, 900, ""), Spot(i, 910, "")]] * 2) for i in range(10)]
    chart = frontier_chart("c", groups, x_label="x", y_label="y", mark_x=1)
    heights = [float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)" r="[24].5"', chart)]
    assert TOP < min(heights) < TOP + 40
    assert HEIGHT - BOTTOM - 40 < max(heights) < HEIGHT - BOTTOM
    looks = set(re.findall(r'r="4" ([^/]*)/>', chart))
    lines = set(re.findall(r'fill="none" (stroke=[^/]*)/>', chart))
    assert len(looks) == len(lines) == 10
    assert chart.count('<path d="M') == 20, "seeds are not joined with each other"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (90, "1.5 min"), (12_030, "3.3 h"), (200_000, "2.3 d")]
)
def test_waits_are_told_in_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
