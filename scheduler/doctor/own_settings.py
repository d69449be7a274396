"""The doctor's rules over our settings. Pure; see :mod:`scheduler.doctor.rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from scheduler.doctor.facts import Facts
from scheduler.doctor.rules import ERROR, WARNING, Hit, Rule
from scheduler.settings import LOOPBACK, Settings

NEW_BALANCE = (1, 36)
"""From this minor on NodeResourcesBalancedAllocation scores what a pod changes (kubernetes#135573)."""


def _where_known(check: Callable[[Facts, Settings], Iterable[Hit]]) -> Callable[[Facts], Iterable[Hit]]:
    """A check of our settings, which is silent where nobody gave any."""
    return lambda facts: () if facts.settings is None else check(facts, facts.settings)


@_where_known
def _deadline(facts: Facts, settings: Settings) -> Iterator[Hit]:
    deadline_ms = settings.http.deadline_ms
    for stanza in facts.ours:
        timeout_s = stanza.timeout_s
        if timeout_s is not None and 4 * deadline_ms > 3 * round(1000 * timeout_s, 6):
            yield Hit(
                "http.deadline_ms",
                f"our deadline of {deadline_ms / 1000:g} s leaves too little of httpTimeout {timeout_s:g} s ({stanza.path})",
            )


@_where_known
def _self_exempt(facts: Facts, settings: Settings) -> Iterator[Hit]:
    is_asked_for_us = any(s.is_for_all_pods and s.config.serves_default for s in facts.ours)
    if is_asked_for_us and settings.lease.namespace not in settings.exempt_namespaces:
        yield Hit("exempt_namespaces", f"our own namespace {settings.lease.namespace!r} is not exempt")


@_where_known
def _serves_plain(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    if not settings.http.tls_cert and settings.http.host not in LOOPBACK:
        where = settings.http.host or "every address"
        yield Hit("http.tls_cert", f"verbs are served without TLS on {where}")


@_where_known
def _anybody(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    if settings.http.tls_cert and not settings.http.client_ca:
        yield Hit("http.client_ca", "callers need no certificate: whoever reaches the port may decide and bind")


@_where_known
def _locked_probes(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    if settings.http.client_ca and not settings.http.health_port:
        yield Hit("http.health_port", "callers must show certificates, and no health_port serves probes")


@_where_known
def _idle(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    if settings.http.idle_timeout_s <= 90:
        yield Hit("http.idle_timeout_s", f"idle connections are closed after {settings.http.idle_timeout_s:g} s")


@_where_known
def _locked_out(facts: Facts, settings: Settings) -> Iterator[Hit]:
    for stanza in facts.ours if settings.http.client_ca else ():
        if not (stanza.tls.get("certFile") or stanza.tls.get("certData")):
            yield Hit(f"{stanza.path}.tlsConfig", "we demand client certificates and this stanza has none")


@_where_known
def _clear_grpc(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    grpc = settings.grpc
    if grpc.port >= 0 and grpc.host not in LOOPBACK and not (grpc.tls_cert and grpc.client_ca):
        lacks = "TLS" if not grpc.tls_cert else "client certificates"
        yield Hit("grpc.tls_cert" if not grpc.tls_cert else "grpc.client_ca", f"gRPC on {grpc.host} without {lacks}")


def _refused_settings(facts: Facts) -> Iterator[Hit]:
    for problem in facts.setting_problems:
        path, _, message = problem.partition(": ")
        yield Hit(path, message)


@_where_known
def _no_nominations(facts: Facts, settings: Settings) -> Iterator[Hit]:
    if settings.plan.enabled and facts.kube_version is not None and facts.kube_version < (1, 35):
        major, minor = facts.kube_version
        yield Hit("plan.enabled", f"NominatedNodeNameForExpectation is not on by default in {major}.{minor}")


@_where_known
def _other_minor(facts: Facts, settings: Settings) -> Iterator[Hit]:
    if facts.kube_version is None:
        return
    major, minor = facts.kube_version
    for key in ("strategy", "fallback_strategy"):
        name = getattr(settings, key)
        if name == "kube-default" and facts.kube_version < NEW_BALANCE:
            yield Hit(key, f"kube-scheduler {major}.{minor} scores as kube-default-1.35 does, not as {name}")
        if name == "kube-default-1.35" and facts.kube_version >= NEW_BALANCE:
            yield Hit(key, f"kube-scheduler {major}.{minor} scores as kube-default does, not as {name}")


@_where_known
def _idle_learning(_facts: Facts, settings: Settings) -> Iterator[Hit]:
    from placement.learning.prediction import RULE_PREFIX  # half a second of imports that files without settings spare
    from placement.strategies import strategy_named

    usage, strategy = settings.usage, strategy_named(settings.strategy)
    is_rule = usage.model.startswith(RULE_PREFIX)
    tells_lifetimes = strategy.reads_lifetimes and settings.lifetimes_every_s > 0 and not is_rule
    has_source = bool(usage.prometheus) or settings.grpc.port >= 0
    if usage.model and not has_source and not tells_lifetimes:
        yield Hit("usage.model", f"nothing measures usage, and {strategy.name} is not told lifetimes by it")
    elif usage.model and strategy.reads_parts and not tells_lifetimes:
        yield Hit("usage.model", f"{strategy.name} reads parts of the day, which come from the history alone")
    if usage.siblings and not has_source:
        yield Hit("usage.siblings", "nothing measures usage")
    elif usage.siblings and strategy.reads_parts:
        yield Hit("usage.siblings", f"{strategy.name} reads parts of the day, of which siblings tell nothing")


SETTINGS_RULES: tuple[Rule, ...] = (
    Rule(
        "UD201",
        ERROR,
        "Our deadline is too near to kube-scheduler's",
        "The neutral answer that we give when we are late must arrive before kube-scheduler gives up.",
        "Set http.deadline_ms to half of httpTimeout.",
        _deadline,
    ),
    Rule(
        "UD202",
        ERROR,
        "Ullage schedules itself",
        "When it is away its own pods need it to start (kubernetes#91489).",
        "Add our namespace to exempt_namespaces, or use a second scheduler and leave our pods to the default one.",
        _self_exempt,
    ),
    Rule(
        "UD203",
        WARNING,
        "Verbs are served without TLS",
        "Whoever is on the way can read pod specs and choose nodes.",
        "Set http.tls_cert and http.tls_key.",
        _serves_plain,
    ),
    Rule(
        "UD204",
        WARNING,
        "Callers are not asked who they are",
        "bind has the effect of a right that the caller may not have; a NetworkPolicy alone is one lock.",
        "Set http.client_ca to an authority of its own that signs kube-scheduler's client certificate: the cluster's signs "
        "every kubelet's as well.",
        _anybody,
    ),
    Rule(
        "UD205",
        ERROR,
        "Probes are locked out",
        "The kubelet and Prometheus show no certificates, so the replica would never become ready.",
        "Set http.health_port (8081) and point probes and scrapes at it.",
        _locked_probes,
    ),
    Rule(
        "UD206",
        WARNING,
        "Connections are closed before kube-scheduler would",
        "Go keeps idle connections for 90 s; if we close first, a POST can be lost, and none is retried.",
        "Set http.idle_timeout_s to more than 90.",
        _idle,
    ),
    Rule(
        "UD207",
        ERROR,
        "We demand a certificate that the stanza does not have",
        "Every call is refused in the handshake; with ignorable nobody notices.",
        "Set tlsConfig.certFile and keyFile in the stanza.",
        _locked_out,
    ),
    Rule(
        "UD208",
        ERROR,
        "Settings that ullage serve refuses",
        "It says so and exits; the Deployment never becomes ready.",
        "Correct the setting as the message says.",
        _refused_settings,
    ),
    Rule(
        "UD209",
        WARNING,
        "gRPC is open to everybody",
        "Whoever reaches the port may ask where pods would go, see every decision, and send false usage.",
        "Set grpc.tls_cert, grpc.tls_key and grpc.client_ca, or grpc.host: 127.0.0.1.",
        _clear_grpc,
    ),
    Rule(
        "UD210",
        ERROR,
        "Nominations that kube-scheduler does not follow",
        "Nominations written by others are off by default before 1.35 (KEP-5278): kube-scheduler may pass over or "
        "clear them, and pods go elsewhere than planned.",
        "Switch the feature gate NominatedNodeNameForExpectation on in kube-scheduler and kube-apiserver, or set "
        "plan.enabled: false.",
        _no_nominations,
    ),
    Rule(
        "UD211",
        WARNING,
        "The default profile of another minor",
        "Balanced allocation scores what a pod changes since 1.36, and how the node ends up before: choices differ for "
        "about one pod in twenty.",
        "Set the strategy to kube-default for 1.36 and later, to kube-default-1.35 for 1.34 and 1.35.",
        _other_minor,
    ),
    Rule(
        "UD212",
        WARNING,
        "A model that nobody asks",
        "Usage is forecast only where it is measured, and lifetimes only for a strategy that reads them: the setting "
        "changes nothing, and nothing says so.",
        "Set usage.prometheus or grpc.port, choose a strategy that reads what the model tells (docs/models.md), or "
        "leave the setting out.",
        _idle_learning,
    ),
)
