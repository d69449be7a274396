"""What the manifests promise, checked on what kustomize and helm really render.

Both tools are built from Go modules by the end-to-end tests; where neither their cache nor PATH has them, the
rendering tests are skipped, visibly (``make e2e`` never skips them). The rest reads the files as they are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from placement.gangs import KINDS, Groups
from placement.resources import DEVICES_ANNOTATION
from placement.state import ClusterState
from scheduler.cli.decisions import decisions
from scheduler.cli.doctor import doctor
from scheduler.cli.shadow import shadow
from scheduler.doctor.doctor import examine
from scheduler.doctor.facts import Facts, containers, pod_spec, read_facts
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.modes import Modes
from scheduler.rights import APPLIES, GRANTS, OPTIONAL, RIGHTS, what_to_do
from scheduler.settings import OLD_VIEW_S, parse_settings
from scheduler.view import Reader, group_sinks, sinks
from tests.e2e.renderers import folder

REPO = Path(__file__).resolve().parent.parent
KUSTOMIZE = REPO / "manifests" / "kustomize"
CHART = REPO / "manifests" / "chart"
OVERLAYS = ("self-signed", "cert-manager", "default-scheduler", "node-pool")
CHART_VALUES = {
    "second": (),
    "default": ("scheduler.enabled=false",),
    "cert-manager": (
        "certificates.mode=cert-manager",
        "scheduler.nodePool.enabled=true",
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "grafanaDashboard.enabled=true",
    ),
    "plan": (
        "plan.enabled=true",
        "plan.apply=true",
        "reclaim.enabled=true",
        "settings.reclaim.mode=on",
        "gpuShares.enabled=true",
        "rightsize.enabled=true",
    ),
    "existing": ("certificates.mode=existing", "certificates.serverSecret=a", "certificates.clientSecret=b"),
}


COMPONENTS = {
    "dashboard": ("grafanaDashboard.enabled=true",),
    "expander": ("expander.enabled=true", "expander.prices=name\\,usd_per_hour"),
    "gpu-shares": ("gpuShares.enabled=true",),
    "monitoring": ("serviceMonitor.enabled=true", "prometheusRule.enabled=true"),
    "plan": ("plan.enabled=true",),
    "plan-apply": ("plan.apply=true",),
    "prometheus": ("networkPolicy.apiServerPorts={443,6443,9090}",),
    "reclaim": ("reclaim.enabled=true",),
    "rightsize": ("rightsize.enabled=true",),
}
"""Component of kustomize → values of the chart that do the same."""
SHARED = {
    "ClusterRole": "rules",
    "ClusterRoleBinding": "subjects",
    "MutatingAdmissionPolicy": "spec",
    "MutatingAdmissionPolicyBinding": "spec",
    "PrometheusRule": "spec",
    "ValidatingAdmissionPolicy": "spec",
    "ValidatingAdmissionPolicyBinding": "spec",
}
"""Kind → what is the same to the letter in both installs; other objects carry labels of the release, or values."""
FIRST_VALUES = """
nameOverride fullnameOverride image.repository image.tag image.digest image.pullPolicy imagePullSecrets replicas
mode strategy exemptNamespaces settings scheduler.enabled scheduler.name scheduler.replicas
scheduler.image.repository scheduler.image.tag scheduler.image.digest scheduler.image.pullPolicy
scheduler.percentageOfNodesToScore scheduler.weight scheduler.httpTimeout scheduler.gpu.enabled
scheduler.gpu.httpTimeout scheduler.nodePool.enabled scheduler.nodePool.key scheduler.nodePool.value
scheduler.qps scheduler.burst scheduler.extraArgs scheduler.resources.requests.cpu
scheduler.resources.requests.memory scheduler.resources.limits.memory certificates.mode certificates.days
certificates.serverSecret certificates.clientSecret serviceAccount.annotations rbac.create service.port
healthPort adminPort resources.requests.cpu resources.requests.memory resources.limits.memory
storage.volume.emptyDir.sizeLimit priorityClassName podAnnotations podLabels podSecurityContext.runAsNonRoot
podSecurityContext.runAsUser podSecurityContext.runAsGroup podSecurityContext.fsGroup
podSecurityContext.seccompProfile.type securityContext.runAsNonRoot securityContext.allowPrivilegeEscalation
securityContext.readOnlyRootFilesystem securityContext.capabilities.drop securityContext.seccompProfile.type
nodeSelector tolerations affinity topologySpreadConstraints extraArgs extraEnv networkPolicy.enabled
networkPolicy.apiServerPorts podDisruptionBudget.enabled serviceMonitor.enabled serviceMonitor.interval
serviceMonitor.labels
"""
"""Keys of the first chart; one that came later has its default in the helper `ullage.defaults` as well."""


def _tool(name: str) -> str:
    """Path of a renderer; the test is skipped where it is absent."""
    places = [os.environ.get("ULLAGE_TOOLS", ""), str(folder()), os.environ["PATH"]]
    found = shutil.which(name, path=os.pathsep.join(p for p in places if p))
    if found is None:
        pytest.skip(f"{name} is not built; `make e2e` builds it, or set ULLAGE_TOOLS")
    return found


@pytest.fixture(scope="session")
def kustomize_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kustomize tree with certificates made by its own script."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; make-certs.sh needs it")
    tree = tmp_path_factory.mktemp("manifests") / "kustomize"
    shutil.copytree(KUSTOMIZE, tree, ignore=shutil.ignore_patterns("tls"))
    subprocess.run(["sh", str(tree / "overlays" / "self-signed" / "make-certs.sh")], check=True, capture_output=True)
    return tree


@cache
def _output(*command: str) -> str:
    """What a renderer prints; each is asked once."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _render(command: list[str], folder: Path) -> Facts:
    path = folder / "rendered.yaml"
    path.write_text(_output(*command))
    return read_facts(str(path))


