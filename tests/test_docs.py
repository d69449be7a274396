"""What the documents say exists: links and their anchors, and the states that the table of goals counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


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
