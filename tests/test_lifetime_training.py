"""`ullage train` and `ullage evaluate` on arrivals and ends: fit, card, files, report, and what cannot be learned from."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError, ModelError, PlacementError
from placement.learning import boosted
from placement.learning.baselines import Target
from placement.learning.boosted import load_card
from placement.learning.drift import CoverageMonitor, LossMonitor
from placement.learning.lifetime_history import Kin, LifeHistory, feature_names
from placement.learning.lifetime_model import Classes, load_lifetimes, row_names
from placement.learning.lineage import LIMITS_S
from placement.learning.prediction import HISTORY, load_rungs
from placement.learning.survival import class_shares
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.cli.learn import evaluate as evaluate_command
from simulator.cli.learn import train as train_command
from simulator.learning.accuracy import html
from simulator.learning.lifetime_accuracy import headline, rows_of
from simulator.learning.lifetime_samples import Draw, is_held_out, samples_of, with_owners
from simulator.learning.lifetime_scores import calibration_error, gone_by, log_loss, reliability, scores
from simulator.learning.lifetime_training import CLASS_SHARE, DRIFT, Bounds, model_shares, train_lifetimes, verdict
from simulator.learning.recordings import AZURE_MARK, Learnable, _with_batches, evaluate, read_learnable, train
from simulator.learning.sibling_rules import RULES
from simulator.learning.training import Effort, Split, Verdict
from simulator.traces.trace import NEVER, Manifest, Pods, Trace, TraceError, Usage
from tests.life_traces import GIB, by_the_hour, nodes, spec_of

pytestmark = pytest.mark.timeout(90)
"""Trees are fitted."""

EFFORT = Effort(2000, 500)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return by_the_hour(owners=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> Path:
    path = tmp_path_factory.mktemp("lifetimes")
    learned = train(Learnable("by-the-hour", None, trace), path, seed=3, effort=EFFORT, created_s=7)
    assert learned.usage == []
    return path


def test_the_card_says_what_was_learned_from_and_how_good_it_is(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert card["models"] == []
    assert card["created_s"] == 7
    found = card["lifetimes"]
    assert found["data"]["owners"] == 8
    assert found["data"]["pods"] == found["data"]["ended"] == 8 * 36 * 6
    assert 0 < found["data"]["held_out_owners"] < 8
    assert found["drift"]["falls_to"] == "history"
    at_arrival = found["metrics"]["0s"]
    for group in ("all", "held_out_owners"):
        mine, rules = at_arrival[group]["model"], {n: s for n, s in at_arrival[group].items() if n != "model"}
        assert mine["accuracy"] > 0.9
        assert rules.pop("oracle")["accuracy"] == 1
        assert set(rules) == {*RULES, "population", "history"}
        assert all(mine["log_loss"] < rule["log_loss"] and mine["brier"] < rule["brier"] for rule in rules.values())
        assert mine["calibration_error"] < 0.2


def test_training_says_at_which_ages_a_rule_is_right_more_often(tmp_path: Path, trace: Trace, folder: Path) -> None:
    def table(ours: float | None, rule: float | None) -> dict[str, Any]:
        return {"all": {"model": {"accuracy": ours}, "mean": {"accuracy": rule}, "oracle": {"accuracy": 1.0}}}

    lost = verdict({"0s": table(0.646, 0.67), "900s": table(0.7, 0.7), "3600s": table(None, None)}, 5000)
    assert lost.is_behind
    assert lost.words.startswith(
        "the lifetime model is ahead of the best rule at 1 of 2 ages, and behind at arrival "
        "(64.6 % of classes are right, of mean 67.0 %): "
    )
    assert lost.words.endswith("more lives than these 5,000 may help")
    assert verdict({"0s": table(0.7, 0.6)}, 1) == Verdict("the lifetime model is ahead of the best rule at 1 of 1 ages")
    assert verdict({}, 1) == Verdict("no life was left to judge the lifetime model by")
    said = load_card(folder)["lifetimes"]["verdict"]
    assert said == "the lifetime model is ahead of the best rule at 3 of 3 ages"
    trace.save(tmp_path / "t.ullage")
    command = [
        str(tmp_path / "t.ullage"),
        "-m",
        str(tmp_path / "m"),
        "--seed",
        "3",
        "--rows",
        "1500",
        "--no-refit",
        "-q",
    ]
    done = CliRunner().invoke(train_command, command)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == f"note: {said}"


def test_the_same_recording_and_seed_give_the_same_bytes(folder: Path, trace: Trace) -> None:
    again = train_lifetimes(trace, seed=3, rows=EFFORT.rows)
    assert again.files == {p.name: p.read_text() for p in folder.glob("*.txt")}
    names = {"lifetimes.txt", "lifetime-classes.txt"}
    assert again.files.keys() == names | {f"judged-{name}" for name in names}
    assert load_card(folder)["lifetimes"] == json.loads(json.dumps(again.section))


def test_what_is_served_is_one_distribution_of_hazards_classes_and_the_owners_majority(
    folder: Path, trace: Trace
) -> None:
    model, samples = load_lifetimes(folder), samples_of(trace, [Draw(5e4, 6e4, 300, (0,))], seed=0)
    assert model is not None
    assert model.classes is not None
    assert model.classes.share + model.classes.owner_share == CLASS_SHARE
    alone = replace(model, classes=None)
    names = list(feature_names())
    majority = samples.features[:, [names.index(f"owner:class_{c}") for c in range(4)]]
    by_trees = model.classes.trees.shares(samples.features)
    np.testing.assert_allclose(
        model_shares(model, samples),
        (1 - CLASS_SHARE) * model_shares(alone, samples)
        + model.classes.share * by_trees
        + model.classes.owner_share * majority,
        atol=0.02,
    )
    assert np.abs(by_trees - model_shares(alone, samples)).max() > 0.05
    unknown = np.full_like(samples.features, np.nan)
    history = class_shares(samples.rule)
    found = Classes(model.classes.trees, 0, 1).mixed(history, unknown, history)
    np.testing.assert_allclose(found, history, err_msg="an owner of whom no pod has ended is told by the history")


def test_too_few_arrivals_leave_the_hazards_alone(tmp_path: Path) -> None:
    pods = [(f"p{i}", spec_of(i % 4), 700 * i, 700 * i + (4000 if i % 2 else 90_000)) for i in range(110)]
    trace = Trace.of("few", nodes(12), pods)
    learned = train(Learnable("few", None, trace), tmp_path, seed=1, effort=EFFORT)
    assert learned.lifetimes is not None
    assert load_card(tmp_path)["lifetimes"]["judged"]["classes"] is None
    judged = load_lifetimes(tmp_path, judged=True)
    assert judged is not None
    assert judged.classes is None


def test_a_report_shows_lifetimes_by_age_owner_and_class(folder: Path, trace: Trace) -> None:
    report = evaluate(Learnable("by-the-hour", None, trace), folder)
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text)["lifetimes"]["ages"]["0s"]["classes"][0]["found"] > 0.9
    page = html(report)
    assert '<section aria-label="Lifetimes"><h2 id="lifetimes">Lifetimes</h2>' in page
    labels = re.findall(r'role="region" tabindex="0" aria-label="([^"]*)"', page)
    assert len(labels) == len(set(labels)) > 3, "tables of the same of other ages have other names"
    assert page.count('role="img"') == 2, "nobody was followed for a day from an hour on"
    assert "The class of lifetime is right for" in page
    shares = report["lifetimes"]["class_shares"]
    assert shares["trees"] + shares["owner"] == CLASS_SHARE
    assert f"of what is said of classes trees of their own have {100 * shares['trees']:.0f}\N{NO-BREAK SPACE}%" in page
    rows = rows_of(report["lifetimes"]["ages"])
    assert rows[0]["lifetimes"] == "at arrival, all"
    assert {"after 15 minutes, owners never fitted on", "after an hour, all"} <= {row["lifetimes"] for row in rows}
    assert headline({"ages": {}}) == "no pod arrived in the part that is judged"


def with_usage(path: Path) -> Trace:
    """A recording that tells both, saved there."""
    trace = by_the_hour(owners=30, hours=48, every_s=3600)
    rng = np.random.default_rng(0)
    steps = np.arange(1, 48 * 12 + 1)
    pod = np.repeat([np.flatnonzero(trace.pods.spec == c)[0] for c in range(30)], len(steps))
    used = rng.uniform(50, 400, len(pod)).astype(int)
    usage = Usage(pod, np.tile(steps * 300, 30), used, np.full(len(pod), GIB // 2))
    trace.but(usage=usage).save(path)
    return trace


def test_usage_and_lifetimes_share_a_folder_where_a_recording_tells_both(tmp_path: Path) -> None:
    trace = with_usage(tmp_path / "both.ullage")
    source = read_learnable(str(tmp_path / "both.ullage"))
    assert source.notes == []
    model = tmp_path / "model"
    learned = train(source, model, seed=1, effort=Effort(1500, 400), targets=[Target(1)])
    assert learned.notes == []
    assert {t.resource for t in learned.usage} == {CPU, MEMORY}
    assert learned.lifetimes is not None
    assert [name for name, _ in load_rungs(str(model), Target(1)).predictors] == ["model", "history"]
    assert load_lifetimes(model) is not None
    report = evaluate(source, model)
    assert report["tasks"].keys() == {"cpu-1h-peak", "memory-1h-peak"}
    assert "0s" in report["lifetimes"]["ages"]
    page = html(report)
    assert '<h2 id="lifetimes">Lifetimes</h2>' in page
    assert '<a href="#lifetimes">Lifetimes</a>' in page
    given = [str(tmp_path / "both.ullage"), "-m", str(model), "-q", "-o", "csv"]
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(evaluate_command, given).stdout)))
    assert [row["task"] for row in rows if row["task"]] == ["cpu-1h-peak", "memory-1h-peak"]
    assert sum(bool(row["lifetimes"]) for row in rows) == len(rows) - 2 > 0
    few = replace(source, trace=trace.but(pods=replace(trace.pods, arrival_s=np.arange(len(trace.pods)))))
    report = evaluate(few, model)
    assert report["tasks"]
    assert "lifetimes" not in report
    assert "lifetimes are not judged" in report["notes"][-1]
    assert "too short" in report["notes"][-1]


def test_a_training_that_is_stopped_leaves_the_folder_as_it_was(tmp_path: Path, folder: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    with_usage(tmp_path / "both.ullage")
    source = read_learnable(str(tmp_path / "both.ullage"))

    def stop(done: float, total: float) -> None:
        if (done, total) == (1, 2):  # CPU is fitted, memory begins
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(source, model, seed=2, effort=Effort(1500, 400), targets=[Target(1)], progress=stop)
    assert {p.name: p.read_bytes() for p in model.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = CliRunner().invoke(train_command, ["demo", "-m", str(tmp_path / "file" / "model")])
    assert isinstance(found.exception, PlacementError)
    assert f"{tmp_path / 'file'} is no folder; choose another folder" in str(found.exception)
    assert not found.output
    nowhere = CliRunner().invoke(train_command, ["demo", "-m", "/proc/model"])  # refused to root as well
    assert str(nowhere.exception).startswith("model /proc/model: no file can be made in /proc: ")
    assert not nowhere.output


def test_a_folder_of_lifetimes_alone_leaves_usage_on_the_history(folder: Path) -> None:
    assert [name for name, _ in load_rungs(str(folder), Target(6)).predictors] == [HISTORY]


def test_a_part_that_cannot_be_fitted_is_left_out_and_named(tmp_path: Path) -> None:
    trace = by_the_hour(owners=12, hours=5)
    pod = np.repeat(np.arange(3), 12)
    usage = Usage(pod, np.tile(np.arange(1, 13) * 300, 3), np.full(36, 100), np.full(36, GIB))
    trace.but(usage=usage).save(tmp_path / "short.ullage")
    learned = train(read_learnable(str(tmp_path / "short.ullage")), tmp_path / "m", seed=1, effort=EFFORT)
    assert learned.usage == []
    assert learned.lifetimes is not None
    assert "cannot be split by time" in learned.notes[0]


@pytest.mark.parametrize(
    ("departures", "says"),
    [
        ([NEVER] * 40, "tells neither what pods use nor how long they live"),
        ([900] * 40, "too short to learn lifetimes"),
    ],
)
def test_recordings_that_tell_nothing_of_lifetimes_are_named(tmp_path: Path, departures: list[int], says: str) -> None:
    pods = [(f"p{i}", spec_of(0), i, d) for i, d in enumerate(departures)]
    Trace.of("t", nodes(1), pods).save(tmp_path / "t.ullage")
    with pytest.raises((TraceError, ConfigError), match=says):
        train(read_learnable(str(tmp_path / "t.ullage")), tmp_path / "m", seed=0, effort=EFFORT)
    assert not (tmp_path / "m").exists()


def test_where_nothing_can_be_learned_it_is_said_of_both_parts_why(tmp_path: Path) -> None:
    pods = [(f"p{i}", spec_of(0), i, 900) for i in range(40)]
    usage = Usage(np.zeros(2, np.int64), np.array([300, 600_000_000]), np.full(2, 100), np.full(2, GIB))
    Trace.of("t", nodes(1), pods).but(usage=usage).save(tmp_path / "t.ullage")
    with pytest.raises(ConfigError) as caught:
        train(read_learnable(str(tmp_path / "t.ullage")), tmp_path / "m", seed=0, effort=EFFORT)
    usage_why, _, lives_why = str(caught.value).partition("; lifetimes are not learned: ")
    assert usage_why.startswith("usage is not learned: t: nothing was recorded for 6944 days after second 300")
    assert "too short to learn lifetimes" in lives_why


NONE = np.zeros(0, np.int64)


def test_few_lives_are_too_few(tmp_path: Path) -> None:
    trace = by_the_hour(owners=1, hours=3, every_s=1200)
    with pytest.raises(ModelError, match=r"parts of lives, of which pods ended in \d+, are too few"):
        train(Learnable("t", None, trace), tmp_path, seed=0, effort=EFFORT)
    empty = trace.but(pods=Pods.of(name=NONE, spec=NONE, arrival_s=NONE, departure_s=NONE))
    with pytest.raises(ConfigError, match="has no pods"):
        with_owners(empty)
    endless = trace.but(pods=replace(trace.pods, departure_s=np.full(len(trace.pods), NEVER)))
    with pytest.raises(ConfigError, match="no pod ends"):
        with_owners(endless)
    with pytest.raises(ConfigError, match="no pod arrives in the part that is judged"):
        samples_of(trace, [Draw(1e6, 2e6, 10)], seed=0)


def test_a_pod_long_before_the_others_does_not_move_the_split() -> None:
    pods = [
        ("first", spec_of(0), 0, 10),
        *((f"p{i}", spec_of(0), 10**7 + 100 * i, 10**7 + 100 * i + 50) for i in range(99)),
    ]
    found = Bounds.of(Trace.of("t", nodes(1), pods))
    assert 10**7 < found.fit < found.mix < 10**7 + 100 * 99
    plain = Bounds.of(Trace.of("t", nodes(1), pods[1:]))
    assert plain.fit == pytest.approx(10**7 + 0.58 * 9800)


def test_one_owner_only_is_learned_from_though_none_can_be_held_out(tmp_path: Path) -> None:
    trace = by_the_hour(owners=1, hours=48, every_s=150)
    seed = next(s for s in range(50) if is_held_out("default/StatefulSet/job0", s))
    learned = train_lifetimes(trace, seed=seed, rows=1500)
    assert learned.section["lives"]["fitted"] > 500
    assert learned.section["metrics"]["0s"]["all"]["model"]["accuracy"] > 0.8


def test_what_the_folder_predicts_and_the_recording_tells_must_meet(folder: Path, tmp_path: Path, trace: Trace) -> None:
    with pytest.raises(ModelError, match="predicts lifetimes, of which t tells nothing"):
        evaluate(Learnable("t"), folder)
    card = {k: v for k, v in load_card(folder).items() if k != "lifetimes"}
    (tmp_path / "card.json").write_text(boosted.card_text(card))
    with pytest.raises(ModelError, match="predicts nothing"):
        evaluate(Learnable("t", None, trace), tmp_path)
    assert load_lifetimes(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sha256": "0"}, "does not match its checksum"),
        ({"file": "gone.txt"}, "cannot be read"),
        ({"features": "abc"}, "was fitted for lifetime features abc"),
        ({"share": 7}, "must be 0 to 1"),
        ({"share": None}, "has share None; train again"),
        ({"classes": {"file": "gone.txt", "sha256": "0", "share": 0.5, "owner_share": 0}}, "gone.txt cannot be read"),
        ({"classes": {"file": "lifetimes.txt", "sha256": "0", "share": 0.5, "owner_share": 0}}, "match its checksum"),
        ({"classes": {"file": "lifetimes.txt", "sha256": "0", "share": 0.5, "owner_share": 0.6}}, "1.1 in all"),
        ({"classes": {"file": "lifetimes.txt", "sha256": "0", "share": 0.5}}, "classes lacks 'owner_share'"),
        ({"classes": 3}, "classes is no table"),
    ],
)
def test_a_damaged_or_foreign_lifetime_model_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    card = load_card(folder)
    (tmp_path / "lifetimes.txt").write_bytes((folder / "lifetimes.txt").read_bytes())
    (tmp_path / "card.json").write_text(boosted.card_text({**card, "lifetimes": {**card["lifetimes"], **change}}))
    with pytest.raises(ModelError, match=says):
        load_lifetimes(tmp_path)
    (tmp_path / "card.json").write_text(boosted.card_text({**card, "lifetimes": [1]}))
    with pytest.raises(ModelError, match="lifetimes is no table"):
        load_lifetimes(tmp_path)
    older = {k: v for k, v in card["lifetimes"].items() if k != "classes"}
    (tmp_path / "card.json").write_text(boosted.card_text({**card, "lifetimes": older}))
    with pytest.raises(ModelError, match="lacks 'classes'; train again"):
        load_lifetimes(tmp_path)


def test_without_the_library_a_model_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModelError, match=r"needs lightgbm, which this install lacks; install 'ullage\[learn\]'"):
        load_lifetimes(folder)


def test_a_model_refuses_rows_of_other_features(folder: Path) -> None:
    model = load_lifetimes(folder)
    assert model is not None
    with pytest.raises(ModelError, match="expects"):
        model.trees.scores(np.zeros((1, 3), np.float32))
    assert model.classes is not None
    with pytest.raises(ModelError, match="expects"):
        model.classes.trees.shares(np.zeros((1, 3), np.float32))
    from placement.learning.boosted import ClassTrees, HazardTrees

    of_classes = folder / "lifetime-classes.txt"
    with pytest.raises(ModelError, match="and 4 classes, not 2 and 4"):
        ClassTrees.load(of_classes, load_card(folder)["lifetimes"]["classes"]["sha256"], row_names()[:2], 4)
    sha = load_card(folder)["lifetimes"]["sha256"]
    with pytest.raises(ModelError, match="features, not 2"):
        HazardTrees.load(folder / "lifetimes.txt", sha, row_names()[:2])


def test_batches_of_equal_make_up_are_of_one_owner_where_pods_have_none() -> None:
    small, large = PodSpec(((CPU, 100), (MEMORY, GIB))), PodSpec(((CPU, 900), (MEMORY, GIB)))
    pods = Pods.of(
        name=np.array([f"p{i}" for i in range(6)], object),
        spec=np.array([0, 1, 0, 1, 0, 0]),
        arrival_s=np.array([0, 0, 50, 50, 60, 70]),
        departure_s=np.full(6, 100),
        gang=np.array([0, 0, 1, 1, 2, -1]),
    )
    found = with_owners(Trace(Manifest("t", "t"), (small, large), (), pods))
    owners = [found.specs[c].owner for c in found.pods.spec.tolist()]
    assert owners == ["Batch/0", "Batch/0", "Batch/0", "Batch/0", "Batch/1", ""]
    assert [found.specs[c].gang_size for c in found.pods.spec.tolist()] == [2, 2, 2, 2, 1, 0]
    assert with_owners(found) is found


def test_azure_is_learned_from_with_its_batches(tmp_path: Path) -> None:
    (tmp_path / AZURE_MARK).touch()
    assert _with_batches(str(tmp_path)) == f"azure-v1-vms:{tmp_path}:,gangs"
    assert _with_batches("azure-v1-vms:x") == "azure-v1-vms:x:,gangs"
    assert _with_batches("azure-v1-vms:x:v1.tst") == "azure-v1-vms:x:v1.tst,gangs"
    assert _with_batches("azure-v1-vms:x:v1.tst,gangs") == "azure-v1-vms:x:v1.tst,gangs"
    assert _with_batches("openb:x:default") == "openb:x:default"


def test_samples_hold_nothing_that_happens_later(trace: Trace) -> None:
    cut = 12 * 3600
    departure = np.where(trace.pods.departure_s > cut, trace.pods.departure_s + 50_000, trace.pods.departure_s)
    other = trace.but(pods=replace(trace.pods, departure_s=departure))
    one, two = (samples_of(t, [Draw(0, cut, 10**6, (0, 900))], seed=0) for t in (trace, other))
    same = one.age_s == 0
    np.testing.assert_array_equal(one.features[same], two.features[two.age_s == 0])
    np.testing.assert_array_equal(one.rule[same], two.rule[two.age_s == 0])
    assert one.features.shape[1] == len(feature_names())


def test_rules_of_many_bursts_remember_what_the_last_batch_hides() -> None:
    pods = [("there", spec_of(0), 0, 500)]
    pods += [(f"pair-{at}-{i}", spec_of(0), at, at + 5000) for at in range(1000, 16_000, 1000) for i in (0, 1)]
    pods += [(f"batch-{i}", spec_of(0), 20_000, 20_100) for i in range(20)]
    pods += [("asked", spec_of(0), 40_000, 41_000)]
    found = samples_of(Trace.of("t", nodes(1), pods), [Draw(40_000, 40_001, 9, (0,))], seed=0).rules
    assert found["survival"][0] == pytest.approx([1, 0, 0, 0]), "sixteen pods of one batch"
    for name in ("survival-64", "survival-256"):
        assert found[name][0] == pytest.approx([20 / 50, 0, 30 / 50, 0]), "not who was there at first"


def test_who_outlives_a_part_of_its_batch_is_told_by_others() -> None:
    pods = [("there", spec_of(0), 0, NEVER), ("other", spec_of(1), 100, 5100)]
    pods += [(f"short-{i}", spec_of(2), 10_000, 10_100) for i in range(5)]
    pods += [("asked", spec_of(2), 10_000, 13_000)]
    found = samples_of(Trace.of("t", nodes(1), pods), [Draw(10_900, 10_901, 9, (900,))], seed=0)
    assert found.age_s.tolist() == [900]
    assert found.rules["survival-64"][0][2] > found.rules["survival-64"][0][1] == 0, "the other owner's lived for hours"


def test_a_part_of_life_that_is_cut_off_counts_with_what_was_lived_through() -> None:
    pods = [("first", spec_of(0), 0, 2100), ("runs", spec_of(1), 100, NEVER), ("ends", spec_of(2), 100, 1100)]
    samples = samples_of(Trace.of("t", nodes(1), pods), [Draw(0, 200, 9, (0,))], seed=0)
    rows = samples.parts_of_lives(2100.0)
    part = rows.rows[:, row_names().index("part")].tolist()
    found = sorted(zip(part, rows.ended.tolist(), rows.weight.tolist(), strict=True))
    np.testing.assert_allclose(
        found,
        [(0, 0, 1), (0, 0, 1), (1, 0, 1), (1, 0, 1), (2, 0, 0.407), (2, 1, 1)],
        atol=0.003,
        err_msg="minutes hardly fade",
    )
    early = samples.parts_of_lives(1000.0)
    assert early.ended.sum() == 0, "it had not ended by then"


def test_losses_count_pods_that_still_run_by_what_is_left_to_them() -> None:
    shares = np.array([[0.25, 0.25, 0.25, 0.25]] * 2)
    loss = log_loss(shares, np.array([100.0, 5000.0]), np.array([True, False]), 0)
    np.testing.assert_allclose(loss, [np.log(4), np.log(2)])
    chance, came = gone_by(shares, np.array([100.0, 5000.0]), np.array([True, False]), np.array([5000.0, 5000.0]), 0)
    assert (chance.tolist(), came.tolist()) == ([0.25, 0.25, 0.5, 0.5], [1, 0, 1, 0])
    assert reliability(chance, came) == [[0.25, 0.5, 2], [0.5, 0.5, 2]]
    assert calibration_error([]) is None


def test_what_cannot_be_told_is_none() -> None:
    pods = [("first", spec_of(0), 0, 10), ("runs", spec_of(1), 100, NEVER)]
    samples = samples_of(Trace.of("t", nodes(1), pods), [Draw(0, 200, 9, (0,))], seed=0)
    found = scores(samples.rules["population"], samples, 200.0, 3600, 0)
    assert (found["accuracy"], found["brier"], found["calibration_error"]) == (None, None, None)
    assert LIMITS_S[-1] == 86_400


def test_a_bare_pod_is_known_by_its_size_alone() -> None:
    history = LifeHistory(with_features=True)
    bare, other = Kin.of(PodSpec(((CPU, 100), (MEMORY, GIB)))), Kin.of(spec_of(1))
    history.began("a", bare, 0)
    history.ended("a", 100)
    assert not history.knows(bare)
    names = feature_names()
    row = dict(zip(names, history.features(bare, 200).tolist(), strict=True))
    assert row["owner:arrivals"] == 0
    assert row["size:arrivals"] == 1
    assert dict(zip(names, history.features(other, 200).tolist(), strict=True))["size:arrivals"] == 0


def test_the_hour_is_that_of_the_day_where_a_trace_says_when_it_began() -> None:
    trace = by_the_hour(owners=2, hours=3)
    later = trace.but(manifest=replace(trace.manifest, begins_s=10 * 86_400 + 23 * 3600))
    own, shifted = (samples_of(t, [Draw(0, 1e5, 99, (0,))], seed=0).features[:, -1] for t in (trace, later))
    np.testing.assert_allclose(shifted, (own + 23) % 24, atol=1e-4)


def test_trees_do_not_look_at_the_hour_of_a_trace_that_does_not_say_when_it_began(trace: Trace) -> None:
    unknown = trace.but(manifest=replace(trace.manifest, begins_s=86_400))  # a clock from a beginning of its own
    for known, reads in ((trace, True), (unknown, False)):
        found = train_lifetimes(known, seed=3, rows=8000)
        at = row_names().index("hour")
        trees = (lightgbm.Booster(model_str=text) for text in found.files.values())
        splits = [booster.feature_importance("split")[at] for booster in trees]
        assert any(splits) == reads
    assert found.section["span"]["calendar"] is False


def test_where_all_owners_would_be_held_out_nobody_is_and_the_report_says_so(tmp_path: Path) -> None:
    source = Learnable("one", None, by_the_hour(owners=1, hours=30, every_s=200))
    learned = train(source, tmp_path, seed=0, effort=EFFORT)
    assert is_held_out("default/StatefulSet/job0", 0)
    assert learned.lifetimes is not None
    assert learned.lifetimes.section["data"]["held_out_owners"] == 0
    for ages in (learned.lifetimes.section["metrics"], evaluate(source, tmp_path)["lifetimes"]["ages"]):
        assert "all" in ages["0s"]
        assert "held_out_owners" not in ages["0s"]


def test_usage_and_lifetimes_split_a_recording_at_the_same_shares() -> None:
    trace = by_the_hour(owners=2, hours=100)
    bounds, split = Bounds.of(trace), Split.of(100 / 24)
    begin, arrives = bounds.first, float(trace.pods.arrival_s.max())
    shares = [(end - begin) / (arrives - begin) for end in (bounds.fit, bounds.mix)]
    assert shares == pytest.approx([split.last_fit / (100 / 24), split.last_calibration / (100 / 24)])


def test_the_card_says_when_the_monitors_shut_a_model() -> None:
    """At the very outcome that the numbers of the card name."""
    least, margin = DRIFT["least"], DRIFT["margin_nats"]
    assert isinstance(least, int)
    assert isinstance(margin, float)
    losses, coverage = LossMonitor(), CoverageMonitor()
    for _ in range(least - 1):
        losses.observe(0.5, 0.5)
        coverage.observe("model", False)
    assert (losses.trusted, coverage.trusted("model")) == (False, True)
    losses.observe(0.5, 0.5)
    coverage.observe("model", False)
    assert (losses.trusted, coverage.trusted("model")) == (True, False)
    while losses.trusted:
        mine, rule = losses.losses
        assert mine <= rule + margin
        losses.observe(0.6, 0.5)
    assert sum(losses.losses) / 2 == pytest.approx(0.5 + margin / 2, abs=0.001)


def test_what_is_served_was_fitted_on_all_and_the_figures_are_of_what_was_not(folder: Path, trace: Trace) -> None:
    section = load_card(folder)["lifetimes"]
    assert "no figure of that can be had" in section["figures"]
    assert section["lives"]["served"] > section["lives"]["fitted"]
    served, before = load_lifetimes(folder), load_lifetimes(folder, judged=True)
    assert served is not None
    assert before is not None
    assert served.trees.text != before.trees.text
    report = evaluate(Learnable("by-the-hour", None, trace), folder)
    found = report["lifetimes"]
    assert found["judged"]["models"] == "before the refit"
    assert found["ages"]["0s"]["all"]["model"]["accuracy"] == section["metrics"]["0s"]["all"]["model"]["accuracy"]
    (note,) = report["notes"]
    assert "the models that are served were fitted on this" in note
    assert note in html(report)
    later = by_the_hour(owners=8, seed=4)
    later = later.but(manifest=replace(later.manifest, begins_s=later.manifest.begins_s + 9 * 86_400))
    found = evaluate(Learnable("later", None, later), folder)["lifetimes"]
    assert found["judged"] == {"models": "served", "note": ""}
    assert "held_out_owners" not in found["ages"]["0s"], "all have been fitted on"


def test_without_a_refit_what_was_judged_is_served(tmp_path: Path, trace: Trace) -> None:
    source = Learnable("by-the-hour", None, trace)
    learned = train(source, tmp_path, seed=3, effort=EFFORT, refit=False)
    assert learned.lifetimes is not None
    assert not (tmp_path / "judged-lifetimes.txt").exists()
    report = evaluate(source, tmp_path)
    assert report["lifetimes"]["judged"] == {"models": "served", "note": ""}
    assert "held_out_owners" in report["lifetimes"]["ages"]["0s"]