@pytest.fixture(params=[f"kustomize:{o}" for o in OVERLAYS] + [f"chart:{c}" for c in CHART_VALUES])
def rendered(request: pytest.FixtureRequest, tmp_path: Path) -> Facts:
    """Facts of one way to install, as rendered by the real tool."""
    tool, _, which = str(request.param).partition(":")
    if tool == "kustomize":
        command = [_tool("kustomize"), "build"]
        tree: Path = request.getfixturevalue("kustomize_tree")
        return _render([*command, str(tree / "overlays" / which)], tmp_path)
    command = [_tool("helm"), "template", "ullage", str(CHART), "-n", "ullage-system", "--kube-version", "1.36.3"]
    return _render([*command, *(w for v in CHART_VALUES[which] for w in ("--set", v))], tmp_path)


def test_what_is_rendered_passes_our_own_doctor(rendered: Facts) -> None:
    assert [f"{f.code} {f.path} {f.message}" for f in examine(rendered)] == []
    assert rendered.settings is not None
    assert any(True for _ in rendered.our_deployments)


def test_every_install_has_the_same_guard_of_devices(rendered: Facts) -> None:
    text = (KUSTOMIZE / "base" / "devices-policy.yaml").read_text()
    written = {document["kind"]: document["spec"] for document in yaml.safe_load_all(text)}
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    policy, binding = (o for k in kinds for o in rendered.kind(k) if o["metadata"]["name"].endswith("-devices"))
    assert policy["spec"] == written["ValidatingAdmissionPolicy"]
    assert binding["spec"] == written["ValidatingAdmissionPolicyBinding"] | {"policyName": policy["metadata"]["name"]}
    assert f"'{DEVICES_ANNOTATION}'" in text


def test_the_chart_leaves_the_guard_of_devices_out_on_request_and_the_doctor_says_so(tmp_path: Path) -> None:
    command = [_tool("helm"), "template", "ullage", str(CHART), "--kube-version", "1.36.3"]
    facts = _render([*command, "--set", "devicesPolicy.enabled=false"], tmp_path)
    assert not list(facts.kind("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
    assert [finding.code for finding in examine(facts)] == ["UD312"]
    without = _render([*command, "--set", "devicesPolicy.enabled=false,scheduler.gpu.enabled=false"], tmp_path)
    assert not examine(without)


def test_every_object_carries_the_conventional_labels(rendered: Facts) -> None:
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "version", "part-of", "managed-by")}
    for manifest in rendered.objects:
        missing = wanted - set(manifest["metadata"].get("labels", {}))
        assert not missing, (manifest["kind"], manifest["metadata"]["name"], missing)


