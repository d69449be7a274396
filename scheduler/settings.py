"""What ``ullage serve`` can be told, read once from a TOML or YAML file.

Every field documents its unit and the reason for its default. All problems of a file are reported at once, each
with its path, the value found, the rule and the fix.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from placement.errors import ConfigError, why, yaml_fault
from placement.learning.horizons import EVERY_WORKLOAD, HORIZONS, MOST_WORKLOADS
from placement.planning.gathering import Terms

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MODES = ("off", "shadow", "score", "decide")
"""From silent to alone: no voice · answers neutrally and records · ranks · chooses the node."""
SIZERS = ("forecast", "packed")
"""By each pod's own upper quantile; or by what pods together need of nodes (:mod:`placement.learning.packed`)."""

TLS_FILES = ("tls_cert", "tls_key", "client_ca")
SOFT_WISHES = ("node-affinity", "inter-pod-affinity", "topology-spread", "prefer-no-schedule")


@dataclass(frozen=True)
class Rule:
    """A bound on a number, or a choice, said in words."""

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def broken(self, value: Any) -> str:
        """Why ``value`` does not do; empty if it does."""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.low is not None and not value >= self.low:  # NaN, which TOML and YAML know, is neither above nor below
            return f"must be at least {self.low:g}"
        if self.high is not None and not value <= self.high:
            return f"must be at most {self.high:g}"
        return ""


def _number(default: float, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"rule": Rule(low, high)})


def _choice(default: str, choices: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"rule": Rule(choices=choices)})


OLD_VIEW_S = 300
"""A kind of which the API said nothing for so long is not followed any more, to the alert and to the doctor: a watch that is
silent is begun anew well before."""


@dataclass(frozen=True)
class HttpSettings:
    """The port that kube-scheduler calls."""

    host: str = ""
    """Address to listen on; empty = every one, of IPv6 and IPv4 as far as the machine has them."""
    port: int = _number(8443, 0, 65535)
    """0 picks a free one and says which."""
    tls_cert: str = ""
    """PEM file of our certificate chain; empty serves plain HTTP."""
    tls_key: str = ""
    """PEM file of its key. Both are read again for new connections once they changed, so renewed files need no restart."""
    client_ca: str = ""
    """PEM file of the authority that signs callers' certificates; set it to demand one (mTLS). Whoever has one may bind
    pods, so let it not be the cluster's own, which signs every kubelet's."""
    max_header_bytes: int = _number(16_384, 1024, 2**20)
    """Go sends under 300; sixteen KiB leave room for proxies."""
    max_body_bytes: int = _number(256 * 2**20, 1024, 2**31)
    """Full Node objects (``nodeCacheCapable: false``) take 12 KB each; 15,000 of them fit."""
    max_pending_bytes: int = _number(512 * 2**20, 1024, 2**33)
    """Over all connections: bodies of more than 1 MiB in flight beyond it are answered 429."""
    max_connections: int = _number(512, 1, 65536)
    """Beyond it the oldest that never sent a whole request goes, else the newcomer; kube-scheduler needs a handful."""
    idle_timeout_s: float = _number(180, 1, 86400)
    """Keep-alive; Go's client closes after 90 s, and we must not be first."""
    request_timeout_s: float = _number(10, 0.05, 600)
    """From the first byte of a request to its last; a slower client gets 408."""
    deadline_ms: float = _number(150, 1, 60_000)
    """After this a neutral answer goes out; half of the ``httpTimeout`` that the stanza advises (300 ms)."""
    admin_port: int = _number(0, 0, 65535)
    """Loopback port for switching modes while running; 0 = none (SIGHUP still re-reads this file)."""
    health_port: int = _number(0, 0, 65535)
    """Plain HTTP port for probes and metrics alone, needed when callers must show certificates; 0 = none."""


