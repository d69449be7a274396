"""Options that matter only with others: the table against the commands, and what a user reads."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from scheduler.__main__ import root
from scheduler.cli.option_needs import NEEDS, Found, Need, parameters_of, refuse_idle
from tests.commands import commands


def _command(path: str) -> click.Command:
    command: click.Command | None = root
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None, path
    return command


ROWS = [(path, flag, need) for path, needs in NEEDS.items() for flags, need in needs for flag in flags]


@pytest.mark.parametrize(
    ("path", "flag", "need"), ROWS, ids=[f"{path} {flag} {need.words}" for path, flag, need in ROWS]
)
def test_every_row_is_about_parameters_that_exist_and_can_be_idle(path: str, flag: str, need: Need) -> None:
    named = parameters_of(_command(path))
    assert flag in named
    assert set(need.reads) <= set(named)
    for read in need.reads:
        assert read in need.words or isinstance(named[read], click.Argument), "the user is told what is missing"


@pytest.mark.parametrize(("path", "command"), list(commands(root)), ids=lambda value: str(value)[:40])
def test_an_option_whose_help_says_with_what_it_goes_is_held_to_it(path: str, command: click.Command) -> None:
    held = {flag: need for flags, need in NEEDS.get(path, ()) for flag in flags}
    for option in command.params:
        if isinstance(option, click.Option) and (said := re.match(r"With `?(--[a-z-]+)", option.help or "")):
            flag = next(flag for flag in option.opts if flag.startswith("--"))
            assert flag in held, f"ullage {path} {flag}: {option.help}"
            assert said[1] in held[flag].reads


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan purchase demo --quantile 0.5 --days 7", "--quantile and --days only matter with --ahead."),
        ("plan purchase demo --history demo", "--history only matters with --ahead."),
        ("plan purchase demo --ahead 6h -p http://h:9090", "--prometheus only matters with --live."),
        (
            "plan purchase demo --interruptions 0.1 --days 7",
            "--interruptions only matters with --spot; --interruptions only matters with --usd-per-interruption; "
            "--days only matters with --ahead.",
        ),
        ("plan consolidate demo --no-prices --usd-per-move 1", "--usd-per-move only matters without --no-prices."),
        (
            "plan consolidate demo --interruptions 0.1",
            "--interruptions only matters with --usd-per-interruption or --usd-per-pod-interrupted.",
        ),
        (
            "plan consolidate demo --no-prices --interruptions 0.1 --usd-per-interruption 5",
            "--interruptions only matters without --no-prices.",
        ),
        ("plan consolidate demo --usd-per-interruption 9", "--usd-per-interruption only matters with --interruptions."),
        ("plan rescue --snapshot c.json --at 5 -s best-fit", "--at and --strategy only matter with TRACE."),
        ("plan batch demo --kubeconfig k", "--kubeconfig only matters with --live."),
        ("plan replay demo --foresees 60", "--foresees only matters with --buys foreseen."),
        ("plan replay demo --span 60", "--span only matters with --judge ACT, from 1 on."),
        ("plan replay demo --judge 0 --span 60 --until 9", "--span only matters with --judge ACT, from 1 on."),
        ("plan replay demo --policy descheduler --history 60", "--history only matters with --policy planned."),
        (
            "plan replay demo --policy none --every 60",
            "--every only matters with --policy planned, karpenter-prefix or descheduler.",
        ),
        ("simulate demo -s best-fit --lifetimes 3", "--lifetimes only matters with --load."),
        ("compare demo --spot-share 1", "--spot-share only matters with --fleet elastic."),
        ("simulate demo -s best-fit --fill --until empty", "--until only matters without --fill."),
        ("trace validate explain UT101 -o json", "--output only matters for a trace."),
        ("rightsize -p http://h:9090 --budget 0.02", "--budget only matters with --sizer packed."),
        ("doctor --config c.yaml --as ullage", "--as only matters with --live."),
        ("explain uid/1 -n shop", "--namespace only matters for pod/NAME."),
        ("decisions list --no-headers -o json", "--no-headers only matters with --output table, wide or csv."),
        ("bundle . --verify -o b.tar.gz", "--output only matters without --verify."),
        ("snapshot nodes.json -f s.json --context c", "--context only matters with --live."),
    ],
)
def test_an_option_that_would_change_nothing_is_a_mistake_of_usage(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("c.json", "nodes.json", "c.yaml"):
        Path(name).write_text("{}", encoding="utf-8")
    run = CliRunner().invoke(root, words.split())
    assert run.exit_code == 2
    assert f"Error: {message}" in " ".join(run.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        "plan purchase demo --quantile 0.5 --days 7 --ahead 6h",
        "plan purchase demo --spot --interruptions 0 --usd-per-interruption 5",
        "plan replay demo --policy none --policy planned -s best-fit -s planned --history 60",
        "plan replay demo --judge 2 --span 60",
        "simulate demo -s best-fit --load 1 --lifetimes 3 --fleet elastic --spot-share 1",
        "explain pod/w -n shop",
        "explain w -n shop",
        "plan apply p.json --max-evictions 3",
    ],
)
def test_options_that_go_together_are_taken(words: str) -> None:
    path = " ".join(words.split()[:2]) if words.startswith("plan") else words.split()[0]
    command = _command(path)
    arguments = words.split()[len(path.split()) :]
    with click.Context(command).scope():
        refuse_idle(command.make_context(path, arguments), NEEDS[path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "-s best-fit --horizon 1h-peak --siblings",
            "--horizon and --siblings shape forecasts .* best-fit would not read",
        ),
        ("-s best-fit --model rule:vpa-p95", "--model shape forecasts .* choose one of .*predicted"),
        ("-s predicted --siblings", "--siblings shape forecasts of usage, and no trace records usage"),
        ("-s predicted --siblings --load 1", r"resampled traces \(--load\) have no usage"),
        ("-s best-fit --learn-lifetimes", "best-fit would not read them"),
        ("-s best-fit --interruptions 0.1", "take spot nodes back, and there is none"),
        ("-s best-fit --interruptions 0.1 --fleet elastic", "take spot nodes back, and there is none"),
    ],
)
def test_an_option_that_no_strategy_or_trace_has_a_use_for_is_refused(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(root, ["simulate", "demo", *options.split()], catch_exceptions=False)


def test_a_value_that_is_only_the_default_complains_of_nothing() -> None:
    command = _command("plan purchase")
    refuse_idle(command.make_context("purchase", ["demo"]), NEEDS["plan purchase"])
    assert not NEEDS["plan purchase"][-1][1].holds(Found({}, frozenset()))
