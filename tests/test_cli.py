"""The command line as a user meets it: answers, mistakes, exit codes. Every call is a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def ullage(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **(env or {})},
    )


def test_help_lists_what_there_is() -> None:
    shown = ullage("--help")
    assert shown.returncode == 0
    for command in ("simulate", "compare", "trace", "strategies", "serve", "reproduce"):
        assert command in shown.stdout


def test_version_is_machine_readable() -> None:
    assert json.loads(ullage("version", "-o", "json").stdout)["kind"] == "Version"


def test_a_simulation_prints_data_on_standard_output_only(tmp_path: Path) -> None:
    made = ullage(
        "trace", "synth", "--days", "0.1", "--gpu-nodes", "2", "--small-gpu-nodes", "2", "t.ullage", cwd=tmp_path
    )
    assert made.returncode == 0
    run = ullage("simulate", "t.ullage", "-s", "best-fit", "-o", "json", "--report", "out/r.html", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["kind"] == "Comparison"
    page = (tmp_path / "out" / "r.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert (tmp_path / "out" / "r.md").exists()


def test_a_simulated_decision_is_explained_like_a_live_one(tmp_path: Path) -> None:
    for words in (
        ("trace", "synth", "--days", "0.1", "--gpu-nodes", "2", "--small-gpu-nodes", "2", "t.ullage"),
        ("simulate", "t.ullage", "-s", "best-fit", "--log", "log", "-q"),
        ("decisions", "from-log", "log", "--records", "r.db"),
    ):
        run = ullage(*words, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    run = ullage("decisions", "list", "--records", "r.db", "--outcome", "placed", "-o", "json", cwd=tmp_path)
    last = json.loads(run.stdout)["items"][0]
    told = ullage("explain", f"decision/{last['id']}", "--node", last["node"], "--records", "r.db", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert f"went to {last['node']}" in told.stdout
    assert "by strategy best-fit" in told.stdout
    again = ullage("simulate", "t.ullage", "-s", "best-fit", "--log", "log", "-q", cwd=tmp_path)
    assert (again.returncode, "not empty" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("simulate", "demo", "-s", "bestfit"), 2, "did you mean 'best-fit'"),
        (("simulate", "demo"), 2, "Missing option"),
        (("simulat", "demo"), 2, "Did you mean 'simulate'"),
        (("simulate", "nowhere.ullage", "-s", "best-fit"), 1, "no such file"),
        (("simulate", "opnb:x", "-s", "best-fit"), 1, "did you mean 'openb'"),
        (("simulate", "demo", "-s", "best-fit", "--delivery", "decid"), 2, "did you mean 'decide'"),
        (("simulate", "demo", "-s", "nowhere.toml"), 2, "cannot be read"),
        (("simulate", "demo", "-s", "best-fit", "--report", "/proc/x/r.html"), 1, "cannot be made"),
        (("trace", "synth", "--days", "-1", "x.ullage"), 2, "must be > 0"),
        (("reproduce", "fgd-atc23", "--data", "/nowhere"), 1, "no such folder"),
        (("trace", "validate", "explain", "T9"), 2, "unknown code"),
    ],
)
def test_a_mistake_is_one_clear_message(arguments: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    run = ullage(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_ctrl_c_says_that_work_is_kept(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "compare", "demo", "-s", "kube-default", "--seeds", "50", "-j", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".cache/ullage/*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "takes it up again" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob(".cache/ullage/*.tmp"))