@dataclass(frozen=True)
class KubeSettings:
    """How to reach the Kubernetes API."""

    kubeconfig: str = ""
    """Path; empty = ``$KUBECONFIG``, then ``~/.kube/config``, then in-cluster."""
    context: str = ""
    """Context of the kubeconfig; empty = its current one."""
    page_size: int = _number(500, 1, 10_000)
    """Objects per page of a list: bounds the memory of one answer and the pause of one decode."""
    watch_timeout_s: float = _number(290, 5, 3600)
    """A watch is renewed after this; bookmarks make that free."""
    silence_timeout_s: float = _number(120, 5, OLD_VIEW_S - 60)
    """A watch without a byte for so long is begun anew, for it may be dead; where nothing changes, the server says nothing."""
    bind_timeout_s: float = _number(2.5, 0.1, 120)
    """One Binding POST; with a lease, at most a sixth of its duration: none outlives the term that it was sent in."""

    @property
    def bind_reach_s(self) -> float:
        """Seconds from sending a Binding until it has taken effect or never will: it may reach the API server as late as we
        give up, which counts the timeout from there and may not hear that we are gone."""
        return 2 * self.bind_timeout_s


@dataclass(frozen=True)
class LeaseSettings:
    """Who of several replicas answers."""

    enabled: bool = False
    """False = alone. With two replicas it must be true: devices have one owner."""
    name: str = "ullage"
    """Of the Lease; replicas with one name take turns."""
    namespace: str = "ullage-system"
    """Of the Lease."""
    identity: str = ""
    """Empty = host name and process id."""
    duration_s: float = _number(15, 2, 600)
    """A standby takes over this long after the last renewal; kube-scheduler's own default."""
    renew_s: float = _number(2, 0.2, 60)
    """Between renewals; the leader steps down when it could not renew for two thirds of ``duration_s``."""


@dataclass(frozen=True)
class LogSettings:
    """The ordered event log on disk."""

    folder: str = ""
    """Empty keeps no log on disk."""
    segment_bytes: int = _number(64 * 2**20, 4096, 2**34)
    """A full segment is compressed and a new one begun."""
    max_bytes: int = _number(4 * 2**30, 4096, 2**44)
    """Oldest segments go beyond this."""
    queue: int = _number(200_000, 100, 10**8)
    """Events waiting for the disk; when full the log is marked incomplete and said to be so."""


@dataclass(frozen=True)
class GrpcSettings:
    """Telemetry in, questions answered: see ``proto/``."""

    port: int = _number(-1, -1, 65535)
    """−1 = off, 0 picks a free one."""
    host: str = "127.0.0.1"
    """Address to listen on; callers from elsewhere should have to show certificates."""
    tls_cert: str = ""
    """PEM file of our certificate chain; empty serves in the clear, which only loopback should see."""
    tls_key: str = ""
    """PEM file of its key. Both are read again for new connections once they changed, so renewed files need no restart."""
    client_ca: str = ""
    """PEM file of the authority that signs callers' certificates; set it to demand one (mTLS)."""
    max_message_bytes: int = _number(4 * 2**20, 1024, 2**30)
    """A pod as JSON is a few KB, at most 1.5 MiB in etcd; the rest is candidates."""
    max_calls: int = _number(100, 1, 100_000)
    """At once; beyond it RESOURCE_EXHAUSTED. Streams may be half of them, so that questions always get through."""
    max_samples: int = _number(200_000, 100, 10**8)
    """Usage samples in memory (about 300 bytes each) until somebody takes them."""


@dataclass(frozen=True)
class RecordSettings:
    """Decision records, for ``ullage explain``."""

    path: str = ""
    """SQLite file; empty keeps none."""
    max_age_days: float = _number(14, 0.01, 3650)
    """Older records go."""
    max_bytes: int = _number(2 * 2**30, 2**20, 2**44)
    """Oldest records go beyond this."""
    queue: int = _number(10_000, 10, 10**7)
    """Records waiting for the disk; beyond it they are dropped and counted."""


