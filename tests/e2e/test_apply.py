"""``ullage plan apply`` on a real control plane: evictions through the API, replacements where planned, and every stop.

There is no controller manager and no kubelet here; :class:`StandIn` plays the two parts of them that matter: it creates
pods anew for an owner that has lost some, says that bound pods run, and counts disruption budgets. Everything that is
tested is real: API server, Eviction API, scheduler, and the command as a user runs it, with the rights of its component.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from placement.planning.make import plan_document
from placement.planning.plans import Action, Ending, Plan, Step
from placement.planning.snapshots import SnapshotFile
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.evictions import CORDON_ANNOTATION
from scheduler.gates import GATE
from simulator.planning.manifests import with_manifests
from simulator.planning.snapshots import read_snapshot
from tests.e2e.control_plane import REPO, VERSION, ControlPlane, Ullage
from tests.e2e.drive import PATIENCE, Cluster, cluster_of, node_json, pod_json
from tests.e2e.drive import PODS as PATH
from tests.e2e.test_nominate import GIB, node

BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
ABANDONED_S = 10
"""For how long an evicted pod that nobody deletes counts as down; the disruption controller waits 120 s.

An Eviction whose client is killed meanwhile is counted in the budget, and its pod may stay."""
pytestmark = pytest.mark.timeout(900)


class StandIn:
    """Replica sets (name → desired pods), the kubelets' word that pods run, and disruption budgets."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.sets: dict[str, tuple[int, Callable[[str], dict[str, Any]]]] = {}
        self.budgets: dict[str, int] = {}
        """Replica set → how many pods may be down at once; budgets exist for these only."""
        self.fewest: dict[str, int] = {}
        """Replica set → the fewest live pods seen since it was complete."""
        self._numbers = itertools.count()
        self._running: set[str] = set()
        self._evicted: dict[str, float] = {}
        """Pod → when it was first seen to be evicted."""

    def members(self, name: str) -> list[dict[str, Any]]:
        """Its live pods."""
        return [
            pod
            for pod in self.cluster.pods.values()
            if (pod["metadata"].get("labels") or {}).get("app") == name and not pod["metadata"].get("deletionTimestamp")
        ]

    async def follow(self) -> None:
        """Play the part for ever."""
        while True:
            await asyncio.sleep(0.05)
            for name, (wanted, make) in self.sets.items():
                for _ in range(wanted - len(self.members(name))):
                    await self.cluster.call("POST", PATH, make(f"{name}-{next(self._numbers)}"))
            await self._run_pods()
            for name, most_down in self.budgets.items():
                await self._count(name, most_down)

    async def _run_pods(self) -> None:
        for pod in list(self.cluster.pods.values()):
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if pod["spec"].get("nodeName") and uid not in self._running:
                ready = [{"type": "Ready", "status": "True"}]
                body = {"metadata": {"uid": uid}, "status": {"phase": "Running", "conditions": ready}}
                with contextlib.suppress(RuntimeError):  # deleted meanwhile
                    await patch(self.cluster, f"{PATH}/{name}/status", body)
                self._running.add(uid)

    async def _count(self, name: str, most_down: int) -> None:
        """As the disruption controller does: evicted pods that are not gone yet are down, and an update is sent only if
        something changed. One every moment would collide with evictions, which then wait half a second each time."""
        budget = await self.cluster.call("GET", f"{BUDGETS}/{name}")
        wanted, old = self.sets[name][0], budget.get("status") or {}
        members = self.members(name)
        names = {pod["metadata"]["name"] for pod in members}
        now = time.monotonic()
        leaving = {
            pod: since
            for pod, since in (old.get("disruptedPods") or {}).items()
            if pod in names and now - self._evicted.setdefault(pod, now) < ABANDONED_S
        }
        up = [p for p in members if p["metadata"]["uid"] in self._running and p["metadata"]["name"] not in leaving]
        healthy = len(up)
        self.fewest[name] = min(self.fewest.get(name, wanted), healthy) if healthy or name in self.fewest else wanted
        budget["status"] = old | {
            "observedGeneration": budget["metadata"]["generation"],
            "disruptionsAllowed": max(0, healthy - (wanted - most_down)),
            "currentHealthy": healthy,
            "desiredHealthy": wanted - most_down,
            "expectedPods": wanted,
            "disruptedPods": leaving,
        }
        if budget["status"] == old | {"disruptedPods": old.get("disruptedPods") or {}}:
            return
        with contextlib.suppress(RuntimeError):  # an eviction came between: counted next time
            await self.cluster.call("PUT", f"{BUDGETS}/{name}/status", budget)


