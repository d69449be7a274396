"""What ``ullage train`` and ``ullage evaluate`` learn from: usage, lifetimes, or both, as a recording has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from placement.errors import ConfigError, ModelError, PlacementError
from placement.knowledge import workload_of
from placement.learning import boosted
from placement.learning.baselines import Target
from placement.learning.forecasting import LEVEL
from placement.learning.lifetime_model import OWNERS, SECTION, load_lifetimes
from placement.learning.spans import Span
from placement.learning.usage import UsageSeries
from simulator.learning import accuracy, training
from simulator.learning.lifetime_samples import JUDGED_AGES_S, Draw, samples_of, with_owners
from simulator.learning.lifetime_training import Bounds, TrainedLifetimes, data_of, judge, train_lifetimes
from simulator.learning.sight import Judged, digest_of, sight_of
from simulator.output import Progress, untold
from simulator.traces.recorded import usage_of_trace
from simulator.traces.sources import MARKS, READERS, open_trace
from simulator.traces.trace import NEVER, Trace, TraceError, check_begin
from simulator.traces.usage_readers import read_usage

AZURE = "azure-v1-vms"
AZURE_MARK = next(mark for mark, reader in MARKS.items() if reader == AZURE)
JUDGED = 20_000
"""Most pods per age that ``ullage evaluate`` judges."""


@dataclass(frozen=True)
class Learnable:
    """A recording, and what can be learned from it."""

    name: str
    usage: UsageSeries | None = None
    trace: Trace | None = None
    """With arrivals and ends."""
    notes: list[str] = field(default_factory=list)
    """Why the other part is missing."""


def read_learnable(text: str, begins_s: int | None = None) -> Learnable:
    """A folder of recorded usage, a ``.ullage`` file, ``demo``, or what ``ullage simulate`` replays.

    Parameters
    ----------
    begins_s : Unix time of second 0 of a recording that has no calendar.

    Raises
    ------
    TraceError : it is neither, or tells neither usage nor lifetimes.
    ConfigError : it has a calendar of its own.
    """
    path = Path(text)
    is_trace = text == "demo" or path.suffix == ".ullage" or (path / "manifest.json").exists()
    is_trace = is_trace or text.partition(":")[0] in READERS
    if not is_trace and not any((path / mark).exists() for mark in MARKS):
        series = read_usage(path)
        if begins_s is not None:
            check_begin(series.name, series.has_calendar)
            series = replace(series, start_s=series.start_s + begins_s)
        return Learnable(series.name, series)
    trace = open_trace(_with_batches(text))
    if begins_s is not None:
        check_begin(trace.manifest.name, trace.manifest.has_calendar)
        trace = trace.but(manifest=replace(trace.manifest, begins_s=begins_s))
    name = trace.manifest.name
    notes: list[str] = []
    usage = None
    try:
        usage = usage_of_trace(trace)
    except TraceError as error:
        notes.append(f"usage is not learned: {error}")
    ends = bool((trace.pods.departure_s != NEVER).any())
    if not ends:
        notes.append(f"lifetimes are not learned: trace {name}: no pod ends")
    if usage is None and not ends:
        raise TraceError(f"trace {name}: tells neither what pods use nor how long they live: " + "; ".join(notes))
    return Learnable(name, usage, trace if ends else None, notes)


def undated(source: Learnable) -> list[str]:
    """What is to be said of a recording without a calendar; nothing of one that has it."""
    told_by = source.usage if source.trace is None else source.trace.manifest
    if told_by is None or told_by.has_calendar:
        return []
    return [
        f"{source.name}: does not say when it began, so models do not look at hours and weekdays; tell with --begins-at"
    ]


def _with_batches(text: str) -> str:
    """The same trace, with Azure's deployment batches: they are all that is known of who owns a VM there."""
    reader, _, rest = text.partition(":")
    if (Path(text) / AZURE_MARK).exists():
        return f"{AZURE}:{text}:,gangs"
    path, _, option = rest.partition(":")
    return f"{AZURE}:{path}:{option},gangs" if reader == AZURE and "gangs" not in option.split(",") else text


@dataclass(frozen=True)
class Learned:
    """What was trained."""

    usage: list[training.Trained]
    lifetimes: TrainedLifetimes | None
    notes: list[str]
    verdicts: list[training.Verdict]
    """Of usage and lifetimes, as far as they were learned."""