@dataclass(frozen=True)
class UsageSettings:
    """Where usage comes from, and how it is predicted. Nothing is predicted while both sources are off."""

    prometheus: str = ""
    """Address such as ``http://prometheus.monitoring:9090``; empty = none (the Telemetry stream still counts)."""
    prometheus_ca: str = ""
    """PEM file of the authority that signed Prometheus' certificate; empty = the system's."""
    prometheus_token_file: str = ""
    """File with a bearer token, or a scheme and what belongs to it (``Basic dXNlcjpwYXNz``), read anew for each query; empty =
    none."""
    prometheus_selector: str = ""
    """Label matchers such as ``cluster="a"`` for every metric, where one address answers for several clusters; empty = none."""
    model: str = ""
    """Folder written by ``ullage train``; ``rule:NAME`` = this baseline as the history rung; empty = ``rule:max7d``.
    A folder is looked at again when its card changes; lifetimes in it are for strategies that read them."""
    horizon: str = _choice("6h-peak", HORIZONS)
    """What is predicted: window and statistic."""
    siblings: bool = False
    """Whether a newcomer is predicted in its first day from what others came to need who looked alike."""
    every_s: float = _number(30, 0.5, 86_400)
    """Between looks at the sources."""
    history_days: float = _number(28, 0.01, 28)
    """How much of the past is read at the start; no feature looks further back than 28 days."""
    fresh_s: float = _number(900, 1, 10**6)
    """Older usage moves a prediction towards the request …"""
    stale_s: float = _number(6 * 3600, 2, 10**6)
    """… and from here on the request itself counts."""
    timeout_s: float = _number(20, 0.1, 600)
    """Of one query; Prometheus is told, too."""
    busy_share: float = _number(0.1, 0.001, 1)
    """At most this share of the time is spent in queries: after each one comes a rest."""
    max_points: float = _number(500_000, 100, 10**8)
    """Per answer; long ranges are cut accordingly."""
    max_answer_bytes: int = _number(64 * 2**20, 1024, 2**31)
    """An answer beyond it is refused."""
    max_workloads: int = _number(MOST_WORKLOADS, 1, EVERY_WORKLOAD)
    """Histories in memory, 129 kB each. Those that come later count with their request (their pods' lifetimes with what
    is known of their size) until one that is gone for a day makes room: ``ullage_prediction_left_out_workloads``."""


@dataclass(frozen=True)
class ReclaimSettings:
    """Selling what prediction says will not be used; see docs/operate.md before switching it on."""

    mode: str = _choice("off", ("off", "dry", "on", "withdraw"))
    """``dry`` says what it would do (metrics), ``on`` patches node status and evicts, ``withdraw`` takes all offers
    back; the last two need the rights of the component ``reclaim``."""
    every_s: float = _number(10, 0.2, 3600)
    """Between looks: the time in which capacity is taken back."""
    node_label: str = "ullage.dev/reclaim=enabled"
    """Only nodes with this label (KEY or KEY=VALUE); empty = all."""
    keep_share: float = _number(0.10, 0, 1)
    """Of allocatable, never offered."""
    offer_share: float = _number(0.90, 0, 1)
    """Of what is then expected to be free."""
    guard: float = _number(1.15, 1, 10)
    """Present use counts times this."""
    growth_share: float = _number(0.10, 0.001, 1)
    """Of allocatable, the most by which an offer grows per look; it shrinks at once."""
    evicts: bool = True
    """Whether reclaimed pods that no longer fit are evicted."""


