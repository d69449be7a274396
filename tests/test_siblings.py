"""Cold start: a new owner is told by what others needed who had looked alike, never below what it used, while that holds."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.knowledge import Forecast, Forecasts
from placement.learning.baselines import Target
from placement.learning.forecasting import LEAST_OUTCOMES, RECALLED_AT_ONCE, Forecaster, rungs_below
from placement.learning.prediction import HISTORY, MODEL, REQUEST, Question, Rungs, ask
from placement.learning.rightsize import recommend
from placement.learning.siblings import (
    HIGH,
    LENGTHS,
    LEVELS,
    NOISE,
    NUM_CELLS,
    PAIRS,
    PEAKS,
    SIBLINGS,
    UNSEEN,
    Siblings,
    cells_at,
    group_of,
    looks_of,
    quantile,
)
from placement.learning.usage import DAY, STEP_S, UsageHistory
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.reproduce.outcomes import Pairs, counts_of_others

GIB = 2**30
ASKED = {CPU: 4000, MEMORY: 4 * GIB}
HOUR_S = 3600
NEW = "shop/Deployment/new"
CALM, BUSY = (np.full((1, 36), level, np.float32) for level in (0.02, 0.3))


def cells(share: np.ndarray) -> tuple[int, ...]:
    """What the end of a series looks like."""
    return tuple(cells_at(share, np.array([share.shape[1]]))[0, 0].tolist())


def taught(pairs: list[tuple[str, np.ndarray, float]]) -> Siblings:
    made = Siblings([CPU])
    for workload, share, outcome in pairs:
        made.learn(workload, 0, {CPU: cells(share)}, {CPU: outcome * 4000}, ASKED)
    return made


# ── looks ─────────────────────────────────────────────────────────────────────────────────────


def test_a_look_is_of_the_last_samples_alone_and_wants_most_of_them() -> None:
    share = np.concatenate([np.full(36, 0.3), np.full(3, 0.02), np.full(5, 0.9)])[None].astype(np.float32)
    quarter, hour, _ = cells_at(share, np.array([39]))[0, 0].tolist()
    assert quarter == cells(CALM)[0]
    assert hour not in (cells(CALM)[1], cells(BUSY)[1]), "three of twelve were calm"
    short = share[:, 33:36]
    assert cells(short) == (cells(BUSY)[0], UNSEEN, UNSEEN)
    holed = BUSY.copy()
    holed[:, -1] = np.nan
    assert cells(holed) == (UNSEEN, *cells(BUSY)[1:])
    assert cells(np.full((1, 36), np.nan, np.float32)) == (UNSEEN,) * len(LENGTHS)


def test_every_share_has_a_cell() -> None:
    share = np.random.default_rng(1).uniform(0, 3, (50, 72)).astype(np.float32) ** 4
    found = cells_at(share, np.arange(36, 73, 12))
    assert found.shape == (50, 4, len(LENGTHS))
    assert found.min() >= 0
    assert found.max() < NUM_CELLS


# ── the table ─────────────────────────────────────────────────────────────────────────────────


def test_who_looks_alike_is_told_by_what_its_siblings_came_to_need() -> None:
    groups = ("shop/Deployment", "bank/Deployment")
    needs = {(0, 0): 0.05, (0, 1): 0.4, (1, 0): 0.2, (1, 1): 0.8}
    made = taught([
        (f"{groups[g]}/w{i}", (CALM, BUSY)[busy], need) for (g, busy), need in needs.items() for i in range(40)
    ])  # fmt: skip
    for (g, busy), need in needs.items():
        said = made.predict(f"{groups[g]}/new", CPU, cells((CALM, BUSY)[busy]), 1000, 0)
        assert said == pytest.approx(1000 * need, rel=0.5)
    assert made.predict("other/Deployment/new", CPU, cells(BUSY), 1000, 0) == pytest.approx(800, rel=0.1), (
        "who has no siblings is told by all others"
    )
    assert group_of(NEW) == "shop/Deployment"


def test_nobody_is_said_to_use_less_than_it_did_and_nothing_is_said_where_nothing_is_known() -> None:
    made = taught([("shop/Deployment/a", CALM, 0.1)] * 40)
    said = made.predict(NEW, CPU, cells(CALM), 1000, 0)
    assert said is not None
    assert 50 < said < 200
    assert made.predict(NEW, CPU, cells(CALM), 1000, 700) == 700
    assert made.predict(NEW, CPU, cells(CALM), 1000, 1500) == 1500, "beyond its request"
    assert made.predict(NEW, CPU, cells(CALM), 0, 10) is None, "nothing is asked for"
    assert made.predict(NEW, CPU, (UNSEEN,) * len(LENGTHS), 1000, 10) is None
    assert made.predict("shop/Deployment/a", CPU, cells(CALM), 1000, 0) is None, "its own pairs alone"
    assert Siblings([CPU]).predict(NEW, CPU, cells(CALM), 1000, 0) is None
    made.learn(NEW, 0, {CPU: cells(CALM)}, {CPU: float("nan")}, ASKED)
    made.learn(NEW, 0, {CPU: cells(CALM)}, {CPU: 10.0}, {CPU: 0})
    assert made.num_pairs(CPU) == 40


def test_newcomers_in_many_namespaces_take_no_memory() -> None:
    made = taught([(f"shop{i}/Deployment/a", CALM, 0.1) for i in range(40)])
    look = cells(CALM)
    tracemalloc.start()
    try:
        said = {made.predict(f"preview{i}/Deployment/web", CPU, look, 1000, 0) for i in range(300)}
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(said) == 1, "all of them are told by all others"
    assert kept < 8 * 2**20


def test_the_most_samples_that_a_workload_has_tell_of_it() -> None:
    made = taught([(f"shop/Deployment/{i}", CALM, 0.1) for i in range(40)])
    long = np.concatenate([BUSY, CALM[:, :3]], axis=1)
    for i in range(40):
        made.learn(f"shop/Deployment/l{i}", 0, {CPU: cells(long)}, {CPU: 2400.0}, ASKED)
    assert made.predict(NEW, CPU, cells(long), 1000, 0) == pytest.approx(600, rel=0.15)
    short = made.predict(NEW, CPU, cells(long[:, -3:]), 1000, 0)
    assert short == pytest.approx(made.predict(NEW, CPU, (cells(CALM)[0], UNSEEN, UNSEEN), 1000, 0) or 0)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_is_said_comes_of_the_last_pairs_of_who_is_here(data: st.DataObject) -> None:
    names = [f"{group}/Deployment/{i}" for group in "ab" for i in range(3)]
    one = st.tuples(st.sampled_from(names), st.integers(0, 3), st.floats(0, 1.5))
    learned = data.draw(st.lists(one, max_size=30))
    learned += [(names[0], i % 3, i / PAIRS) for i in range(data.draw(st.integers(0, PAIRS + 5)))]
    gone = set(data.draw(st.lists(st.sampled_from(names), max_size=3)))
    looks = [(UNSEEN, UNSEEN, UNSEEN), (3, UNSEEN, UNSEEN), (3, 20, UNSEEN), (40, 40, 41)]
    made, few = Siblings([CPU]), Siblings([CPU])
    for name, look, outcome in learned:
        made.learn(name, 0, {CPU: looks[look]}, {CPU: outcome * 4000}, ASKED)
    for name in gone:
        made.forget(name)
    for name in names:
        its = [(look, outcome) for n, look, outcome in learned if n == name and look][-PAIRS:]
        for look, outcome in its if name not in gone else []:
            few.learn(name, 0, {CPU: looks[look]}, {CPU: outcome * 4000}, ASKED)
    assert made.num_pairs(CPU) == few.num_pairs(CPU)
    for name in (*names, "c/Deployment/new"):
        for seen in looks:
            assert made.predict(name, CPU, seen, 1000, 0) == few.predict(name, CPU, seen, 1000, 0)


def test_the_table_says_what_the_experiment_says_that_looks_at_all_at_once() -> None:
    rng = np.random.default_rng(2)
    share = rng.uniform(0.01, 0.9, (60, 1)) * rng.uniform(0.3, 1, (60, 36))
    outcome = rng.uniform(0, 1, 60)
    owners = np.arange(60) % 7
    made = Siblings([CPU])
    for i in range(60):
        look = {CPU: cells(share[i : i + 1].astype(np.float32))}
        made.learn(f"g{owners[i]}/Deployment/{i}", 0, look, {CPU: outcome[i] * 4000}, ASKED)
    looks = looks_of(share.astype(np.float32))
    pairs = Pairs(np.arange(60), np.zeros(60, np.int64), looks, np.log(outcome + NOISE), np.ones(60))
    counts = counts_of_others(PEAKS, pairs, np.arange(60), looks, owners, LEVELS)
    expected = np.exp(quantile(counts, LEVELS, HIGH)) - NOISE
    found = [
        made.predict(f"g{owners[i]}/Deployment/{i}", CPU, cells(share[i : i + 1].astype(np.float32)), 1000, 0)
        for i in range(60)
    ]
    assert found == pytest.approx((1000 * np.clip(expected, 0, 1)).tolist())


# ── in the forecaster ─────────────────────────────────────────────────────────────────────────


class Cluster:
    """Twenty workloads that use what they did before, ten of them more; they are looked at hourly."""

    def __init__(self, *, siblings: bool = True) -> None:
        self.made = Forecaster(Target(1), siblings=siblings)
        self.cpu = {f"shop/Deployment/w{i}": 400 + 60 * i for i in range(20)}
        self.now_s = 0

    def pass_hours(self, hours: int) -> None:
        for _ in range(hours * 12):
            self.now_s += STEP_S
            for name, cpu in self.cpu.items():
                self.made.add(name, self.now_s, self.now_s, cpu_millicores=cpu, memory_bytes=GIB)
            if self.now_s % HOUR_S == 0:
                self.look()

    def look(self) -> None:
        self.made.keep(self.cpu)
        self.made.take(ask(self.made.rungs, self.made.questions(dict.fromkeys(self.cpu, ASKED))))
        self.made.settle(self.now_s)

    def new(self) -> Forecast:
        return self.made.forecasts(self.now_s).of[NEW]

    def come(self, num: int = LEAST_OUTCOMES) -> None:
        """Newcomers, alike to those who are here."""
        self.cpu |= {f"shop/Deployment/late{i}": 400 + 30 * i for i in range(num)}


def lived(num: int = LEAST_OUTCOMES, **more: bool) -> Cluster:
    """Newcomers have shown for some hours how far what is said of them comes true; then another comes."""
    cluster = Cluster(**more)
    cluster.pass_hours(26)
    cluster.come(num)
    cluster.pass_hours(7)
    cluster.cpu[NEW] = 500
    cluster.pass_hours(1)
    return cluster


def test_a_new_owner_is_told_by_those_who_looked_alike_until_it_has_a_day_of_its_own() -> None:
    cluster = lived()
    found = cluster.new()
    assert found.rung == SIBLINGS
    assert 500 <= found.cpu < 1000
    assert GIB <= found.memory < 1.3 * GIB
    assert found.mean_cpu == 500
    cluster.cpu[NEW] = 1500
    cluster.pass_hours(1)
    assert cluster.new().cpu >= 1500, "more than was said, as soon as it was seen"
    cluster.pass_hours(24)
    assert cluster.new().rung == HISTORY
    rungs = {f.rung for n, f in cluster.made.forecasts(cluster.now_s).of.items() if n != NEW}
    assert rungs == {HISTORY}


def test_nothing_is_promised_before_newcomers_enough_have_shown_how_it_does() -> None:
    cluster = lived(LEAST_OUTCOMES - 1)
    assert cluster.new().rung == REQUEST
    assert cluster.made.factor(SIBLINGS, CPU) is None
    cluster.pass_hours(2)
    assert cluster.new().rung == SIBLINGS, "it was one of them itself"


def test_siblings_are_not_asked_when_switched_off() -> None:
    assert lived(siblings=False).new().rung == REQUEST
    parts = Forecaster(Target(1), rungs=Rungs.of_history(Target(1), parts=True), siblings=True)
    assert parts.siblings is None


def test_the_factor_is_what_newcomers_asked_for_and_never_below_one() -> None:
    calm = lived()
    assert calm.made.factor(SIBLINGS, CPU) == pytest.approx(1, abs=0.3)
    rising = Cluster()
    rising.pass_hours(26)
    rising.come()
    rising.pass_hours(1)
    rising.cpu |= {name: 3 * cpu for name, cpu in rising.cpu.items() if "late" in name}
    rising.pass_hours(5)
    factor = rising.made.factor(SIBLINGS, CPU)
    assert factor is not None
    assert 2 < factor < 3.5, "all newcomers rose to three times what they began with"


def test_new_owners_that_use_more_than_was_said_shut_the_rung_until_it_holds_again() -> None:
    cluster = lived()
    for _ in range(500):
        cluster.made.monitor.observe(f"{SIBLINGS}/{CPU}", False)
    assert cluster.new().rung == REQUEST
    assert cluster.made.trusted(HISTORY), "the others are not concerned"
    for _ in range(500):
        cluster.made.monitor.observe(f"{SIBLINGS}/{CPU}", True)
    assert cluster.new().rung == SIBLINGS


def test_a_wave_of_newcomers_that_begin_calm_and_rise_shuts_it_and_what_they_taught_opens_it() -> None:
    cluster = lived()
    cluster.cpu |= {f"shop/Job/riser{i}": 400 for i in range(120)}
    cluster.pass_hours(1)
    cluster.cpu |= dict.fromkeys((name for name in cluster.cpu if "riser" in name), 3900)
    cluster.pass_hours(2)
    assert not cluster.made.trusted(SIBLINGS), "one window and a look later"
    assert cluster.new().rung == REQUEST
    factor = cluster.made.factor(SIBLINGS, CPU)
    assert factor is not None
    assert factor > 4
    cluster.pass_hours(4)
    assert cluster.made.trusted(SIBLINGS), "all are said to use what they use"
    assert cluster.new().rung == SIBLINGS
    assert cluster.new().cpu > 3000, "but nobody is believed to stay calm"


def test_promises_to_new_owners_are_held_against_what_came_of_them() -> None:
    cluster = lived()
    cluster.pass_hours(2)
    assert cluster.made.coverage(SIBLINGS, CPU) == 1
    cluster.cpu[NEW] = 3900
    cluster.pass_hours(2)
    missed = 1 - cluster.made.coverage(SIBLINGS, CPU)
    assert 0 < missed < 1.5 / LEAST_OUTCOMES, "500, then 3900: one hour of one newcomer"


@pytest.mark.parametrize("how", ["drift of the history", "crowding", "no news"])
def test_siblings_fall_with_the_whole_cluster(how: str) -> None:
    cluster = lived()
    now_s = cluster.now_s
    if how == "drift of the history":
        for _ in range(500):
            cluster.made.monitor.observe(f"{HISTORY}/{CPU}", False)
    elif how == "crowding":
        cluster.made.crowding.is_crowded = True
    else:
        now_s += 6 * HOUR_S
    found = cluster.made.forecasts(now_s).of[NEW]
    assert (found.rung, found.cpu, found.memory) == (REQUEST, ASKED[CPU], ASKED[MEMORY])


def test_who_left_tells_nothing_any_more() -> None:
    cluster = lived()
    assert cluster.made.siblings is not None
    before = cluster.made.siblings.num_pairs(CPU)
    cluster.cpu = {NEW: 500}
    cluster.pass_hours(26)
    assert 0 < cluster.made.siblings.num_pairs(CPU) <= 26 < before


@pytest.mark.parametrize("is_first", [False, True])
def test_new_rungs_are_tried_anew_on_the_past_and_what_newcomers_showed_is_recalled(is_first: bool) -> None:
    """As after a restart, when all samples are read back: it need not wait for other newcomers, whoever is asked first."""
    cluster = lived()
    cluster.pass_hours(15)
    before = cluster.made.factor(SIBLINGS, CPU)
    assert before is not None
    if is_first:
        cluster.cpu = {NEW: cluster.cpu.pop(NEW), **cluster.cpu}
    cluster.made.use(Rungs.of_history(Target(1)))
    assert cluster.made.factor(SIBLINGS, CPU) is None
    cluster.look()
    assert cluster.made.factor(SIBLINGS, CPU) == pytest.approx(before, rel=0.25)
    assert cluster.new().rung == SIBLINGS


@pytest.mark.parametrize("hours", [14, 15, 16])
def test_what_a_wave_of_newcomers_taught_outlives_a_restart(hours: int) -> None:
    """Every hour of their first day is recalled: the last calm one is among them, whatever the time of the restart."""
    cluster = lived()
    cluster.cpu |= {f"shop/Job/riser{i}": 400 for i in range(120)}
    cluster.pass_hours(3)
    cluster.cpu |= dict.fromkeys((name for name in cluster.cpu if "riser" in name), 3900)
    cluster.pass_hours(hours)
    before = cluster.made.factor(SIBLINGS, CPU)
    cluster.made.use(Rungs.of_history(Target(1)))
    cluster.look()
    assert before is not None
    assert cluster.made.factor(SIBLINGS, CPU) == pytest.approx(before, rel=0.1)
    assert cluster.new().cpu > 3000, "nobody is believed to stay calm"


def test_a_recall_lets_others_run_and_ends_as_one_in_one_piece() -> None:
    found = []
    for is_spread in (True, False):
        cluster = lived()
        made = cluster.made
        made.use(Rungs.of_history(Target(1)))
        made.take(ask(made.rungs, made.questions(dict.fromkeys(cluster.cpu, ASKED))))
        pauses = sum(1 for _ in made.recall()) if is_spread else 0
        made.settle(cluster.now_s)
        assert sum(1 for _ in made.recall()) == 0, "nothing is recalled twice"
        found.append((made.factor(SIBLINGS, CPU), made.forecasts(cluster.now_s)))
        if is_spread:
            looks = 6 * LEAST_OUTCOMES
            assert pauses >= 2 * looks // RECALLED_AT_ONCE
    assert found[0] == found[1]
    assert found[0][0] is not None


def test_who_may_have_come_in_a_gap_of_measuring_is_no_newcomer() -> None:
    cluster = lived()
    cluster.now_s += 5 * HOUR_S
    cluster.cpu["shop/Deployment/of-the-gap"] = 500
    cluster.pass_hours(1)
    assert cluster.made.forecasts(cluster.now_s).of["shop/Deployment/of-the-gap"].rung == REQUEST
    assert cluster.new().rung == SIBLINGS, "who came before it is one as before"
    cluster.pass_hours(23)
    cluster.cpu["shop/Deployment/after-it"] = 500
    cluster.pass_hours(1)
    assert cluster.made.forecasts(cluster.now_s).of["shop/Deployment/after-it"].rung == SIBLINGS


def test_a_clock_that_is_set_back_teaches_siblings_anew() -> None:
    cluster = lived()
    made = cluster.made
    assert made.siblings is not None
    before = made.siblings.num_pairs(CPU)
    cluster.now_s -= 3 * HOUR_S
    made.settle(cluster.now_s)
    assert made.siblings.num_pairs(CPU) == 0
    cluster.look()
    assert 0 < made.siblings.num_pairs(CPU) < before


def test_pairs_of_the_past_know_nothing_of_what_came_after_their_moment() -> None:
    def history(late: int) -> UsageHistory:
        made = UsageHistory("w")
        for step in range(1, DAY + 1):
            made.add(step * STEP_S, cpu_millicores=late if step > DAY - 11 * 12 else 500, memory_bytes=GIB)
        return made

    rungs = Rungs.of_history(Target(1))
    answers = []
    for late in (500, 3000):
        snapshot = history(late).snapshot()
        assert snapshot is not None
        answers += ask(rungs, [Question("w", ASKED, snapshot, judges=True, is_new=True, looks=True)])
    one, two = ({pair.made_s: pair for pair in answer.pairs} for answer in answers)
    moment = answers[0].end_s - 11 * HOUR_S
    assert moment in one
    assert one[moment].cells == two[moment].cells
    assert one[moment].used == two[moment].used == {CPU: pytest.approx(500), MEMORY: pytest.approx(GIB)}
    assert (one[moment].outcome[CPU], two[moment].outcome[CPU]) == (pytest.approx(500), pytest.approx(3000))
    assert one[moment].is_young
    last = max(two)
    assert two[last].used[CPU] == pytest.approx(3000)


def test_requests_are_not_lowered_by_what_siblings_tell() -> None:
    spec = PodSpec(((CPU, 4000), (MEMORY, 4 * GIB)), namespace="shop", owner="Deployment/new")
    told = Forecasts({NEW: Forecast(400, GIB, 200, GIB, rung=SIBLINGS)})
    (found,) = recommend([(spec, 3)], told)
    assert (found.new_cpu, found.new_memory) == (4000, 4 * GIB)
    assert found.why_kept == "less than a day of its own history"


def test_rungs_are_in_order() -> None:
    assert sorted([REQUEST, SIBLINGS, HISTORY, MODEL], key=rungs_below) == [MODEL, HISTORY, SIBLINGS, REQUEST]
