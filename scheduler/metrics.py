"""Every Prometheus metric of the live side, with its unit and a sentence of help. Labels are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BUCKETS_NODES = (1, 10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000)

PLAN_PREFIX = "ullage_plan_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one process (one registry, so that tests can have many)."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=r), partial(Gauge, registry=r)
        histogram = partial(Histogram, registry=r, buckets=BUCKETS_S)

        # answers
        self.request_duration = histogram(
            "ullage_extender_request_duration_seconds",
            "Time from the last byte of a request to its answer.",
            ["verb", "outcome"],
        )
        self.nodes_evaluated = histogram(
            "ullage_extender_nodes_evaluated", "Nodes named in a request.", ["verb"], buckets=BUCKETS_NODES
        )
        self.fallback = counter(
            "ullage_fallback_total", "Answers given by a lower rung than asked for, by reason.", ["reason"]
        )
        self.decisions = counter("ullage_decisions_total", "Decisions, by mode and outcome.", ["mode", "outcome"])
        self.outcomes = counter(
            "ullage_bound_pods_total",
            "Pods with a decision record that were bound, by the mode of the decision and whether they are where we chose.",
            ["mode", "where"],
        )
        self.http_rejected = counter(
            "ullage_http_rejected_total", "Requests answered with a 4xx or 5xx, by status.", ["status"]
        )
        self.connections = gauge("ullage_http_connections", "Open connections, of all HTTP ports.")

        # the view and the ledger
        self.cache_synced = gauge("ullage_cache_synced", "1 when every list has been read at least once.")
        self.cache_age = gauge("ullage_cache_age_seconds", "Time since the last sign of life of a watch.", ["resource"])
        self.cache_objects = gauge("ullage_cache_objects", "Objects in the view.", ["resource"])
        self.relists = counter("ullage_cache_relists_total", "Lists read again, by reason.", ["resource", "reason"])
        self.reservations = gauge("ullage_reservations", "Pods decided and not yet seen bound.")
        self.reservation_age = gauge("ullage_reservation_oldest_seconds", "Age of the oldest reservation.")
        self.reservation_ends = counter("ullage_reservation_ends_total", "Reservations ended, by how.", ["how"])
        self.conflicts = counter(
            "ullage_ledger_conflicts_total", "Observations that differed from what was decided or planned.", ["what"]
        )
        self.devices_twice = gauge(
            "ullage_devices_given_twice", "GPU devices of which running pods hold more than there is."
        )
        self.binds = counter("ullage_binds_total", "Bindings asked of the API, by outcome.", ["outcome"])
        self.is_leader = gauge("ullage_leader", "1 when this replica answers.")
        self.mode = gauge("ullage_mode", "1 for the global mode in force.", ["mode"])

        # logs and records
        self.log_events = counter("ullage_log_events_total", "Events written to the log.")
        self.log_dropped = counter("ullage_log_dropped_total", "Events that the log lost; it is incomplete since.")
        self.records_dropped = counter("ullage_records_dropped_total", "Decision records dropped.")

        # usage and what is predicted of it
        self.telemetry_samples = counter(
            "ullage_telemetry_samples_total", "Usage samples, by what became of them.", ["outcome"]
        )
        self.telemetry_age = gauge(
            "ullage_telemetry_age_seconds", "Time since the last usage sample came; NaN before the first."
        )
        self.telemetry_subjects = gauge("ullage_telemetry_subjects", "Pods, nodes and devices with a usage sample.")
        self.telemetry_queue = gauge("ullage_telemetry_queue", "Usage samples that nobody has taken.")
        self.usage_queries = counter(
            "ullage_usage_queries_total", "Queries to Prometheus, by what became of them.", ["outcome"]
        )
        self.usage_query_duration = histogram("ullage_usage_query_duration_seconds", "Time of one query to Prometheus.")
        self.usage_refused = counter(
            "ullage_usage_refused_total", "Usage samples that make no sense, by reason.", ["reason"]
        )
        self.usage_age = gauge(
            "ullage_usage_source_age_seconds",
            "Time since a source of usage last answered; NaN before the first.",
            ["source"],
        )
        self.prediction_rung = gauge(
            "ullage_prediction_workloads", "Workloads, by the rung that their prediction stands on.", ["rung"]
        )
        self.prediction_left_out = gauge(
            "ullage_prediction_left_out_workloads",
            "Workloads that count with their requests because usage.max_workloads others have all places.",
        )
        self.prediction_coverage = gauge(
            "ullage_prediction_coverage_ratio",
            "Share of the last outcomes that stayed under the predicted quantile.",
            ["rung", "resource"],
        )
        self.prediction_error = gauge(
            "ullage_prediction_error_ratio",
            "Pinball loss of the upper quantile over the mean usage, last outcomes.",
            ["rung", "resource"],
        )
        self.prediction_trusted = gauge(
            "ullage_prediction_trusted", "1 while a rung may answer, 0 while its coverage is out of its band.", ["rung"]
        )
        self.prediction_newcomers = gauge(
            "ullage_prediction_newcomers",
            "Newcomers of the last ten days whose first hours are behind a rung's factor; with fewer than 39 it says nothing.",
            ["rung", "resource"],
        )
        self.siblings_pairs = gauge(
            "ullage_siblings_pairs",
            "Looks of workloads with what came of them, by which newcomers are told.",
            ["resource"],
        )
        self.siblings_age = gauge(
            "ullage_siblings_age_seconds",
            "Time since the newest look of which it is known what came; NaN before the first, and where siblings are off.",
        )
        self.prediction_falls = counter(
            "ullage_prediction_falls_total",
            "Workloads' predictions that fell a rung, by the rung they fell to.",
            ["rung"],
        )
        self.prediction_age = gauge(
            "ullage_prediction_oldest_seconds", "Age of the oldest usage behind a prediction in force."
        )

        # lifetimes
        self.lifetime_rung = gauge(
            "ullage_lifetime_workloads", "Workloads and sizes, by the rung that their lifetimes stand on.", ["rung"]
        )
        self.lifetime_trusted = gauge(
            "ullage_lifetime_trusted",
            "1 while the lifetime model may answer for known and for new workloads, 0 until it does no worse than the history.",
            ["workloads"],
        )
        self.lifetime_loss = gauge(
            "ullage_lifetime_loss_nats",
            "Mean logarithmic loss of the last outcomes, of the model and of the history; NaN before the first.",
            ["workloads", "rung"],
        )
        self.lifetime_falls = counter(
            "ullage_lifetime_falls_total",
            "Times that the lifetime model was shut, by the rung that answers instead.",
            ["rung"],
        )

        # reclaimed capacity
        self.reclaimed = gauge(
            "ullage_reclaimed", "Reclaimed capacity over all nodes, in cores and bytes.", ["resource", "what"]
        )
        self.reclaim_actions = counter(
            "ullage_reclaim_actions_total",
            "Changes by the reclaim controller, by what and outcome.",
            ["what", "outcome"],
        )

        # plans
        self.plan_gated = gauge("ullage_plan_gated_pods", "Pods that wait behind our scheduling gate.")
        self.plan_nominations = gauge("ullage_plan_nominations", "Nominations of ours that have not ended.")
        self.plan_batches = counter("ullage_plan_batches_total", "Batches, by how planning ended.", ["ending"])
        self.plan_solve = histogram("ullage_plan_solve_seconds", "Time from a batch to its plan.")
        self.plan_value = gauge("ullage_plan_value", "Value of the last plan, in its own unit.", ["kind"])
        self.plan_bound = gauge("ullage_plan_bound", "Bound on the last plan's value.", ["kind"])
        self.plan_gap = gauge(
            "ullage_plan_gap_ratio",
            "How far the last plan can be from the best, certified.",
            ["kind"],
        )
        self.plan_wishes = gauge(
            "ullage_plan_wishes_met_ratio",
            "Soft wishes that the last plan meets, of all; 1 where nobody wished anything.",
            ["kind"],
        )
        self.plan_wishes_bound = gauge("ullage_plan_wishes_bound_ratio", "What the same could be at most.", ["kind"])
        self.plan_wish_points = counter(
            "ullage_plan_wish_points_total",
            "kube-scheduler's points for soft wishes in all plans: met, bound (at most), asked.",
            ["kind", "what"],
        )
        self.plan_placed = counter(
            "ullage_plan_batch_pods_total", "Pods of batches, by whether the plan has a place for them.", ["outcome"]
        )
        self.plan_moves = gauge("ullage_plan_moves", "Pods that the last plan moves or evicts.", ["kind"])
        self.plan_time = gauge("ullage_plan_seconds", "Time that the last plan took.", ["kind"])
        self.plans = counter(
            "ullage_plans_total", "Plans asked for, by kind and how planning ended.", ["kind", "ending"]
        )
        self.plan_applied = counter(
            "ullage_plans_applied_total", "Plans acted on, by kind and how that ended.", ["kind", "outcome"]
        )
        self.plan_pods = counter("ullage_plan_pods_total", "Planned pods, by what became of them.", ["outcome"])
        self.plan_patches = counter(
            "ullage_plan_patches_total", "Patches of planned pods, by what and outcome.", ["what", "outcome"]
        )
        self.planner_ready = gauge(
            "ullage_planner_ready", "1 while the planning process runs and its view is complete."
        )
        self.planner_starts = counter("ullage_planner_starts_total", "Times that the planning process was started.")

        self.expander_questions = counter(
            "ullage_expander_questions_total",
            "Questions of Cluster Autoscaler which node group to grow, by what became of them.",
            ["outcome"],
        )

        # the process
        self.loop_lag = gauge("ullage_loop_lag_seconds", "How late the event loop ran its last tick.")
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
