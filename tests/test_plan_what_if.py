"""Pods that manifests would make wait in the snapshot as the API server would make them; what else is in a file is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from placement.planning.snapshots import SnapshotFile, snapshot_of_objects
from placement.pods import PodSpec
from simulator.cli.plan import plan
from simulator.planning.manifests import with_manifests
from simulator.planning.snapshots import write_snapshot

POD = {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}
NODE = {
    "kind": "Node",
    "metadata": {"name": "n"},
    "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"}},
}
RUNNING = {
    "kind": "Pod",
    "metadata": {"name": "there", "uid": "u"},
    "spec": {**POD, "nodeName": "n"},
    "status": {"phase": "Running"},
}


@pytest.fixture
def cluster() -> SnapshotFile:
    return snapshot_of_objects(json.dumps({"items": [NODE, RUNNING]}).encode())


def controller(kind: str, *, name: str = "web", version: str = "apps/v1", pod: object = POD, **spec: object) -> dict:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": {**spec, "template": template}}


def read(cluster: SnapshotFile, *documents: object) -> tuple[list[str], list[PodSpec], str]:
    """Names and classes of the pods that are new, and what is said of the file."""
    data = "\n---\n".join(map(json.dumps, documents)).encode()
    found, notes = with_manifests(cluster, [("m.yaml", data)])
    assert found.pods[: len(cluster.pods)] == cluster.pods
    assert len(set(found.specs)) == len(found.specs)
    new = found.pods[len(cluster.pods) :]
    assert len({pod.uid for pod in found.pods}) == len(found.pods)
    assert not any(pod.node for pod in new)
    return [pod.name for pod in new], [found.specs[pod.spec] for pod in new], notes[0]


def test_a_controller_makes_its_replicas(cluster: SnapshotFile) -> None:
    names, specs, note = read(cluster, controller("Deployment", replicas=3))
    assert names == ["shop/web-0", "shop/web-1", "shop/web-2"]
    assert {(s.namespace, s.owner, s.labels, dict(s.request)["cpu"]) for s in specs} == {
        ("shop", "Deployment/web", (("app", "web"),), 1000)
    }
    assert note == "m.yaml: 3 pods count as waiting"


@pytest.mark.parametrize(
    ("document", "number"),
    [
        (controller("StatefulSet"), 1),
        (controller("ReplicaSet", replicas=2), 2),
        (controller("ReplicationController", version="v1", replicas=2), 2),
        (controller("Job", version="batch/v1"), 1),
        (controller("Job", version="batch/v1", parallelism=4), 4),
        (controller("Job", version="batch/v1", parallelism=4, completions=3), 3),
        (controller("Job", version="batch/v1", completions=9), 1),
    ],
)
def test_how_many_pods_are_there_at_a_time(cluster: SnapshotFile, document: dict, number: int) -> None:
    assert len(read(cluster, document)[0]) == number


def test_a_cron_job_counts_as_one_run(cluster: SnapshotFile) -> None:
    job = controller("Job", version="batch/v1", parallelism=2)
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly", "namespace": "jobs"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job["spec"]}},
    }
    names, specs, _ = read(cluster, cron)
    assert names == ["jobs/nightly-0", "jobs/nightly-1"]
    assert {s.owner for s in specs} == {"Job/nightly"}


def test_lists_and_several_documents(cluster: SnapshotFile) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}, "spec": POD}
    listed = {"apiVersion": "v1", "kind": "List", "items": [pod, controller("Deployment")]}
    assert read(cluster, listed, controller("Job", version="batch/v1", name="train"))[0] == [
        "default/alone",
        "shop/web-0",
        "shop/train-0",
    ]


def test_what_is_only_limited_is_asked_for(cluster: SnapshotFile) -> None:
    main = {"name": "main", "resources": {"limits": {"cpu": "2", "memory": "3Gi"}, "requests": {"cpu": "500m"}}}
    _, (spec,), _ = read(cluster, controller("Deployment", pod={"containers": [main]}))
    assert dict(spec.request) == {"cpu": 500, "memory": 3 * 2**30}


def test_priority_classes(cluster: SnapshotFile) -> None:
    high = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}
    usual = {"kind": "PriorityClass", "metadata": {"name": "usual"}, "value": 3, "globalDefault": True}
    by_name = controller("Deployment", pod={**POD, "priorityClassName": "high"})
    system = controller("Deployment", name="dns", pod={**POD, "priorityClassName": "system-cluster-critical"})
    _, specs, _ = read(cluster, by_name, system, controller("Deployment", name="any"), high, usual)
    assert [(s.priority, s.preempts) for s in specs] == [(7, False), (2_000_000_000, True), (3, True)]
    for known in ([], [usual]):
        with pytest.raises(ConfigError, match=r"m.yaml: web has the priority class high, which the file does not hold"):
            read(cluster, by_name, *known)


def test_a_gang_waits_for_as_many_as_its_group_asks_for(cluster: SnapshotFile) -> None:
    meta = {"name": "a", "labels": {"scheduling.x-k8s.io/pod-group": "train"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": POD}
    group = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "metadata": {"name": "train"}}
    for least, is_whole in ((2, False), (1, True)):
        document = {**group, "spec": {"minMember": least}}
        found, _ = with_manifests(cluster, [("m", "\n---\n".join(map(json.dumps, (pod, document))).encode())])
        assert (found.pods[-1].waits == "") == is_whole


def test_what_makes_no_pods_that_wait_is_told(cluster: SnapshotFile) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    placed = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {**POD, "nodeName": "n"}}
    names, _, note = read(cluster, service, service, placed, controller("DaemonSet"), controller("Deployment"))
    assert names == ["shop/web-0"]
    assert note == "m.yaml: 1 pods count as waiting; not counted: 1 DaemonSet, 1 Pod with a nodeName, 2 Service"


def test_no_files_change_nothing(cluster: SnapshotFile) -> None:
    assert with_manifests(cluster, []) == (cluster, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m: makes no pod that waits .it is empty."),
        ("a: [", "m: no YAML .line [12]:"),
        (b"\xff\xfe\x00", "m: no YAML"),
        ("just words", "m: 'just words' is no object"),
        ("{apiVersion: v1, kind: List, items: [3]}", "m: 3 is no object"),
        ("{kind: Service}", "m: makes no pod that waits .1 Service."),
        ("{kind: Deployment}", r"m: makes no pod that waits .1 Deployment of no apiVersion .not apps/v1"),
        ("{kind: CronJob, apiVersion: batch/v1beta1}", r".1 CronJob of batch/v1beta1 .not batch/v1"),
        ("{apiVersion: v1, kind: List, items: 3}", "m: makes no pod that waits .1 List."),
        (controller("Deployment", replicas=0), "makes no pod that waits"),
        (controller("Deployment", replicas="many"), r"m: Deployment web: Expected `int.*spec.replicas"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {labels: {port: 80}}}",
            "got `int` - .*metadata.labels.*; put it in quotes",
        ),
        (controller("Deployment", replicas=-1), "Deployment web: -1 pods; give 0 to 100000"),
        (controller("Deployment", replicas=10**12), "pods; give 0 to 100000"),
        ({**controller("Deployment"), "metadata": 3}, "m: Deployment without a name: Expected `object`"),
        (controller("Job", version="batch/v1", pod=[]), "m: Job web: Expected `object`"),
        (
            controller("Deployment", pod={"containers": [{"resources": {"requests": {"cpu": "lots"}}}]}),
            "shop/web-0.*lots",
        ),
    ],
)
def test_bad_files_are_refused_by_name(cluster: SnapshotFile, text: object, message: str) -> None:
    data = text if isinstance(text, bytes) else (text if isinstance(text, str) else json.dumps(text)).encode()
    with pytest.raises(ConfigError, match=message):
        with_manifests(cluster, [("m", data)])


def test_one_object_twice_is_refused_in_one_file_and_in_two(cluster: SnapshotFile) -> None:
    web = controller("Deployment")
    with pytest.raises(ConfigError, match=r"m.yaml: Deployment shop/web is in m.yaml already; leave one out"):
        read(cluster, web, web)
    with pytest.raises(ConfigError, match=r"b: Deployment shop/web is in a already; leave one out"):
        with_manifests(cluster, [(name, json.dumps(web).encode()) for name in "ab"])


def test_controllers_of_different_kinds_may_have_one_name(cluster: SnapshotFile) -> None:
    job = controller("Job", version="batch/v1")
    names, specs, _ = read(cluster, controller("Deployment"), controller("StatefulSet"), job)
    assert names == ["shop/web-0"] * 3
    assert {spec.owner for spec in specs} == {"Deployment/web", "StatefulSet/web", "Job/web"}


@pytest.mark.parametrize("when", ["2024-01-01", "12:30:00", "12:30:00.5"])
def test_dates_and_times_are_text_as_they_are_to_kubectl(cluster: SnapshotFile, when: str) -> None:
    meta = f"{{name: p, labels: {{since: {when}}}, creationTimestamp: 2024-01-01T00:00:00Z}}"
    pod = f"{{apiVersion: v1, kind: Pod, metadata: {meta}, spec: {{priority: 7}}}}"
    found, _ = with_manifests(cluster, [("m", pod.encode())])
    spec = found.specs[found.pods[-1].spec]
    assert (spec.labels, spec.priority) == ((("since", when),), 7)


def test_each_plan_counts_them_and_says_so(cluster: SnapshotFile, tmp_path: Path) -> None:
    write_snapshot(cluster, tmp_path / "c.json")
    manifest = tmp_path / "m.yaml"
    manifest.write_text(json.dumps(controller("Deployment", replicas=2)))
    given = ["--snapshot", str(tmp_path / "c.json"), "--time", "1", "--with", str(manifest)]
    for kind, placed in (("batch", 2), ("rescue", 2), ("purchase", 0)):
        result = CliRunner().invoke(plan, [kind, *given, "-o", "json"])
        assert result.exit_code == 0, result.stderr
        made = json.loads(result.stdout)
        assert [step["name"] for step in made["steps"]] == ["shop/web-0", "shop/web-1"][:placed]
        assert f"{manifest}: 2 pods count as waiting" in made["reasons"]


def test_a_manifest_from_standard_input(cluster: SnapshotFile, tmp_path: Path) -> None:
    write_snapshot(cluster, tmp_path / "c.json")
    given = ["batch", "--snapshot", str(tmp_path / "c.json"), "--time", "1", "--with", "-"]
    result = CliRunner().invoke(plan, given, input=json.dumps(controller("Job", version="batch/v1")))
    assert "- standard input: 1 pods count as waiting" in result.stdout
    assert "plan again without --with" in result.stderr
    missing = CliRunner().invoke(plan, [*given[:-1], str(tmp_path / "none.yaml")])
    assert "manifest" in str(missing.exception)
    assert "cannot be read (No such file" in str(missing.exception)
