"""Learned lifetimes: boosted hazards by part of life, from what is known of a pod's kin.

One model of all parts of life: a row says what is known of the kin, which part is asked about, and what the rule on the
history answers for it; the answer is the chance to end in that part, of those who reach it (a discrete-time hazard model:
every part that a pod lived through, wholly or partly, is a row to learn from, so pods that still run are not left out;
Singer and Willett 1993). Boosting starts from the rule's answer. Hazards are a mixture with the rule.

A second model says, of a pod that arrives, in which of four classes its life will end (:mod:`placement.learning.lineage`).
What is served is one distribution of both: classes by a mixture of what both say with the owner's majority, parts of life within
a class by the hazards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ModelError
from placement.knowledge import AGES_S
from placement.learning import boosted
from placement.learning.lifetime_history import KEEP, NUM_HAZARDS, feature_names
from placement.learning.lineage import BURST_S, LIMITS_S, NUM_CLASSES
from placement.learning.survival import class_shares, with_classes
from placement.learning.usage import SingleArray
from placement.resources import BoolArray, FloatArray

FILE = "lifetimes.txt"
CLASSES_FILE = "lifetime-classes.txt"
CLASSES = "classes"
"""Of the section: the trees of classes, where there are any."""
OWNERS = "known"
"""Of the section: digests of owners."""
JUDGED = "judged"
"""Of the section: the model before it was fitted again on everything, where it was."""
SECTION = "lifetimes"
"""Of the model card."""
_MAJORITY = [feature_names().index(f"owner:class_{c}") for c in range(NUM_CLASSES)]
"""Features: the classes of the owner's latest ended pods."""
LEAST_HAZARD = 0.005
"""Hazards are kept this far from 0 and 1: what never happened may."""


def row_names() -> tuple[str, ...]:
    """Features of one row of the trees."""
    return (*feature_names(), "part", "rule")


def digest() -> str:
    """Names the features, the parts of life, what a burst is and how the history fades, in files."""
    settings = (str(x) for x in (AGES_S, LIMITS_S, BURST_S, KEEP))
    return hashlib.sha256("\n".join((*row_names(), *settings)).encode()).hexdigest()[:12]


def bounded(hazards: FloatArray) -> FloatArray:
    """Away from 0 and 1."""
    found: FloatArray = np.clip(hazards, LEAST_HAZARD, 1 - LEAST_HAZARD)
    return found


def losses(hazards: FloatArray, ended: BoolArray) -> FloatArray:
    """Logarithmic loss of each chance to end."""
    h = bounded(hazards)
    found: FloatArray = -np.log(np.where(ended, h, 1 - h))
    return found


def log_odds(hazards: FloatArray) -> FloatArray:
    """Of bounded hazards."""
    h = bounded(hazards)
    found: FloatArray = np.log(h / (1 - h))
    return found


def rows_of(features: SingleArray, parts: FloatArray, rule: FloatArray) -> SingleArray:
    """(S, F + 2) rows for (S, F) features, (S,) parts of life and (S,) hazards of the rule."""
    more = np.stack([parts, log_odds(rule)], axis=1).astype(np.float32)
    return np.asarray(np.concatenate([features, more], axis=1), np.float32)


@dataclass(frozen=True)
class Classes:
    """Trees of classes, and the shares that they and the owner's majority have in what is said of the classes."""

    trees: boosted.ClassTrees = field(repr=False)
    share: float
    owner_share: float

    def mixed(self, own: FloatArray, features: SingleArray, history: FloatArray) -> FloatArray:
        """(S, 4) shares of the classes, of those that the hazards say, with the trees' and the owner's."""
        owner = np.asarray(features[:, _MAJORITY], float)
        owner = np.where(np.isfinite(owner[:, :1]), owner, history)
        rest = 1 - self.share - self.owner_share
        return rest * own + self.share * self.trees.shares(features) + self.owner_share * owner


@dataclass(frozen=True)
class LifetimeModel:
    """Trees of hazards, the share that they have in the mixture with the rule, and what is said of the classes."""

    trees: boosted.HazardTrees = field(repr=False)
    share: float
    source: str = ""
    classes: Classes | None = None
    owners: frozenset[str] = field(default=frozenset(), repr=False)
    """Digests of some whose pods it was fitted on, the same ones for recordings of one cluster."""

    def is_refit_of(self, other: LifetimeModel) -> bool:
        """Whether both were fitted on recordings of one cluster: half of the owners that one remembers are the other's."""
        fewer = min(len(self.owners), len(other.owners))
        return fewer > 0 and 2 * len(self.owners & other.owners) >= fewer

    def hazards(self, features: SingleArray, rule: FloatArray) -> FloatArray:
        """(S, NUM_HAZARDS) chances to end in each part of life, for (S, F) features and the rule's answers."""
        num = len(features)
        parts = np.tile(np.arange(NUM_HAZARDS, dtype=float), num)
        flat = rule.reshape(-1)
        rows = rows_of(np.repeat(features, NUM_HAZARDS, axis=0), parts, flat)
        mine = 1 / (1 + np.exp(-(log_odds(flat) + self.trees.scores(rows))))
        found: FloatArray = (self.share * mine + (1 - self.share) * bounded(flat)).reshape(num, NUM_HAZARDS)
        if self.classes is None:
            return found
        shares = self.classes.mixed(class_shares(found), features, class_shares(rule))
        return bounded(with_classes(found, shares))


