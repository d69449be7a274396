"""What the queries make of a Prometheus as it is found: pairs of servers, restarts, scrapes that rename labels."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from placement.errors import ConfigError
from scheduler.learning.prometheus import CPU_USAGE, MEMORY_USAGE, Prometheus, cpu_expression, memory_expression
from scheduler.metrics import Metrics
from scheduler.settings import UsageSettings

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)

ALERTS = Path(__file__).parent.parent / "manifests" / "chart" / "alerts.yaml"


def holds(folder: Path, expression: str, series: dict[str, str], expected: dict[str, float]) -> None:
    """Let Prometheus' own engine evaluate it after ten minutes of scrapes every 30 s."""
    test = {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "10m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
            }
        ],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps({"evaluation_interval": "30s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def named(metric: str, container: str = "main", **labels: str) -> str:
    found = {"namespace": "shop", "pod": "web", "container": container, "id": f"/pods/{container}", **labels}
    return metric + "{" + ",".join(f'{key}="{value}"' for key, value in found.items()) + "}"


def test_a_pair_of_servers_and_two_jobs_do_not_count_a_pod_twice(tmp_path: Path) -> None:
    for metric, values, expression, wanted in (
        (CPU_USAGE, "0+15x20", cpu_expression(300), 0.5),
        (MEMORY_USAGE, "100x20", memory_expression(300), 100.0),
    ):
        twice = {
            named(metric, prometheus_replica="a"): values,
            named(metric, prometheus_replica="b"): values,
            named(metric, job="cadvisor", container="side"): values,
            named(metric, job="kubelet", container="side"): values,
        }
        holds(tmp_path, expression, twice, {'{namespace="shop",pod="web"}': 2 * wanted})


def test_the_pods_own_cgroup_and_its_pause_container_are_left_out(tmp_path: Path) -> None:
    for metric, values, expression, wanted in (
        (CPU_USAGE, "0+15x20", cpu_expression(300), 0.5),
        (MEMORY_USAGE, "100x20", memory_expression(300), 100.0),
    ):
        series = {
            named(metric): values,
            named(metric, container="", id="/pods"): values,
            named(metric, container="POD"): values,
        }
        holds(tmp_path, expression, series, {'{namespace="shop",pod="web"}': wanted})


def test_a_restarted_container_holds_its_memory_once_and_used_its_cpu_before_and_after(tmp_path: Path) -> None:
    """It restarts after 8 of ten minutes, under another id; the old series is seen last at 7:30."""
    before, after = named(MEMORY_USAGE, id="/pods/1"), named(MEMORY_USAGE, id="/pods/2")
    series = {before: "100x15 stale", after: "_x16 90x20"}
    holds(tmp_path, memory_expression(300), series, {'{namespace="shop",pod="web"}': 100.0})
    before, after = named(CPU_USAGE, id="/pods/1"), named(CPU_USAGE, id="/pods/2")
    series = {before: "0+30x16 stale", after: "_x16 0+30x20"}
    holds(tmp_path, cpu_expression(600), series, {'{namespace="shop",pod="web"}': 1.025})  # rates reach to the edges


def test_a_counter_that_is_reset_is_no_negative_use(tmp_path: Path) -> None:
    series = {named(CPU_USAGE): "0+30x15 0+30x20"}
    holds(tmp_path, cpu_expression(300), series, {'{namespace="shop",pod="web"}': 0.9})


def test_where_the_scrape_renames_labels_pods_are_still_apart(tmp_path: Path) -> None:
    own = {"namespace": "kube-system", "pod": "kubelet", "exported_namespace": "shop"}
    series = {named(MEMORY_USAGE, **own, exported_pod=pod): f"{amount}x20" for pod, amount in (("a", 1), ("b", 2))}
    labels = '{namespace="kube-system",pod="kubelet",exported_namespace="shop",exported_pod="%s"}'
    holds(tmp_path, memory_expression(300), series, {labels % "a": 1.0, labels % "b": 2.0})


def test_pods_of_another_cluster_with_the_same_names_are_left_out(tmp_path: Path) -> None:
    series = {named(MEMORY_USAGE, cluster=name): f"{amount}x20" for name, amount in (("a", 1), ("b", 2))}
    holds(tmp_path, memory_expression(300), series, {'{namespace="shop",pod="web"}': 2.0})
    holds(tmp_path, memory_expression(300, 'cluster="a"'), series, {'{namespace="shop",pod="web"}': 1.0})


@pytest.mark.parametrize(
    ("alert", "metric", "good", "bad", "labels"),
    [
        ("UllageGatedPodsWait", "ullage_planner_ready{%s}", 1, 0, "{}"),
        ("UllageUsageStale", 'ullage_usage_source_age_seconds{source="telemetry",%s}', 5, 9000, "{}"),
        ("UllageRungShut", 'ullage_prediction_trusted{rung="model",%s}', 1, 0, '{rung="model"}'),
    ],
)
def test_an_alert_about_learning_or_planning_is_about_the_leader(
    alert: str, metric: str, good: int, bad: int, labels: str, tmp_path: Path
) -> None:
    """A standby plans nothing while its planner is well, and is told nothing by whoever measures."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    (expression,) = [rule["expr"] for group in groups for rule in group["rules"] if rule["alert"] == alert]
    for leader, standby in ((good, bad), (bad, good)):
        series = dict[str, str]()
        for pod, leads, value in (("a", 1, leader), ("b", 0, standby)):
            of_pod = f'pod="{pod}"'
            series |= {metric % of_pod: f"{value}x20", f"ullage_leader{{{of_pod}}}": f"{leads}x20"}
            series[f"ullage_plan_gated_pods{{{of_pod}}}"] = "3x20"
        shown = 6.0 if alert == "UllageGatedPodsWait" else float(bad)
        holds(tmp_path, expression, series, {labels: shown} if leader == bad else {})


@pytest.mark.parametrize("text", ["cluster=a", 'cluster="a"}', 'a="b" or c="d"', 'a="b",', "{}", 'a="b"c'])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    settings = UsageSettings(prometheus="http://localhost:9090", prometheus_selector=text)
    with pytest.raises(ConfigError, match="must be label matchers"):
        Prometheus(settings, Metrics())
    for good in ('cluster="a"', 'a!="b",c=~"d.*|e",f!~"\\\\w"'):
        Prometheus(UsageSettings(prometheus="http://localhost:9090", prometheus_selector=good), Metrics())
