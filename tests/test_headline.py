"""The sentence on top of a comparison: who wins, who is level, and what a cheaper fleet left undone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cli.simulate import short_rows
from simulator.comparison import Comparison, Question, Row

QUESTION = Question(("t",), ("a", "b", "c"), seeds=(0, 1))


def headline(question: Question, rows: list[Row]) -> str:
    return Comparison(question, rows).headline


def row(strategy: str, seed: int = 0, trace: str = "t", **metrics: object) -> Row:
    given = {"gpu_allocated_share": None, "cpu_allocated_share": None, "usd_per_month": None, "hours": 0.0, "pods": 10}
    return {
        "trace": trace,
        "strategy": strategy,
        "delivery": "decide",
        "seed": seed,
        "metrics": {**given, "placed": 10, **metrics},
    }


def test_the_winner_is_named_with_how_often() -> None:
    rows = [row("a", s, gpu_allocated_share=0.5 + s / 100) for s in (0, 1)]
    rows += [row("b", s, gpu_allocated_share=0.505) for s in (0, 1)]
    rows += [row("c", s, gpu_allocated_share=0.3) for s in (0, 1)]
    assert headline(QUESTION, rows[:2] + rows[4:]) == "On t, a allocates 20.50 points more GPU than c, on 2 of 2 seeds."
    shares = {"a": (0.52, 0.51), "b": (0.505, 0.515)}
    rows = [row(n, s, gpu_allocated_share=shares[n][s]) for n in shares for s in (0, 1)]
    assert headline(QUESTION, rows) == "On t, a allocates 0.50 points more GPU than b, on 1 of 2 seeds."
    assert headline(QUESTION, rows[::2]) == "On t, a allocates 1.50 points more GPU than b, on the one seed."


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("ab", "On t, a and b are level: 50.00 % of the GPUs allocated."),
        ("abc", "On t, all 3 strategies are level: 50.00 % of the GPUs allocated."),
    ],
)
def test_strategies_that_do_not_differ_are_level(names: str, said: str) -> None:
    assert headline(QUESTION, [row(n, gpu_allocated_share=0.5) for n in names]) == said
    worse = [row("x", gpu_allocated_share=0.4)]
    assert "x" not in headline(QUESTION, [row(n, gpu_allocated_share=0.5) for n in names] + worse)


def test_who_are_level_are_told_apart_by_the_nodes_that_they_leave_empty() -> None:
    rows = [row(n, s, cpu_allocated_share=0.5, empty_nodes_mean=x) for n, x in (("a", 0.0), ("b", 8.0)) for s in (0, 1)]
    said = "On t, a and b are level: 50.00 % of the CPU allocated; b leaves 8 nodes empty, a 0."
    assert headline(QUESTION, rows) == said
    rows[2]["metrics"]["placed"] = 7
    said = "On t, a and b are level: 50.00 % of the CPU allocated; a places 10 pods, b 8.5."
    assert headline(QUESTION, rows) == said, "a node that is empty because somebody waits is no gain"
    alike = [row(n, cpu_allocated_share=0.5, empty_nodes_mean=x) for n, x in (("a", 7.96), ("b", 8.0))]
    assert headline(QUESTION, alike) == "On t, a and b are level: 50.00 % of the CPU allocated."


def test_a_fleet_that_is_cheaper_because_it_places_less_says_so() -> None:
    question = replace(QUESTION, fleet="elastic")
    rows = [row("a", usd_per_month=900.0, placed=7), row("b", usd_per_month=1000.0)]
    assert headline(question, rows) == (
        "On t, a costs 100 USD a month (10.0 %) less than b, on the one seed, but places 3 fewer pods."
    )


def test_one_strategy_alone_tells_what_it_did() -> None:
    rows = [row("a", gpu_allocated_share=0.5, usd_per_month=1200.0, placed=9)]
    said = "On t, a places 9 of 10 pods, allocates 50.00 % of the GPUs and costs 1,200 USD a month."
    assert headline(QUESTION, rows) == said
    assert headline(replace(QUESTION, fleet="elastic"), rows) == said


def test_means_over_different_seeds_are_not_held_against_each_other() -> None:
    question = replace(QUESTION, fleet="elastic")
    usd = {"a": (500.0, None), "b": (600.0, 400.0)}
    rows = [row(n, s, usd_per_month=usd[n][s]) for n in usd for s in (0, 1)]
    assert headline(question, rows) == "On t, some replays left no time to measure."
    assert headline(question, [rows[1], row("b", 1, usd_per_month=None)]) == "On t, no time was measured."


def test_each_trace_is_judged_by_what_it_has() -> None:
    rows = [row(n, trace="gpus", gpu_allocated_share=x) for n, x in (("a", 0.5), ("b", 0.4))]
    rows += [row(n, trace="cores", cpu_allocated_share=x) for n, x in (("a", 0.2), ("b", 0.3))]
    assert headline(QUESTION, rows) == (
        "On gpus, a allocates 10.00 points more GPU than b, on the one seed. "
        "On cores, b allocates 10.00 points more CPU than a, on the one seed."
    )
    lines = Comparison(QUESTION, rows).summary
    assert [line["metric"] for line in lines] == ["gpu_allocated_share"] * 2 + ["cpu_allocated_share"] * 2
    assert (lines[2]["min"], lines[2]["max"]) == (0.2, 0.2)


def test_what_was_not_measured_is_no_zero_in_the_table() -> None:
    rows = [row(n, placed=0) for n in "ab"]
    for line in short_rows(Comparison(QUESTION, rows)):
        assert line["placed"] == 0
        assert line["p95 wait s"] is line["USD/month"] is line["GPU %"] is None