def test_selectors_select_the_pods_they_are_meant_for(rendered: Facts) -> None:
    pods = [w["spec"]["template"]["metadata"]["labels"] for w in rendered.kind("Deployment")]
    for kind, selector in _selectors(rendered):
        matching = [labels for labels in pods if selector.items() <= labels.items()]
        assert len(matching) == 1, (kind, selector)


def _selectors(facts: Facts) -> Iterator[tuple[str, dict[str, str]]]:
    for manifest in facts.kind("Service"):
        yield "Service", manifest["spec"]["selector"]
    for manifest in facts.kind("Deployment", "PodDisruptionBudget"):
        yield manifest["kind"], manifest["spec"]["selector"]["matchLabels"]
    for manifest in facts.kind("NetworkPolicy"):
        yield "NetworkPolicy", manifest["spec"]["podSelector"]["matchLabels"]


def test_every_volume_names_something_that_is_rendered_or_promised(rendered: Facts) -> None:
    known = {(o["kind"], o["metadata"]["name"]) for o in rendered.objects}
    known |= {("Secret", o["spec"]["secretName"]) for o in rendered.kind("Certificate")}
    known |= {("Secret", "a"), ("Secret", "b")}
    for workload in rendered.kind("Deployment"):
        volumes = pod_spec(workload)["volumes"]
        for volume in volumes:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in known
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in known
        mounted = {m["name"] for c in containers(workload) for m in c["volumeMounts"]}
        assert mounted == {v["name"] for v in volumes}


def test_every_account_that_pods_run_as_is_there_whoever_grants_it_rights() -> None:
    documents = _chart("rbac.create=false", "plan.enabled=true")
    assert not [d for d in documents if d["kind"].endswith(("Role", "RoleBinding"))]
    specs = [pod_spec(d) for d in documents if d["kind"] == "Deployment"]
    specs += [pod_spec(d["spec"]["jobTemplate"]) for d in documents if d["kind"] == "CronJob"]
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    assert {spec["serviceAccountName"] for spec in specs} == accounts


def test_certificates_that_the_chart_makes_share_one_authority(tmp_path: Path) -> None:
    command = [_tool("helm"), "template", "ullage", str(CHART), "--kube-version", "1.36.3"]
    secrets = [o for o in _render(command, tmp_path).objects if o["kind"] == "Secret"]
    assert len({s["data"]["ca.crt"] for s in secrets}) == 1
    assert len({s["data"]["tls.crt"] for s in secrets}) == 2