@dataclass(frozen=True)
class PlanSettings:
    """Live batches; needs the rights of the component ``plan``. See docs/plans.md."""

    enabled: bool = False
    """Whether gated pods are planned; without it nobody but the sweeper lifts gates."""
    window_s: float = _number(Terms.window_s, 0.02, 600)
    """How long the oldest pod waits for others before a batch is solved."""
    time_s: float = _number(Terms.time_s, 0.01, 600)
    """Of the solver, per batch, to improve on best fit; pods wait for it, so a longer one packs better and starts later."""
    max_pods: int = _number(Terms.max_pods, 1, 100_000)
    """Per batch; a gang is never cut."""
    width: int = _number(32, 1, 1000)
    """Patches in flight: enough to keep an API server busy, few enough that their answers never hold up ours for long."""
    gate_deadline_s: float = _number(Terms.gate_deadline_s, 1, 86_400)
    """A gate that was not lifted by then goes without a plan …"""
    gang_deadline_s: float = _number(Terms.gang_deadline_s, 1, 86_400)
    """… and those of gangs by then: waiting whole is what a gang asks for."""
    nomination_deadline_s: float = _number(60, 1, 86_400)
    """A nomination that was neither bound nor replaced by then, nor renewed by a plan that is applied, is cleared."""
    max_time_s: float = _number(300, 0.1, 86_400)
    """Most time that one plan asked for over gRPC may take."""
    applies: bool = False
    """Whether plans may be applied over gRPC; needs the rights of the component ``plan-apply``."""
    records: str = "/var/lib/ullage/plans"
    """Folder for the records of applied plans; must outlive a restart."""
    records_max_age_days: float = _number(14, 0.01, 3650)
    """Of plans that ended, as for decision records; looked at whenever a plan is applied."""
    records_max_bytes: int = _number(2 * 2**30, 2**20, 2**44)
    """Oldest records of plans that ended go beyond this."""


@dataclass(frozen=True)
class ExpanderSettings:
    """Which node group Cluster Autoscaler should grow (``--expander=grpc``). See docs/operate.md."""

    port: int = _number(-1, -1, 65535)
    """Port for its questions, with the certificate of ``http.tls_cert``, of callers without one; −1 = off, 0 picks a free one."""
    prices: str = ""
    """Price book (CSV) with what nodes cost, by group or instance type; read anew for each question."""


@dataclass(frozen=True)
class Settings:
    """Everything."""

    mode: str = _choice("shadow", MODES)
    """Shadow changes nothing: the right way to begin."""
    strategy: str = "priced"
    """Name, or path of a TOML."""
    fallback_strategy: str = "best-fit"
    """Decides until ``strategy`` has the knowledge it needs."""
    knowledge: str = ""
    """Workload file to price devices by (``ullage trace info --workload``); empty = learn from the cluster's pods."""
    learn_every_s: float = _number(600, 0, 10**7)
    """How often prices are learned anew from the pods seen; 0 = never after the first time."""
    lifetimes_every_s: float = _number(300, 0, 10**7)
    """How often strategies that read them are told anew how long pods live; 0 = never."""
    seed: int = _number(0, 0, 2**62)
    """Of the draws that settle random ties."""
    ignored_wishes: tuple[str, ...] = ()
    """Soft wishes that may be ignored in ``decide``; see docs/operate.md."""
    assume_timeout_s: float = _number(60, 1, 3600)
    """A reservation that neither bound nor failed by then is looked up, and forgotten if the API says unbound. At least
    twice ``kube.bind_timeout_s``: until then a Binding without an answer may take effect."""
    exempt_namespaces: tuple[str, ...] = ()
    """Pods of these namespaces get neutral answers: Ullage's own must be among them."""
    name_losers: bool = False
    """In ``decide``, list every other node as failed. Only needed if another extender follows ours."""
    http: HttpSettings = HttpSettings()
    kube: KubeSettings = KubeSettings()
    lease: LeaseSettings = LeaseSettings()
    log: LogSettings = LogSettings()
    grpc: GrpcSettings = GrpcSettings()
    records: RecordSettings = RecordSettings()
    usage: UsageSettings = UsageSettings()
    reclaim: ReclaimSettings = ReclaimSettings()
    plan: PlanSettings = PlanSettings()
    expander: ExpanderSettings = ExpanderSettings()


def read_settings(path: str | None, overrides: dict[str, Any] | None = None, *, here: bool = True) -> Settings:
    """Settings from a file and ``overrides`` with dotted keys (``http.port``), which win.

    ``here`` False: they are meant for another machine, and only each value by itself is judged.

    Raises
    ------
    ConfigError : the file cannot be read, or names all that is wrong in it.
    """
    table = {} if path is None else read_table(Path(path))
    for key, value in (overrides or {}).items():
        _put(table, key, value)
    problems: list[str] = []
    settings: Settings = _section(Settings, table, "", problems)
    broken = {problem.partition(" = ")[0] for problem in problems}
    if here:
        problems += [text for keys, text in _contradictions(settings) if not broken.intersection(keys)]
    if problems:
        where = path or "the command line"
        raise ConfigError(f"settings of {where}: {len(problems)} to mend:\n" + "\n".join(f"  - {p}" for p in problems))
    return settings


