"""The command line as a user meets it: answers, mistakes, exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import click
import pytest

from scheduler import __main__ as main_module
from scheduler.__main__ import COMMANDS, root
from scheduler.learning.learner import read_workload
from simulator import compare as compare_module
from simulator.cli.simulate import readable_weight
from simulator.output import table, told_now_and_then
from tests.commands import commands


class Ended(NamedTuple):
    """What a call left."""

    returncode: object
    stdout: str
    stderr: str


def ullage(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Ended:
    """A call in this process, which has loaded already what a process of its own would load for seconds."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    on_term, on_unraisable = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    for read in (compare_module._trace, compare_module._steady):
        read.cache_clear()  # another folder has another trace of the same name
    try:
        with (
            mock.patch.object(sys, "argv", ["ullage", *arguments]),
            mock.patch.dict(os.environ, env or {}),
            contextlib.chdir(cwd or "."),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main_module.main()
    finally:
        signal.signal(signal.SIGTERM, on_term)
        sys.unraisablehook = on_unraisable
    said, told = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]  # BytesIO
    return Ended(ended.value.code, said, told)


ROOT = str(Path(__file__).parent.parent)


def apart(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A call in a process of its own, which ``env`` tells how to begin."""
    return subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ROOT, **env},
    )


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The beginning of the demo, of which a replay takes no time."""
    path = str(tmp_path_factory.mktemp("part") / "part.ullage")
    assert ullage("trace", "slice", "demo", path, "--pods", "800").returncode == 0
    return path


def test_help_lists_what_there_is() -> None:
    shown = ullage("--help")
    assert shown.returncode == 0
    for command in ("simulate", "compare", "trace", "strategies", "serve", "reproduce"):
        assert command in shown.stdout


def test_help_shows_defaults_and_examples_and_the_first_one_where_to_begin() -> None:
    shown = " ".join(ullage("doctor", "--help").stdout.split())
    assert "Mildest severity that exits 1. [default: warning]" in shown
    assert '[default: ""]' not in shown
    assert "Examples: ullage doctor --config scheduler.yaml" in shown
    first = ullage("--help").stdout
    assert "Begin with: ullage compare demo" in first
    assert "Exit codes: 0 done; 1 failed" in first


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("compare demo -s pric", ["plain,priced", "plain,priced-steady"]),
        ("serve --strategy nil", ["plain,nilas"]),
        ("strategies describe nil", ["plain,nilas"]),
        ("simulate demo --delivery decide+s", ["plain,decide+sampling"]),
        ("compare demo -s ./mine", ["file,./mine"]),
        ("trace info my", ["file,my"]),
        ("doctor explain ud103", ["plain,UD103"]),
        ("trace validate explain t005", ["plain,T005"]),
        ("comp", ["plain,compare", "plain,completion"]),
    ],
)
def test_names_and_files_are_completed(line: str, completed: list[str]) -> None:
    words = ["ullage", *line.split()]
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), "_ULLAGE_COMPLETE": "bash_complete"}
    assert ullage(env=asked).stdout.split() == completed


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
    assert f"bound to {last['node']}, 0.0 s later, as chosen" in told.stdout
    again = ullage("simulate", "t.ullage", "-s", "best-fit", "--log", "log", "-q", cwd=tmp_path)
    assert (again.returncode, "not empty" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("simulate", "demo", "-s", "bestfit"), 2, "did you mean 'best-fit'"),
        (("simulate", "demo"), 2, "Missing option"),
        (("simulat", "demo"), 2, "Did you mean 'simulate'"),
        (("simulate", "nowhere.ullage", "-s", "best-fit"), 2, "no such file"),
        (("simulate", "opnb:x", "-s", "best-fit"), 2, "did you mean 'openb'"),
        (("simulate", "demo", "-s", "best-fit", "--delivery", "decid"), 2, "did you mean 'decide'"),
        (("simulate", "demo", "-s", "nowhere.toml"), 2, "cannot be read"),
        (("simulate", "demo", "-s", "best-fit", "--report", "/proc/x/r.html"), 1, "no file can be made in /proc"),
        (("compare", "demo", "--report", "out/"), 2, "out/ is a folder; name a file in it, such as out/report.html"),
        (("evaluate", "demo", "-m", ".", "--report", "out/"), 2, "out/ is a folder"),
        (("explain", "web-0"), 2, "--records FILE names it"),
        (
            ("trace", "slice", "demo", "s.ullage", "--from", "6h", "--to", "5h"),
            *(2, "from second 21,600 on and before second 18,000; arrivals are in seconds 231 to 129,581"),
        ),
        (("simulate", "demo", "-s", "best-fit", "--seeds", "99999999999"), 2, "not in the range"),
        (("simulate", "demo", "-s", "best-fit", "--warmup", "9999999"), 2, "leaves nothing to measure"),
        (("trace", "synth", "--days", "-1", "x.ullage"), 2, "must be > 0"),
        (("trace", "synth", "--days", "1e9", "x.ullage"), 2, "--days 1e+09 is more than is made up"),
        (("trace", "synth", "--gpu-nodes", "99999999999", "x.ullage"), 2, "--gpu-nodes 1e+11 is more"),
        (("reproduce", "fgd-atc23", "--data", "/nowhere"), 2, "no such folder"),
        (
            ("reproduce", "priority-matters", "--seeds-file", "/dev/null", "--util", "nan"),
            2,
            "util is a number above 0",
        ),
        (("reproduce", "lifetimes", "--data", "/"), 2, "give the folder that holds alibaba-dlrm-2025/"),
        (("reproduce", "placement", "--data", "/"), 2, "give the folder that holds alibaba-dlrm-2025/"),
        (("reproduce", "adversaries", "--data", "/"), 2, "give the folder that holds planetlab/"),
        (("reproduce", "empty-nodes", "--data", "/"), 2, "give the folder that holds azure-v1-vms/"),
        (("trace", "info", "."), 2, "a folder with no trace in it"),
        (("train", ".", "-m", "model"), 2, "is no usage data set"),
        (("reproduce", "fgd-atc23", "--data", "."), 2, "holds no openb_pod_list_X.csv"),
        (("trace", "validate", "explain", "T9"), 2, "unknown code"),
    ],
)
def test_a_mistake_is_one_clear_message(arguments: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    run = ullage(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_where_nobody_reads_on_a_command_ends_as_one_that_sigpipe_ended() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "scheduler", "doctor", "explain"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("jobs", "number", "code"), [("1", signal.SIGINT, 130), ("2", signal.SIGINT, 130), ("2", signal.SIGTERM, 143)]
)
def test_ctrl_c_says_that_work_is_kept(part: str, tmp_path: Path, jobs: str, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "compare", part, "-s", "kube-default", "--seeds", "99", "-j", jobs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    while not list(tmp_path.glob(".cache/ullage/*.json")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)  # its errors end with the last process that could write any
    assert process.returncode == code, errors
    assert "takes it up again" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob(".cache/ullage/*.tmp"))
    assert len(list(tmp_path.glob(".cache/ullage/*.json"))) < 99, "what had not begun is left undone"


DROPPED = """
import atexit, ctypes, signal, sys, time
from placement.errors import ConfigError
from scheduler.__main__ import main, root

def heard():
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        return

def refused():
    raise ConfigError("no room")

@root.command()
def wait():
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal({number}))()
    {then}

sys.argv = ["ullage", "wait"]
main()
"""
"""A command that is interrupted while a library calls back, as LLVM does at the end of whatever it compiles."""


@pytest.mark.parametrize("then", ["time.sleep(60)", "raise RuntimeError('no compiled object yet')"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_that_python_drops_in_a_callback_ends_the_command_all_the_same(
    number: int, code: int, then: str
) -> None:
    script = DROPPED.format(number=int(number), then=then)
    words, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": ROOT}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=50)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "takes it up again" in ended.stderr


@pytest.mark.parametrize(
    ("then", "code", "says"),
    [
        ("atexit.register(lambda: print(signal.getitimer(signal.ITIMER_REAL)[0], file=sys.stderr))", 0, "0.0\n"),
        ("heard(); refused()", 2, "ullage: no room\n"),
    ],
)
def test_an_interrupt_that_came_too_late_or_was_heard_is_over(then: str, code: int, says: str) -> None:
    script = DROPPED.format(number=int(signal.SIGINT), then=then)
    words, environment = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": ROOT}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=50)
    assert (ended.returncode, ended.stderr) == (code, says)


def test_standard_streams_that_are_closed_lead_nowhere(tmp_path: Path) -> None:
    """As under a daemon: the answer goes nowhere, and not into whatever file is opened next."""
    command = f"exec {sys.executable} -m scheduler"
    environment = {**os.environ, "PYTHONPATH": ROOT}
    listed, asked, made = (
        subprocess.run(
            ["sh", "-c", f"{command} {words}"], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        for words in (
            "strategies show priced >&-",
            "snapshot - -f s.json <&-",
            "trace synth t.ullage --days 0.1 <&- >&- 2>&-",
        )
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    assert asked.returncode == 1
    assert asked.stderr.startswith("ullage: the input is not a list of Kubernetes objects")
    assert made.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.ullage"]


def test_a_report_is_refused_before_the_work_where_a_file_would_take_the_place_of_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.html")
    refused = ullage("simulate", "demo", "-s", "best-fit", "--report", "report.html", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "ullage: report report.html: it is no file, and a file would take its place; name a file\n"


def test_a_recording_that_has_nowhere_to_go_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = ullage("record", "file/new/x.ullage", "-p", "http://localhost:1", cwd=tmp_path)
    assert refused.returncode == 2
    where = f"{tmp_path / 'file'} is no folder"
    assert refused.stderr == f"ullage: trace file/new/x.ullage: cannot be written ({where}); choose another place\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trace synth t.ullage --days nan", "nan is not a finite number"),
        ("trace synth t.ullage --load inf", "inf is not a finite number"),
        ("sweep --deadline nan", "nan is not a finite number"),
        ("plan consolidate demo --usd-per-move nan", "nan is not a finite number"),
        ("plan rescue demo --at -5", "is no span of time"),
        ("trace info opnb:x", "did you mean 'openb'?"),
        ("simulate demo -s nilas --model nope", "model nope: no card.json is there"),
    ],
)
def test_numbers_and_readers_that_are_none_are_wrong_usage(tmp_path: Path, words: str, says: str) -> None:
    refused = ullage(*words.split(), cwd=tmp_path)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_demo_tells_of_lifetimes_and_says_that_it_has_no_usage(part: str, tmp_path: Path) -> None:
    trained = ullage("train", part, "-m", "model", "-o", "json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "usage is not learned: trace demo: has no usage of pods" in trained.stderr
    card = json.loads(trained.stdout)
    assert card["models"] == []
    assert card["lifetimes"]["metrics"]["0s"]["all"]["oracle"]["accuracy"] == 1
    judged = ullage("evaluate", part, "-m", "model", "--report", "accuracy.html", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert judged.stdout.startswith("The class of lifetime is right for ")
    assert "at arrival, all" in judged.stdout
    assert '<h2 id="lifetimes">Lifetimes</h2>' in (tmp_path / "accuracy.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "trace info {}.ullage",
        "trace validate {}.ullage",
        "simulate openb:{} -s best-fit",
        "simulate azure-v1-vms:{} -s best-fit",
        "simulate alibaba-dlrm-2025:{} -s best-fit",
        "simulate demo -s {}.toml",
        "simulate demo -s best-fit --prices {}.csv",
        "train {}.ullage -m model",
        "evaluate demo -m {}",
        "plan rescue --snapshot {}.json",
        "plan apply {}.json",
        "plan status --kubeconfig {}",
        "reproduce fgd-atc23 --data {}",
        "reproduce packing --data {}",
        "reproduce priority-matters --seeds-file {}",
        "decisions list --records {}.db",
        "decisions from-log {} t.ullage",
        "bundle {} t.tgz",
        "serve --config {}.yaml",
        "doctor --live --settings {}.yaml",
        "doctor --live --config {} --kubeconfig nothing-there",
    ],
)
def test_an_input_that_is_not_there_is_wrong_usage(words: str, tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text("kind: KubeSchedulerConfiguration")
    name = "nothing.yaml" if "nothing-there" in words else "nothing-there"
    run = ullage(*words.format(name).split(), cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert "nothing-there" in run.stderr
    assert not run.stdout


def test_training_names_what_it_cannot_learn_from(tmp_path: Path) -> None:
    for words, code, says in (
        ("train nowhere -m model", 2, "does not exist"),
        ("train openb:nowhere -m model", 2, "does not exist"),
    ):
        refused = ullage(*words.split(), cwd=tmp_path)
        assert refused.returncode == code
        assert says in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_strategy_given_twice_to_plan_replay_is_one_row(tmp_path: Path) -> None:
    words = "trace synth --days 0.05 --gpu-nodes 1 --small-gpu-nodes 1 --cpu-nodes 1 --no-rules t.ullage"
    assert ullage(*words.split(), cwd=tmp_path).returncode == 0
    words = "plan replay t.ullage -s best-fit -s first-fit -s best-fit --policy none -o json"
    run = ullage(*words.split(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [row["strategy"] for row in json.loads(run.stdout)["rows"]] == ["best-fit", "first-fit"]


def test_interruptions_show_what_they_cost(tmp_path: Path) -> None:
    words = "trace synth --days 0.1 --gpu-nodes 1 --small-gpu-nodes 1 --cpu-nodes 1 --no-rules t.ullage"
    assert ullage(*words.split(), cwd=tmp_path).returncode == 0
    words = "simulate t.ullage -s best-fit --fleet elastic --spot-share 1 --interruptions 0.5 -o csv"
    run = ullage(*words.split(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    names, cells = (line.split(",") for line in run.stdout.splitlines())
    row = dict(zip(names, cells, strict=True))
    assert float(row["evicted"]) > 0
    assert float(row["lost pod-h"]) > 0
    assert (float(row["USD on demand"]), float(row["USD spot"]) > 0) == (0, True)


def test_the_workload_of_a_trace_is_what_serve_reads(tmp_path: Path) -> None:
    words = "trace synth --days 0.05 --gpu-nodes 1 --small-gpu-nodes 1 --cpu-nodes 1 t.ullage"
    assert ullage(*words.split(), cwd=tmp_path).returncode == 0
    assert ullage("trace", "info", "t.ullage", "--workload", "w.json", cwd=tmp_path).returncode == 0
    workload = read_workload(str(tmp_path / "w.json"))
    assert workload.leaving
    assert sum(workload.counts) > len(workload.kinds) > 1
    refused = ullage("trace", "info", "t.ullage", "--workload", "t.ullage/w.json", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("ullage: workload t.ullage/w.json: cannot be written (Not a directory)")


def test_an_azure_window_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "flav_map.txt").write_text("2,4 a\n")
    (tmp_path / "v1.interval_map.txt").write_text("300 1\n")
    (tmp_path / "v1.dev.txt.gz").touch()
    (tmp_path / "v1.dev.c2100000.txt.gz").touch()
    refused = ullage("trace", "info", f"azure-v1-vms:{tmp_path}:v1.prod")
    assert refused.returncode == 2
    assert "windows there: v1.dev" in refused.stderr


def test_every_code_of_trace_validate_is_listed_without_one() -> None:
    listed = ullage("trace", "validate", "explain")
    assert listed.returncode == 0
    assert listed.stdout.startswith("T001  error")
    assert "T020" in listed.stdout


def test_what_comes_next_is_said_and_one_seed_has_no_spread(tmp_path: Path) -> None:
    assert ullage("trace", "slice", "demo", "t.ullage", "--pods", "60", cwd=tmp_path).returncode == 0
    run = ullage("simulate", "t.ullage", "-s", "best-fit", "--log", "log", "-o", "csv", cwd=tmp_path)
    assert "ullage decisions from-log log" in run.stderr
    assert run.stdout.startswith("trace,strategy,GPU %,CPU %,placed,p95 wait s,USD/month\ndemo,best-fit,")
    run = ullage("simulate", "t.ullage", "-s", "best-fit", "--seeds", "2", "-o", "csv", cwd=tmp_path)
    assert run.stdout.splitlines()[0].endswith(",USD/month,sd %")
    run = ullage("decisions", "from-log", "log", "-q", cwd=tmp_path)
    assert run.stderr.endswith(
        "decisions written to records.db; ask about a pod: ullage explain pod/NAME -n NS --records records.db\n"
    )


def test_traces_and_strategies_of_one_name_are_compared_not_averaged(tmp_path: Path) -> None:
    for pods in ("60", "90"):
        assert ullage("trace", "slice", "demo", f"{pods}.ullage", "--pods", pods, cwd=tmp_path).returncode == 0
    changed = ullage("strategies", "show", "best-fit").stdout
    (tmp_path / "mine.toml").write_text(changed)
    words = ("60.ullage", "90.ullage", "-s", "best-fit", "-s", "mine.toml", "-j", "1", "-q", "-o", "json")
    run = ullage("compare", *words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [(line["trace"], line["strategy"], line["sd"]) for line in json.loads(run.stdout)["summary"]] == [
        (f"demo ({pods}.ullage)", name, 0.0) for pods in (60, 90) for name in ("best-fit", "best-fit (mine.toml)")
    ]


def test_every_command_and_option_says_what_it_is_for() -> None:
    silent = []
    for path, command in commands(root, "ullage"):
        if not command.help:
            silent.append(path)
        silent += [f"{path} {p.opts[0]}" for p in command.params if isinstance(p, click.Option) and not p.help]
    assert silent == []


def test_negative_seeds_are_refused_everywhere() -> None:
    seeds = [
        (path, option.type)
        for path, command in commands(root, "ullage")
        for option in command.params
        if option.opts[0] in ("--seed", "--first-seed")
    ]
    assert len(seeds) > 15
    assert [path for path, kind in seeds if not (isinstance(kind, click.IntRange) and kind.min == 0)] == []


def test_a_group_lists_its_commands_in_whole_sentences() -> None:
    for group in ("plan", "trace", "reproduce", "decisions", "shadow"):
        _, _, listed = ullage(group, "--help").stdout.partition("Commands:")
        assert listed, group
        assert "..." not in listed, f"{group}: a line of help is cut short"


@pytest.mark.parametrize(("words", "meant"), [("reproduce forecst", "forecast"), ("plan rescu", "rescue")])
def test_a_misspelt_command_of_a_group_names_the_nearest(words: str, meant: str) -> None:
    run = ullage(*words.split())
    assert run.returncode == 2
    assert run.stderr.count(f"Did you mean '{meant}'?") == 1


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("polars", "sim", "simulate {} -s best-fit"),
        ("ortools", "plan", "simulate {} -s priced"),
        ("polars", "sim", "record x.ullage -p http://localhost:1"),
        ("lightgbm", "learn", "train {} -m m"),
        ("ortools", "plan", "plan rescue {}"),
        ("ortools", "plan", "reproduce priority-matters --seeds-file seeds --seeds 1"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    module: str, extra: str, words: str, part: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    (tmp_path / "seeds").write_text("1\n")
    words = words.format(part)
    run = apart(*words.split(), cwd=tmp_path, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), ROOT])})
    assert run.returncode == 1
    assert module in run.stderr
    assert f"pip install 'ullage[{extra}]'" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_version_is_an_option_as_elsewhere() -> None:
    run = ullage("--version")
    assert run.stdout == f"ullage {metadata.version('ullage')}\n"


def test_a_trace_without_findings_prints_no_data() -> None:
    run = ullage("trace", "validate", "demo")
    assert (run.returncode, run.stdout) == (0, "")
    assert "no findings" in run.stderr
    assert json.loads(ullage("trace", "validate", "demo", "-o", "json").stdout)["findings"] == []


@pytest.mark.parametrize("module", ["scheduler.__main__", "simulator.cli.simulate"])
def test_help_and_completion_wait_for_no_heavy_library(module: str) -> None:
    script = f"import sys, {module}; print([m for m in ('numpy', 'numba', 'polars', 'ortools') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_no_file_takes_the_name_of_the_bundled_trace(tmp_path: Path) -> None:
    run = ullage("trace", "slice", "demo", "demo", "--pods", "5", cwd=tmp_path)
    assert run.returncode == 2
    assert "demo.ullage" in run.stderr
    assert not list(tmp_path.iterdir())


def test_long_work_that_nobody_watches_says_now_and_then_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 10.0, 29.0, 31.0, 40.0, 62.0])
    advance = told_now_and_then("replaying", lambda: next(seconds))
    for done in range(1, 6):
        advance(done, 1500)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.split("\n") == ["     31 s  replaying: 3 of 1,500", "     62 s  replaying: 5 of 1,500", ""]


def test_the_last_column_goes_on_below_itself_where_the_terminal_ends() -> None:
    rows = [{"name": "a", "share": "1,277", "words": "one two three four five six seven"}]
    rows += [{"name": "b", "share": "9.5", "words": ""}]
    assert table(rows, 40).splitlines() == [
        "NAME  SHARE  WORDS",
        "a     1,277  one two three four five six",
        "             seven",
        "b       9.5",
    ]
    assert len(table(rows, 33).splitlines()) == len(table(rows).splitlines()) == 3


def test_describe_shows_weights_that_a_person_can_read_and_keeps_the_exact_ones_in_json() -> None:
    assert "+640Mi × atc23-fgd" in ullage("strategies", "describe", "priced").stdout
    found = json.loads(ullage("strategies", "describe", "priced", "-o", "json").stdout)
    assert found["kind"] == "Strategy"
    (term,) = (term for term in found["terms"] if term["scorer"] == "atc23-fgd")
    assert (term["weight"], term["when"]) == (671_088_640, "once pods have been seen to leave")
    assert [readable_weight(weight) for weight in (1, -200, 0, 1 << 20, -(3 << 30))] == [
        *("+1", "-200", "+0", "+1Mi", "-3,072Mi"),
    ]


@pytest.mark.parametrize(
    ("strategy", "read"),
    [("ullage", "prices, predicted use, lifetimes"), ("koordinator", "predicted use"), ("best-fit", "")],
)
def test_describe_says_what_learned_things_a_strategy_reads(strategy: str, read: str) -> None:
    _, _, said = ullage("strategies", "describe", strategy).stdout.partition("reads what was learned: ")
    assert said.partition("\n")[0] == read


def test_help_loads_nothing_that_takes_long() -> None:
    modules = sorted({module for module, _ in COMMANDS.values()} - {"simulator.cli.reproduce", "simulator.cli.trace"})
    code = f"import sys; [__import__(m) for m in {[*modules, 'scheduler.cli.plan']}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(modules) <= set(loaded)
    assert not set(loaded) & {"numba", "polars", "pyarrow", "ortools", "lightgbm", "aiohttp", "grpc", "rich.console"}


def test_what_is_asked_for_twice_counts_once(tmp_path: Path) -> None:
    words = "trace synth --days 0.05 --gpu-nodes 1 --small-gpu-nodes 1 --cpu-nodes 1 --no-rules t.ullage"
    assert ullage(*words.split(), cwd=tmp_path).returncode == 0
    words = "compare t.ullage -s best-fit -s best-fit --delivery decide --delivery decide --cache= -j 1 -q -o csv"
    run = ullage(*words.split(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [line.split(",")[1] for line in run.stdout.splitlines()[1:]] == ["best-fit"]


def test_memory_that_runs_out_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(**_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(main_module.root, "main", exhausted)
    run = ullage("version")
    assert (run.returncode, "memory ran out" in run.stderr) == (1, True)


def test_names_that_are_no_text_end_nothing(tmp_path: Path) -> None:
    words = "trace synth --days 0.05 --gpu-nodes 1 --small-gpu-nodes 1 --cpu-nodes 1 --no-rules t.ullage"
    assert ullage(*words.split(), cwd=tmp_path).returncode == 0
    os.rename(tmp_path / "t.ullage", os.fsencode(tmp_path) + b"/t\xff.ullage")
    words = "-s best-fit -q --report r.html -o json"
    run = apart("simulate", "t\udcff.ullage", *words.split(), cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0, run.stderr
    assert "t\\udcff.ullage" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert json.loads(run.stdout)["kind"] == "Comparison"


def test_few_rows_that_are_too_wide_stand_one_below_the_other() -> None:
    rows = [{"trace": "demo", "usd a month": 6005.71}, {"trace": "other", "usd a month": 1.0}]
    assert table(rows, 11).splitlines() == [
        "TRACE        demo",
        "USD A MONTH  6,005.71",
        "",
        "TRACE        other",
        "USD A MONTH  1.00",
    ]
    assert len(table(rows).splitlines()) == 3, "not on a terminal: the same everywhere"
    assert len(table(rows * 3, 11).splitlines()) == 7


def test_a_report_that_cannot_be_is_refused_before_the_replay(tmp_path: Path) -> None:
    run = ullage("plan", "rescue", "nowhere.ullage", "--report", "/proc/x/r.html", cwd=tmp_path)
    assert (run.returncode, "no file can be made in /proc" in run.stderr) == (1, True)
    run = ullage("plan", "rescue", "nowhere.ullage", "--report", str(tmp_path), cwd=tmp_path)
    assert (run.returncode, "is a directory" in run.stderr) == (2, True)
