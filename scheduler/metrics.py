"""Every Prometheus metric of the live side, with its unit and a sentence of help. Labels are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BUCKETS_NODES = (1, 10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000)

PLAN_PREFIX = "ullage_plan_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one process (one registry, so that tests can have many)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = self.registry = registry or CollectorRegistry()
        self.request_duration = Histogram(
            "ullage_extender_request_duration_seconds",
            "Time from the last byte of a request to its answer.",
            ["verb", "outcome"],
            buckets=BUCKETS_S,
            registry=r,
        )
        self.nodes_evaluated = Histogram(
            "ullage_extender_nodes_evaluated", "Nodes named in a request.", ["verb"], buckets=BUCKETS_NODES, registry=r
        )
        self.fallback = Counter(
            "ullage_fallback_total", "Answers given by a lower rung than asked for, by reason.", ["reason"], registry=r
        )
        self.decisions = Counter(
            "ullage_decisions_total", "Decisions, by mode and outcome.", ["mode", "outcome"], registry=r
        )
        self.outcomes = Counter(
            "ullage_bound_pods_total",
            "Pods with a decision record that were bound, by the mode of the decision and whether they are where we chose.",
            ["mode", "where"],
            registry=r,
        )
        self.http_rejected = Counter(
            "ullage_http_rejected_total", "Requests answered with a 4xx or 5xx, by status.", ["status"], registry=r
        )
        self.connections = Gauge("ullage_http_connections", "Open connections.", registry=r)
        self.cache_synced = Gauge("ullage_cache_synced", "1 when every list has been read at least once.", registry=r)
        self.cache_age = Gauge(
            "ullage_cache_age_seconds", "Time since the last sign of life of a watch.", ["resource"], registry=r
        )
        self.cache_objects = Gauge("ullage_cache_objects", "Objects in the view.", ["resource"], registry=r)
        self.relists = Counter(
            "ullage_cache_relists_total", "Lists read again, by reason.", ["resource", "reason"], registry=r
        )
        self.reservations = Gauge("ullage_reservations", "Pods decided and not yet seen bound.", registry=r)
        self.reservation_age = Gauge("ullage_reservation_oldest_seconds", "Age of the oldest reservation.", registry=r)
        self.reservation_ends = Counter(
            "ullage_reservation_ends_total", "Reservations ended, by how.", ["how"], registry=r
        )
        self.conflicts = Counter(
            "ullage_ledger_conflicts_total",
            "Observations that differed from what was decided or planned.",
            ["what"],
            registry=r,
        )
        self.binds = Counter("ullage_binds_total", "Bindings asked of the API, by outcome.", ["outcome"], registry=r)
        self.is_leader = Gauge("ullage_leader", "1 when this replica answers.", registry=r)
        self.mode = Gauge("ullage_mode", "1 for the global mode in force.", ["mode"], registry=r)
        self.log_events = Counter("ullage_log_events_total", "Events written to the log.", registry=r)
        self.log_dropped = Counter(
            "ullage_log_dropped_total", "Events that the log lost; it is incomplete since.", registry=r
        )
        self.records_dropped = Counter("ullage_records_dropped_total", "Decision records dropped.", registry=r)
        self.telemetry_samples = Counter(
            "ullage_telemetry_samples_total", "Usage samples, by what became of them.", ["outcome"], registry=r
        )
        self.telemetry_age = Gauge(
            "ullage_telemetry_age_seconds", "Time since the last usage sample came; NaN before the first.", registry=r
        )
        self.telemetry_subjects = Gauge(
            "ullage_telemetry_subjects", "Pods, nodes and devices with a usage sample.", registry=r
        )
        self.telemetry_queue = Gauge("ullage_telemetry_queue", "Usage samples that nobody has taken.", registry=r)
        self.usage_queries = Counter(
            "ullage_usage_queries_total", "Queries to Prometheus, by what became of them.", ["outcome"], registry=r
        )
        self.usage_query_duration = Histogram(
            "ullage_usage_query_duration_seconds", "Time of one query to Prometheus.", buckets=BUCKETS_S, registry=r
        )
        self.usage_refused = Counter(
            "ullage_usage_refused_total", "Usage samples that make no sense, by reason.", ["reason"], registry=r
        )
        self.usage_age = Gauge(
            "ullage_usage_source_age_seconds",
            "Time since a source of usage last answered; NaN before the first.",
            ["source"],
            registry=r,
        )
        self.prediction_rung = Gauge(
            "ullage_prediction_workloads",
            "Workloads, by the rung that their prediction stands on.",
            ["rung"],
            registry=r,
        )
        self.prediction_left_out = Gauge(
            "ullage_prediction_left_out_workloads",
            "Workloads that count with their requests because usage.max_workloads others have all places.",
            registry=r,
        )
        self.prediction_coverage = Gauge(
            "ullage_prediction_coverage_ratio",
            "Share of the last outcomes that stayed under the predicted quantile.",
            ["rung", "resource"],
            registry=r,
        )
        self.prediction_error = Gauge(
            "ullage_prediction_error_ratio",
            "Pinball loss of the upper quantile over the mean usage, last outcomes.",
            ["rung", "resource"],
            registry=r,
        )
        self.prediction_trusted = Gauge(
            "ullage_prediction_trusted",
            "1 while a rung may answer, 0 while its coverage is out of its band.",
            ["rung"],
            registry=r,
        )
        self.prediction_falls = Counter(
            "ullage_prediction_falls_total",
            "Workloads' predictions that fell a rung, by the rung they fell to.",
            ["rung"],
            registry=r,
        )
        self.prediction_age = Gauge(
            "ullage_prediction_oldest_seconds", "Age of the oldest usage behind a prediction in force.", registry=r
        )
        self.lifetime_rung = Gauge(
            "ullage_lifetime_workloads",
            "Workloads and sizes, by the rung that their lifetimes stand on.",
            ["rung"],
            registry=r,
        )
        self.lifetime_trusted = Gauge(
            "ullage_lifetime_trusted",
            "1 while the lifetime model may answer for known and for new workloads, 0 until it does no worse than the history.",
            ["workloads"],
            registry=r,
        )
        self.lifetime_loss = Gauge(
            "ullage_lifetime_loss_nats",
            "Mean logarithmic loss of the last outcomes, of the model and of the history; NaN before the first.",
            ["workloads", "rung"],
            registry=r,
        )
        self.lifetime_falls = Counter(
            "ullage_lifetime_falls_total",
            "Times that the lifetime model was shut, by the rung that answers instead.",
            ["rung"],
            registry=r,
        )
        self.reclaimed = Gauge(
            "ullage_reclaimed",
            "Reclaimed capacity over all nodes, in cores and bytes.",
            ["resource", "what"],
            registry=r,
        )
        self.reclaim_actions = Counter(
            "ullage_reclaim_actions_total",
            "Changes by the reclaim controller, by what and outcome.",
            ["what", "outcome"],
            registry=r,
        )
        self.plan_gated = Gauge("ullage_plan_gated_pods", "Pods that wait behind our scheduling gate.", registry=r)
        self.plan_nominations = Gauge("ullage_plan_nominations", "Nominations of ours that have not ended.", registry=r)
        self.plan_batches = Counter(
            "ullage_plan_batches_total", "Batches, by how planning ended.", ["ending"], registry=r
        )
        self.plan_solve = Histogram(
            "ullage_plan_solve_seconds", "Time from a batch to its plan.", buckets=BUCKETS_S, registry=r
        )
        self.plan_value = Gauge("ullage_plan_value", "Value of the last plan, in its own unit.", ["kind"], registry=r)
        self.plan_bound = Gauge("ullage_plan_bound", "Bound on the last plan's value.", ["kind"], registry=r)
        self.plan_gap = Gauge(
            "ullage_plan_gap_ratio",
            "How far the last plan can be from the best, certified; of a batch, its stranding.",
            ["kind"],
            registry=r,
        )
        self.plan_wishes = Gauge(
            "ullage_plan_wishes_met_ratio",
            "Soft wishes that the last plan meets, of all; 1 where nobody wished anything.",
            ["kind"],
            registry=r,
        )
        self.plan_wishes_bound = Gauge(
            "ullage_plan_wishes_bound_ratio", "What the same could be at most.", ["kind"], registry=r
        )
        self.plan_wish_points = Counter(
            "ullage_plan_wish_points_total",
            "kube-scheduler's points for soft wishes in all plans: met, bound (at most), asked.",
            ["kind", "what"],
            registry=r,
        )
        self.plan_placed = Counter(
            "ullage_plan_batch_pods_total",
            "Pods of batches, by whether the plan has a place for them.",
            ["outcome"],
            registry=r,
        )
        self.plan_moves = Gauge("ullage_plan_moves", "Pods that the last plan moves or evicts.", ["kind"], registry=r)
        self.plan_time = Gauge("ullage_plan_seconds", "Time that the last plan took.", ["kind"], registry=r)
        self.plans = Counter(
            "ullage_plans_total", "Plans asked for, by kind and how planning ended.", ["kind", "ending"], registry=r
        )
        self.plan_applied = Counter(
            "ullage_plans_applied_total", "Plans acted on, by kind and how that ended.", ["kind", "outcome"], registry=r
        )
        self.plan_pods = Counter(
            "ullage_plan_pods_total", "Planned pods, by what became of them.", ["outcome"], registry=r
        )
        self.plan_patches = Counter(
            "ullage_plan_patches_total",
            "Patches of planned pods, by what and outcome.",
            ["what", "outcome"],
            registry=r,
        )
        self.planner_ready = Gauge(
            "ullage_planner_ready", "1 while the planning process runs and its view is complete.", registry=r
        )
        self.planner_starts = Counter(
            "ullage_planner_starts_total", "Times that the planning process was started.", registry=r
        )
        self.loop_lag = Gauge("ullage_loop_lag_seconds", "How late the event loop ran its last tick.", registry=r)
        self.build = Info("ullage_build", "Version and strategy.", registry=r)
        self._before: list[Callable[[], None]] = []
        self.planned: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """Samples of the planning process, by name and labels; they are added to ours."""

    def before_scrape(self, update: Callable[[], None]) -> None:
        """Call ``update`` before every exposition, to set gauges that cost something."""
        self._before.append(update)

    def expose(self) -> bytes:
        """The text exposition."""
        for update in self._before:
            update()
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All families, those of the planning process included."""
        rest = dict(self.planned)
        for family in self.registry.collect():
            if family.name.startswith(PLAN_PREFIX) and self.planned:
                ours = {(s.name, tuple(sorted(s.labels.items()))): s for s in family.samples}
                gauge = family.type == "gauge"  # the last plan is either's; everything else is counted together
                family.samples = [
                    s._replace(value=rest.pop(key, s.value if gauge else 0.0) + (0.0 if gauge else s.value))
                    for key, s in ours.items()
                ]
                theirs = [key for key in rest if key[0].removesuffix("_total") == family.name]
                family.samples += [Sample(key[0], dict(key[1]), rest.pop(key)) for key in theirs]
            yield family

    def see_wishes(self, kind: str, details: Mapping[str, float]) -> None:
        """Take over what the details of a batch plan say of soft wishes."""
        self.plan_wishes.labels(kind).set(details.get("wishes_met_share", 1.0))
        self.plan_wishes_bound.labels(kind).set(details.get("wishes_met_share_bound", 1.0))
        for what, key in (("met", "wish_points"), ("bound", "wish_points_bound"), ("asked", "wish_points_possible")):
            self.plan_wish_points.labels(kind, what).inc(details.get(key, 0.0))

    def plan_samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Name, labels and value of everything about plans."""
        families = [family for family in self.registry.collect() if family.name.startswith(PLAN_PREFIX)]
        return [(s.name, s.labels, s.value) for f in families for s in f.samples if not s.name.endswith("_created")]
