"""Commands that documents, help, messages and the Makefile show, held against the parsers that would take them."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from scheduler.__main__ import root
from scheduler.cli.examples import EXAMPLES
from scheduler.cli.option_needs import NEEDS, refuse_idle
from tests.commands import commands

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", REPO / "Makefile", *sorted((REPO / "docs").glob("*.md"))]
SOURCES = [
    path
    for folder in ("placement", "scheduler", "simulator", "benchmarks", "manifests")
    for path in sorted((REPO / folder).rglob("*"))
    if path.suffix in (".py", ".yaml", ".json", ".txt")
]
SPAN = re.compile(r"`([^`]+)`")
SEPARATORS = {"|", "||", "&", "&&", ";", "{", "}", ">", "<", "--"}
OPEN = re.compile(r"[A-Z_]+|.*…")
"""What stands for a value, or for whatever else may follow."""
TARGETS = re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
VARIABLES = {
    name
    for path in (REPO / "tests").rglob("*.py")
    for name in re.findall(r'environ\.get\(\s*"(ULLAGE_\w+)"', path.read_text(encoding="utf-8"))
}


def _shown(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is there to be typed as it stands, of what may be commands in a file."""
    is_fenced, held, start = False, "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or (path.name == "Makefile" and line.startswith("\t")):
            start = start if held else number
            held += line.strip()
            if held.endswith("\\"):
                held = held[:-1]
                continue
            yield start, held, True
            held = ""
        else:
            yield from ((number, span.replace("\\|", "|"), False) for span in SPAN.findall(line))


def _calls(line: str) -> Iterator[list[str]]:
    """Calls of our programs in a line of shell, its comments included: name and words, the environment before them."""
    for part in line.split("# "):
        if not re.search(r"\b(ullage|make|MAKE|python|pytest)\b", part):
            continue
        call: list[str] = []
        for word in [*shlex.split(part), ";"]:
            if word not in SEPARATORS:
                call.append(word)
                continue
            if call and call[0] == "$":
                del call[0]
            variables = list(itertools.takewhile(re.compile(r"[A-Z_0-9]+=").match, call))
            program, words = call[len(variables) : len(variables) + 1], call[len(variables) + 1 :]
            name = re.sub(r"^@?(\$\(BIN\)/|\.venv/bin/)", "", program[0]) if program else ""
            if name.strip("$()").lower() in ("ullage", "make", "python", "pytest"):
                yield [*variables, name.strip("$()").lower(), *words]
            call = []


def _wrong(call: Sequence[str], is_whole: bool) -> str:
    """What of a call is refused; empty if it parses."""
    variables = [word.partition("=")[0] for word in call if re.match(r"ULLAGE_[A-Z0-9_]+=", word)]
    unread = [name for name in variables if name not in VARIABLES]
    if unread:
        return f"nobody reads {unread[0]}"
    program, *words = itertools.dropwhile(re.compile(r"[A-Z_0-9]+=").match, call)
    if program == "make":
        return next((f"no target {word}" for word in words if "=" not in word and word not in TARGETS), "")
    if program == "pytest":
        files = (word for word in words if word.startswith("tests/"))
        return next((f"no file {file}" for file in files if not (REPO / file).exists()), "")
    if program == "python":
        return _python_refuses(words)
    try:
        return next(filter(None, (_ullage_refuses(list(one), is_whole) for one in _alternatives(words))), "")
    except click.UsageError as error:
        return error.format_message()


def _alternatives(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """``a|b`` is either; what stands in brackets may be given."""
    return itertools.product(*(word.strip("[]").split("|") for word in words))


def _ullage_refuses(words: list[str], is_whole: bool) -> str:
    command: click.Command = root
    context, path = click.Context(root, info_name="ullage", **root.context_settings), []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if OPEN.fullmatch(words[0]):
            return ""
        part = command.get_command(context, words[0])
        if part is None:
            return f"no command {words[0]}"
        command, context = part, click.Context(part, parent=context, info_name=words[0])
        path.append(words.pop(0))
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(words))
    except click.BadOptionUsage:  # an option without its value
        if is_whole:
            raise
        return ""
    surplus = [word for word in rest if not OPEN.fullmatch(word)]
    if surplus:
        return f"unexpected {surplus[0]}"
    for parameter in command.params:
        value = values.get(str(parameter.name))
        if value is None or parameter.value_is_missing(value):
            if parameter.required and is_whole and "…" not in words:
                raise click.MissingParameter(ctx=context, param=parameter)
        elif not isinstance(parameter.type, click.Path) and not any(
            OPEN.fullmatch(str(one)) for one in (value if isinstance(value, (list, tuple)) else (value,))
        ):
            parameter.process_value(context, value)
    held = command.make_context(" ".join(path), list(words), parent=context.parent, resilient_parsing=True)
    refuse_idle(held, NEEDS.get(" ".join(path), ()))
    return ""


