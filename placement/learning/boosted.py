"""Boosted quantile trees: fit, save, load, and predict one row fast. The only module that knows LightGBM.

A model predicts the ratio of the target to a *base*, one of the workload's own features (its 24 h maximum, say).
Shares among the features are divided by the base too, so that the model is free of scale: it learns "twice the
daily maximum after a quiet week" once, for idle and busy workloads alike. Pinball loss is homogeneous, so fitting
``truth / base`` with weights ``weight × base`` minimises the very loss that is reported. Boosting starts from the
weighted quantile of the ratios, which is the tuned rule: from a start that nearly every truth is on the same side of,
all gradients are alike and no tree is grown.

Files are LightGBM's own text with a JSON card that holds schema hash and checksums; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ModelError, NoModel, why
from placement.learning.baselines import Target
from placement.learning.features import FeatureSchema
from placement.learning.usage import SingleArray
from placement.resources import FloatArray

FORMAT = 2
"""Version of the folder layout; another version is refused."""

CARD = "card.json"
FLOOR = 1e-3
"""Least base and least answer, as a share: below it a workload is idle and ratios mean nothing."""


_TABLES: Mapping[str, object] = {"max_bin": 127, "num_threads": 1, "verbose": -1}
"""How LightGBM takes in a table, to fit on and to stop by."""


@dataclass(frozen=True)
class FitOptions:
    """How one model is grown; one thread, so that a seed repeats it exactly."""

    level: float = 0.95
    trees: int = 150
    learning_rate: float = 0.1
    leaves: int = 31
    min_leaf: int = 150
    feature_share: float = 0.4
    patience: int = 20
    seed: int = 0
    bin_rows: int = 200_000
    """Rows by which the limits of bins are found: a third of the cost of a fit where all of 30,000 are."""

    def parameters(self) -> dict[str, object]:
        """LightGBM's names for it."""
        return {
            "objective": "quantile",
            "alpha": self.level,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_leaf,
            "feature_fraction": self.feature_share,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "deterministic": True,
            "force_row_wise": True,
            "seed": self.seed,
            **_TABLES,
        }


def base_of(schema: FeatureSchema, rows: SingleArray, base: str) -> SingleArray:
    """(S,) the base of each row, at least :data:`FLOOR`; 1 where the workload has no such history.

    ``base`` names a feature, or several joined by ``+``, of which the mean over those that are known is taken.
    """
    columns = rows[:, _columns_of(schema, base)]
    known = np.isfinite(columns)
    count = known.sum(axis=1)
    total = np.where(known, columns, np.float32(0)).sum(axis=1, dtype=np.float32)
    value = np.where(count > 0, total / np.maximum(count, 1).astype(np.float32), np.float32(1))
    return np.asarray(np.maximum(value, np.float32(FLOOR)), np.float32)


def _columns_of(schema: FeatureSchema, base: str) -> list[int]:
    return [schema.names.index(name) for name in base.split("+")]


def scale_free(schema: FeatureSchema, rows: SingleArray, base: SingleArray, name: str) -> SingleArray:
    """(S, F) features with every share divided by the base; the first feature of the base makes room for the base."""
    divisor = np.where(schema.is_share[None, :], base[:, None], np.float32(1))
    out: SingleArray = np.asarray(rows / divisor, np.float32)
    out[:, _columns_of(schema, name)[0]] = base
    return out


