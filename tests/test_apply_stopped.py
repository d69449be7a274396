"""``ullage plan apply`` as a process that is told to end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from placement.planning.make import plan_document
from placement.planning.plans import Action, Ending, Plan, Step
from scheduler.__main__ import root
from scheduler.cli.plan import apply
from scheduler.planning.record import PlanRecord, PlanState, State, fresh_record, save_record
from tests.api_server import kubeconfig
from tests.test_applier import cluster, copies

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_told_to_end_it_says_how_far_it_is_and_the_same_command_goes_on(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        (tmp_path / "plan.json").write_text(json.dumps(plan_document(plan)))
        words = (
            "plan",
            "apply",
            str(tmp_path / "plan.json"),
            "--yes",
            "--kubeconfig",
            kubeconfig(here.api.port, tmp_path),
        )
        here.scheduled = lambda _nominated: ""  # the first replacement waits

        async def begun() -> asyncio.subprocess.Process:
            pipe = asyncio.subprocess.PIPE
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scheduler", *words, stdout=pipe, stderr=pipe
            )

        process = await begun()
        assert process.stderr is not None
        while b"is evicted" not in await process.stderr.readline():
            assert process.returncode is None
        process.send_signal(number)
        _, said = await process.communicate()
        record = msgspec.json.decode((tmp_path / "plan.json.record.json").read_bytes(), type=PlanRecord)
        assert (process.returncode, record.outcome) == (code, PlanState.RUNNING), said
        done = sum(step.state == State.DONE for step in record.steps)
        assert f"{done} of {len(plan.steps)} steps done" in said.decode()
        assert "the same command goes on, --abandon gives it up" in said.decode()
        assert b"Traceback" not in said
        here.scheduled = lambda nominated: nominated
        process = await begun()
        out, said = await process.communicate()
        assert process.returncode == 0, said
        assert f"done: {len(plan.steps)} of {len(plan.steps)} steps done" in out.decode()
        here.nothing_is_held()


def test_a_plan_that_has_ended_says_so_last_and_promises_no_way_on(tmp_path: Path) -> None:
    steps = (Step(Action.CORDON, source="a"), Step(Action.DELETE, source="a"))
    plan = Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, steps)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_document(plan)))
    record = fresh_record(plan)
    record.outcome, record.reason = PlanState.STOPPED, "node a is gone"
    save_record(record, path.with_name("plan.json.record.json"))
    said = CliRunner().invoke(apply, [str(path)])
    assert said.exit_code == 1
    assert said.stdout.splitlines()[-1] == "stopped: 0 of 2 steps done, 0 pods evicted; node a is gone"
    assert "plan again on the cluster as it is now" in said.stderr
    assert "goes on" not in said.stderr
    path.write_text(json.dumps(plan_document(replace(plan, steps=steps[:1]))))
    other = CliRunner().invoke(root, ["plan", "apply", str(path)])
    assert "; stopped); give another --record" in str(other.exception)