def train(
    source: Learnable,
    folder: Path,
    *,
    seed: int,
    effort: training.Effort,
    targets: Sequence[Target] = (),
    created_s: int = 0,
    progress: Progress = untold,
    refit: bool = True,
) -> Learned:
    """Fit what the recording tells, then write one folder with one card. A part that cannot be fitted is left out, and said.

    With ``refit`` what is served was fitted again on all of the recording; what was judged before stands beside it.

    Raises
    ------
    PlacementError : nothing can be fitted.
    """
    notes = list(source.notes)
    errors: list[PlacementError] = []
    lifetimes: TrainedLifetimes | None = None
    if source.trace is not None:
        try:
            lifetimes = train_lifetimes(source.trace, seed=seed, rows=effort.rows, progress=progress, refit=refit)
        except PlacementError as error:
            errors.append(error)
            notes.append(f"lifetimes are not learned: {error}")
    more = {} if lifetimes is None else {SECTION: lifetimes.section}
    files = {} if lifetimes is None else lifetimes.files
    trained: list[training.Trained] = []
    if source.usage is not None:
        try:
            trained = training.train(
                source.usage, folder, seed=seed, effort=effort, targets=targets, created_s=created_s,
                progress=progress, note=notes.append, more=more, files=files, refit=refit,
            )  # fmt: skip
            notes += [f"not learned: {words}"] if (words := training.too_long(source.usage, targets)) else []
        except PlacementError as error:
            error = type(error)(f"{error}{training.gaps(source.usage)}")
            errors.append(error)
            notes.append(f"usage is not learned: {error}")
    if lifetimes is None and not trained:
        raise type(errors[0])("; ".join(notes))
    if lifetimes is not None and not trained:
        found = lifetimes.section["data"]
        data = {"name": found["name"], "workloads": found["owners"], "days": found["days"], "resources": []}
        card = {"data": data, "created_s": created_s, "seed": seed, "tasks": {}, **more}
        training.write_model([], folder, card, files)
    verdicts = [training.verdict(source.usage, trained)] if source.usage is not None and trained else []
    verdicts += [lifetimes.verdict] if lifetimes is not None else []
    return Learned(trained, lifetimes, undated(source) + notes, verdicts)


def evaluate(source: Learnable, folder: Path, *, progress: Progress = untold) -> accuracy.Report:
    """Judge what the folder predicts and the recording tells, on the recording's last third. A part that the recording is
    too short for is left out, and said in ``notes``.

    Raises
    ------
    ModelError : damaged files, another schema, or nothing in common.
    ConfigError : the recording is too short for all of it.
    """
    card = boosted.load_card(folder)
    has_usage, has_lifetimes = bool(card.get("models")), SECTION in card
    if not (has_usage and source.usage is not None) and not (has_lifetimes and source.trace is not None):
        kinds = [k for k, has in (("usage", has_usage), ("lifetimes", has_lifetimes)) if has]
        raise ModelError(
            f"{folder} predicts {' and '.join(kinds) or 'nothing'}, of which {source.name} tells nothing; "
            "train one on such data"
        )
    report: accuracy.Report = {"data": source.name, "model": card.get("data"), "level": LEVEL, "tasks": {}}
    errors: list[str] = []
    if has_usage and source.usage is not None:
        try:
            report = accuracy.evaluate(source.usage, folder, progress=progress)
        except ConfigError as error:
            errors.append(f"usage is not judged: {error}")
    if has_lifetimes and source.trace is not None:
        try:
            report["lifetimes"] = evaluate_lifetimes(source.trace, folder, progress)
        except ConfigError as error:
            errors.append(f"lifetimes are not judged: {error}")
    if not report["tasks"] and "lifetimes" not in report:
        raise ConfigError("; ".join(errors))
    sights = (report.get("judged"), report.get("lifetimes", {}).get("judged"))
    notes = list(dict.fromkeys([one["note"] for one in sights if one and one["note"]] + errors))
    return {**report, "notes": notes} if notes else report


def evaluate_lifetimes(trace: Trace, folder: Path, progress: Progress) -> dict[str, Any]:
    """Lifetimes on the last third: by age, owner and class, beside every rule and the oracle."""
    trained = boosted.load_card(folder).get(SECTION)
    if trained is None:
        raise ModelError(f"{folder} holds no lifetimes; train on a recording with arrivals and ends")
    owned = with_owners(trace)
    bounds, begins_s = Bounds.of(owned), owned.manifest.begins_s
    seed, about = int(trained.get("seed", 0)), trained.get("data", {})
    span = Span.of(trained)
    begin_s, end_s, first_s = (begins_s + round(x) for x in (bounds.mix, bounds.last, bounds.first))
    owners = [digest_of(workload_of(s.namespace, s.owner)) for s in owned.specs if s.owner]
    here = Judged(owned.manifest.name, owned.digest, owned.manifest.has_calendar, first_s, begin_s, end_s, owners)
    sight = sight_of(span, str(about.get("name", "")), str(trained.get(OWNERS, "")).split(), here)
    model = load_lifetimes(folder, judged=sight.before_refit)
    assert model is not None, "the card has a section"
    classes = model.classes
    from_s = max(bounds.mix, float(sight.from_s - begins_s))
    samples = samples_of(owned, [Draw(from_s, bounds.last, JUDGED, JUDGED_AGES_S)], seed=seed, progress=progress)
    data = data_of(owned, bounds, seed)
    is_refit = span is not None and span.to_s > span.judged_s
    if about.get("held_out_owners") == 0 or (is_refit and not sight.before_refit):
        samples, data = samples.without_held_out(), {**data, "held_out_owners": 0}
    return {
        "data": data,
        "trained_on": about,
        "judged": {"models": "before the refit" if sight.before_refit else "served", "note": sight.note},
        "share": model.share,
        "class_shares": None if classes is None else {"trees": classes.share, "owner": classes.owner_share},
        "ages": judge(model, samples, bounds.last, seed),
    }