@dataclass(frozen=True)
class QuantileModel:
    """One fitted model: quantile ``level`` of ``target`` in shares of the provisioned ``resource``."""

    resource: str
    target: Target
    level: float
    base: str
    schema: FeatureSchema
    booster: Any = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Unique within a model folder."""
        return f"{self.resource}-{self.target.name}-q{self.level * 100:g}-{self.base}"

    @property
    def rounds(self) -> int:
        """Trees that a forecast adds up."""
        return int(self.booster.num_trees())

    def reads(self, names: Collection[str]) -> bool:
        """Whether a tree looks at one of these features."""
        splits = zip(self.schema.names, self.booster.feature_importance("split").tolist(), strict=True)
        return any(number > 0 and name in names for name, number in splits)

    def predict(self, rows: SingleArray) -> SingleArray:
        """(S,) shares in [0, 1] for (S, F) features of this model's schema.

        Raises
        ------
        ModelError : the rows have another number of features.
        """
        if rows.shape[1] != len(self.schema):
            raise ModelError(
                f"model {self.name} expects {len(self.schema)} features, got {rows.shape[1]}; retrain the model"
            )
        base = base_of(self.schema, rows, self.base)
        ratio = self.booster.predict(scale_free(self.schema, rows, base, self.base), num_threads=1)
        return np.asarray(np.clip(ratio * base, 0, 1), np.float32)


def fit(
    rows: SingleArray,
    truth: SingleArray,
    weight: FloatArray,
    *,
    resource: str,
    target: Target,
    base: str,
    schema: FeatureSchema,
    options: FitOptions,
    held_out: tuple[SingleArray, SingleArray, FloatArray] | None = None,
) -> QuantileModel:
    """Grow one model on (S, F) rows; ``held_out`` (rows, truth, weight) stops it early.

    Raises
    ------
    ModelError : there is nothing to learn from, or truth or weights are not finite.
    """
    import lightgbm

    if len(rows) < 2 * options.min_leaf:
        raise ModelError(
            f"{len(rows)} samples are too few to fit {target.name} of {resource}; give at least {2 * options.min_leaf}"
        )
    if not (np.isfinite(truth).all() and np.isfinite(weight).all()):
        raise ModelError(f"targets or weights of {target.name} of {resource} are not finite; drop gaps before fitting")

    def dataset(part: tuple[SingleArray, SingleArray, FloatArray], reference: Any = None) -> Any:
        anchor = base_of(schema, part[0], base)
        return lightgbm.Dataset(
            scale_free(schema, part[0], anchor, base),
            part[1] / anchor,
            weight=part[2] * anchor,
            reference=reference,
            params={**_TABLES, "bin_construct_sample_cnt": options.bin_rows},
        )

    data = dataset((rows, truth, weight))
    callbacks: list[Any] = []
    valid = []
    if held_out is not None:
        valid = [dataset(held_out, data)]
        callbacks.append(lightgbm.early_stopping(options.patience, verbose=False))
    booster = lightgbm.train(options.parameters(), data, options.trees, valid_sets=valid, callbacks=callbacks)
    return QuantileModel(resource, target, options.level, base, schema, booster)


def _require(rows: SingleArray, names: tuple[str, ...]) -> None:
    if rows.shape[1] != len(names):
        raise ModelError(f"lifetime model expects {len(names)} features, got {rows.shape[1]}; retrain it")


@dataclass(frozen=True)
class ClassTrees:
    """Boosted probabilities of classes (of lifetime): softmax trees on features as they are."""

    names: tuple[str, ...]
    num_classes: int
    booster: Any = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """What a file holds."""
        return str(self.booster.model_to_string())

    def shares(self, rows: SingleArray) -> FloatArray:
        """(S, K) probabilities for (S, F) features.

        Raises
        ------
        ModelError : the rows have another number of features.
        """
        _require(rows, self.names)
        return np.asarray(self.booster.predict(rows, num_threads=1), float).reshape(len(rows), self.num_classes)

    @classmethod
    def load(cls, path: Path, sha256: str, names: tuple[str, ...], num_classes: int) -> ClassTrees:
        """From a file.

        Raises
        ------
        ModelError : it is missing, damaged, of other features or classes, or LightGBM is not installed.
        """
        booster = _read_booster(path, sha256)
        found = booster.num_feature(), booster.num_model_per_iteration()
        if found != (len(names), num_classes):
            raise ModelError(
                f"model file {path} has {found[0]} features and {found[1]} classes, not {len(names)} and {num_classes}; "
                "train again"
            )
        return cls(names, num_classes, booster)


def fit_classes(
    rows: SingleArray,
    labels: FloatArray,
    weight: FloatArray,
    *,
    names: Sequence[str],
    num_classes: int,
    options: FitOptions,
) -> ClassTrees:
    """Grow one softmax model on (S, F) rows with integer ``labels``.

    Raises
    ------
    ModelError : too few samples.
    """
    import lightgbm

    if len(rows) < 2 * options.min_leaf:
        raise ModelError(f"{len(rows)} pods are too few to learn lifetimes from; give at least {2 * options.min_leaf}")
    settings = {k: v for k, v in options.parameters().items() if k != "alpha"}
    settings |= {"objective": "multiclass", "num_class": num_classes}
    data = lightgbm.Dataset(rows, labels, weight=weight, params={**_TABLES})
    return ClassTrees(tuple(names), num_classes, lightgbm.train(settings, data, options.trees))


@dataclass(frozen=True)
class HazardTrees:
    """Boosted log-odds of ending, on top of a rule's: trees on features as they are."""

    names: tuple[str, ...]
    booster: Any = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """What a file holds."""
        return str(self.booster.model_to_string())

    @property
    def rounds(self) -> int:
        """Trees that an answer adds up."""
        return int(self.booster.num_trees())

    def scores(self, rows: SingleArray) -> FloatArray:
        """(S,) what is added to the rule's log-odds, for (S, F) rows.

        Raises
        ------
        ModelError : the rows have another number of features.
        """
        _require(rows, self.names)
        return np.asarray(self.booster.predict(rows, raw_score=True, num_threads=1), float)

    @classmethod
    def load(cls, path: Path, sha256: str, names: tuple[str, ...]) -> HazardTrees:
        """From a file.

        Raises
        ------
        ModelError : it is missing, damaged, of other features, or LightGBM is not installed.
        """
        booster = _read_booster(path, sha256)
        if booster.num_feature() != len(names):
            raise ModelError(f"model file {path} has {booster.num_feature()} features, not {len(names)}; train again")
        return cls(names, booster)


