"""A decision record in words, and as a table for programs: who was chosen, why, and why not somebody else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from placement.errors import ConfigError
from placement.resources import GPU_SHARE, format_amount
from placement.strategies import STRATEGIES
from scheduler.records import Fleet, Record


def when(unix_s: float) -> str:
    """A time for people: UTC, to the millisecond; of a replay how far into it."""
    if unix_s < 10**8:
        days, seconds = divmod(round(unix_s), 86_400)
        return (
            f"{f'{days} d ' * (days > 0)}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} into the replay"
        )
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def asked_for(request: dict[str, Any]) -> str:
    """A request in words."""
    words = [format_amount(v, k) for k, v in request.items() if isinstance(v, int) and k in ("cpu", "memory")]
    others = {k: v for k, v in request.items() if isinstance(v, int) and k not in ("cpu", "memory", "priority")}
    gpu = request.get("gpu")
    if gpu:
        others.pop("ullage.dev/gpu-milli", None)
        models = f" of {' or '.join(gpu['models'])}" if gpu["models"] else ""
        share = f"{gpu['milli'] / 1000:g} of a GPU" if gpu["milli"] < 1000 else f"{gpu['count']} whole GPU"
        words.append(share + models)
    words += [format_amount(v, k) if k == GPU_SHARE else f"{v} {k}" for k, v in others.items()]
    return ", ".join(words) or "nothing"


def answer(record: Record, fleet: Fleet | None, node: str = "", attempts: int = 1) -> dict[str, Any]:
    """Everything `explain` says, for programs; ``node`` adds "why not this one?".

    Raises
    ------
    ConfigError : the node did not exist then.
    """
    told: dict[str, Any] = {
        "apiVersion": "ullage.dev/v1",
        "kind": "Explanation",
        "decision": record.id,
        "pod": {"name": record.name, "namespace": record.namespace, "uid": record.uid, "request": record.request},
        "asked": {
            "at": when(record.asked_s),
            "unixSeconds": record.asked_s,
            "verb": record.verb,
            "mode": record.mode,
            "candidates": record.num_candidates,
            "attempts": attempts,
        },
        "outcome": record.outcome,
        "chosen": {"node": record.node, "devices": record.device_indices, "score": record.score}
        if record.node
        else None,
        "runnerUp": record.runner_up or None,
        "top": record.top,
        "rejected": record.reasons,
        "prediction": {"use": record.prediction, "source": record.prediction_source},
        "decidedBy": {
            "strategy": record.strategy,
            "digest": record.strategy_digest,
            "knowledge": record.knowledge,
            "ledgerVersion": record.version,
            "draw": record.draw,
            "seconds": record.duration_s,
        },
        "finally": None
        if record.final_node is None
        else {"node": record.final_node, "unixSeconds": record.final_s, "asChosen": record.agrees},
        "exact": record.is_exact,
    }
    if node:
        told["whyNot"] = why_not(record, fleet, node)
    return told


def why_not(record: Record, fleet: Fleet | None, node: str) -> dict[str, Any]:
    """Why ``node`` was not chosen.

    Raises
    ------
    ConfigError : the record has no nodes, or not this one.
    """
    if node == record.node:
        return {"node": node, "why": "chosen", "words": f"{node} is the chosen node"}
    if fleet is None:
        raise ConfigError(
            f"decision {record.id} kept no reasons (the recorder was busy); ask about another: ullage decisions list"
        )
    if node not in fleet.row_of:
        raise ConfigError(f"node {node!r} was not in the view at that decision; check the name")
    reason = record.why_not(fleet, node)
    if reason:
        return {"node": node, "why": "rejected", "words": f"{node} was turned away: {reason}"}
    entry = next((e for e in record.top if e["node"] == node), None)
    if entry is None:
        least = f" (the last of them has {record.top[-1]['score']:,})" if record.top else ""
        words = f"{node} fits, and scored no higher than the {len(record.top)} best{least}"
        return {"node": node, "why": "outscored", "words": words}
    if not record.node:
        return {"node": node, "why": "outscored", "words": f"{node} fits"}
    why, words = _beside(record, entry)
    return {"node": node, "why": why, "words": words}


def _beside(record: Record, entry: dict[str, Any]) -> tuple[str, str]:
    """Why another node that fits was not chosen, in a word and in words."""
    lead, node = record.score - entry["score"], entry["node"]
    if lead > 0:
        return "outscored", f"{node} scored {lead:,} less than {record.node}: {compare(record.top[0], entry)}"
    if lead < 0:
        return "planned", f"{node} scored {-lead:,} more; a plan wanted the pod on {record.node}"
    return "tie", f"{node} scored the same; the strategy settles ties"


def compare(best: dict[str, Any], other: dict[str, Any]) -> str:
    """By which parts ``best`` leads, largest first."""
    parts = {k: v - other["parts"].get(k, 0) for k, v in best["parts"].items()}
    ranked = sorted(((v, k) for k, v in parts.items() if v), key=lambda p: (-abs(p[0]), p[1]))
    return ", ".join(f"{name} {value:+,d}" for value, name in ranked) or "every part is equal"


def in_words(record: Record, fleet: Fleet | None, node: str = "", attempts: int = 1) -> str:
    """The answer for people."""
    told = answer(record, fleet, node, attempts)
    lines = [f"pod {record.namespace}/{record.name} asked for {asked_for(record.request)}"]
    if attempts > 1:
        lines[0] += f"; this is the last of {attempts:,} decisions about it"
    lines.append(f"  {when(record.asked_s)}, {record.verb} in mode {record.mode}, decision {record.id}")
    lines += _chosen(record) if record.node else ["  no node fits"]
    lines += _rejected(record, told)
    if node:
        lines.append(f"  why not {node}? {told['whyNot']['words']}")
    is_learned = record.prediction_source != "request"
    source = f"upper quantile, from {record.prediction_source}" if is_learned else "from what was asked for"
    lines.append(f"  expected use: {asked_for(record.prediction)} ({source})")
    lines.append(
        f"  by strategy {record.strategy} ({record.strategy_digest}), knowledge {record.knowledge or 'none'}, "
        f"ledger version {record.version}" + (f", in {took * 1000:.2f} ms" if (took := record.duration_s) else "")
    )
    lines.append(f"  {_final(record)}")
    if not record.is_exact:
        lines.append("  (the cluster changed before the reasons were read: those of single nodes may be newer)")
    return "\n".join(lines) + "\n"


def _chosen(record: Record) -> list[str]:
    devices = f", devices {','.join(map(str, record.device_indices))}" if record.devices else ""
    verb = "would have gone" if record.mode == "shadow" else "went"
    lines = [f"  {verb} to {record.node}{devices}, score {record.score:,}"]
    others = [e for e in record.top if e["node"] != record.node]
    lines += [f"  {_beside(record, other)[1]}" for other in others[:1]]
    lines += [f"    {e['node']:<24} {e['score']:>18,}  {_parts(e)}" for e in record.top]
    if any(e["parts"] for e in record.top) and record.strategy in STRATEGIES:
        lines.append(f"    higher is better; what each part means: ullage strategies describe {record.strategy}")
    return lines


def _parts(entry: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value:,}" for name, value in entry["parts"].items())


def _rejected(record: Record, told: dict[str, Any]) -> list[str]:
    rejected: dict[str, int] = told["rejected"]
    fits = record.num_candidates - sum(n for r, n in rejected.items() if r != "not offered by the caller")
    words = "; ".join(f"{n:,} {r}" for r, n in sorted(rejected.items(), key=lambda item: -item[1]))
    return [f"  of {record.num_candidates:,} nodes offered {max(fits, 0):,} fit" + (f"; not: {words}" if words else "")]


def _final(record: Record) -> str:
    if record.final_node is None:
        return "not seen bound yet"
    later = "" if record.final_s is None else f", {max(record.final_s - record.asked_s, 0):,.1f} s later"
    if record.agrees is None:
        return f"bound to {record.final_node}{later}"
    return f"bound to {record.final_node}{later}, {'as chosen' if record.agrees else f'not to {record.node}'}"