def parse_settings(table: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Settings of a table that is meant for another machine, and what is wrong in it; no file is looked at."""
    problems: list[str] = []
    settings: Settings = _section(Settings, table, "", problems)
    return settings, problems


def read_table(path: Path) -> dict[str, Any]:
    """What a file of settings says, whether that makes sense or not.

    Raises
    ------
    ConfigError : it cannot be read, is neither TOML nor YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings {path}: cannot be read ({why(error)}); check the path and its rights") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"settings {path}: does not parse: {yaml_fault(error)}") from error
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise ConfigError(f"settings {path}: must be a table of keys, is a {type(table).__name__}")
    if "apiVersion" in table and "kind" in table:
        raise ConfigError(
            f"settings {path}: holds a {table['kind']}, not settings of `ullage serve`; kube-scheduler's --config file and "
            "manifests are for `ullage doctor --config`"
        )
    return table


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    section, _, last = key.rpartition(".")
    into: Any = table.setdefault(section, {}) if section else table
    if isinstance(into, dict):  # else that is told of the section
        into[last] = value


def _section(kind: Any, table: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(table, dict):
        problems.append(
            f"{prefix.rstrip('.')} = {table!r}: must be a table; write [{prefix.rstrip('.')}] and keys below it"
        )
        return kind()
    known = {f.name: f for f in fields(kind)}
    values = {}
    for key, value in table.items():
        spec = known.get(str(key))
        if spec is None:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known here: {', '.join(known)}"
            shown = "…" if isinstance(value, dict | list) else repr(value)
            problems.append(f"{prefix}{key} = {shown}: no such setting; {hint}")
        elif hasattr(spec.default, "__dataclass_fields__"):
            values[spec.name] = _section(type(spec.default), value, f"{prefix}{key}.", problems)
        else:
            values[spec.name] = _value(spec, value, f"{prefix}{key}", problems)
    return kind(**values)


def _value(spec: Any, value: Any, path: str, problems: list[str]) -> Any:
    default = spec.default
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, float) or (isinstance(default, int) and "float" in str(spec.type)):
        fits = is_number
    elif isinstance(default, bool) or not isinstance(default, int):
        fits = isinstance(value, type(default))
    else:
        fits = is_number and isinstance(value, int)
    if not fits:
        wanted = "list of texts" if isinstance(default, tuple) else str(spec.type)
        article = "an" if wanted[0] in "aeiou" else "a"
        problems.append(f"{path} = {value!r}: must be {article} {wanted}; write it like {path} = {default!r}")
        return default
    rule = spec.metadata.get("rule")
    broken = rule.broken(value) if rule else ""
    if broken:
        problems.append(f"{path} = {value!r}: {broken}; the default is {default!r}")
        return default
    return value


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that do not go together or name what does not exist: their keys, and why."""
    from placement.strategies import strategy_named  # half a second of imports that readers of one section spare

    http, grpc, usage, lease, kube = settings.http, settings.grpc, settings.usage, settings.lease, settings.kube
    for name, tls in (("http", http), ("grpc", grpc)):
        cert, key, authority = (f"{name}.{part}" for part in TLS_FILES)
        if bool(tls.tls_cert) != bool(tls.tls_key):
            wrong = "one is set without the other; give both, or neither to serve in the clear"
            yield (cert, key), f"{cert} = {tls.tls_cert!r}, {key} = {tls.tls_key!r}: {wrong}"
        if tls.client_ca and not tls.tls_cert:
            wrong = f"set without {cert}, but callers can only show certificates over TLS; set both"
            yield (cert, authority), f"{authority} = {tls.client_ca!r}: {wrong}"
        for part in TLS_FILES:
            yield from _no_file(f"{name}.{part}", getattr(tls, part), "mount the certificate there")
    yield from _no_file("knowledge", settings.knowledge, "write one with `ullage trace info TRACE --workload FILE`")
    yield from _no_file("usage.prometheus_ca", usage.prometheus_ca, "mount the certificate there")
    yield from _no_file("usage.prometheus_token_file", usage.prometheus_token_file, "mount the token there")
    yield from _no_file("expander.prices", settings.expander.prices, "mount the price book there")
    if settings.expander.port >= 0 and not settings.expander.prices:
        wrong = "set without expander.prices, by which groups are compared; set both"
        yield ("expander.port", "expander.prices"), f"expander.port = {settings.expander.port}: {wrong}"
    if settings.expander.port >= 0 and not http.tls_cert:
        wrong = (
            "set without http.tls_cert, but Cluster Autoscaler asks over TLS or not at all; set http.tls_cert, tls_key"
        )
        yield ("expander.port", "http.tls_cert"), f"expander.port = {settings.expander.port}: {wrong}"
    for key in ("strategy", "fallback_strategy"):
        name = getattr(settings, key)
        try:
            strategy_named(name)
        except ConfigError as error:
            yield (key,), f"{key} = {name!r}: {error}"
    if settings.plan.applies and grpc.port >= 0 and not grpc.client_ca and grpc.host not in LOOPBACK:
        wrong = f"set, and grpc.host = {grpc.host!r} takes callers without a certificate, who could then evict pods"
        yield ("plan.applies", "grpc.host", "grpc.client_ca"), f"plan.applies: {wrong}; set grpc.client_ca"
    if usage.stale_s <= usage.fresh_s:
        wrong = f"must be above usage.fresh_s ({usage.fresh_s:g}); predictions age between"
        yield ("usage.stale_s", "usage.fresh_s"), f"usage.stale_s = {usage.stale_s:g}: {wrong}"
    if "@" in usage.prometheus.split("//", 1)[-1].split("/", 1)[0]:
        wrong = "names a user, and with the password every log and bundle would show it"
        yield ("usage.prometheus",), f"usage.prometheus: {wrong}; write `Basic BASE64` to usage.prometheus_token_file"
    elif usage.prometheus and not usage.prometheus.startswith(("http://", "https://")):
        wrong = "must be an address such as http://prometheus:9090"
        yield ("usage.prometheus",), f"usage.prometheus = {usage.prometheus!r}: {wrong}"
    for wish in settings.ignored_wishes:
        if wish not in SOFT_WISHES:
            wrong = f"must be among {', '.join(SOFT_WISHES)}"
            yield ("ignored_wishes",), f"ignored_wishes has {wish!r}: {wrong}"
    if lease.renew_s * 3 > lease.duration_s:
        wrong = f"must be at most a third of lease.duration_s ({lease.duration_s:g}), or one lost call costs the lead"
        yield ("lease.renew_s", "lease.duration_s"), f"lease.renew_s = {lease.renew_s:g}: {wrong}"
    if settings.assume_timeout_s < kube.bind_reach_s:
        least = f"must be at least twice kube.bind_timeout_s ({kube.bind_timeout_s:g})"
        wrong = f"{least}, or devices are free before a Binding fails"
        yield (
            ("assume_timeout_s", "kube.bind_timeout_s"),
            f"assume_timeout_s = {settings.assume_timeout_s:g}: {wrong}",
        )
    if lease.enabled and kube.bind_reach_s * 3 > lease.duration_s:
        wrong = (
            f"must be at most a sixth of lease.duration_s ({lease.duration_s:g}), or a Binding could outlive the lead"
        )
        yield ("kube.bind_timeout_s", "lease.duration_s"), f"kube.bind_timeout_s = {kube.bind_timeout_s:g}: {wrong}"


def _no_file(key: str, path: str, fix: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if path and not Path(path).is_file():
        yield (key,), f"{key} = {path!r}: no such file; {fix}"