@dataclass(frozen=True)
class HazardRows:
    """What hazards are fitted on: (S, F) rows, (S,) whether the pod ended in the part, weights, and the rule's log-odds."""

    rows: SingleArray
    ended: FloatArray
    weight: FloatArray
    start: FloatArray


def fit_hazards(data: HazardRows, held_out: HazardRows, names: Sequence[str], options: FitOptions) -> HazardTrees:
    """Grow trees from the rule's log-odds; rounds end where the loss on ``held_out`` stops falling.

    Raises
    ------
    ModelError : too few rows, or all ended, or none.
    """
    import lightgbm

    if len(data.rows) < 2 * options.min_leaf or not 0 < data.ended.sum() < len(data.ended):
        raise ModelError(
            f"{len(data.rows)} parts of lives, of which pods ended in {int(data.ended.sum())}, are too few to learn "
            f"lifetimes from; give a longer recording (at least {2 * options.min_leaf}, with some of both)"
        )
    settings = {k: v for k, v in options.parameters().items() if k != "alpha"}
    settings |= {"objective": "binary", "metric": "binary_logloss", "boost_from_average": False}

    def dataset(part: HazardRows, reference: Any = None) -> Any:
        return lightgbm.Dataset(
            part.rows, part.ended, weight=part.weight, init_score=part.start, reference=reference,
            params={**_TABLES},
        )  # fmt: skip

    train = dataset(data)
    callbacks, valid = [], []
    if len(held_out.rows):
        valid = [dataset(held_out, train)]
        callbacks = [lightgbm.early_stopping(options.patience, verbose=False)]
    booster = lightgbm.train(settings, train, options.trees, valid_sets=valid, callbacks=callbacks)
    return HazardTrees(tuple(names), booster)


JUDGED = "judged-"
"""Before the names of files of models that are not served: those that figures and factors are from."""


def files_of(
    models: Sequence[QuantileModel], card: Mapping[str, object], judged: Sequence[QuantileModel] = ()
) -> dict[str, str]:
    """Name → text of the files of a model folder; the card, which tells that there are others, is the last.

    ``judged`` are the models before they were fitted again on everything, where they were.
    """
    files: dict[str, str] = {}
    served, before = _entries(models, "", files), _entries(judged, JUDGED, files)
    schemas = {model.schema.digest: list(model.schema.names) for model in models}
    body = {"format": FORMAT, "models": served, "judged_models": before, "schemas": schemas, **card}
    return {**files, CARD: card_text(body)}


