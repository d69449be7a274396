"""Options that matter only together with others, of every command, in one table.

An option that would change nothing is refused: who gives it expects something of it. The command line holds every
command against the table (:class:`Held`), so that the commands need not; what depends on more than options (a trace
without usage, a strategy that reads no lifetimes) is refused where that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource


@dataclass(frozen=True)
class Found:
    """The parameters of a call, by flag (``--ahead``) or metavar (``TRACE``)."""

    values: Mapping[str, Any]
    given: frozenset[str]
    """Those that the user gave, be it a zero."""


@dataclass(frozen=True)
class Need:
    """When options matter."""

    holds: Callable[[Found], bool]
    words: str
    """The rest of "only matters …"."""
    reads: tuple[str, ...]
    """Flags and metavars that ``holds`` looks up."""


def _either(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def with_(*flags: str) -> Need:
    """Where one of these is given."""
    return Need(lambda found: not found.given.isdisjoint(flags), f"with {_either(flags)}", flags)


def without(flag: str) -> Need:
    """Where another one is not given."""
    return Need(lambda found: flag not in found.given, f"without {flag}", (flag,))


def with_value(flag: str, *values: str) -> Need:
    """Where another one has one of these values, of several or alone."""

    def holds(found: Found) -> bool:
        value = found.values[flag]
        return not set(values).isdisjoint(value if isinstance(value, tuple) else (value,))

    return Need(holds, f"with {flag} {_either(values)}", (flag,))


def _is_pod(found: Found) -> bool:
    return found.values["pod/NAME"].partition("/")[0] not in ("uid", "decision")


_LIVE = (("--kubeconfig", "--context"), with_("--live"))
_PLAN = (_LIVE, (("--at", "--strategy"), with_("TRACE")))
_REPLAY = (
    (("--lifetimes",), with_("--load")),
    (("--spot-share",), with_value("--fleet", "elastic")),
    (("--until",), without("--fill")),
)
_COSTS = ("--usd-per-interruption", "--usd-per-pod-interrupted")
_IS_TRACE = Need(lambda found: found.values["TRACE|explain"] != "explain", "for a trace", ("TRACE|explain",))
_ONE_ACT = Need(lambda found: bool(found.values["--judge"]), "with --judge ACT, from 1 on", ("--judge",))
NEEDS: dict[str, tuple[tuple[tuple[str, ...], Need], ...]] = {
    "simulate": _REPLAY,
    "compare": _REPLAY,
    "trace validate": ((("--fix", "--bad-rows", "--output"), _IS_TRACE),),
    "rightsize": ((("--budget",), with_value("--sizer", "packed")),),
    "plan rescue": _PLAN,
    "plan batch": _PLAN,
    "plan consolidate": (
        *_PLAN,
        (("--prices", "--usd-per-move", "--interruptions"), without("--no-prices")),
        (_COSTS, with_("--interruptions")),
        (("--interruptions",), with_(*_COSTS)),
    ),
    "plan purchase": (
        *_PLAN,
        (("--interruptions",), with_("--spot")),
        (_COSTS[:1], with_("--interruptions")),
        (("--interruptions",), with_(_COSTS[0])),
        (("--quantile", "--history", "--prometheus", "--days"), with_("--ahead")),
        (("--prometheus",), with_("--live")),
    ),
    "plan replay": (
        (("--every", "--moves-share", "--judge"), with_value("--policy", "planned", "karpenter-prefix", "descheduler")),
        (("--history", "--least-saved"), with_value("--policy", "planned")),
        (("--foresees",), with_value("--buys", "foreseen")),
        (("--span",), _ONE_ACT),
    ),
    "plan apply": ((("--yes", "--max-evictions", "--refusal-deadline", "--settle-deadline"), without("--abandon")),),
    "snapshot": (_LIVE,),
    "doctor": ((("--kubeconfig", "--context", "--address", "--certificates", "--as"), with_("--live")),),
    "explain": ((("--namespace",), Need(_is_pod, "for pod/NAME", ("pod/NAME",))),),
    "decisions list": ((("--no-headers",), with_value("--output", "table", "wide", "csv")),),
    "bundle": ((("--config", "--output"), without("--verify")),),
}
"""Command → options and when they matter. Limits of `plan apply` count in the rehearsal without ``--yes`` as well."""


GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def parameters_of(command: click.Command) -> dict[str, click.Parameter]:
    """Parameters by flag, or by metavar."""
    named: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            named[parameter.metavar or str(parameter.name).upper()] = parameter
        else:
            named.update(dict.fromkeys(parameter.opts, parameter))
    return named


def refuse_idle(context: click.Context, needs: Iterable[tuple[tuple[str, ...], Need]]) -> None:
    """Complain about options that were given and change nothing.

    Raises
    ------
    click.UsageError : there are some; it names each.
    """
    named = parameters_of(context.command)
    given = {flag for flag, parameter in named.items() if context.get_parameter_source(str(parameter.name)) in GIVEN}
    found = Found(
        {flag: context.params.get(str(parameter.name)) for flag, parameter in named.items()}, frozenset(given)
    )
    wrong = []
    for flags, need in needs:
        idle = [flag for flag in flags if flag in given]
        if idle and not need.holds(found):
            wrong.append(f"{' and '.join(idle)} only {'matter' if len(idle) > 1 else 'matters'} {need.words}")
    if wrong:
        raise click.UsageError("; ".join(wrong) + ".", context)


@dataclass(frozen=True)
class Held:
    """The callback of a command that first refuses options that change nothing."""

    callback: Callable[..., Any]
    needs: tuple[tuple[tuple[str, ...], Need], ...]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        refuse_idle(click.get_current_context(), self.needs)
        return self.callback(*arguments, **options)