async def patch(cluster: Cluster, path: str, body: dict[str, Any]) -> None:
    """A merge patch."""
    headers = {"Content-Type": "application/merge-patch+json", "Authorization": "Bearer admin-token"}
    async with cluster.session.request("PATCH", cluster.base + path, data=json.dumps(body), headers=headers) as answer:
        if answer.status >= 300:
            raise RuntimeError(f"PATCH {path}: {answer.status} {await answer.text()}")


def template(app: str, cores: float, *, gated: bool = True, **meta: Any) -> Callable[[str], dict[str, Any]]:
    """Pods of one replica set, behind our gate as the admission policy would put them."""

    def make(name: str) -> dict[str, Any]:
        body = pod_json(name, PodSpec(((CPU, int(cores * 1000)), (MEMORY, GIB))))
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": f"uid-{app}", "controller": True}
        labels = {"app": app, "pod-template-hash": "5f4d"}
        body["metadata"] |= {"ownerReferences": [owner], "labels": labels} | meta
        if gated:
            body["spec"]["schedulingGates"] = [{"name": GATE}]
        return body

    return make


class Here:
    """A cluster with its stand-in, and the command line of whoever may apply plans."""

    def __init__(self, plane: ControlPlane, cluster: Cluster, standin: StandIn, folder: Path) -> None:
        self.plane, self.cluster, self.standin, self.folder = plane, cluster, standin, folder
        text = (REPO / "manifests" / "kustomize" / "components" / "plan-apply" / "rbac.yaml").read_text()
        for document in yaml.safe_load_all(text):
            kind = document["kind"]
            base = (
                "/apis/rbac.authorization.k8s.io/v1"
                if kind.startswith("Cluster")
                else "/api/v1/namespaces/ullage-system"
            )
            plane.call("POST", f"{base}/{kind.lower()}s", document)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        path = "/api/v1/namespaces/ullage-system/serviceaccounts/ullage-plan-apply/token"
        self.config = str(plane.kubeconfig("apply", plane.call("POST", path, request)["status"]["token"]))
        self.path = folder / "plan.json"
        self.playing: asyncio.Task[None] | None = None
        """The stand-in at work."""

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "scheduler", *words, "--kubeconfig", self.config]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=200 * PATIENCE)

    async def plan(self, kind: str, *words: str) -> dict[str, Any]:
        """Plan the live cluster into ``plan.json``."""
        done = await asyncio.to_thread(self.run, "plan", kind, "--live", "--time", "2", "-o", "json", *words)
        assert done.returncode == 0, done.stderr
        self.path.write_text(done.stdout)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    async def apply(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Apply it; what is reported."""
        done = await asyncio.to_thread(self.run, "plan", "apply", str(self.path), "-o", "json", *words)
        assert done.returncode == code, done.stderr + done.stdout
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    async def seen(self, process: subprocess.Popen[bytes], what: Callable[[dict[str, Any]], bool], why: str) -> None:
        """Until the record of a plan that is applied says so; fails with everything that is known if it does not."""
        end = time.monotonic() + 60 * PATIENCE
        while not (self.folder / "plan.json.record.json").exists() or not what(self.record()):
            if self.playing is not None and self.playing.done():
                self.playing.result()
            if process.poll() is not None:
                raise AssertionError(f"it ends only when it is told to: {process.communicate()[1]!r}")
            if time.monotonic() > end:
                process.kill()
                said, record = process.communicate()[1], (self.folder / "plan.json.record.json")
                known = record.read_text() if record.exists() else "no record"
                raise AssertionError(f"not seen: {why}; {self.cluster.summary()}; it said {said!r}; {known}")
            await asyncio.sleep(0.02)

    def record(self) -> dict[str, Any]:
        """What is on disk."""
        found: dict[str, Any] = json.loads((self.folder / "plan.json.record.json").read_text())
        return found

    async def nodes(self) -> dict[str, dict[str, Any]]:
        return {n["metadata"]["name"]: n for n in (await self.cluster.call("GET", "/api/v1/nodes"))["items"]}

    async def cordoned(self) -> set[str]:
        return {name for name, n in (await self.nodes()).items() if n["spec"].get("unschedulable")}

    async def place(self, app: str, make: Callable[[str], dict[str, Any]], homes: list[str]) -> None:
        """Pods of a replica set, bound to these nodes; from now on it is kept complete."""
        for i, home in enumerate(homes):
            body = make(f"{app}-first-{i}")
            body["spec"].pop("schedulingGates", None)
            body["spec"]["nodeName"] = home
            await self.cluster.call("POST", PATH, body)
        await self.cluster.until(lambda: len(self.standin.members(app)) == len(homes), 20, "the pods are seen")
        self.standin.sets[app] = (len(homes), make)
        phase = lambda pod: pod.get("status", {}).get("phase")  # noqa: E731  # one expression
        await self.cluster.until(
            lambda: all(phase(p) == "Running" for p in self.standin.members(app)), 20, "the pods are said to run"
        )

    def nothing_is_lost(self) -> None:
        """Every replica set is complete and bound, nothing is held, no node was ever overfull."""
        for app, (wanted, _) in self.standin.sets.items():
            assert len(self.standin.members(app)) == wanted, app
        for name, pod in self.cluster.pods.items():
            assert pod["spec"].get("nodeName"), f"{name} is not bound"
            assert not pod["spec"].get("schedulingGates"), f"{name} is gated"
            nominated = pod["status"].get("nominatedNodeName")
            assert not nominated or VERSION < (1, 35), f"{name} is still nominated"  # binding clears it since 1.35
        assert not self.cluster.wrongs

    def settled(self) -> bool:
        sets = self.standin.sets.items()
        return all(len(self.standin.members(app)) == wanted for app, (wanted, _) in sets) and self.cluster.all_bound()


@asynccontextmanager
async def here(plane: ControlPlane, folder: Path, nodes: int = 4, cores: int = 8) -> AsyncIterator[Here]:
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(node(f"n{i}", cores) for i in range(nodes))
        standin = StandIn(cluster)
        found = Here(plane, cluster, standin, folder)
        task = found.playing = asyncio.create_task(standin.follow())
        try:
            yield found
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task  # a defect of the stand-in is a failure of the test


async def budget(here: Here, app: str, most_down: int) -> None:
    spec = {"selector": {"matchLabels": {"app": app}}, "maxUnavailable": most_down}
    await here.cluster.call("POST", BUDGETS, {"metadata": {"name": app}, "spec": spec})
    here.standin.budgets[app] = most_down
    for _ in range(100):
        if (await here.cluster.call("GET", f"{BUDGETS}/{app}"))["status"].get("expectedPods"):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the budget is never counted")


def as_planned(report: dict[str, Any]) -> None:
    assert report["outcome"] == "done", report["reason"]
    assert all(step["actual"] == step["planned"] for step in report["steps"] if step["planned"])


def test_a_consolidation_is_applied_interrupted_killed_and_resumed_and_nothing_is_lost(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async def run() -> None:
        async with here(plane, tmp_path) as h:
            await h.place("web", template("web", 1), [f"n{i % 4}" for i in range(12)])
            await budget(h, "web", 1)
            plane.start_scheduler([])
            before = {name: pod["metadata"]["uid"] for name, pod in h.cluster.pods.items()}
            plan = await h.plan("consolidate")
            moves = sum(step["action"] == "move" for step in plan["steps"])
            assert moves >= 3, plan
            dry = await h.apply()
            assert dry["evictions"] == 0, "dry is the default"
            assert {name: pod["metadata"]["uid"] for name, pod in h.cluster.pods.items()} == before
            assert not await h.cordoned()
            # at first it is killed as soon as it has evicted once, then interrupted after one more
            for number, evictions in ((signal.SIGKILL, 1), (signal.SIGINT, 2)):
                process = subprocess.Popen(h.command("plan", "apply", str(h.path), "--yes"), stderr=subprocess.PIPE)
                await h.seen(process, lambda record, n=evictions: record["evictions"] >= n, "it evicts")
                process.send_signal(number)
                await asyncio.to_thread(process.communicate)
                assert process.returncode == (-number if number == signal.SIGKILL else 130)
                assert h.record()["outcome"] == "running"
            report = await h.apply("--yes")
            as_planned(report)
            assert report["evictions"] == moves, "nothing was evicted twice"
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()
            emptied = {step["source"] for step in plan["steps"] if step["action"] == "delete"}
            assert await h.cordoned() == emptied
            assert all(h.cluster.node_of(name) not in emptied for name in h.cluster.pods)
            assert h.standin.fewest["web"] >= 11, "the budget held at every moment"
            assert (await h.apply("--yes"))["outcome"] == "done", "once more does nothing"
            print(json.dumps({"moves": moves, "emptied": sorted(emptied), "evictions": report["evictions"]}))

    asyncio.run(run())


def test_a_budget_that_refuses_is_waited_for_and_at_last_stops_the_plan(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path) as h:
            await h.place("db", template("db", 1), ["n0", "n1", "n2", "n3"])
            await budget(h, "db", 1)
            plane.start_scheduler([])
            await h.plan("consolidate")
            h.standin.budgets["db"] = 0
            await asyncio.sleep(0.5)
            before = {pod["metadata"]["uid"] for pod in h.cluster.pods.values()}
            report = await h.apply("--yes", "--refusal-deadline", "2", code=1)
            assert report["outcome"] == "stopped"
            assert "the cluster is no longer the one" in report["reason"], "a budget of none is seen before the start"
            (h.folder / "plan.json.record.json").unlink()
            h.standin.budgets["db"] = 1
            await asyncio.sleep(0.5)
            applying = asyncio.create_task(h.apply("--yes", "--refusal-deadline", "3", code=1))
            await h.cluster.until(
                lambda: {p["metadata"]["uid"] for p in h.cluster.pods.values()} != before, 60, "one goes"
            )
            h.standin.budgets["db"] = 0
            report = await applying
            assert "a disruption budget refused" in report["reason"]
            assert report["evictions"] == 2, "one was done, one was refused"
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()
            emptied = {
                s["what"].split()[2] for s in report["steps"] if s["what"].startswith("see") and s["state"] == "done"
            }
            assert await h.cordoned() == emptied, "only what was emptied stays closed"
            assert (await h.apply("--yes", code=1))["outcome"] == "stopped", "a plan that was stopped stays so"

    asyncio.run(run())


def test_it_stops_when_reality_leaves_the_plan_and_gives_back_what_it_held(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path) as h:
            await h.place("web", template("web", 2), ["n0", "n0", "n1", "n1", "n2", "n3"])
            plane.start_scheduler([])
            plan = await h.plan("consolidate")
            last = [step for step in plan["steps"] if step["action"] == "move"][-1]
            applying = asyncio.create_task(h.apply("--yes", code=1))
            await h.cluster.until(
                lambda: any(not p["metadata"]["name"].startswith("web-first") for p in h.cluster.pods.values()),
                60,
                "begun",
            )
            left = 8000 - 2000 * len(_pods_on(h, last["target"])) - 100
            await h.cluster.call("POST", PATH, pod_json("thief", PodSpec(((CPU, left), (MEMORY, GIB))), last["target"]))
            report = await applying
            assert report["outcome"] == "stopped"
            assert "more load than planned" in report["reason"] or "went to" in report["reason"], report["reason"]
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.cluster.wrongs.clear()  # the thief was put there past the scheduler
            h.nothing_is_lost()
            emptied = {
                s["what"].split()[2] for s in report["steps"] if s["what"].startswith("see") and s["state"] == "done"
            }
            assert await h.cordoned() == emptied

    asyncio.run(run())


def test_an_abandoned_plan_opens_what_it_closed(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path) as h:
            await h.place("web", template("web", 1), [f"n{i % 4}" for i in range(8)])
            plane.start_scheduler([])
            await patch(h.cluster, "/api/v1/nodes/n3", {"spec": {"unschedulable": True}})
            await h.plan("consolidate")
            stopped = await h.apply("--yes", "--max-evictions", "1", code=1)
            assert stopped["evictions"] == 1
            assert "budget of 1 evictions" in stopped["reason"]
            assert await h.cordoned() <= {"n3", *(n for n, v in (await h.nodes()).items() if not _pods_on(h, n))}
            assert CORDON_ANNOTATION not in (await h.nodes())["n3"]["metadata"].get("annotations", {})
            # a second plan, killed after its first cordon, then given up
            (h.folder / "plan.json.record.json").unlink()
            await h.cluster.until(h.settled, 30, "all pods are bound")
            await h.plan("consolidate")
            process = subprocess.Popen(h.command("plan", "apply", str(h.path), "--yes"), stderr=subprocess.PIPE)
            await h.seen(process, lambda record: bool(record["cordoned"]), "it cordons")
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.communicate)
            assert (await h.apply("--abandon"))["outcome"] == "abandoned"
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()
            for name, found in (await h.nodes()).items():
                marked = CORDON_ANNOTATION in found["metadata"].get("annotations", {})
                assert not marked or not _pods_on(h, name), f"{name} is closed though it is not empty"

    asyncio.run(run())


def _pods_on(h: Here, node_name: str) -> list[str]:
    return [name for name in h.cluster.pods if h.cluster.node_of(name) == node_name]


def test_a_rescue_moves_what_is_in_the_way_and_places_the_pending_pod(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path, nodes=2, cores=4) as h:
            await h.place("x", template("x", 2), ["n0"])
            await h.place("z", template("z", 1), ["n0"])
            await h.place("y", template("y", 3), ["n1"])
            plane.start_scheduler([])
            kept = template("w", 2, gated=False)
            h.standin.sets["w"] = (1, kept)
            await h.cluster.until(lambda: any(h.cluster.is_rejected(n) for n in h.cluster.pods), 30, "w does not fit")
            plan = await h.plan("rescue")
            assert [step["action"] for step in plan["steps"]] == ["move", "place"]
            as_planned(await h.apply("--yes"))
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()

    asyncio.run(run())


def _write(h: Here, *steps: tuple[Action, str, str, str]) -> None:
    """A plan of (action, app of its only pod, source, target)."""
    pods = {pod["metadata"]["labels"]["app"]: pod["metadata"] for pod in h.cluster.pods.values()}
    made = tuple(
        Step(action, pods[app]["uid"], f"default/{pods[app]['name']}", source, target)
        for action, app, source, target in steps
    )
    h.path.write_text(json.dumps(plan_document(Plan("rescue", Ending.DEADLINE, "pods placed", 1, 1, made))))


def test_who_was_evicted_to_break_a_circle_goes_once_its_place_is_free(plane: ControlPlane, tmp_path: Path) -> None:
    """There is room elsewhere all the time: kube-scheduler takes it where the nominated node is still full."""

    async def run() -> None:
        async with here(plane, tmp_path, nodes=3, cores=4) as h:
            await h.place("x", template("x", 3), ["n0"])
            await h.place("y", template("y", 3), ["n1"])
            plane.start_scheduler([])
            _write(h, (Action.EVICT, "x", "n0", ""), (Action.MOVE, "y", "n1", "n0"), (Action.PLACE, "x", "", "n1"))
            as_planned(await h.apply("--yes"))
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()

    asyncio.run(run())


def test_a_place_is_held_for_a_pending_pod_beside_others_that_come_to_that_node(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async def run() -> None:
        async with here(plane, tmp_path, nodes=3, cores=6) as h:
            for app, cores, home in (("x", 3, "n0"), ("v", 2, "n0"), ("y", 3, "n1"), ("z", 1, "n2"), ("u", 4, "n2")):
                await h.place(app, template(app, cores), [home])
            plane.start_scheduler([])
            h.standin.sets["w"] = (1, template("w", 5, gated=False))
            await h.cluster.until(lambda: any(h.cluster.is_rejected(n) for n in h.cluster.pods), 30, "w does not fit")
            moves = (Action.MOVE, "x", "n0", "n1"), (Action.MOVE, "z", "n2", "n0"), (Action.MOVE, "v", "n0", "n2")
            _write(h, *moves, (Action.PLACE, "w", "", "n0"))
            as_planned(await h.apply("--yes"))
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()

    asyncio.run(run())


def test_a_gang_moves_in_one_step_also_where_it_is_interrupted(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path) as h:
            labels = {"app": "g", "pod-template-hash": "5f4d", "scheduling.x-k8s.io/pod-group": "g"}
            await h.place("g", template("g", 1, labels=labels), ["n0", "n1", "n2"])
            await h.place("web", template("web", 1), ["n3", "n3"])
            await budget(h, "g", 3)
            plane.start_scheduler([])
            plan = await h.plan("consolidate")
            moves = [number for number, step in enumerate(plan["steps"]) if step.get("gang") == "default/g"]
            assert moves == list(range(moves[0], moves[0] + 3)), plan["steps"]
            process = subprocess.Popen(h.command("plan", "apply", str(h.path), "--yes"), stderr=subprocess.PIPE)
            await h.seen(process, lambda record: record["evictions"] > 0, "the gang leaves")
            process.send_signal(signal.SIGINT)
            await asyncio.to_thread(process.communicate)
            assert process.returncode == 130
            record = h.record()
            assert (record["outcome"], record["evictions"]) == ("running", 3)
            assert {record["steps"][number]["state"] for number in moves} <= {"evicted", "done"}, "all have left"
            report = await h.apply("--yes")
            as_planned(report)
            assert report["evictions"] == 3
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()
            assert {h.cluster.node_of(pod["metadata"]["name"]) for pod in h.standin.members("g")} == {"n3"}

    asyncio.run(run())


def test_replacements_without_a_gate_are_steered_by_the_extender(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with here(plane, tmp_path, nodes=5) as h:
            await h.place("web", template("web", 1, gated=False), [f"n{i % 5}" for i in range(10)])
            ullage = Ullage(plane, strategy="worst-fit")
            ullage.start()
            plane.start_scheduler(ullage.stanzas())
            plan = await h.plan("consolidate")
            assert sum(step["action"] == "move" for step in plan["steps"]) >= 2
            as_planned(await h.apply("--yes"))
            await h.cluster.until(h.settled, 30, "all pods are bound")
            h.nothing_is_lost()
            await h.cluster.ledger_agrees(ullage)

    asyncio.run(run())


def test_the_pods_of_a_manifest_count_as_the_api_server_makes_them(plane: ControlPlane, tmp_path: Path) -> None:
    """Every default that decides where a pod goes: requests by limits, priority classes, what rules leave out."""
    plane.call("POST", "/api/v1/nodes", node_json(node("n0")))
    for name, value, policy in (("high", 7, "Never"), ("usual", 3, None)):
        kind = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
        }
        kind |= {"preemptionPolicy": policy} if policy else {"globalDefault": True}
        plane.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", kind)
    both = {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "3Gi"}}
    port = {"containerPort": 80, "hostPort": 80}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "a"}}}
    wishes = {
        "priorityClassName": "high",
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
            | {"labelSelector": {"matchLabels": {"app": "a"}}}
        ],
        "tolerations": [{"key": "k", "operator": "Exists"}],
    }
    bodies = [
        {"containers": [{"name": "c", "image": "x", "resources": both, "ports": [port]}], **wishes},
        {
            "containers": [{"name": "c", "image": "x:1", "resources": {"limits": {"cpu": "300m"}}}],
            "initContainers": [{"name": "i", "image": "y", "resources": {"limits": {"memory": "1Gi"}}}],
        },
        {"containers": [{"name": "c", "image": "x"}], "priorityClassName": "system-cluster-critical"},
    ]
    manifests = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{i}", "labels": {"app": "a"}}, "spec": body}
        for i, body in enumerate(bodies)
    ]
    classes = plane.call("GET", "/apis/scheduling.k8s.io/v1/priorityclasses")["items"]
    classes = [{"kind": "PriorityClass", **found} for found in classes]
    text = "\n---\n".join(map(json.dumps, [*manifests, *classes])).encode()
    told, _ = with_manifests(_snapshot(plane, tmp_path), [("m.yaml", text)])
    for manifest in manifests:
        plane.call("POST", PATH, manifest)
    made = _snapshot(plane, tmp_path)
    assert len(made.pods) == len(bodies)
    assert _classes(told) == _classes(made)


def _snapshot(plane: ControlPlane, folder: Path) -> SnapshotFile:
    """As ``ullage snapshot --live`` takes it."""
    config, path = plane.kubeconfig("admin", "admin-token"), folder / "cluster.json"
    command = [sys.executable, "-m", "scheduler", "snapshot", "--live", "--kubeconfig", str(config), "-f", str(path)]
    subprocess.run(command, cwd=REPO, check=True, timeout=PATIENCE)
    return read_snapshot(path)


def _classes(snapshot: SnapshotFile) -> dict[str, PodSpec]:
    """By pod, without the tolerations of nodes in trouble that the API server gives to everybody."""
    found = {}
    for pod in snapshot.pods:
        spec = snapshot.specs[pod.spec]
        own = tuple(t for t in spec.node_rules.tolerations if not t.key.startswith("node.kubernetes.io/"))
        found[pod.name] = replace(spec, node_rules=replace(spec.node_rules, tolerations=own))
    return found