@pytest.mark.parametrize(
    "value",
    [
        "mode=banana",
        "replicas=0",
        "scheduler.name=default-scheduler",
        "scheduler.name=it's",
        'scheduler.name=a"b',
        "image.digest=latest",
        "imgae.tag=1",
        "expander.cidrs={10.1.0.7}",
    ],
)
def test_the_values_schema_refuses_what_makes_no_sense(value: str) -> None:
    command = [_tool("helm"), "template", "ullage", str(CHART), "--kube-version", "1.36.3", "--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "schema" in done.stderr


def test_an_autoscaler_on_the_host_network_is_let_in_by_the_addresses_of_its_nodes() -> None:
    ways = (*COMPONENTS["expander"], "expander.cidrs={10.1.0.0/24,fd00::/64}")
    (policy,) = [d for d in _chart(*ways) if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "ullage"]
    (rule,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == 9444]
    assert rule["from"][1:] == [{"ipBlock": {"cidr": cidr}} for cidr in ("10.1.0.0/24", "fd00::/64")]


def test_helm_lint_is_clean() -> None:
    done = subprocess.run([_tool("helm"), "lint", str(CHART), "--strict"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_grants_exactly_the_rights_in_the_table() -> None:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((KUSTOMIZE / "base" / "rbac.yaml").read_text()))
    roles = [d for d in documents if d["kind"] in ("Role", "ClusterRole")]
    granted = {
        (role["kind"] == "Role", group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(r.is_local, r.group, r.resource, verb) for r in RIGHTS for verb in r.verbs}


def _chart(*values: str, chart: Path = CHART) -> list[dict[str, Any]]:
    """What the chart renders, in the namespace of the kustomize base."""
    command = [_tool("helm"), "template", "ullage", str(chart), "-n", "ullage-system", "--kube-version", "1.36.3"]
    return [d for d in yaml.safe_load_all(_output(*command, *(w for v in values for w in ("--set", v)))) if d]


def test_every_component_of_kustomize_is_one_of_the_chart_and_the_other_way_round() -> None:
    assert COMPONENTS.keys() == {path.name for path in (KUSTOMIZE / "components").iterdir()}
    sections: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    told = {name.partition("=")[0] for values in COMPONENTS.values() for name in values}
    for section, values in sections.items():
        if isinstance(values, dict) and values.get("enabled") is False:
            assert f"{section}.enabled" in told, f"{section}: no component offers it with kustomize"


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_chart_offers_what_a_component_does(component: str) -> None:
    folder = KUSTOMIZE / "components" / component
    before, after = _chart(), _chart(*COMPONENTS[component])
    chart = [d for d in after if d not in before]
    compared = 0
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text()).get("resources", ()):
        for ours in yaml.safe_load_all((folder / name).read_text()):
            kind, part = ours["kind"], SHARED.get(ours["kind"])
            if kind == "NetworkPolicy":  # those of kustomize add up, the chart has one
                extender = next(d for d in chart if d["kind"] == kind and d["metadata"]["name"] == "ullage")
                for way in ("ingress", "egress"):
                    ports = [port for rule in extender["spec"][way] for port in rule["ports"]]
                    assert [p for rule in ours["spec"].get(way, ()) for p in rule["ports"] if p not in ports] == []
            else:
                wanted = ours["metadata"]["name"]
                theirs = [d for d in chart if (d["kind"], d["metadata"]["name"]) == (kind, wanted)]
                assert len(theirs) == 1, (kind, wanted)
                assert part is None or theirs[0][part] == ours[part], (kind, wanted)
            compared += 1
    assert compared or component == "dashboard", "another test compares the dashboards"


def _leaves(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def _without(values: dict[str, Any], keys: set[str], before: str = "") -> dict[str, Any]:
    """Values but for some; a section of which nothing is left is not there."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            if rest := _without(value, keys, f"{before}{key}."):
                kept[key] = rest
        elif f"{before}{key}" not in keys:
            kept[key] = value
    return kept


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("plan.enabled=true", "plan.apply=true", "reclaim.enabled=true"),
        ("gpuShares.enabled=true", "rightsize.enabled=true", "prometheusRule.enabled=true"),
        ("grafanaDashboard.enabled=true", "devicesPolicy.enabled=false", "scheduler.enabled=false"),
    ],
    ids=["as-they-were", "plan", "policies", "dashboard"],
)
def test_values_kept_from_the_first_chart_render_as_today(values: tuple[str, ...], tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` keeps the values of the old chart, and adds nothing from the new one."""
    now: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    younger = set(_leaves(now)) - set(FIRST_VALUES.split())
    assert younger, "keys that came since"
    shutil.copytree(CHART, tmp_path / "chart")
    (tmp_path / "chart" / "values.yaml").write_text(yaml.safe_dump(_without(now, younger)))
    existing = ("certificates.mode=existing", "certificates.serverSecret=a", "certificates.clientSecret=b")
    assert _chart(*existing, *values, chart=tmp_path / "chart") == _chart(*existing, *values)


def test_every_kind_that_we_follow_has_its_right_and_no_other_is_asked_for() -> None:
    metrics = Metrics()
    ledger = Ledger(ClusterState(), lambda: 0.0, metrics)
    followed = {sink.path.rpartition("/")[2] for sink in sinks(ledger, Modes("off"), Reader())}
    assert followed == {right.resource for right in RIGHTS if "watch" in right.verbs}, "mend scheduler/rights.py, rbac"


def test_what_a_planner_follows_as_well_is_what_its_setting_asks_for() -> None:
    followed = {sink.path.removeprefix("/apis/") for sink in group_sinks(Groups())}
    assert followed == {f"{kind.version}/{kind.plural}" for kind in KINDS}
    asked = {(right.group, right.resource) for right in OPTIONAL["plan.enabled"] if "watch" in right.verbs}
    assert asked == {(path.split("/")[0], path.split("/")[2]) for path in followed}


@pytest.mark.parametrize(("component", "setting"), [("plan", "plan.enabled"), ("plan-apply", "plan.applies")])
def test_a_component_grants_what_its_setting_asks_for(component: str, setting: str) -> None:
    documents = yaml.safe_load_all((KUSTOMIZE / "components" / component / "rbac.yaml").read_text())
    granted = {
        (group, resource, verb)
        for document in documents
        for rule in document.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(right.group, right.resource, verb) for right in OPTIONAL[setting] for verb in right.verbs}
    assert asked <= granted
    if component == "plan":
        assert asked == granted


def test_a_refusal_names_the_missing_right_and_a_manifest_that_grants_it() -> None:
    rights = [(right, "") for right in RIGHTS]
    rights += [(right, setting) for setting, some in OPTIONAL.items() for right in some]
    rights += [(right, APPLIES) for right in OPTIONAL[APPLIES]]
    assert GRANTS.keys() == OPTIONAL.keys()
    for right, purpose in rights:
        for verb in right.verbs:
            refusal = f'nodes "n" is forbidden: User "u" cannot {verb} resource "{right.resource}" in API group "{right.group}"'
            said = what_to_do(f"{refusal} at the cluster scope", purpose)
            assert said.startswith(f"the account may not {verb} {right.resource}")
            files = re.findall(r"manifests/kustomize/\S+", said)
            assert files
            for file in files:
                granted = [
                    rule
                    for document in yaml.safe_load_all((REPO / file).read_text())
                    for rule in document.get("rules", ())
                    if right.group in rule["apiGroups"]
                    and right.resource in rule["resources"]
                    and verb in rule["verbs"]
                ]
                assert granted, (file, right, verb)
    assert what_to_do('pods "p" is forbidden: exceeded quota: q') == "", "admission: no right would help"
    unknown = 'User "u" cannot delete resource "nodes" in API group ""'
    assert what_to_do(unknown) == "the account may not delete nodes"


def test_the_base_settings_are_settings() -> None:
    _, problems = parse_settings(yaml.safe_load((KUSTOMIZE / "base" / "ullage.yaml").read_text()))
    assert problems == []


def test_the_stanza_for_the_default_scheduler_passes_the_doctor() -> None:
    stanza = KUSTOMIZE / "overlays" / "default-scheduler" / "stanza.yaml"
    facts = read_facts(str(stanza), str(KUSTOMIZE / "base" / "ullage.yaml"))
    assert [f.code for f in examine(facts)] == []
    assert len(list(facts.ours)) == 2


def test_the_stanzas_in_the_documents_are_the_shipped_ones() -> None:
    text = (REPO / "docs" / "operate.md").read_text(encoding="utf-8")
    told = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["extenders"]
    path = KUSTOMIZE / "overlays" / "default-scheduler" / "stanza.yaml"
    shipped = yaml.safe_load(path.read_text())["extenders"]
    for stanza in (*told, *shipped):
        assert stanza.pop("tlsConfig")
    assert told == shipped


def test_every_command_in_the_documents_exists() -> None:
    text = (REPO / "docs" / "operate.md").read_text(encoding="utf-8") + (REPO / "docs" / "doctor.md").read_text()
    commands = set(re.findall(r"\bullage ((?:doctor|explain|shadow|decisions)(?: [a-z-]+)?)", text))
    groups = {"doctor": doctor, "shadow": shadow, "decisions": decisions}
    assert {c.split()[0] for c in commands} == {"doctor", "explain", "shadow", "decisions"}
    for command in commands:
        group, _, word = command.partition(" ")
        if word and group in groups and not word.startswith("-"):
            assert word in groups[group].commands, command


def _labels_by_series() -> dict[str, set[str]]:
    """What our metrics are called as Prometheus stores them, and the labels that each has."""
    metrics = Metrics()
    found: dict[str, set[str]] = {"ullage_build_info": {"version", "strategy"}}
    for collector in vars(metrics).values():
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            for ending in {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",)):
                found[family.name + ending] = set(collector._labelnames)
    return found


def _check_expression(text: str, where: str) -> None:
    """Every metric exists under this name, and every label that is matched or grouped by is one of theirs."""
    known = _labels_by_series()
    names = set(re.findall(r"ullage_\w+", text))
    assert names
    assert names <= known.keys(), (where, names - known.keys())
    labels = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(",")}
    labels |= {label for group in re.findall(r"\{([^}]*)\}", text) for label in re.findall(r"(\w+)\s*[=!]", group)}
    assert labels - {"le", "job"} <= set().union(*(known[name] for name in names)), (where, labels)


def test_alerts_are_of_metrics_that_exist_and_alike_in_both_installs() -> None:
    groups = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    rule = yaml.safe_load((KUSTOMIZE / "components" / "monitoring" / "alerts.yaml").read_text())
    assert rule["spec"]["groups"] == groups
    alerts = [alert for group in groups for alert in group["rules"]]
    for alert in alerts:
        _check_expression(alert["expr"], alert["alert"])
    (view_old,) = (alert for alert in alerts if alert["alert"] == "UllageViewOld")
    assert view_old["expr"].endswith(f"> {OLD_VIEW_S}"), (
        "as the doctor judges, and not before a silent watch is begun anew"
    )
    table = (REPO / "docs" / "operate.md").read_text()
    assert [a["alert"] for a in alerts if f"`{a['alert']}`" not in table] == []


def test_every_panel_of_the_dashboard_shows_metrics_and_labels_that_exist() -> None:
    board = json.loads((CHART / "dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 40
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        for target in panel["targets"]:
            _check_expression(target["expr"], panel["title"])
            assert all('job=~"$job"' in part for part in re.findall(r"ullage_\w+(\{[^}]*\})?", target["expr"]))
            told = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = {g.strip() for part in re.findall(r"by \(([^)]*)\)", target["expr"]) for g in part.split(",")}
            assert told == grouped - {"le"}, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    """One that no operator would look for has its reason here, in a list of exceptions; there is none yet."""
    board = json.loads((CHART / "dashboard.json").read_text())
    queries = " ".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))
    shown = set(re.findall(r"ullage_\w+", queries))
    series = _labels_by_series()
    del series["ullage_build"]  # stored as ullage_build_info
    whole = {name: {name} for name in series if not name.endswith(("_bucket", "_count", "_sum"))}
    for name in series.keys() - whole:
        whole.setdefault(name.rpartition("_")[0], set()).add(name)
    assert len(whole) > 50
    assert [name for name, parts in whole.items() if not parts & shown] == []


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads((CHART / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + k) for i in range(at["w"]) for k in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_both_installs_ship_the_same_dashboard_where_grafana_finds_it(tmp_path: Path) -> None:
    shipped = (CHART / "dashboard.json").read_text()
    shutil.copytree(KUSTOMIZE / "components" / "dashboard", tmp_path / "dashboard")
    (tmp_path / "kustomization.yaml").write_text("components: [dashboard]\n")
    kustomized = _output(_tool("kustomize"), "build", str(tmp_path))
    charted = _output(
        *(_tool("helm"), "template", "ullage", str(CHART), "--kube-version", "1.36.3"),
        *("--set", "grafanaDashboard.enabled=true", "--show-only", "templates/dashboard.yaml"),
    )
    for text in (kustomized, charted):
        config_map = yaml.safe_load(text)
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(config_map["data"]["ullage.json"]) == json.loads(shipped)
