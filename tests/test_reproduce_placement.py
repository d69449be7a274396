"""Cells of ``ullage reproduce placement|adversaries`` on made-up traces: what is counted, and what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from placement.learning.usage import STEP_S
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.cli.reproduce_replays import adversaries_command, placement_command
from simulator.kept import kept
from simulator.reproduce.adversaries import ADVERSARIES, attack, attacks
from simulator.reproduce.placement import CELLS, Cell, Setting, run_cell, summary
from simulator.reproduce.placement_page import frontier, headline, report
from simulator.traces.trace import Trace, Usage

DAY_S = 86_400
GIB = 2**30


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Forty pods of ten workloads for four days, some idle and some with a busy hour a day."""
    rng = np.random.default_rng(1)
    specs = [PodSpec(((CPU, 16_000), (MEMORY, 64 * GIB)), owner=f"Application/w{i}") for i in range(10)]
    made = Trace.of("t", [], [(f"p{i}", specs[i % 10], 60 * i, 4 * DAY_S) for i in range(40)])
    steps = np.arange(4 * DAY_S // STEP_S)
    busy = np.where(steps * STEP_S // 3600 % 24 == 9, 8.0, 1.0)
    level = rng.uniform(200, 1500, 10)
    cpu = [level[i % 10] * np.where(i % 10 < 3, busy, 1.0) * rng.uniform(0.9, 1.1, len(steps)) for i in range(40)]
    pod, time_s = np.repeat(np.arange(40), len(steps)), np.tile(steps * STEP_S, 40)
    memory = np.full(len(pod), 8 * GIB, np.int64)
    return made.but(usage=Usage(pod, time_s, np.concatenate(cpu).astype(np.int64), memory))


def test_right_sizing_saves_nodes_and_every_cell_keeps_the_books(trace: Trace, tmp_path: Path) -> None:
    setting = Setting(2, 4, rollout_hours=24, factor=1.3)
    cells = [Cell("best-fit"), Cell("best-fit", "rightsized", "vpa"), Cell("ullage", "rightsized", "packed")]
    rows = [kept(tmp_path, c.name.replace(" ", "_"), lambda c=c: run_cell(trace, c, setting, 0)) for c in cells]
    assert all(r["placed"] == r["pods"] == 40 for r in rows)
    assert rows[1]["nodes_mean"] < rows[0]["nodes_mean"]
    assert rows[2]["nodes_mean"] < rows[0]["nodes_mean"]
    assert kept(tmp_path, cells[0].name, lambda: pytest.fail("it was kept")) == rows[0]
    table = summary(rows)
    assert table[0]["usd_to_best_fit"] == 1.0
    assert table[2]["usd_to_best_fit"] < 1.0
    page = report(rows)
    assert "No guaranteed pod was ever on a node over its CPU." in page
    halved = [r | {"scale": 0.5, "usd": r["usd"] / 2, "over_cpu_guaranteed_share": 0.02} for r in rows[2:]]
    (group,) = [g for g in frontier([*rows, *halved], "rightsized") if g.name == "ullage by packed"]
    (path,) = group.paths
    assert [spot.x for spot in path] == [2.0, 100 * rows[2]["over_cpu_guaranteed_share"]]
    assert group.loose == path[1:]
    assert "Left of the dashed line" in report([*rows, *halved])
    assert "ullage, rightsized by packed" in page


def test_an_attack_is_measured_beside_no_mechanism(trace: Trace) -> None:
    row = attack(trace, "lying-requests", Setting(2, 4, rollout_hours=24), 3, 0)
    assert row["over_without_mechanism"] <= 1
    assert row["was_open"] == any(rung != "request" for t, rung, *_ in row["rungs"] if t < 3 * DAY_S)
    plain = trace.usage
    changed = ADVERSARIES["regime-change"](trace, np.zeros(10, np.bool_), 3 * DAY_S).usage
    late = plain.time_s >= 3 * DAY_S
    assert (changed.cpu_millicores[late] == 3 * plain.cpu_millicores[late]).all()
    assert (changed.cpu_millicores[~late] == plain.cpu_millicores[~late]).all()


def test_attacks_are_pooled_over_seeds() -> None:
    first = {
        "adversary": "a", "over_cpu_guaranteed_share": 0.004, "over_without_mechanism": 0.0, "fell_after_s": 3600,
        "within_budget": True, "oom_kills": 1, "usd": 5.0, "usd_without_mechanism": 10.0, "over_cpu_worst_day": 0.05,
    }  # fmt: skip
    second = first | {
        "over_cpu_guaranteed_share": 0.02,
        "fell_after_s": None,
        "within_budget": False,
        "usd": 7.0,
        "over_cpu_worst_day": 0.02,
    }
    other = first | {"adversary": "b", "fell_after_s": None}
    one, two = attacks([first, other, second])
    assert (one["adversary"], one["seeds"], one["over"], one["over_low"], one["over_high"]) == (
        "a",
        2,
        0.012,
        0.004,
        0.02,
    )
    assert (one["within_budget"], one["fell"], one["fell_after_s_most"], one["oom_kills"]) == (False, 1, 3600, 2)
    assert one["usd_to_best_fit"] == pytest.approx(0.6)
    assert one["over_worst_day"] == 0.05
    assert (two["within_budget"], two["fell"], two["fell_after_s_most"]) == (True, 0, None)


def test_settings_that_leave_nothing_to_measure_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--warmup-days 5 of --days 5 leaves nothing to measure"):
        Setting(5, 5)
    (tmp_path / "planetlab").mkdir()
    late = CliRunner().invoke(adversaries_command, ["--data", str(tmp_path), "--days", "20", "--at-day", "20"])
    assert "--at-day 20: the replay is over by then" in str(late.exception)
    (tmp_path / "file").touch()
    words = ["--data", str(tmp_path), "--report", str(tmp_path / "file" / "r.html")]
    assert "is no folder" in str(CliRunner().invoke(placement_command, words).exception)


def test_names_of_cells_tell_them_apart() -> None:
    assert len({(c.name, c.scale) for c in CELLS}) == len(CELLS)


def test_the_page_says_who_is_cheapest_within_the_budget() -> None:
    def line(
        cell: str, to_best_fit: float, *, within: bool = True, scale: float = 1.0, placed: float = 9
    ) -> dict[str, object]:
        found = {"cell": cell, "scale": scale, "usd_to_best_fit": to_best_fit, "within_budget": within}
        return {**found, "placed": placed}

    lines = [line("best-fit", 1.0), line("ullage", 0.9), line("ullage, rightsized", 0.4)]
    lines += [line("predicted, rightsized", 0.3, within=False), line("ullage, rightsized", 0.2, scale=0.6)]
    lines += [line("best-fit, reclaimed", 0.1, placed=8)]
    assert headline(lines) == (
        "Within the budget of 1 % of node-time over CPU, ullage, rightsized is cheapest, at 40.0 % of plain best fit's USD; "
        "without overcommit ullage is cheapest, at 90.0 % of plain best fit's USD."
    )
    nobody = headline([line("best-fit", 1.0), line("ullage", 1.1), line("ullage, rightsized", 0.4)])
    assert nobody.endswith("USD; without overcommit nothing is cheaper than plain best fit.")
    assert headline([line("best-fit", 1.0), line("priced", 0.9999), line("best-fit, rightsized", 1.2)]) == (
        "Within the budget of 1 % of node-time over CPU, nothing is cheaper than plain best fit."
    )
    assert headline([line("best-fit", 1.0), line("priced", 0.9), line("best-fit, rightsized", 1.2)]) == (
        "Within the budget of 1 % of node-time over CPU, priced is cheapest, at 90.0 % of plain best fit's USD."
    )
    assert "No strategy keeps the budget" in headline([line("best-fit", 1.0, within=False)])
