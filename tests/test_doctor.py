"""Each rule of the doctor, both ways: silent on the good facts, loud on the same facts with one thing wrong."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from placement.errors import ConfigError
from scheduler.cli.doctor import doctor
from scheduler.doctor.doctor import RULES, examine, explain, rule_named, rules_markdown
from scheduler.doctor.facts import duration_s, parse_version, read_facts
from scheduler.doctor.live import endpoint
from scheduler.rights import OPTIONAL, RIGHTS
from tests.api_server import kubeconfig

REPO = Path(__file__).resolve().parent.parent
GUARD = REPO / "manifests" / "kustomize" / "base" / "devices-policy.yaml"


class World:
    """Good facts that a test may spoil: one configuration, our settings, manifests, a version."""

    def __init__(self) -> None:
        tls = {"caFile": "/tls/ca.crt", "certFile": "/tls/tls.crt", "keyFile": "/tls/tls.key"}
        common = {"enableHTTPS": True, "tlsConfig": tls, "httpTimeout": "300ms", "nodeCacheCapable": True}
        url = "https://ullage.ullage-system.svc:8443"
        self.all: dict[str, Any] = {
            "urlPrefix": f"{url}/v1",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "preemptVerb": "preempt",
            "weight": 5,
            "ignorable": True,
            **copy.deepcopy(common),
        }
        self.gpu: dict[str, Any] = {
            "urlPrefix": f"{url}/v1/gpu",
            "filterVerb": "filter",
            "bindVerb": "bind",
            "ignorable": False,
            "managedResources": [{"name": "ullage.dev/gpu-milli"}],
            **copy.deepcopy(common),
        }
        self.config: dict[str, Any] = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "percentageOfNodesToScore": 100,
            "leaderElection": {"resourceName": "ullage-scheduler"},
            "profiles": [{"schedulerName": "ullage-scheduler"}],
            "extenders": [self.all, self.gpu],
        }
        self.settings: dict[str, Any] = {
            "exempt_namespaces": ["ullage-system"],
            "http": {"tls_cert": "/t/tls.crt", "tls_key": "/t/tls.key", "client_ca": "/t/ca.crt", "health_port": 8081},
            "lease": {"enabled": True},
        }
        self.ours = _workload("ullage", "ullage:0.1.0", args=["serve"])
        self.scheduler = _workload("scheduler", "registry.k8s.io/kube-scheduler:v1.36.3")
        self.role: dict[str, Any] = {
            "kind": "ClusterRole",
            "metadata": {"name": "ullage"},
            "rules": [{"apiGroups": [r.group], "resources": [r.resource], "verbs": list(r.verbs)} for r in RIGHTS],
        }
        self.binding = {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "ullage"},
            "roleRef": {"kind": "ClusterRole", "name": "ullage"},
            "subjects": [{"kind": "ServiceAccount", "name": "ullage"}],
        }
        self.extra: list[dict[str, Any]] = list(yaml.safe_load_all(GUARD.read_text()))
        self.version = "1.36"

    def codes(self, folder: Path) -> set[str]:
        """Codes that the doctor finds, through files as a user would give them."""
        manifests = [self.config, self.ours, self.scheduler, self.role, self.binding, *self.extra]
        (folder / "all.yaml").write_text(yaml.safe_dump_all(manifests))
        (folder / "settings.yaml").write_text(yaml.safe_dump(self.settings))
        facts = read_facts(str(folder / "all.yaml"), str(folder / "settings.yaml"), self.version)
        return {finding.code for finding in examine(facts)}


def _workload(name: str, image: str, args: list[str] | None = None) -> dict[str, Any]:
    container = {
        "name": name,
        "image": image,
        "args": args or [],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}},
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"serviceAccountName": name, "priorityClassName": "system-cluster-critical", "containers": [container]}
    metadata = {"name": name}
    spec = {"replicas": 2, "template": {"spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def _policy(patch_type: str) -> dict[str, Any]:
    gates = '[JSONPatch{op: "add", path: "/spec/schedulingGates", value: [Object.spec.schedulingGates{name: "g"}]}]'
    mutations = [{"patchType": patch_type, "jsonPatch": {"expression": gates}}]
    return {"kind": "MutatingAdmissionPolicy", "metadata": {"name": "gate"}, "spec": {"mutations": mutations}}


def _set(table: Callable[[World], dict[str, Any]], **values: Any) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        table(world).update(values)

    return spoil


def _drop(table: Callable[[World], dict[str, Any]], key: str) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        del table(world)[key]

    return spoil


def _both(*spoils: Callable[[World], None]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        for one in spoils:
            one(world)

    return spoil


def _default_profile(world: World) -> None:
    world.config["profiles"] = []


def _host_network(world: World) -> None:
    _pod(world.scheduler)["hostNetwork"] = True


def _proxied(world: World) -> None:
    _pod(world.scheduler)["containers"][0]["env"] = [{"name": "https_proxy", "value": "http://proxy:3128"}]


def _two_profiles(*shares: int) -> Callable[[World], None]:
    """Profiles that say each for itself how many nodes are looked at; the last says nothing where one is missing."""

    def spoil(world: World) -> None:
        del world.config["percentageOfNodesToScore"]
        world.config["profiles"] = [{"schedulerName": "a"}, {"schedulerName": "b"}]
        for profile, share in zip(world.config["profiles"], shares, strict=False):
            profile["percentageOfNodesToScore"] = share

    return spoil


def _second_gpu_entry(world: World) -> None:
    world.config["extenders"].append({**world.gpu, "bindVerb": "", "urlPrefix": "https://other.ns.svc/x"})


def _later_filter(world: World) -> None:
    other = {**world.all, "urlPrefix": "https://other.ns.svc/x"}
    world.config["extenders"].append(other)


def _widen(world: World) -> None:
    world.role["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})


def _shorten(world: World) -> None:
    del world.role["rules"][0]


def _all(w: World) -> dict[str, Any]:
    return w.all


def _gpu(w: World) -> dict[str, Any]:
    return w.gpu


def _tls(w: World) -> dict[str, Any]:
    table: dict[str, Any] = w.all["tlsConfig"]
    return table


def _http(w: World) -> dict[str, Any]:
    table: dict[str, Any] = w.settings["http"]
    return table


SPOILS: list[tuple[str, Callable[[World], None]]] = [
    ("UD101", _set(lambda w: w.config, apiVersion="kubescheduler.config.k8s.io/v1beta3")),
    ("UD102", _set(_all, nodeCacheCapble=True)),
    ("UD102", _set(_tls, caFiel="x")),
    ("UD103", _set(_all, nodeCacheCapable=False)),
    ("UD103", _drop(_all, "nodeCacheCapable")),
    ("UD104", _drop(_tls, "caFile")),
    ("UD104", _set(_tls, insecure=True)),
    ("UD105 UD106", _set(_all, urlPrefix="http://ullage.ullage-system.svc:8443/v1")),
    ("UD105 UD130 UD207", _both(_set(_all, enableHTTPS=False), _drop(_all, "tlsConfig"))),
    ("UD106 UD105", _set(_all, urlPrefix="http://ullage.ullage-system.svc:8443/v1")),
    ("UD107", _set(_all, urlPrefix="ullage.ullage-system.svc:8443/v1")),
    ("UD107", _drop(_all, "urlPrefix")),
    ("UD108", _set(_all, urlPrefix="https://ullage.ullage-system.svc:8443")),
    ("UD109", _set(_all, filterVerb="filters")),
    ("UD110", _set(_all, ignorable=False)),
    ("UD110", _drop(_all, "ignorable")),
    ("UD111", _set(_gpu, ignorable=True)),
    ("UD112", _drop(_gpu, "bindVerb")),
    ("UD113", _set(_gpu, managedResources=[{"name": "ullage.dev/gpu-milli", "ignoredByScheduler": True}])),
    ("UD114", _drop(_all, "httpTimeout")),
    ("UD114", _set(_all, httpTimeout="0s")),
    ("UD115", _set(_all, httpTimeout="1m")),
    ("UD115", _set(_all, httpTimeout="300")),
    ("UD116", _set(_all, weight=0)),
    ("UD116", _set(_all, weight="5")),
    ("UD117", _drop(_all, "prioritizeVerb")),
    ("UD118", _set(_all, weight=1000)),
    ("UD119", _drop(lambda w: w.config, "percentageOfNodesToScore")),
    ("UD119", _set(lambda w: w.config, percentageOfNodesToScore=101)),
    ("UD120 UD121", _set(_all, bindVerb="bind")),
    ("UD121 UD120", _set(_all, bindVerb="bind")),
    ("UD122", _set(_gpu, managedResources=[{"name": "cpu"}])),
    ("UD122", _set(_gpu, managedResources=[{"name": "kubernetes.io/thing"}])),
    ("UD123 UD112 UD131", _second_gpu_entry),
    ("UD124", _drop(lambda w: w.config, "leaderElection")),
    ("UD125", _default_profile),
    ("UD126", lambda w: setattr(w, "version", "1.28")),
    ("UD127 UD111 UD126", _both(_set(_gpu, ignorable=True), lambda w: setattr(w, "version", "1.29"))),
    ("UD128", _set(_all, urlPrefix="https://10.0.0.7:8443/v1")),
    ("UD129", _drop(_tls, "keyFile")),
    ("UD130 UD207", _both(_drop(_tls, "keyFile"), _drop(_tls, "certFile"))),
    ("UD131", _later_filter),
    ("UD132", _drop(lambda w: w.config, "extenders")),
    ("UD132", _set(lambda w: w.config, extenders="https://ullage.ullage-system.svc:8443/v1")),
    ("UD201", _set(_http, deadline_ms=290)),
    ("UD202 UD125", _both(_default_profile, _set(lambda w: w.settings, exempt_namespaces=[]))),
    ("UD203", _both(_set(_http, tls_cert="", tls_key="", client_ca=""))),
    ("UD204", _set(_http, client_ca="")),
    ("UD205", _set(_http, health_port=0)),
    ("UD206", _set(_http, idle_timeout_s=60)),
    ("UD207 UD130", _both(_drop(_tls, "keyFile"), _drop(_tls, "certFile"))),
    ("UD208", _set(lambda w: w.settings, mode="decice")),
    ("UD209", _set(lambda w: w.settings, grpc={"port": 9443, "host": "0.0.0.0"})),
    ("UD209", _set(lambda w: w.settings, grpc={"port": 9443, "host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"})),
    ("UD210 UD301", _both(_set(lambda w: w.settings, plan={"enabled": True}), lambda w: setattr(w, "version", "1.34"))),
    ("UD211", _both(_set(lambda w: w.settings, strategy="kube-default"), lambda w: setattr(w, "version", "1.35"))),
    ("UD211", _set(lambda w: w.settings, fallback_strategy="kube-default-1.35")),
    ("UD212", _set(lambda w: w.settings, strategy="predicted", usage={"model": "/models/m"})),
    ("UD212", _set(lambda w: w.settings, strategy="emptying", usage={"model": "rule:max7d"})),
    ("UD212", _set(lambda w: w.settings, strategy="emptying", usage={"model": "/models/m"}, lifetimes_every_s=0)),
    ("UD212", _set(lambda w: w.settings, strategy="coach-6x4h", usage={"model": "m", "prometheus": "http://p"})),
    ("UD212", _set(lambda w: w.settings, usage={"siblings": True})),
    ("UD301", _shorten),
    ("UD302", _widen),
    ("UD303", _host_network),
    ("UD304", _proxied),
    ("UD305", _set(lambda w: w.settings["lease"], enabled=False)),
    ("UD306", lambda w: _pod(w.ours).pop("priorityClassName")),
    ("UD307", lambda w: _pod(w.ours).update(schedulerName="ullage-scheduler")),
    ("UD308", lambda w: _pod(w.ours)["containers"][0].pop("readinessProbe")),
    ("UD309", lambda w: _pod(w.ours)["containers"][0]["securityContext"].pop("capabilities")),
    ("UD310", lambda w: w.extra.append(_policy("JSONPatch"))),
    ("UD312", lambda w: w.extra.clear()),
    ("UD312", lambda w: w.extra.remove(w.extra[1])),
    ("UD312", lambda w: w.extra[1]["spec"].update(validationActions=["Audit"])),
    ("UD312", lambda w: w.extra[1]["spec"].update(policyName="another")),
    ("UD311", _both(lambda w: w.extra.append(_policy("ApplyConfiguration")), lambda w: setattr(w, "version", "1.35"))),
    ("UD101", _set(lambda w: w.config, apiVersion="kubescheduler.config.k8s.io/v1", kind="Policy")),
    ("UD105 UD106", _set(_all, urlPrefix="http://128.0.0.1:8443/v1")),
    ("UD109", _both(*(_drop(_all, verb) for verb in ("filterVerb", "prioritizeVerb", "preemptVerb", "weight")))),
    ("UD112", _drop(_gpu, "filterVerb")),
    ("UD115 UD201", _set(_all, httpTimeout="99ms")),
    ("UD115", _set(_all, httpTimeout="2001ms")),
    ("UD116", _set(_all, weight=True)),
    ("UD118", _set(_all, weight=101)),
    ("UD119", _set(lambda w: w.config, percentageOfNodesToScore=-1)),
    ("UD119", _set(lambda w: w.config, percentageOfNodesToScore=True)),
    ("UD119", _two_profiles(100)),
    ("UD119", _two_profiles(100, 101)),
    ("UD122", _set(_gpu, managedResources=[{"name": "requests.ullage.dev/gpu-milli"}])),
    ("UD124", _set(lambda w: w.config, leaderElection={"leaderElect": True})),
    ("UD126", lambda w: setattr(w, "version", "1.38")),
    ("UD126", lambda w: setattr(w, "version", "1.33")),
    ("UD111 UD126", _both(_set(_gpu, ignorable=True), lambda w: setattr(w, "version", "1.30"))),
    ("UD129 UD130 UD207", _drop(_tls, "certFile")),
    ("UD201", _set(_http, deadline_ms=226)),
    ("UD206", _set(_http, idle_timeout_s=90)),
    ("UD209", _set(lambda w: w.settings, grpc={"port": 9443, "host": "0.0.0.0", "client_ca": "c"})),
    ("UD211", _set(lambda w: w.settings, strategy="kube-default-1.35")),
    ("UD309", lambda w: _pod(w.ours)["containers"][0]["securityContext"].update(runAsNonRoot=False)),
    ("UD309", lambda w: _pod(w.ours)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem")),
    ("UD309", lambda w: _pod(w.ours)["containers"][0]["securityContext"].pop("allowPrivilegeEscalation")),
    ("UD309", lambda w: _pod(w.ours)["containers"][0]["securityContext"].pop("seccompProfile")),
]
"""Every code that a change to the good world brings, the meant one first."""


def _by_data(world: World) -> None:
    for table in (world.all, world.gpu):
        table["tlsConfig"] = {"caData": "Y2E=", "certData": "Y2VydA==", "keyData": "a2V5"}


def _other_filters_first(world: World) -> None:
    other = {**world.all, "urlPrefix": "https://other.ns.svc/x", "filterVerb": "check", "prioritizeVerb": "rank"}
    world.config["extenders"].insert(0, other)


def _loopback(host: str) -> Callable[[World], None]:
    return _set(_all, urlPrefix=f"http://{host}:8443/v1", enableHTTPS=False)


def _grant_everything(world: World) -> None:
    world.role["rules"] = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


def _role_of_another(world: World) -> None:
    role = {**world.role, "metadata": {"name": "other"}, "rules": [{"apiGroups": [""], "resources": ["secrets"]}]}
    subjects = [{"kind": "ServiceAccount", "name": "other"}]
    binding = {**world.binding, "metadata": {"name": "other"}, "subjects": subjects}
    world.extra += [role, {**binding, "roleRef": {"kind": "ClusterRole", "name": "other"}}]


def _two_bindings(world: World) -> None:
    """Half of the rights by a role of the namespace."""
    kept, moved = world.role["rules"][1:], world.role["rules"][:1]
    world.role["rules"] = kept
    role = {"kind": "Role", "metadata": {"name": "ullage"}, "rules": moved}
    world.extra += [role, {**world.binding, "kind": "RoleBinding", "roleRef": {"kind": "Role", "name": "ullage"}}]


def _secured_as_a_pod(world: World) -> None:
    own = _pod(world.ours)["containers"][0]["securityContext"]
    _pod(world.ours)["securityContext"] = {key: own.pop(key) for key in ("runAsNonRoot", "seccompProfile")}


def _beside(**extra: Any) -> Callable[[World], None]:
    """A container of another program in our pod."""

    def spoil(world: World) -> None:
        ours = _pod(world.ours)["containers"]
        ours.append({"name": "other", "image": "other:1", "securityContext": ours[0]["securityContext"], **extra})

    return spoil


def _static_pod(world: World) -> None:
    pod = {**_pod(world.scheduler), "hostNetwork": True}
    world.scheduler = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube-scheduler"}, "spec": pod}


SPOILS += [
    ("UD302", _grant_everything),
    ("UD303", _static_pod),
    ("UD309", _beside(securityContext={})),
]


NEARLY: list[Callable[[World], None]] = [
    _role_of_another,
    _two_bindings,
    _secured_as_a_pod,
    _beside(),
    _both(_proxied, lambda w: _pod(w.scheduler)["containers"][0]["env"].append({"name": "no_proxy", "value": ".svc"})),
    lambda w: setattr(w, "version", "1.34"),
    lambda w: setattr(w, "version", "1.35"),
    _both(lambda w: setattr(w, "version", "1.35"), _set(lambda w: w.settings, strategy="kube-default-1.35")),
    _set(lambda w: w.settings, strategy="kube-default"),
    _by_data,
    _other_filters_first,
    _loopback("127.0.0.1"),
    _loopback("localhost"),
    _loopback("[::1]"),
    _set(_all, urlPrefix="https://ullage.ullage-system.svc:8443/v1/"),
    _both(_set(_all, urlPrefix="https://10.0.0.7:8443/v1"), _set(_tls, serverName="ullage.ullage-system.svc")),
    _both(_set(_all, httpTimeout="100ms"), _set(_http, deadline_ms=75)),
    _set(_all, httpTimeout="2s"),
    _set(_all, weight=1),
    _set(_all, weight=100),
    _both(_drop(_all, "prioritizeVerb"), _drop(_all, "weight")),
    _set(lambda w: w.config, percentageOfNodesToScore=0),
    _set(lambda w: w.config, leaderElection={"leaderElect": False}),
    _two_profiles(100, 30),
    _set(_http, deadline_ms=225),
    _set(_http, idle_timeout_s=91),
    _set(_http, host="127.0.0.1", tls_cert="", tls_key="", client_ca=""),
    _set(
        lambda w: w.settings, grpc={"port": 9443, "host": "0.0.0.0", "tls_cert": "c", "tls_key": "k", "client_ca": "a"}
    ),
    _both(_set(lambda w: w.settings["lease"], enabled=False), lambda w: w.ours["spec"].update(replicas=1)),
    lambda w: _pod(w.ours).update(schedulerName="default-scheduler"),
    lambda w: _pod(w.ours).update(schedulerName="another"),
    _both(
        _host_network,
        lambda w: w.config.update(extenders=[w.all]),
        _set(_all, urlPrefix="https://ullage.example.com/v1"),
    ),
]
"""What is next to a trap and is none."""


def test_nothing_is_found_in_a_good_world(tmp_path: Path) -> None:
    assert World().codes(tmp_path) == set()


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "predicted", "usage": {"model": "/models/m", "prometheus": "http://p"}},
        {"strategy": "emptying", "usage": {"model": "/models/m"}},
        {"strategy": "predicted", "usage": {"model": "/models/m"}, "grpc": {"port": 9443, "host": "127.0.0.1"}},
    ],
)
def test_a_model_that_is_asked_is_no_trap(settings: dict[str, object], tmp_path: Path) -> None:
    world = World()
    world.settings.update(settings)
    assert "UD212" not in world.codes(tmp_path)


@pytest.mark.parametrize(("codes", "spoil"), SPOILS, ids=[f"{c}-{i}" for i, (c, _) in enumerate(SPOILS)])
def test_each_rule_sees_its_trap_and_the_others_do_not(
    codes: str, spoil: Callable[[World], None], tmp_path: Path
) -> None:
    world = World()
    spoil(world)
    assert world.codes(tmp_path) == set(codes.split())


@pytest.mark.parametrize("change", NEARLY)
def test_what_is_next_to_a_trap_is_none(change: Callable[[World], None], tmp_path: Path) -> None:
    world = World()
    change(world)
    assert world.codes(tmp_path) == set()


def test_every_offline_rule_is_spoiled_here_and_codes_are_unique() -> None:
    assert {rule.code for rule in RULES if rule.check} == {codes.split()[0] for codes, _ in SPOILS}
    assert len({rule.code for rule in RULES}) == len(RULES) >= 20


@pytest.mark.parametrize("mended", ["hostDNS", "noProxy", "names", "default", "loopback"])
def test_what_looks_like_a_trap_but_is_none_passes(mended: str, tmp_path: Path) -> None:
    world = World()
    if mended == "hostDNS":
        _host_network(world)
        _pod(world.scheduler)["dnsPolicy"] = "ClusterFirstWithHostNet"
    elif mended == "noProxy":
        _proxied(world)
        _pod(world.scheduler)["containers"][0]["env"].append({"name": "NO_PROXY", "value": ".svc,10.0.0.0/8"})
    elif mended == "names":
        _later_filter(world)
        world.settings["name_losers"] = True
    elif mended == "loopback":
        world.settings["grpc"] = {"port": 9443, "host": "127.0.0.1"}
    else:
        _default_profile(world)
        world.version = "1.34"
    assert world.codes(tmp_path) == set()


@pytest.mark.parametrize("code", [rule.code for rule in RULES])
def test_explain_says_why_and_what_to_do(code: str) -> None:
    rule = rule_named(code.lower())
    text = explain(rule)
    assert rule.why in text
    assert rule.fix in text


def test_odd_shapes_are_findings_or_errors_never_tracebacks(tmp_path: Path) -> None:
    world = World()
    world.config["extenders"] = [None, 5, {"tlsConfig": [], "managedResources": "x", "urlPrefix": "https://[::1"}]
    assert "UD107" in world.codes(tmp_path)
    for text in ("\t{", "just a word", ""):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ConfigError):
            read_facts(str(tmp_path / "odd.yaml"))


def test_a_configuration_inside_a_config_map_is_found_with_its_path(tmp_path: Path) -> None:
    world = World()
    world.all["weight"] = -1
    config_map = {
        "kind": "ConfigMap",
        "metadata": {"name": "scheduler"},
        "data": {"config.yaml": yaml.safe_dump(world.config), "ullage.yaml": yaml.safe_dump(world.settings)},
    }
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(config_map))
    facts = read_facts(str(tmp_path / "map.yaml"))
    assert facts.settings is not None
    assert [f.path for f in examine(facts)] == ["ConfigMap/scheduler.config.yaml:extenders[0].weight"]


def test_durations_are_go_durations() -> None:
    assert [duration_s(t) for t in ("300ms", "1m30s", "1.5s", 0)] == [0.3, 90, 1.5, 0]
    assert [duration_s(t) for t in ("300", "5 s", None, 5, "")] == [None] * 5


def test_versions_are_read_from_many_spellings() -> None:
    assert {parse_version(t) for t in ("1.36", "v1.36.3", "1.36+")} == {(1, 36)}
    with pytest.raises(ConfigError, match=r"like 1\.36"):
        parse_version("newest")


def test_the_command_exits_1_on_findings_and_0_without(tmp_path: Path) -> None:
    world = World()
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(world.config))
    for output in ("table", "markdown"):
        clean = CliRunner().invoke(doctor, ["--config", str(path), "-o", output])
        assert clean.exit_code == 0
        assert clean.stdout.startswith("No findings (2 extender entries, 0 manifests")
        assert not clean.stderr
    world.all["ignorable"] = False
    path.write_text(yaml.safe_dump(world.config))
    result = CliRunner().invoke(doctor, ["--config", str(path), "-o", "json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [set(f) for f in report["findings"]] == [{"code", "severity", "path", "message", "fix"}]
    assert report["findings"][0]["code"] == "UD110"
    assert report["findings"][0]["path"] == "extenders[0].ignorable"


def test_who_gives_a_file_without_the_configuration_hears_what_was_not_examined(tmp_path: Path) -> None:
    path = tmp_path / "kube-scheduler.yaml"
    path.write_text("kind: Pod\nmetadata: {name: kube-scheduler}\n")
    result = CliRunner().invoke(doctor, ["--config", str(path)])
    assert result.stdout.startswith("No findings (0 extender entries, 1 manifest;")
    assert "holds no KubeSchedulerConfiguration, so how kube-scheduler calls Ullage is not examined" in result.stderr


def test_findings_are_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    world = World()
    world.all["nodeCacheCapable"] = False
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(world.config))
    narrow = {"COLUMNS": "60", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    shown = re.sub(
        r"\x1b\[[0-9;]*m", "", CliRunner().invoke(doctor, ["--config", str(path)], env=narrow, color=True).stdout
    )
    *findings, _, _ = shown.splitlines()
    assert "UD103  error  extenders[0].nodeCacheCapable" in findings
    assert max(map(len, findings)) <= 60


def test_a_folder_of_manifests_is_told_to_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: is a folder; render it first"):
        read_facts(str(tmp_path))


def test_live_alone_looks_at_the_api_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor, ["--live", "--kubeconfig", kubeconfig(1, tmp_path), "-o", "json"])
    assert result.exit_code == 1
    assert [finding["code"] for finding in json.loads(result.stdout)["findings"]] == ["UD413"]
    assert result.stderr.startswith("note: without --config only")
    assert CliRunner().invoke(doctor, []).exception.__class__ is ConfigError


def test_a_folder_that_lacks_certificates_is_told_before_the_walk(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    result = CliRunner().invoke(doctor, ["--config", "x", "--live", "--certificates", str(tmp_path)])
    assert str(result.exception) == f"--certificates {tmp_path}: holds no tls.crt; give the folder of all three"


@pytest.mark.parametrize("address", ["localhost", ":8443", "localhost:port", "localhost:99999", "::1"])
def test_an_address_without_host_or_port_is_told_before_the_walk(address: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        CliRunner().invoke(doctor, ["--live", "--address", address], catch_exceptions=False)


def test_an_address_may_be_of_ipv6() -> None:
    assert endpoint("[::1]:8443") == ("::1", 8443)


def test_a_file_that_is_no_yaml_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.yaml"
    path.write_text("kind: [Pod")
    with pytest.raises(ConfigError) as found:
        read_facts(str(path))
    assert str(found.value).startswith(f"{path}: is not YAML: line 1: expected")
    assert "\n" not in str(found.value)


def test_fail_on_sets_the_mildest_severity_that_counts(tmp_path: Path) -> None:
    world = World()
    del world.config["percentageOfNodesToScore"]
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(world.config))
    assert CliRunner().invoke(doctor, ["--config", str(path)]).exit_code == 1
    assert CliRunner().invoke(doctor, ["--config", str(path), "--fail-on", "error"]).exit_code == 0


@pytest.mark.parametrize("output", ["table", "yaml", "markdown"])
def test_every_format_names_code_and_place(output: str, tmp_path: Path) -> None:
    world = World()
    world.all["ignorable"] = False
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(world.config))
    text = CliRunner().invoke(doctor, ["--config", str(path), "-o", output]).stdout
    assert "UD110" in text
    assert "extenders[0].ignorable" in text


def test_the_table_in_the_documents_is_the_table_in_the_code() -> None:
    text = (REPO / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert rules_markdown() in text, "run `ullage doctor explain -o markdown` and put its table into docs/doctor.md"


@pytest.mark.parametrize(("key", "value"), [("plan.enabled", True), ("plan.applies", True), ("reclaim.mode", "on")])
def test_rights_follow_what_the_settings_ask_for(key: str, value: object, tmp_path: Path) -> None:
    world = World()
    world.role["rules"] += [
        {"apiGroups": [r.group], "resources": [r.resource], "verbs": list(r.verbs)} for r in OPTIONAL[key]
    ]
    assert "UD302" in world.codes(tmp_path), "granted, and nobody asked"
    section, _, name = key.partition(".")
    world.settings[section] = {name: value}
    assert not {"UD301", "UD302"} & world.codes(tmp_path)
    world.role["rules"].pop()
    assert "UD301" in world.codes(tmp_path)