def card_text(body: Mapping[str, object]) -> str:
    """A card as it is written, with the checksum of all the rest of it."""
    plain = json.loads(json.dumps(body))
    return json.dumps({**plain, "sha256": _seal(plain)}, indent=1, sort_keys=True) + "\n"


def _seal(card: Mapping[str, object]) -> str:
    """SHA-256 of a card without its checksum."""
    rest = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _entries(models: Sequence[QuantileModel], prefix: str, files: dict[str, str]) -> list[dict[str, object]]:
    """What the card says of models, whose texts are added to ``files``."""
    entries: list[dict[str, object]] = []
    for model in models:
        text = model.booster.model_to_string()
        files[f"{prefix}{model.name}.txt"] = text
        entries.append(
            {
                "file": f"{prefix}{model.name}.txt",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "resource": model.resource,
                "target": asdict(model.target),
                "level": model.level,
                "base": model.base,
                "schema": model.schema.digest,
            }
        )
    return entries


def load_card(folder: Path) -> dict[str, Any]:
    """The card of a model folder.

    Raises
    ------
    ModelError : it is missing, damaged, or of another format.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoModel(f"model {folder}: no {CARD} is there; give a folder that `ullage train` wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as a model card ({why(error)}); train again or give another folder"
        ) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise ModelError(f"{path} has format {found!r}, this build reads {FORMAT}; train again with this build")
    if "sha256" not in card:
        raise ModelError(
            f"{path} has no checksum: an older build wrote it, or it was edited; train again with this build"
        )
    if card["sha256"] != _seal(card):
        raise ModelError(f"{path} does not match its checksum; it is damaged or was edited, restore it or train again")
    return card


def load(
    folder: Path, expected: Callable[[str, Target], FeatureSchema] | None = None, *, judged: bool = False
) -> list[QuantileModel]:
    """Models of a folder, each checked against its checksum and against the schema this build computes.

    Parameters
    ----------
    expected : schema that this build computes for a resource and target; a model of another one is refused.
    judged : those that are not served, but were judged; none where the same are.

    Raises
    ------
    ModelError : a file is missing, damaged, or was fitted for other features.
    """
    card = load_card(folder)
    try:
        entries = card.get("judged_models", []) if judged else card["models"]
        return [_load_one(folder, entry, card["schemas"], expected) for entry in entries]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{folder / CARD} lacks or garbles {error}; train again or restore the file") from error


def _load_one(
    folder: Path,
    entry: Mapping[str, Any],
    schemas: Mapping[str, list[str]],
    expected: Callable[[str, Target], FeatureSchema] | None,
) -> QuantileModel:
    path = folder / str(entry["file"])
    booster = _read_booster(path, str(entry["sha256"]))
    target = Target(int(entry["target"]["horizon_h"]), str(entry["target"]["statistic"]))
    schema = FeatureSchema(tuple(schemas[entry["schema"]]))
    wanted = expected(str(entry["resource"]), target) if expected is not None else schema
    if not schema.digest == entry["schema"] == wanted.digest:
        raise ModelError(
            f"model file {path} was fitted for feature schema {entry['schema']}, "
            f"this build computes {wanted.digest}; train again"
        )
    return QuantileModel(str(entry["resource"]), target, float(entry["level"]), str(entry["base"]), schema, booster)


def _read_booster(path: Path, sha256: str) -> Any:
    """A booster from its text, if that is what was written.

    Raises
    ------
    ModelError : missing, damaged, no model, or LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ModelError(
            f"model file {path} needs {error.name}, which this install lacks; install 'ullage[learn]'"
        ) from error

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"model file {path} cannot be read ({why(error)}); restore it or train again") from error
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise ModelError(f"model file {path} does not match its checksum; it is damaged, restore it or train again")
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ModelError(f"model file {path} is not a LightGBM model ({error}); restore it or train again") from error
