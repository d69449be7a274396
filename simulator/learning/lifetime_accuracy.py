"""Lifetimes in the accuracy report: rows for a terminal, and a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from placement import pages
from placement.pages import Best
from simulator.charts import reliability_chart
from simulator.learning.lifetime_training import AGES, best_rule

COLUMNS = ("accuracy", "c_index", "log_loss", "brier", "calibration_error", "pods")
GROUPS = {
    "all": "all",
    "held_out_owners": "owners never fitted on",
    "new_owners": "owners seen for the first time",
    "known_owners": "owners seen before",
}
TITLE, PLACE = "Lifetimes", "lifetimes"
"""Of the section, and the id that links lead to."""
CLASSES = ("to 15 minutes", "to an hour", "to a day", "longer")


def _text(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def rows_of(ages: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per age and group of owners: the model and the best rule in hindsight, by accuracy and by loss."""
    rows = []
    for age, entry in ages.items():
        for group, title in GROUPS.items():
            if group not in entry:
                continue
            mine, (rule, best) = entry[group]["model"], best_rule(entry[group], "accuracy")
            by_loss, least = best_rule(entry[group], "log_loss")
            rows.append(
                {
                    "lifetimes": f"{AGES[age]}, {title}",
                    "pods": _text(mine["pods"]),
                    "accuracy": _text(mine["accuracy"]),
                    "best rule": rule,
                    "its accuracy": _text(best),
                    "C-index": _text(mine["c_index"]),
                    "log loss": _text(mine["log_loss"]),
                    "least of rules": f"{_text(least)} {by_loss}",
                    "calibration error": _text(mine["calibration_error"]),
                }
            )
    return rows


def headline(lifetimes: Mapping[str, Any]) -> str:
    """The result at arrival in words."""
    entry = lifetimes["ages"].get("0s")
    if entry is None:
        return "no pod arrived in the part that is judged"
    mine, (rule, best) = entry["all"]["model"], best_rule(entry["all"], "accuracy")
    ours, rules = ("–" if value is None else f"{100 * value:.1f} %" for value in (mine["accuracy"], best))
    return f"the class of lifetime is right for {ours} of pods at arrival (the best simple rule, {rule}: {rules})"


def section(lifetimes: Mapping[str, Any]) -> str:
    """The part of the HTML page that is about lifetimes."""
    data, trained = lifetimes["data"], lifetimes["trained_on"] or {}
    lead = (
        f"Trained on {trained.get('name', '?')}, judged on the last third of "
        f"{data['name']} ({data['pods']:,} pods of {data['owners']:,} owners, {data['days']:g} days). "
        f"The trees have {100 * lifetimes['share']:.0f} % of the mixture of hazards with the history{_of_classes(lifetimes)}. "
        f"Classes: {', '.join(CLASSES)}. "
        "C index: of two pods, how often the one that was to live longer did (.5 is chance). Loss in nats, pods that still "
        "run included; Brier score and calibration of the chances to be gone within 15 minutes, an hour, a day. Found: of "
        "the pods of a class, those told so; right when said: of those told so, the pods of that class. Rules speak of "
        "the owner, or else of its size, or else of everyone; `history` is what answers without a model."
    )
    note = lifetimes.get("judged", {}).get("note", "")
    body = [f'<p class="lead">{escape(note)}.</p>'] * bool(note)
    for age, entry in lifetimes["ages"].items():
        body.append(f"<h3>{escape(AGES[age])}</h3>")
        title = f"Reliability of lifetimes {AGES[age]}"
        body.append(reliability_chart(title, entry["reliability"], x_label="chance to be gone", y_label="share gone"))
        body.append(_classes(entry["classes"], AGES[age]))
        body += [_table(title, entry[group], AGES[age]) for group, title in GROUPS.items() if group in entry]
    return pages.section(TITLE, *body, lead=lead, place=PLACE)


def _of_classes(lifetimes: Mapping[str, Any]) -> str:
    """What is said of classes beside the hazards, in words."""
    shares = lifetimes["class_shares"]
    if shares is None:
        return ""
    owner = f", the owner's majority {100 * shares['owner']:.0f} %" if shares["owner"] else ""
    return f"; of what is said of classes trees of their own have {100 * shares['trees']:.0f} %{owner}"


def _table(title: str, table: Mapping[str, Mapping[str, float | int | None]], age: str) -> str:
    order = sorted(table, key=lambda n: (table[n]["log_loss"] or 0.0, n))
    rows = [[marked(name), *(_text(table[name][c]) for c in COLUMNS)] for name in order]
    return sheet(title, COLUMNS, rows, of=age)


def marked(predictor: str) -> str:
    """The name of a row of predictors, of which the model's is marked."""
    return Best(predictor) if predictor == "model" else predictor


def sheet(what: str, keys: Sequence[str], rows: Sequence[Sequence[str]], *, of: str) -> str:
    """A table of figures under their keys in words; ``of`` tells it from those of the same of others."""
    return pages.table((what, *(key.replace("_", " ") for key in keys)), rows, label=f"{what}: {of}")


def _classes(classes: Sequence[Mapping[str, float | int | None]], age: str) -> str:
    keys = {"pods": "pods", "found": "found", "right": "right when said"}
    rows = [[name, *(_text(one[key]) for key in keys)] for name, one in zip(CLASSES, classes, strict=True)]
    return sheet("class, by the model", list(keys.values()), rows, of=age)
