"""What streams of arrivals and ends are folded into, against plain definitions that look at all lives at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from placement.knowledge import AGES_S, HORIZONS_S
from placement.learning.lifetime_history import (
    KEEP,
    NUM_HAZARDS,
    OWN,
    REQUESTS,
    SIZE,
    Kin,
    LifeHistory,
    doublings,
    feature_names,
    gang_step,
)
from placement.learning.lineage import (
    BURST_S,
    BURSTS,
    FORGET,
    KEPT,
    KIN_FEATURES,
    LIMITS_S,
    NUM_CLASSES,
    Lineage,
    class_of,
)
from placement.learning.survival import PRIOR, UNKNOWN, lifespans
from simulator.learning.sibling_rules import SiblingBursts

NAN = math.nan


@dataclass(frozen=True)
class Life:
    """A pod; ``end_s`` is infinite for one that runs on."""

    uid: str
    kin: Kin
    since_s: int
    end_s: float


def lives(seed: int, num: int, *, apart_s: int = 1) -> list[Life]:
    """Of five workloads in three sizes, some in gangs and some bare: many short lives, some of days, some without end."""
    rng = np.random.default_rng(seed)
    found, now = [], 0
    for i in range(num):
        now += apart_s + int(rng.choice([0, 5, 40, 70, 900, 20_000], p=[0.3, 0.2, 0.1, 0.1, 0.2, 0.1]))
        owner = int(rng.integers(0, 6))
        kin = Kin(
            f"w{owner}" if owner else "", (1, int(rng.integers(0, 2 + owner % 2)), 0), gang_size=(0, 3, 40)[owner % 3]
        )
        life = float(rng.choice([1, 60, 300, 301, 900, 2000, 20_000, 90_000, 300_000, math.inf]))
        if 900 < life < math.inf:
            life = float(round(life * rng.uniform(0.5, 1.5)))
        found.append(Life(f"{i:04d}", kin, now, now + life))
    return found


# ── lineage ───────────────────────────────────────────────────────────────────────────────────


def described(of: Sequence[Life], now_s: float) -> dict[str, float]:
    """Features of pods that share a key, which came at different seconds, by definition."""
    came = [one for one in of if one.since_s <= now_s]
    ended = sorted((one for one in came if one.end_s <= now_s), key=lambda one: (one.end_s, one.uid))
    logs = [math.log(max(one.end_s - one.since_s, 1)) for one in ended]
    last, recent, running = logs[-KEPT:], came[-KEPT:], [one for one in came if one.end_s > now_s]
    found: dict[str, float] = {"ended": len(last), "arrivals": len(came), "running": len(running)}
    found |= {"mean_log": float(np.mean(last)) if last else NAN, "deviation_log": float(np.std(last)) if last else NAN}
    found |= {"last_log": last[-1] if last else NAN, "second_log": last[-2] if len(last) > 1 else NAN}
    found["median_log"] = sorted(last)[len(last) // 2] if last else NAN
    weights = [FORGET**back for back in range(len(ended))][::-1]
    for c in range(NUM_CLASSES):
        own = sum(w for w, one in zip(weights, ended, strict=True) if class_of(one.end_s - one.since_s) == c)
        found[f"class_{c}"] = own / sum(weights) if ended else NAN
    low = 0
    for limit in LIMITS_S:
        passed = sum(min(one.end_s, now_s) - one.since_s > limit for one in recent)
        fell = sum(one.end_s <= now_s and low < one.end_s - one.since_s <= limit for one in recent)
        found[f"at_risk_{limit}s"] = passed + fell if came else NAN
        found[f"passes_{limit}s"] = passed / (passed + fell) if passed + fell else NAN
        low = limit
    latest = came[-1] if came else None
    found["previous_log"] = math.log1p(min(latest.end_s, now_s) - latest.since_s) if latest else NAN
    found["previous_runs"] = float(latest.end_s > now_s) if latest else NAN
    found["just_arrived"] = sum(now_s - one.since_s <= 600 for one in recent)
    found["just_ended"] = sum(one.end_s <= now_s <= one.end_s + 600 for one in recent)
    age = now_s - float(np.mean([one.since_s for one in running])) if running else NAN
    found |= {
        "running_mean_age_log": math.log1p(age),
        "since_arrival_log": math.log1p(now_s - came[-1].since_s) if came else NAN,
    }
    found["since_end_log"] = math.log1p(now_s - ended[-1].end_s) if ended else NAN
    bursts: list[list[Life]] = []
    for one in came:
        if bursts and one.since_s - bursts[-1][0].since_s < BURST_S:
            bursts[-1].append(one)
        else:
            bursts.append([one])
    for i in range(BURSTS):
        burst = bursts[-1 - i] if i < len(bursts) else []
        over = [math.log(max(one.end_s - one.since_s, 1)) for one in burst if one.end_s <= now_s]
        found[f"burst_{i}_age_log"] = math.log1p(now_s - burst[0].since_s) if burst else NAN
        found[f"burst_{i}_pods"] = len(burst) if burst else NAN
        found[f"burst_{i}_ended_share"] = len(over) / len(burst) if burst else NAN
        found[f"burst_{i}_life_log"] = float(np.mean(over)) if over else NAN
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_lineage_describes_kin_as_all_of_their_lives_do(seed: int) -> None:
    all_lives = lives(seed, 80)
    lineage = Lineage(("owner", "all"))

    def values(one: Life) -> tuple[Hashable, ...]:
        return one.kin.workload or None, "all"

    moments = sorted({t for one in all_lives for t in (one.since_s, one.end_s) if math.isfinite(t)})
    for moment in moments:
        for one in sorted(all_lives, key=lambda one: one.uid):
            if one.end_s == moment:
                lineage.end(values(one), one.since_s, moment)
            if one.since_s == moment:
                lineage.arrive(values(one), moment)
        now = moment + seed * 137
        if now >= next((t for t in moments if t > moment), math.inf):
            continue
        for owner in ("w1", "w5", None):
            told = dict(zip(lineage.feature_names, lineage.describe((owner, "all"), now), strict=True))
            own = [one for one in all_lives if owner and one.kin.workload == owner]
            wanted = {f"owner:{k}": v for k, v in described(own, now).items()}
            wanted |= {f"all:{k}": v for k, v in described(all_lives, now).items()}
            assert told == pytest.approx(wanted, nan_ok=True)


def told(lineage: Lineage, now_s: float) -> dict[str, float]:
    """Features of the key ``x``, but for what says that pods arrived."""
    found = dict(zip(KIN_FEATURES, lineage.describe(("x",), now_s), strict=True))
    return {k: v for k, v in found.items() if k not in ("arrivals", "since_arrival_log")}


def test_who_is_withdrawn_leaves_nothing_but_that_pods_arrived() -> None:
    lineage = Lineage(("owner",))
    lineage.arrive(("x",), 10)
    lineage.arrive(("x",), 10)
    lineage.end(("x",), 10, 60)
    before = told(lineage, 1000)
    assert (before["ended"], before["previous_runs"]) == (1, 1), "one of two that came together"
    for at_s in (30, 200, 210):
        lineage.arrive(("x",), at_s)
    for at_s in (210, 30, 200):
        lineage.withdraw(("x",), at_s)
    assert told(lineage, 1000) == pytest.approx(before, nan_ok=True)
    lineage.withdraw(("x",), 10)
    left = told(lineage, 1000)
    assert (left["running"], left["previous_runs"], left["burst_0_pods"]) == (0, 0, 1), "the one that ended stays"


def test_who_is_found_and_lost_was_only_there() -> None:
    lineage = Lineage(("owner",))
    lineage.arrive(("x",), 100)
    before = told(lineage, 1000)
    assert [told(lineage, now_s)["just_arrived"] for now_s in (700, 701)] == [1, 0]
    lineage.find(("x",), 700)
    assert told(lineage, 1000) == pytest.approx(
        before | {"running": 2, "running_mean_age_log": math.log1p(600)}, nan_ok=True
    )
    lineage.lose(("x",), 700)
    assert told(lineage, 1000) == pytest.approx(before, nan_ok=True)


def test_simple_rules_say_what_their_names_do() -> None:
    lineage = Lineage(("owner",))
    for at_s in (0, 100, 200):
        lineage.arrive(("x",), at_s)
    lineage.end(("x",), 0, 600)
    lineage.end(("x",), 100, 1300)
    shares = {name: lineage.rule(name, ("x",), 5200) for name in ("last", "majority", "mean", "survival")}
    assert shares["last"] == (0, 1, 0, 0)
    assert shares["majority"] == pytest.approx((FORGET / (1 + FORGET), 1 / (1 + FORGET), 0, 0))
    assert shares["mean"] == (1, 0, 0, 0), "849 seconds, in logarithms"
    assert shares["survival"] == pytest.approx((1 / 3, 2 / 3 / 2, 1 / 6, 1 / 6)), (
        "of who outlived an hour nothing is known"
    )


@pytest.mark.parametrize("window", [1, 3, 100])
def test_survival_over_bursts_is_what_all_pods_of_the_latest_ones_say(window: int) -> None:
    rng = np.random.default_rng(window)
    begins = np.sort(rng.integers(0, 40, 120)) * 1000.0
    lives = [(owner, at, at + life) for owner, at, life in zip(
        rng.choice(["x", "y"], 120).tolist(), begins.tolist(), rng.choice([300, 2000, 9000, 90_000], 120), strict=True,
    )]  # fmt: skip
    now, bursts = 41_000.0, SiblingBursts(2)
    moments = [(at, 1, owner, at) for owner, at, _ in lives]
    moments += [(end, 0, owner, at) for owner, at, end in lives if end <= now]
    for at, is_arrival, owner, began in sorted(moments):
        if is_arrival:
            bursts.arrive((owner, "all"), at)
        else:
            bursts.end((owner, "all"), began, at)
    for asked in ("x", "y", "nobody"):
        own = [(at, end) for owner, at, end in lives if asked in (owner, "nobody")]
        latest = sorted({at for at, _ in own})[-window:]
        alive, wanted = 1.0, []
        for low, high in pairwise((0, *LIMITS_S)):
            spans = [(min(end, now) - at, end <= now) for at, end in own if at in latest]
            passed = sum(span > high for span, _ in spans)
            fell = sum(has_ended and low < span <= high for span, has_ended in spans)
            passing = passed / (passed + fell) if passed + fell else 0.5
            wanted.append(alive * (1 - passing))
            alive *= passing
        found = bursts.survival((asked, "all"), now, window)
        if any(end <= now for at, end in own if at in latest):
            assert found == pytest.approx((*wanted, alive))
    assert SiblingBursts(1).survival(("x",), 0.0, window) is None


# ── hazards ───────────────────────────────────────────────────────────────────────────────────


def bursts_of(all_lives: Sequence[Life]) -> dict[str, list[Life]]:
    """By UID: the pods that came with it, of a bare one itself alone."""
    found: dict[str, list[Life]] = {}
    latest: dict[str, list[Life]] = {}
    for one in all_lives:
        burst = latest.get(one.kin.workload) if one.kin.workload else None
        if burst is None or one.since_s - burst[0].since_s >= BURST_S:
            burst = latest[one.kin.workload] = []
        burst.append(one)
        found[one.uid] = burst
    return found


def hazards_of(all_lives: Sequence[Life], kin: Kin, now_s: int) -> tuple[list[float], list[float]]:
    """Hazards of kin, and how many pods those of its workload and of its size stand on, from all lives at once."""
    bursts, firsts = bursts_of(all_lives), dict[str, str]()
    for one in all_lives:
        firsts.setdefault(one.kin.workload, one.uid)
    keys = {
        one.uid: one.kin.keys(is_new=bool(one.kin.workload) and firsts[one.kin.workload] == one.uid)
        for one in all_lives
    }
    outcomes: list[tuple[float, bool, str, int]] = []
    inside: list[tuple[str, int, int]] = []
    for one in all_lives:
        if one.since_s > now_s:
            continue
        for part in range(NUM_HAZARDS + 1):
            entered, left = (
                one.since_s + AGES_S[part],
                one.since_s + AGES_S[part + 1] if part < NUM_HAZARDS else math.inf,
            )
            if one.end_s <= min(left, now_s):
                outcomes.append((one.end_s, False, one.uid, part))
                break
            if left >= now_s:
                inside.append((one.uid, part, entered))
                break
            outcomes.append((left, True, one.uid, part))
    outcomes.sort()
    wanted = kin.keys(is_new=bool(kin.workload) and not any(keys[uid][0] == kin.workload for _, _, uid, *_ in outcomes))
    hazards, stands_on = [UNKNOWN] * NUM_HAZARDS + [1.0], {OWN: [0.0] * NUM_HAZARDS, SIZE: [0.0] * NUM_HAZARDS}
    for level in reversed(range(len(KEEP))):
        if wanted[level] is None:
            continue
        for part in range(NUM_HAZARDS):
            gone = seen = 0.0
            number = 0
            for at_s, lived, uid, its_part in outcomes:
                if its_part != part or keys[uid][level] != wanted[level]:
                    continue
                came_by = sum(other.since_s < at_s + lived for other in bursts[uid])
                weight = 1.0 if level in (1, 2, 3) else 1 / math.sqrt(came_by)
                gone = gone * KEEP[level] ** weight + weight * (not lived)
                seen = seen * KEEP[level] ** weight + weight
                number += 1
            here = [now_s - entered for uid, p, entered in inside if p == part and keys[uid][level] == wanted[level]]
            share = sum(here) / (AGES_S[part + 1] - AGES_S[part]) * (seen / number if number else 1.0)
            if level in stands_on:
                stands_on[level][part] = seen + share
            hazards[part] = (gone + PRIOR * hazards[part]) / (seen + share + PRIOR)
    return hazards, stands_on[OWN] + stands_on[SIZE]


@pytest.mark.parametrize("seed", range(6))
def test_hazards_are_what_all_lives_together_say(seed: int) -> None:
    all_lives = lives(seed + 10, 60, apart_s=0)
    history = LifeHistory(with_features=True, begins_s=7 * 3600)
    events = sorted(
        [(one.since_s, 1, one.uid, one) for one in all_lives]
        + [(one.end_s, 0, one.uid, one) for one in all_lives if math.isfinite(one.end_s)],
        key=lambda event: event[:3],
    )
    names = [f"{level}:seen_{part}" for level in ("owner", "size") for part in range(NUM_HAZARDS)]
    columns = [feature_names().index(name) for name in names]
    for number, (at_s, is_begin, uid, one) in enumerate(events):
        history.pass_by(int(at_s))
        if is_begin:
            history.began(uid, one.kin, one.since_s)
        else:
            history.ended(uid, int(at_s))
        following = events[number + 1][0] if number + 1 < len(events) else math.inf
        if number % 7 or following == at_s:
            continue
        now = int(min(at_s + 400, following - 1))
        history.pass_by(now)
        for kin in (Kin("w1", (1, 1, 0), gang_size=3), Kin("never", (1, 0, 0), gang_size=40), Kin("", (1, 1, 0))):
            hazards, seen = hazards_of([o for o in all_lives if o.since_s <= at_s], kin, now)
            assert history.hazards(kin, now) == pytest.approx(hazards)
            features = history.features(kin, now)
            assert features[columns].tolist() == pytest.approx(seen, rel=1e-4)
            assert features[-len(REQUESTS) - 1 :].tolist() == pytest.approx(
                [0.001, kin.size[1] / 2**30, 0, 0, kin.gang_size, (7 * 3600 + now) % 86_400 / 3600], rel=1e-4
            )


def alive(ends: Sequence[float], age_s: float) -> float:
    """Share that lives longer than that, by the share that ends in each part of life: evenly in the first part, evenly by
    the logarithm of the age in the others, of which the last goes on to ten times its beginning."""
    bounds = (*AGES_S, 10 * AGES_S[-1])
    found = 1.0
    for share, (low, high) in zip(ends, pairwise(bounds), strict=True):
        if age_s <= low:
            break
        within = min(age_s, high) / high if not low else math.log(min(age_s, high) / low) / math.log(high / low)
        found -= share * within
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_lifespan_is_what_the_hazards_of_all_parts_say(seed: int) -> None:
    hazards = [*np.random.default_rng(seed).uniform(0.05, 0.6, NUM_HAZARDS).tolist(), 1.0]
    ends = [h * math.prod(1 - g for g in hazards[:k]) for k, h in enumerate(hazards)]
    bounds = (*AGES_S, 10 * AGES_S[-1])
    middles = [math.log(high / 2 if not low else math.sqrt(low * high)) for low, high in pairwise(bounds)]
    (found,) = lifespans(np.array([hazards]))
    for k, age_s in enumerate(AGES_S):
        mean = sum(e * m for e, m in zip(ends[k:], middles[k:], strict=True)) / sum(ends[k:])
        assert found.life_s[k] == round(math.exp(mean))
        gone = [1000 * (1 - alive(ends, age_s + horizon) / alive(ends, age_s)) for horizon in HORIZONS_S]
        assert found.gone_milli[k] == pytest.approx(gone, abs=0.51)


# ── what a history does with odd news ─────────────────────────────────────────────────────────

A = Kin("a", (1, 1, 0))


def seen(history: LifeHistory, now_s: int) -> list[float]:
    return history.survival.seen(OWN, "a", now_s)


def test_time_that_goes_back_stands_still() -> None:
    history = LifeHistory()
    history.began("p", A, 5000)
    history.pass_by(10_000)
    history.pass_by(500)
    assert history.now_s == 10_000
    history.ended("p", 6000)
    assert seen(history, 10_000)[:4] == [1, 1, 1, 1], "it lived for 5000 s"


def test_a_pod_that_ends_in_the_second_it_began_has_ended_by_then() -> None:
    history = LifeHistory(with_features=True)
    history.began("p", A, 100)
    history.ended("p", 100)
    found = dict(zip(feature_names(), history.features(A, 100).tolist(), strict=True))
    assert (found["owner:ended"], found["owner:last_log"], found["owner:since_end_log"]) == (1, 0, 0)
    assert seen(history, 100)[0] == 1


def test_a_pod_that_begins_anew_is_as_old_as_that() -> None:
    history = LifeHistory()
    for since_s in (0, 200):
        history.began("p", A, since_s)
    for uid in ("q", "q"):
        history.began(uid, A, 200)
    history.pass_by(450)
    assert {pod.part for pod in history.running.values()} == {0}
    assert seen(history, 450)[0] == pytest.approx(2 * 250 / 300), "the pods of before are not there any more"
    history.pass_by(501)
    assert {pod.part for pod in history.running.values()} == {1}, "and passes each part once"


def test_who_was_there_is_of_no_burst_with_who_comes() -> None:
    history = LifeHistory()
    for number in range(8):
        history.began(f"old-{number}", A, 0, was_there=True)
    history.began("new", A, 10)
    history.ended("new", 100)
    assert history.survival.num_outcomes(OWN, "a") == 1
    assert history.survival.hazards(("a", *[None] * 6), 0)[0] == pytest.approx((1 + PRIOR * UNKNOWN) / (1 + PRIOR))


def test_a_gap_is_in_no_life_and_whoever_is_next_passes_first() -> None:
    history = LifeHistory(with_features=True)
    history.began("old", A, 0)
    history.pass_by(200_000)
    history.began("young", A, 200_000)
    history.skip(300_000)
    assert [pod.part for pod in history.running.values()] == [6, 0]
    within = (200_000 - AGES_S[6]) / (AGES_S[7] - AGES_S[6])
    assert seen(history, 300_000) == pytest.approx([1] * 6 + [within])
    history.pass_by(300_301)
    assert [pod.part for pod in history.running.values()] == [6, 1]
    history.pass_by(100_000 + AGES_S[7] + 1)
    assert [pod.part for pod in history.running.values()] == [7, 5]
    history.ended("young", 100_000 + AGES_S[7] + 1)
    last_log = history.features(A, 400_000)[feature_names().index("owner:last_log")]
    assert last_log == pytest.approx(math.log(AGES_S[7] + 1 - 200_000))
    history.skip(500_000)
    history.began("within", A, 450_000)
    assert history.running["within"].since_s == 500_000, "nobody knows since when"


def test_who_is_dropped_was_never_there_for_the_lineage() -> None:
    history = LifeHistory(with_features=True)
    history.began("p", A, 0)
    before = history.features(A, 500)
    history.began("q", A, 200)
    history.drop("q")
    after = history.features(A, 500)
    changed = {
        name for name, x, y in zip(feature_names(), before, after, strict=True) if x != y and not (x != x and y != y)
    }
    assert {name.partition(":")[2] for name in changed} == {"arrivals", "since_arrival_log"}


def test_a_lineage_that_begins_late_begins_with_who_runs_in_their_order() -> None:
    history = LifeHistory()
    history.began("old", A, 0, was_there=True)
    history.began("p", A, 100)
    history.began("q", A, 200)
    history.began("p", A, 300)
    history.follow_features()
    found = dict(zip(feature_names(), history.features(A, 1000).tolist(), strict=True))
    assert (found["owner:running"], found["owner:arrivals"]) == (3, 2)
    assert found["owner:since_arrival_log"] == pytest.approx(math.log1p(700))
    lineage = history.lineage
    history.follow_features()
    assert history.lineage is lineage, "and goes on"


def test_gangs_of_about_as_many_are_kin_and_the_largest_are_all_alike() -> None:
    assert gang_step(5000) == gang_step(1024) == 30
    assert doublings(5000) == doublings(1024) == 10
    assert gang_step(100) == gang_step(105) != gang_step(130)
    assert doublings(100) == doublings(130) != doublings(200)