OF_OTHERS = {"--help", "--build-arg", "--expander", "--grpc-expander-url", "--grpc-expander-cert"}
"""Options of docker and Cluster Autoscaler, and click's own."""


class _ParsedError(Exception):
    """A benchmark's words were parsed."""


def _python_refuses(words: Sequence[str]) -> str:
    """What a benchmark's own parser, reached through its ``main``, says of its words."""
    module = words[1] if words[:1] == ["-m"] and len(words) > 1 else ""
    if not module.startswith(("benchmarks.", "tests.")):
        return ""
    if not (REPO / module.replace(".", "/")).with_suffix(".py").exists():
        return f"no module {module}"
    if module.startswith("tests."):
        return ""
    given = [word.strip("[]") for word in words[2:] if not OPEN.fullmatch(word)]

    def parse(parser: argparse.ArgumentParser) -> None:
        parser.exit_on_error = False
        _, rest = parser.parse_known_args(given)
        raise _ParsedError(f"unexpected {rest[0]}" if rest else "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        try:
            importlib.import_module(module).main()
        except (_ParsedError, argparse.ArgumentError) as outcome:
            return str(outcome)
    return f"{module} parses nothing"


def _wrong_in(path: Path) -> list[str]:
    return [
        f"{path.relative_to(REPO)}:{number}: {' '.join(call)}: {wrong}"
        for number, line, is_whole in _shown(path)
        for call in _calls(line)
        if (wrong := _wrong(call, is_whole))
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_documents_parse(path: Path) -> None:
    wrong = _wrong_in(path)
    assert not wrong, "\n".join(wrong)


def test_options_that_are_named_alone_exist() -> None:
    known = {
        flag
        for _, command in commands(root)
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    known |= {
        *OF_OTHERS,
        *re.findall(r'"(--[a-z-]+)"', "".join(path.read_text() for path in SOURCES if "bench" in str(path))),
    }
    wrong = [
        f"{path.relative_to(REPO)}:{number}: {option}"
        for path in DOCUMENTS
        for number, text, _ in _shown(path)
        for option in re.findall(r"^--[a-z-]+", text)
        if option not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_of_help_messages_and_manifests_parse() -> None:
    wrong = [line for path in SOURCES for line in _wrong_in(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_examples_of_help_parse_and_are_of_their_command(path: str) -> None:
    for line in EXAMPLES[path]:
        calls = list(_calls(line))
        assert [" ".join(call).startswith(f"ullage {path}") for call in calls] == [True], line
        assert _wrong(calls[0], is_whole=True) == "", line


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("ullage simulate demo -s priced   # or: cat x | ullage snapshot - -f x.json", ""),
        ("ullage simulat demo -s priced", "no command simulat"),
        ("ullage plan rescue --live --nope", "No such option '--nope'."),
        (
            "kubectl exec deploy/ullage -- ullage shadow report --sinc -2h",
            "No such option '--sinc'. Did you mean '--since'?",
        ),
        ("make x || ullage plan rescue --live", "no target x"),
        ("ullage plan rescue --live --time soon", "Invalid value for '--time': 'soon' is not a valid float."),
        ("ullage plan rescue --live -o table|xml", "Invalid value for '-o' / '--output': 'xml' is not one of"),
        ("ullage plan purchase --days 7", "--days only matters with --ahead."),
        ("ullage evaluate demo", "Missing option '-m' / '--model'."),
        ("ullage plan apply plan.json again", "unexpected again"),
        ("ullage plan … -o json", ""),
        (".venv/bin/python -m benchmarks.nothing --traces T", "no module benchmarks.nothing"),
        ("python -m benchmarks.churn [--nodes 1000 5000] --turn-s 4", "unexpected --turn-s"),
        ("python -m benchmarks.churn --turns four", "argument --turns: invalid int value: 'four'"),
        ("ULLAGE_E2E_POD=2 pytest -m e2e tests/e2e/test_lockstep.py", "nobody reads ULLAGE_E2E_POD"),
        ("ULLAGE_E2E_PODS=2 pytest -m e2e tests/e2e/test_lockstop.py", "no file tests/e2e/test_lockstop.py"),
    ],
)
def test_the_check_itself_finds_what_does_not_parse(line: str, wrong: str) -> None:
    assert "".join(_wrong(call, is_whole=True) for call in _calls(line)).startswith(wrong)
