"""The doctor: runs every rule over the facts and turns hits into findings, for people and for programs.

Nobody else lints an extender stanza, and most of its traps are silent: an unverified certificate, a 404 that an
ignorable extender hides, a default that makes all nodes look idle. ``docs/doctor.md`` is generated from the table
here, and a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from placement.errors import ConfigError
from scheduler.doctor.configuration import CONFIG_RULES
from scheduler.doctor.facts import Facts
from scheduler.doctor.live import LIVE_RULES, Found
from scheduler.doctor.manifests import MANIFEST_RULES
from scheduler.doctor.own_settings import SETTINGS_RULES
from scheduler.doctor.rules import SEVERITIES, Rule

RULES: tuple[Rule, ...] = (*CONFIG_RULES, *SETTINGS_RULES, *MANIFEST_RULES, *LIVE_RULES)


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap found in one place."""

    code: str
    severity: str
    path: str
    message: str
    fix: str


def examine(facts: Facts) -> list[Finding]:
    """Findings of all offline rules, in the order of their codes."""
    return [
        Finding(rule.code, rule.severity, hit.path, hit.message, rule.fix)
        for rule in RULES
        if rule.check is not None
        for hit in rule.check(facts)
    ]


def from_probes(found: Iterable[Found]) -> list[Finding]:
    """Findings of live probes."""
    rules = ((rule_named(code), hit) for code, hit in found)
    return [Finding(rule.code, rule.severity, hit.path, hit.message, rule.fix) for rule, hit in rules]


def rule_named(code: str) -> Rule:
    """The rule of a code, whatever its case.

    Raises
    ------
    ConfigError : there is none.
    """
    for rule in RULES:
        if rule.code == code.upper():
            return rule
    raise ConfigError(f"no rule {code!r}; codes run from {RULES[0].code} to {RULES[-1].code}: `ullage doctor explain`")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors before warnings; codes in order."""
    return sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.code, f.path))


def to_dict(findings: list[Finding], facts: Facts) -> dict[str, Any]:
    """The machine-readable answer."""
    counts = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    version = facts.kube_version
    return {
        "apiVersion": "ullage.dev/v1",
        "kind": "DoctorReport",
        "checked": {
            "configurations": len(facts.configs),
            "extenders": sum(1 for _ in facts.stanzas),
            "manifests": len(facts.objects),
            "settings": facts.settings is not None,
            "kubeVersion": None if version is None else f"{version[0]}.{version[1]}",
        },
        "summary": counts,
        "findings": [asdict(f) for f in findings],
    }


def to_json(findings: list[Finding], facts: Facts) -> str:
    """:func:`to_dict` as text."""
    return json.dumps(to_dict(findings, facts), indent=2, ensure_ascii=False)


def explain(rule: Rule) -> str:
    """A rule in words."""
    seen = "seen by `ullage doctor --live`" if rule.check is None else "seen offline"
    return f"{rule.code} ({rule.severity}, {seen})\n{rule.title}.\n\nWhy: {rule.why}\nFix: {rule.fix}\n"


def rules_markdown() -> str:
    """The table of docs/doctor.md."""
    lines = ["| code | severity | trap | why it matters | what to do |", "|---|---|---|---|---|"]
    lines += [f"| {r.code} | {r.severity} | {r.title} | {r.why} | {r.fix} |" for r in RULES]
    return "\n".join(lines) + "\n"
