"""Learned lifetimes: boosted hazards by part of life, from what is known of a pod's kin.

One model of all parts of life: a row says what is known of the kin, which part is asked about, and what the rule on the
history answers for it; the answer is the chance to end in that part, of those who reach it (a discrete-time hazard model:
every part that a pod lived through, wholly or partly, is a row to learn from, so pods that still run are not left out;
Singer and Willett 1993). Boosting starts from the rule's answer. What is served is a mixture with the rule.
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
from placement.learning.lifetime_history import NUM_HAZARDS, feature_names
from placement.learning.usage import SingleArray
from placement.resources import FloatArray

FILE = "lifetimes.txt"
JUDGED_FILE = f"{boosted.JUDGED}{FILE}"
JUDGED = "judged"
"""Of the section: the model before it was fitted again on everything, where it was."""
SECTION = "lifetimes"
"""Of the model card."""
LEAST_HAZARD = 0.005
"""Hazards are kept this far from 0 and 1: what never happened may."""


def row_names() -> tuple[str, ...]:
    """Features of one row of the trees."""
    return (*feature_names(), "part", "rule")


def digest() -> str:
    """Names the features, and the parts of life, in files."""
    return hashlib.sha256("\n".join((*row_names(), str(AGES_S))).encode()).hexdigest()[:12]


def bounded(hazards: FloatArray) -> FloatArray:
    """Away from 0 and 1."""
    found: FloatArray = np.clip(hazards, LEAST_HAZARD, 1 - LEAST_HAZARD)
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
class LifetimeModel:
    """Trees, and the share that they have in the mixture with the rule."""

    trees: boosted.HazardTrees = field(repr=False)
    share: float
    source: str = ""

    def hazards(self, features: SingleArray, rule: FloatArray) -> FloatArray:
        """(S, NUM_HAZARDS) chances to end in each part of life, for (S, F) features and the rule's answers."""
        num = len(features)
        parts = np.tile(np.arange(NUM_HAZARDS, dtype=float), num)
        flat = rule.reshape(-1)
        rows = rows_of(np.repeat(features, NUM_HAZARDS, axis=0), parts, flat)
        mine = 1 / (1 + np.exp(-(log_odds(flat) + self.trees.scores(rows))))
        found: FloatArray = (self.share * mine + (1 - self.share) * bounded(flat)).reshape(num, NUM_HAZARDS)
        return found


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
    files = {FILE: model.trees.text}
    section = {**_entry(FILE, model), **facts}
    if judged is not None:
        files[JUDGED_FILE] = judged.trees.text
        section[JUDGED] = {**_entry(JUDGED_FILE, judged), "trees": judged.trees.rounds}
    return section, files


def _entry(file: str, model: LifetimeModel) -> dict[str, object]:
    return {
        "file": file,
        "sha256": hashlib.sha256(model.trees.text.encode()).hexdigest(),
        "features": digest(),
        "share": model.share,
    }


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
    if judged and isinstance(section, dict):
        section = section.get(JUDGED, section)
    if not isinstance(section, dict):
        raise ModelError(f"{folder / boosted.CARD}: {SECTION} is no table; train again or restore the file")
    try:
        path, wanted, features, share = (
            folder / str(section["file"]),
            str(section["sha256"]),
            str(section["features"]),
            float(section["share"]),
        )
    except KeyError as error:
        raise ModelError(f"{folder / boosted.CARD}: {SECTION} lacks {error}; train again") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / boosted.CARD}: {SECTION} has share {section['share']!r}; train again") from error
    if not 0 <= share <= 1:
        raise ModelError(f"{folder / boosted.CARD}: {SECTION} has share {share:g}, must be 0 to 1; train again")
    if features != digest():
        raise ModelError(
            f"model file {path} was fitted for lifetime features {features}, this build computes {digest()}; train again"
        )
    return LifetimeModel(
        boosted.HazardTrees.load(path, wanted, row_names()), share, f"model {folder.name or folder.resolve().name}"
    )
