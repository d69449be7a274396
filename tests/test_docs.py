"""What the documents say exists: links, their anchors, and every `ullage …` with its options."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from scheduler.__main__ import root
from scheduler.cli.examples import EXAMPLES
from scheduler.cli.option_needs import NEEDS, refuse_idle

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`(ullage [^`]+)`|^(?:\S+\| )?(ullage .+)$", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        if link.startswith("http"):
            continue
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_table_of_goals_answers_each_in_a_few_words_and_counts_its_states() -> None:
    """The history of a figure stands in the section that its row links to."""
    text = (REPO / "docs" / "results.md").read_text(encoding="utf-8").partition("\n## 1.")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\| \d+ .*$", text, re.MULTILINE)]
    long = [goal for _, goal, measured, _ in rows if len(LINK.sub("", measured)) > 100]
    assert long == []
    states = [re.match(r"reached|in part|\*\*missed\*\*", row[-1]) for row in rows]
    counts = [
        sum(state is not None and state[0] == word for state in states) for word in ("reached", "in part", "**missed**")
    ]
    assert None not in states
    assert f"{len(rows)} goals: {counts[0]} reached, {counts[1]} in part, {counts[2]} missed." in text


def _known(words: list[str]) -> str:
    """What of a command line does not exist or changes nothing; empty if all is well."""
    command: click.Command = root
    rest, path = list(words), ""
    while rest and isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z0-9-]*", rest[0]):
        part = command.get_command(click.Context(command), rest[0])
        if part is None:
            return rest[0]
        command, path, rest = part, f"{path} {rest[0]}".strip(), rest[1:]
    if "…" in rest:  # a command that is left open
        return ""
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    unknown = next((word for word in given if word not in options), "")
    return unknown or _idle(command, path, rest)


def _idle(command: click.Command, path: str, rest: list[str]) -> str:
    """Which of the options only matter together with one that is not there; values may be placeholders."""
    context = command.make_context(path, list(rest), resilient_parsing=True)
    try:
        refuse_idle(context, NEEDS.get(path, ()))
    except click.UsageError as error:
        return error.message
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_named_exist(path: Path) -> None:
    unknown = []
    for quoted, alone in CODE.findall(path.read_text(encoding="utf-8")):
        line = re.split(r" [|>&#] | {2,}| \\$", (quoted or alone).replace("\\|", "|"))[0]
        words = line.split()[1:]
        for first in words[0].split("|") if words else []:
            seconds = words[1].split("|") if len(words) > 1 else [""]
            for second in seconds:
                wrong = _known([word for word in (first, second, *words[2:]) if word])
                if wrong:
                    unknown.append(f"{line}: {wrong}")
    assert unknown == []


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_examples_of_help_exist_and_are_of_their_command(path: str) -> None:
    for line in EXAMPLES[path]:
        words = line.partition("| ")[2].split() or line.partition(" > ")[0].split()
        assert " ".join(words).startswith(f"ullage {path}"), line
        assert _known(words[1:]) == "", line


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("simulate demo -s priced", ""),
        ("simulat demo", "simulat"),
        ("plan rescue --nope", "--nope"),
        ("plan purchase --days N", "--days only matters with --ahead."),
        ("plan … -o json", ""),
    ],
)
def test_the_check_itself_finds_what_does_not_exist(words: str, wrong: str) -> None:
    assert _known(words.split()) == wrong
