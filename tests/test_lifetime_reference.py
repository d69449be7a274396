"""What streams of arrivals and ends are folded into, against plain definitions that look at all lives at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from placement.knowledge import AGES_S
from placement.learning.lifetime_history import KEEP, NUM_HAZARDS, REQUESTS, Kin, LifeHistory, feature_names
from placement.learning.lineage import BURST_S, BURSTS, FORGET, KEPT, LIMITS_S, NUM_CLASSES, Lineage, class_of
from placement.learning.survival import PRIOR, UNKNOWN

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
    """Hazards of kin, and how many pods those of its workload stand on, from all lives at once."""
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
    hazards, seen_of_own = [UNKNOWN] * NUM_HAZARDS + [1.0], list[float]()
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
            if level == 0:
                seen_of_own.append(seen + share)
            hazards[part] = (gone + PRIOR * hazards[part]) / (seen + share + PRIOR)
    return hazards, seen_of_own


@pytest.mark.parametrize("seed", range(6))
def test_hazards_are_what_all_lives_together_say(seed: int) -> None:
    all_lives = lives(seed + 10, 60, apart_s=0)
    history = LifeHistory(with_features=True, begins_s=7 * 3600)
    events = sorted(
        [(one.since_s, 1, one.uid, one) for one in all_lives]
        + [(one.end_s, 0, one.uid, one) for one in all_lives if math.isfinite(one.end_s)],
        key=lambda event: event[:3],
    )
    columns = [feature_names().index(f"owner:seen_{part}") for part in range(NUM_HAZARDS)]
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
            assert features[columns].tolist() == pytest.approx(seen or [0.0] * NUM_HAZARDS, rel=1e-4)
            assert features[-len(REQUESTS) - 1 :].tolist() == pytest.approx(
                [0.001, kin.size[1] / 2**30, 0, 0, kin.gang_size, (7 * 3600 + now) % 86_400 / 3600], rel=1e-4
            )