def ask(model: LifetimeModel, features: Sequence[SingleArray], rule: Sequence[Sequence[float]]) -> list[list[float]]:
    """Hazards of many kin; may run on another thread. An answer does not depend on who else is asked about."""
    if not features:
        return []
    found = model.hazards(np.stack(features), np.array(rule, float)[:, :NUM_HAZARDS])
    return [[*row, 1.0] for row in found.tolist()]


def card_section(
    model: LifetimeModel, facts: Mapping[str, object], judged: LifetimeModel | None = None
) -> tuple[dict[str, object], dict[str, str]]:
    """The part of the card, and name → text of the files, of a model, and of what it was before it was fitted again."""
    files: dict[str, str] = {}
    section = {**_entry(model, "", files), **facts}
    if judged is not None:
        section[JUDGED] = {**_entry(judged, boosted.JUDGED, files), "trees": judged.trees.rounds}
    return section, files


def _entry(model: LifetimeModel, prefix: str, files: dict[str, str]) -> dict[str, object]:
    """What the card says of a model, whose texts are added to ``files``."""
    files[f"{prefix}{FILE}"] = model.trees.text
    entry: dict[str, object] = {**_checked(f"{prefix}{FILE}", files), "features": digest(), "share": model.share}
    if model.classes is None:
        return {**entry, CLASSES: None}
    files[f"{prefix}{CLASSES_FILE}"] = model.classes.trees.text
    shares = {"share": model.classes.share, "owner_share": model.classes.owner_share}
    return {**entry, CLASSES: {**_checked(f"{prefix}{CLASSES_FILE}", files), **shares}}


def _checked(name: str, files: Mapping[str, str]) -> dict[str, object]:
    return {"file": name, "sha256": hashlib.sha256(files[name].encode()).hexdigest()}


def load_lifetimes(folder: Path, *, judged: bool = False) -> LifetimeModel | None:
    """The lifetime model of a folder of ``ullage train``; None if it holds none.

    Parameters
    ----------
    judged : the one that was judged, where that is another than the one that is served.

    Raises
    ------
    ModelError : a file is missing, damaged, or of other features, or LightGBM is not installed.
    """
    card: dict[str, Any] = boosted.load_card(folder)
    section = card.get(SECTION)
    if section is None:
        return None
    owners = frozenset(str(section.get(OWNERS, "")).split()) if isinstance(section, dict) else frozenset()
    if judged and isinstance(section, dict):
        section = section.get(JUDGED, section)
    where = f"{folder / boosted.CARD}: {SECTION}"
    if not isinstance(section, dict):
        raise ModelError(f"{where} is no table; train again or restore the file")
    try:
        features, classes = str(section["features"]), section[CLASSES]
    except KeyError as error:
        raise ModelError(f"{where} lacks {error}; train again") from error
    path, wanted, (share,) = _named(folder, section, ("share",), where)
    if features != digest():
        raise ModelError(
            f"model file {path} was fitted for lifetime features {features}, this build computes {digest()}; train again"
        )
    trees = boosted.HazardTrees.load(path, wanted, row_names())
    source = f"model {folder.name or folder.resolve().name}"
    return LifetimeModel(trees, share, source, _classes(folder, classes, where), owners)


def _classes(folder: Path, entry: object, where: str) -> Classes | None:
    if entry is None:
        return None
    where = f"{where}, {CLASSES}"
    if not isinstance(entry, dict):
        raise ModelError(f"{where} is no table; train again or restore the file")
    path, wanted, shares = _named(folder, entry, ("share", "owner_share"), where)
    if sum(shares) > 1:
        raise ModelError(f"{where} has shares of {sum(shares):g} in all, must be at most 1; train again")
    return Classes(boosted.ClassTrees.load(path, wanted, feature_names(), NUM_CLASSES), *shares)


def _named(folder: Path, entry: Mapping[str, Any], shares: Sequence[str], where: str) -> tuple[Path, str, list[float]]:
    """File, its checksum, and shares, which are 0 to 1."""
    found = []
    try:
        path, wanted = folder / str(entry["file"]), str(entry["sha256"])
        for name in shares:
            value = entry[name]
            found.append(float(value))
            if not 0 <= found[-1] <= 1:
                raise ModelError(f"{where} has {name} {found[-1]:g}, must be 0 to 1; train again")
    except KeyError as error:
        raise ModelError(f"{where} lacks {error}; train again") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where} has {name} {value!r}; train again") from error
    return path, wanted, found
