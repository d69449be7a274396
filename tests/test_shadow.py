"""The shadow report: counts, worth and certainty, on records whose truth is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from placement.pages import STYLE, coded
from scheduler.cli.shadow import shadow
from scheduler.records import IDLE, Fleet, Query, Record, RecordReader, RecordStore
from scheduler.shadow import NodePrices, compare, to_html, to_text, wilson

FLEET = Fleet(("busy", "idle", "other"), np.full(3, 10_000), np.full(3, 2**30), np.zeros(3, np.int64))


def write(path: Path, choices: list[tuple[str, str | None]], idle: tuple[bool, ...] = (False, True, True)) -> None:
    """One record a minute: (our node, the node it was bound to)."""
    store = RecordStore(path)
    digest = FLEET.packed[0]
    store.write([FLEET])
    store.write([_record(i, ours, theirs, digest, idle) for i, (ours, theirs) in enumerate(choices)])
    store.close()


def _record(number: int, ours: str, theirs: str | None, digest: str, idle: tuple[bool, ...]) -> Record:
    return Record(
        id=f"d{number}", asked_s=1e9 + 60 * number, uid=f"u{number}", name=f"p{number}", namespace="shop",
        verb="filter", mode="shadow", outcome="placed" if ours else "rejected", node=ours, devices=0, score=1,
        runner_up="", num_candidates=3, duration_s=0.001, draw=0, version=number, strategy="priced",
        strategy_digest="d", knowledge="k", request={"cpu": 1000}, prediction={}, prediction_source="request",
        top=[], reasons={}, fleet=digest, masks={IDLE: np.array(idle)}, final_node=theirs,
        final_s=None if theirs is None else 1e9 + 60 * number + 1,
    )  # fmt: skip


def test_each_pod_is_counted_once_under_what_became_of_it(tmp_path: Path) -> None:
    write(
        tmp_path / "r.db",
        [("busy", "busy"), ("busy", "idle"), ("busy", None), ("", "idle"), ("", None), ("idle", "idle")],
    )
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query(newest_first=False)), NodePrices())
    assert (found.agreed, found.differed, found.ours_only, found.theirs_only, found.neither) == (2, 1, 1, 1, 1)
    assert found.nodes_fewer.value == 1
    assert found.allocation == {"cpu": 0}
    assert "requests, more with us                cpu +0 cores" in to_text(found)
    assert "too few to judge" in found.headline()
    assert to_text(found).endswith("  Next: leave it in shadow until there are more pods.\n")


def test_nodes_that_we_leave_idle_are_worth_their_price(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [("busy", "idle")] * 200)
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query(newest_first=False)), NodePrices(1.0, 0.0, 0.0))
    assert found.nodes_fewer.value == 200
    # idle again at the next record, a minute later: 10 USD/h × 1/60 h × 60 an hour (200 in 199 minutes) × 730
    assert found.usd_a_month.value == pytest.approx(10 * 730 * 200 / 199, rel=0.01)
    assert found.usd_a_month.is_clear
    assert "USD a month less" in found.headline()
    assert "kubectl label namespace NS ullage.dev/mode=score" in found.next_step()
    assert "ullage.dev/mode=score" in to_html(found, "")
    assert replace(found, in_shadow=False).next_step() == "", "what decides already is past that step"


def test_a_difference_that_is_chance_is_not_called_clear(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pairs: list[tuple[str, str | None]] = [
        ("busy", "idle") if rng.random() < 0.5 else ("idle", "busy") for _ in range(300)
    ]
    write(tmp_path / "r.db", pairs)
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query(newest_first=False)), NodePrices())
    assert not found.usd_a_month.is_clear
    assert "no clear difference" in found.headline()
    assert found.nodes_fewer.low < found.nodes_fewer.value < found.nodes_fewer.high


def test_a_replay_begins_at_its_second_0(tmp_path: Path) -> None:
    store, digest = RecordStore(tmp_path / "r.db"), FLEET.packed[0]
    records = [_record(number, "busy", "idle", digest, (False, True, True)) for number in range(3)]
    store.write([FLEET, *(replace(record, asked_s=100.0 * number) for number, record in enumerate(records))])
    store.close()
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query(newest_first=False)), NodePrices())
    assert (found.from_s, found.to_s) == (0, 200)


def test_only_the_last_decision_about_a_pod_counts(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r.db")
    digest = FLEET.packed[0]
    first = _record(0, "other", "busy", digest, (False, True, True))
    second = _record(1, "busy", "busy", digest, (False, True, True))
    second.uid = first.uid
    store.write([FLEET, first, second])
    store.close()
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query(newest_first=False)), NodePrices())
    assert (found.records, found.pods, found.agreed, found.differed) == (2, 1, 1, 0)
    assert to_text(found).startswith("Ullage agreed with kube-scheduler on 100 % of 1 pod; too few to judge")


def test_usd_at_rates_that_nobody_told_are_said_to_be_that(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [("busy", "idle")] * 60)
    base = ["report", "--records", str(tmp_path / "r.db")]
    guessed = "at OpenCost's default rates, not at what you pay"
    assert guessed in CliRunner().invoke(shadow, [*base, "-o", "html"]).stdout
    assert guessed not in CliRunner().invoke(shadow, [*base, "--usd-per-core-hour", "0.05"]).stdout


def test_the_same_content_stands_in_every_format(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [("busy", "idle"), ("busy", "busy")] * 60)
    page = tmp_path / "shadow.html"
    base = ["report", "--records", str(tmp_path / "r.db")]
    run = CliRunner().invoke(shadow, [*base, "-o", "json", "--report", str(page)])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    assert told["outcomes"]["agreed"] == told["outcomes"]["differed"] == 60
    assert told["agreement_share"]["low"] < 0.5 < told["agreement_share"]["high"]
    assert coded(told["headline"]) in page.read_text()
    assert "http" not in page.read_text()
    assert 'aria-label="agreed: 60 pods; differed: 60 pods"' in page.read_text()
    assert "</i>differed: 60 pods</li>" in page.read_text()
    assert f"<style>{STYLE}" in page.read_text(), "it looks as the other pages do"
    used = set(re.findall(r"var\((--\w+)\)", page.read_text()))
    assert all(f"{colour}:" in STYLE for colour in used), "every colour is one of the house"
    assert page.read_text().count('<div class="card"') == 3
    assert told["headline"] in CliRunner().invoke(shadow, base).stdout


def test_names_are_escaped_in_html(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [("busy", "idle")])
    with RecordReader(str(tmp_path / "r.db")) as reader:
        found = compare(reader, reader.find(Query()), NodePrices())
    found.examples[0]["pod"] = "<script>"
    assert "<script>" not in to_html(found, "ullage")
    assert "<script>" in to_text(found)


def test_nothing_to_compare_is_said_so(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [])
    run = CliRunner().invoke(shadow, ["report", "--records", str(tmp_path / "r.db")])
    assert run.exit_code == 0
    assert "nothing to compare" in run.stdout


def test_wilsons_interval_is_the_textbook_one() -> None:
    interval = wilson(np.array([True] * 8 + [False] * 2))
    assert interval.low == pytest.approx(0.4902, abs=1e-3)
    assert interval.high == pytest.approx(0.9433, abs=1e-3)


def test_without_records_the_report_says_whom_to_ask_and_shows_no_zeros(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [])
    run = CliRunner().invoke(shadow, ["report", "--records", str(tmp_path / "r.db")])
    assert run.exit_code == 0
    assert "ullage doctor" in run.stdout
    assert "agreed" not in run.stdout


def test_differences_that_are_worth_nothing_are_no_examples(tmp_path: Path) -> None:
    write(tmp_path / "r.db", [("idle", "other"), ("busy", "idle")] * 3)
    run = CliRunner().invoke(shadow, ["report", "--records", str(tmp_path / "r.db"), "-o", "json"])
    examples = json.loads(run.stdout)["examples"]
    assert examples
    assert all(example["usd_an_hour"] for example in examples)
