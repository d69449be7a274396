"""The doctor's rules over kube-scheduler's configuration. Pure; see :mod:`scheduler.doctor.rules`.

Sources: kube-scheduler 1.36 ``pkg/scheduler/extender.go``, ``schedule_one.go``,
``apis/config/validation/validation.go``; the issues named in each rule's ``why``.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator

from placement.resources import GPU_SHARE
from scheduler.doctor.facts import OUR_PATHS, Facts, Stanza, duration_s, list_of, table_of
from scheduler.doctor.rules import ERROR, WARNING, Hit, Rule

OLDEST, NEWEST = (1, 34), (1, 37)
"""Kubernetes minors that we support: the end-to-end tests run on the oldest, on 1.36 and on the newest."""

EXTENDER_KEYS = (
    "urlPrefix",
    "filterVerb",
    "preemptVerb",
    "prioritizeVerb",
    "weight",
    "bindVerb",
    "enableHTTPS",
    "tlsConfig",
    "httpTimeout",
    "nodeCacheCapable",
    "managedResources",
    "ignorable",
)
TLS_KEYS = ("insecure", "serverName", "certFile", "keyFile", "caFile", "certData", "keyData", "caData")
VERBS = {"filterVerb": "filter", "prioritizeVerb": "prioritize", "preemptVerb": "preempt", "bindVerb": "bind"}
"""Our verbs by the stanza's fields."""


def _api_version(facts: Facts) -> Iterator[Hit]:
    for config in facts.configs:
        found = config.table.get("apiVersion")
        if found != "kubescheduler.config.k8s.io/v1" or config.table.get("kind") == "Policy":
            yield Hit(config.path("apiVersion"), f"apiVersion is {found!r}, kind {config.table.get('kind')!r}")


def _unknown_keys(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        for keys, table, path in (
            (EXTENDER_KEYS, stanza.table, stanza.path),
            (TLS_KEYS, stanza.tls, f"{stanza.path}.tlsConfig"),
        ):
            for key in table:
                if key not in keys:
                    close = difflib.get_close_matches(str(key), keys, 1)
                    hint = f"; the nearest valid key is {close[0]}" if close else ""
                    yield Hit(f"{path}.{key}", f"{key!r} is not a field{hint}")


def _no_node_cache(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.get("nodeCacheCapable") is not True:
            yield Hit(
                f"{stanza.path}.nodeCacheCapable", f"nodeCacheCapable is {stanza.get('nodeCacheCapable', 'unset')}"
            )


def _unverified(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.tls.get("insecure") is True:
            yield Hit(f"{stanza.path}.tlsConfig.insecure", "insecure is true: anybody can answer in Ullage's place")
        elif stanza.get("enableHTTPS") is True and not stanza.has_ca:
            yield Hit(f"{stanza.path}.tlsConfig", "enableHTTPS is true without caFile or caData: nothing is verified")


def _scheme(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        scheme, https = stanza.url.scheme, stanza.get("enableHTTPS") is True
        if https and scheme == "http":
            yield Hit(f"{stanza.path}.urlPrefix", "enableHTTPS is true but urlPrefix begins with http://")
        elif scheme == "https" and not https and not stanza.tls:
            yield Hit(f"{stanza.path}.enableHTTPS", "urlPrefix begins with https:// without enableHTTPS and tlsConfig")


def _plain(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.url.scheme == "http" and not _is_loopback(stanza):
            yield Hit(f"{stanza.path}.urlPrefix", f"{stanza.get('urlPrefix')} is neither encrypted nor authenticated")


def _is_loopback(stanza: Stanza) -> bool:
    host = stanza.url.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.url.scheme not in ("http", "https") or not stanza.url.hostname:
            yield Hit(f"{stanza.path}.urlPrefix", f"urlPrefix {stanza.get('urlPrefix')!r} is no http(s) address")


def _our_path(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.ours:
        if stanza.url.path.rstrip("/") not in OUR_PATHS:
            yield Hit(f"{stanza.path}.urlPrefix", f"path {stanza.url.path or '/'!r} is not served")


def _our_verbs(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if not any(stanza.get(key) for key in VERBS):
            yield Hit(stanza.path, "no verb is set: the entry does nothing")
    for stanza in facts.ours:
        for key, verb in VERBS.items():
            if stanza.get(key) and stanza.get(key) != verb:
                yield Hit(f"{stanza.path}.{key}", f"{key} is {stanza.get(key)!r}, Ullage serves {verb!r}")


def _fails_closed(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.is_for_all_pods and stanza.get("ignorable") is not True:
            yield Hit(f"{stanza.path}.ignorable", "every pod is sent here and ignorable is not true")


def _gpu_fails_open(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if GPU_SHARE in stanza.resources and stanza.get("ignorable") is True:
            yield Hit(f"{stanza.path}.ignorable", f"ignorable is true for pods that ask for {GPU_SHARE}")


def _gpu_unbound(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if GPU_SHARE in stanza.resources and not (stanza.get("bindVerb") and stanza.get("filterVerb")):
            yield Hit(stanza.path, f"{GPU_SHARE} is managed without both filterVerb and bindVerb")


def _gpu_unchecked(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        for i, entry in enumerate(list_of(stanza.get("managedResources"))):
            if table_of(entry).get("ignoredByScheduler") is True:
                path = f"{stanza.path}.managedResources[{i}].ignoredByScheduler"
                yield Hit(path, f"kube-scheduler no longer checks {table_of(entry).get('name')} against allocatable")


def _no_entry(facts: Facts) -> Iterator[Hit]:
    for config in facts.configs:
        if not config.stanzas:
            found = config.table.get("extenders")
            yield Hit(
                config.path("extenders"), "extenders is empty" if not found else "extenders is no list of entries"
            )


def _timeout_unset(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if duration_s(stanza.get("httpTimeout", 0)) == 0:
            yield Hit(f"{stanza.path}.httpTimeout", "httpTimeout is unset or 0, which means 5 s")


def _timeout_odd(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        given = duration_s(stanza.get("httpTimeout", 0))
        path = f"{stanza.path}.httpTimeout"
        if given is None:
            yield Hit(path, f"httpTimeout {stanza.get('httpTimeout')!r} is no Go duration")
        elif given and not 0.1 <= given <= 2:
            yield Hit(path, f"httpTimeout is {given:g} s, outside 0.1 to 2 s")


def _weight(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        weight = stanza.get("weight", 0)
        if stanza.get("prioritizeVerb") and (not isinstance(weight, int) or isinstance(weight, bool) or weight <= 0):
            yield Hit(f"{stanza.path}.weight", f"weight is {weight!r} with prioritizeVerb set")


def _weight_idle(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.get("weight") and not stanza.get("prioritizeVerb"):
            yield Hit(f"{stanza.path}.weight", f"weight is {stanza.get('weight')} but prioritizeVerb is not set")


def _weight_loud(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        weight = stanza.get("weight")
        if isinstance(weight, int) and weight > 100:
            yield Hit(f"{stanza.path}.weight", f"weight {weight} is worth {weight * 100} points a node")


def _sampling(facts: Facts) -> Iterator[Hit]:
    key = "percentageOfNodesToScore"
    for config in facts.configs:
        if not config.stanzas:
            continue
        shares = [profile.get(key) for profile in config.profiles]
        given = {config.path(key): config.table.get(key)}
        given |= {config.path(f"profiles[{i}].{key}"): share for i, share in enumerate(shares)}
        if config.table.get(key) is None and None in shares:
            yield Hit(config.path(key), f"{key} is unset: with 100 nodes and more the extender sees a sample")
        for where, share in given.items():
            if share is not None and (not isinstance(share, int) or isinstance(share, bool) or not 0 <= share <= 100):
                yield Hit(where, f"{key} is {share!r}; kube-scheduler refuses it")


def _binders(facts: Facts) -> Iterator[Hit]:
    for config in facts.configs:
        binders = [s.path for s in config.stanzas if s.get("bindVerb")]
        if len(binders) > 1:
            yield Hit(config.path("extenders"), f"{len(binders)} entries bind: {', '.join(binders)}")


def _binds_everything(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        if stanza.get("bindVerb") and stanza.is_for_all_pods:
            yield Hit(f"{stanza.path}.bindVerb", "bindVerb is set, managedResources is empty: we would bind every pod")


def _not_extended(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        for i, name in enumerate(stanza.resources):
            prefix = name.partition("/")[0]
            is_native = "/" not in name or prefix.endswith("kubernetes.io")
            if is_native or name.startswith("requests."):
                yield Hit(f"{stanza.path}.managedResources[{i}].name", f"{name!r} is no extended resource")


def _managed_twice(facts: Facts) -> Iterator[Hit]:
    for config in facts.configs:
        seen: dict[str, str] = {}
        for stanza in config.stanzas:
            for i, name in enumerate(stanza.resources):
                path = f"{stanza.path}.managedResources[{i}].name"
                if name in seen:
                    yield Hit(path, f"{name!r} is managed at {seen[name]} already")
                seen.setdefault(name, path)


def _lease_shared(facts: Facts) -> Iterator[Hit]:
    for config in facts.configs:
        election = table_of(config.table.get("leaderElection"))
        name = election.get("resourceName", "kube-scheduler")
        elects = election.get("leaderElect", True) is not False
        if elects and not config.serves_default and name == "kube-scheduler":
            where = config.path("leaderElection.resourceName")
            yield Hit(where, f"scheduler {config.names[0]} competes for the lease of the default scheduler")


def _default_profile(facts: Facts) -> Iterator[Hit]:
    if facts.kube_version is None or facts.kube_version < (1, 35):
        return
    for config in facts.configs:
        if config.serves_default and config.stanzas:
            major, minor = facts.kube_version
            where = config.path("extenders")
            yield Hit(where, f"kube-scheduler {major}.{minor} switches batching off for all its profiles")


def _unsupported(facts: Facts) -> Iterator[Hit]:
    version = facts.kube_version
    if version is not None and not OLDEST <= version <= NEWEST:
        supported = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        known = " pods that an extender rejected could wait five minutes;" if version < (1, 29) else ""
        yield Hit("(kube-scheduler version)", f"version {version[0]}.{version[1]}:{known} supported are {supported}")


def _old_bind(facts: Facts) -> Iterator[Hit]:
    if facts.kube_version is None or facts.kube_version >= (1, 30):
        return
    for stanza in facts.stanzas:
        if stanza.get("bindVerb") and stanza.get("ignorable") is True:
            yield Hit(f"{stanza.path}.ignorable", "ignorable is not honoured on bind before 1.30")


def _server_name(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        host = stanza.url.hostname or ""
        if stanza.url.scheme != "https" or stanza.tls.get("serverName"):
            continue
        try:
            ipaddress.ip_address(host)
        except ValueError:
            continue
        yield Hit(f"{stanza.path}.tlsConfig.serverName", f"urlPrefix names the address {host} and serverName is unset")


def _half_identity(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.stanzas:
        tls = stanza.tls
        has_cert, has_key = (bool(tls.get(f"{k}File") or tls.get(f"{k}Data")) for k in ("cert", "key"))
        if has_cert != has_key:
            yield Hit(f"{stanza.path}.tlsConfig", "a client certificate without its key, or a key without certificate")


def _no_identity(facts: Facts) -> Iterator[Hit]:
    for stanza in facts.ours:
        if stanza.url.scheme == "https" and not (stanza.tls.get("certFile") or stanza.tls.get("certData")):
            yield Hit(f"{stanza.path}.tlsConfig", "no certFile or certData: kube-scheduler cannot show who it is")


def _short_answers(facts: Facts) -> Iterator[Hit]:
    if facts.settings is None or facts.settings.name_losers:
        return
    for config in facts.configs:
        last_filter = max((s.index for s in config.stanzas if s.get("filterVerb") and not s.is_ours), default=-1)
        for stanza in config.stanzas:
            if stanza.is_ours and stanza.get("filterVerb") and stanza.index < last_filter:
                yield Hit(stanza.path, "another extender filters after Ullage while name_losers is false")


CONFIG_RULES: tuple[Rule, ...] = (
    Rule(
        "UD101",
        ERROR,
        "The configuration's version is not read any more",
        "The Policy file went in 1.23 and v1beta3 in 1.29; kube-scheduler refuses to start, or starts without us.",
        "Write apiVersion: kubescheduler.config.k8s.io/v1 and kind: KubeSchedulerConfiguration.",
        _api_version,
    ),
    Rule(
        "UD102",
        ERROR,
        "A field that does not exist",
        "kube-scheduler decodes strictly: a typing error keeps it from starting.",
        "Correct the field's name.",
        _unknown_keys,
    ),
    Rule(
        "UD103",
        ERROR,
        "Whole Node objects are sent (nodeCacheCapable)",
        "The default false ships every Node with every call (62 MB at 5,000 nodes), and since 1.33 kube-scheduler "
        "then scores all nodes as idle (kubernetes#141781, #121527).",
        "Set nodeCacheCapable: true; Ullage keeps its own view of the nodes.",
        _no_node_cache,
    ),
    Rule(
        "UD104",
        ERROR,
        "HTTPS without verification",
        "With enableHTTPS and no authority kube-scheduler silently accepts any certificate.",
        "Set tlsConfig.caFile or caData to the authority that signed Ullage's certificate, and drop insecure.",
        _unverified,
    ),
    Rule(
        "UD105",
        ERROR,
        "Scheme and enableHTTPS disagree",
        "Only urlPrefix decides between http and https; enableHTTPS only sets up certificates.",
        "Write https:// in urlPrefix, enableHTTPS: true and a tlsConfig with the authority.",
        _scheme,
    ),
    Rule(
        "UD106",
        WARNING,
        "Plain HTTP to another host",
        "Pod specs travel readable, and whoever can answer at that address chooses nodes.",
        "Serve TLS (http.tls_cert, http.tls_key) and use https://.",
        _plain,
    ),
    Rule(
        "UD107",
        ERROR,
        "urlPrefix is no address",
        "kube-scheduler cannot call it; each cycle of each pod fails or, if ignorable, passes us by in silence.",
        "Write https://NAME.NAMESPACE.svc:PORT/v1.",
        _url,
    ),
    Rule(
        "UD108",
        ERROR,
        "A path that Ullage does not serve",
        "It answers 404, which an ignorable extender turns into silence (platform-aware-scheduling#29).",
        "End urlPrefix with /v1 (all pods) or /v1/gpu (GPU shares).",
        _our_path,
    ),
    Rule(
        "UD109",
        ERROR,
        "No verb, or one that Ullage does not serve",
        "The verb is appended to urlPrefix; another word is a 404.",
        "Use filterVerb: filter, prioritizeVerb: prioritize, preemptVerb: preempt, bindVerb: bind.",
        _our_verbs,
    ),
    Rule(
        "UD110",
        ERROR,
        "A stanza for all pods that fails closed",
        "When the extender is away no pod is scheduled at all (kubernetes#60616), our own included.",
        "Set ignorable: true on stanzas without managedResources.",
        _fails_closed,
    ),
    Rule(
        "UD111",
        ERROR,
        "GPU shares that fail open",
        "Without our answer the default binder binds the pod without devices: two pods may use one.",
        f"Set ignorable: false on the stanza that manages {GPU_SHARE}.",
        _gpu_fails_open,
    ),
    Rule(
        "UD112",
        ERROR,
        "GPU shares without our bind",
        "kube-scheduler knows totals only; the devices are written by our Binding.",
        "Set filterVerb: filter and bindVerb: bind on that stanza.",
        _gpu_unbound,
    ),
    Rule(
        "UD113",
        ERROR,
        "kube-scheduler's own check is off (ignoredByScheduler)",
        "A node may be given more of the resource than it has as soon as our view is behind.",
        "Delete ignoredByScheduler.",
        _gpu_unchecked,
    ),
    Rule(
        "UD114",
        WARNING,
        "httpTimeout is unset",
        "Then a hanging extender blocks all scheduling for 5 s a call.",
        "Set httpTimeout: 300ms.",
        _timeout_unset,
    ),
    Rule(
        "UD115",
        WARNING,
        "httpTimeout is odd",
        "Under 100 ms a pause of a garbage collector is a failure; over 2 s a fault of ours stops the cluster.",
        "Set httpTimeout between 200ms and 500ms.",
        _timeout_odd,
    ),
    Rule(
        "UD116",
        ERROR,
        "prioritizeVerb without a weight",
        "kube-scheduler refuses to start (validation.go, validateExtenders).",
        "Set weight: 5.",
        _weight,
    ),
    Rule(
        "UD117",
        WARNING,
        "A weight without prioritizeVerb",
        "It has no effect: no score is asked for.",
        "Set prioritizeVerb: prioritize, or delete weight.",
        _weight_idle,
    ),
    Rule(
        "UD118",
        WARNING,
        "A weight that drowns every other wish",
        "In-tree plug-ins add up to about 1,200 points; far above that no other preference is heard.",
        "Use a weight of 1 to 100; to choose alone, use mode decide.",
        _weight_loud,
    ),
    Rule(
        "UD119",
        WARNING,
        "Sampling of nodes is left to the default",
        "By default kube-scheduler stops looking after 50 % of 1,000 nodes down to 5 %, so the extender "
        "chooses from what is left. 100 shows every node and costs throughput; both are right, but say which.",
        "Set percentageOfNodesToScore: 100 (best choice), or a number that you chose for speed.",
        _sampling,
    ),
    Rule(
        "UD120",
        ERROR,
        "Two binders",
        "kube-scheduler refuses to start: one extender may bind (kubernetes#109739).",
        "Keep bindVerb on one entry.",
        _binders,
    ),
    Rule(
        "UD121",
        ERROR,
        "Every pod is bound by an extender",
        "A binder without managedResources must bind all pods, its own included; when it is away nothing is bound.",
        f"Set managedResources to {GPU_SHARE}, or delete bindVerb.",
        _binds_everything,
    ),
    Rule(
        "UD122",
        ERROR,
        "managedResources names something else than an extended resource",
        "cpu, memory and other native names are refused at start; there is no way to send only some ordinary pods.",
        "Name extended resources (domain/name) only, or leave managedResources empty.",
        _not_extended,
    ),
    Rule(
        "UD123",
        ERROR,
        "A resource is managed twice",
        "kube-scheduler refuses to start on duplicate managed resources.",
        "Name each resource in one entry only.",
        _managed_twice,
    ),
    Rule(
        "UD124",
        ERROR,
        "A second scheduler competes for the default scheduler's lease",
        "Only the holder of the lease schedules: the other one, perhaps the default scheduler, stands still.",
        "Set leaderElection.resourceName to a name of its own, and resourceNamespace to our namespace.",
        _lease_shared,
    ),
    Rule(
        "UD125",
        WARNING,
        "Extenders in the default scheduler cost it its batching",
        "Since 1.35 OpportunisticBatching is off for all profiles as soon as one extender is configured.",
        "Run the stanza in a second scheduler (the default of our manifests).",
        _default_profile,
    ),
    Rule(
        "UD126",
        WARNING,
        "A Kubernetes version that we do not support",
        "Defects of the extender path were mended in 1.29 (requeueing), 1.30 (ignorable bind), and may come back.",
        f"Use {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}, or run our end-to-end tests on your version.",
        _unsupported,
    ),
    Rule(
        "UD127",
        ERROR,
        "An ignorable binder before 1.30",
        "ignorable was not honoured on bind (kubernetes#122503): a failing bind fails the pod all the same.",
        "Set ignorable: false there, or upgrade.",
        _old_bind,
    ),
    Rule(
        "UD128",
        WARNING,
        "A certificate for a name, called by address",
        "Verification compares the address with the certificate unless serverName says which name to expect.",
        "Set tlsConfig.serverName to the Service's name (NAME.NAMESPACE.svc).",
        _server_name,
    ),
    Rule(
        "UD129",
        ERROR,
        "Half an identity",
        "kube-scheduler refuses to start on a certificate without key.",
        "Give certFile and keyFile (or certData and keyData) together.",
        _half_identity,
    ),
    Rule(
        "UD130",
        WARNING,
        "The scheduler cannot show who it is",
        "A client certificate is the only way to authenticate kube-scheduler to an extender (kubernetes#94106).",
        "Set tlsConfig.certFile and keyFile, and http.client_ca in our settings.",
        _no_identity,
    ),
    Rule(
        "UD131",
        WARNING,
        "Another extender filters after Ullage",
        "Nodes missing from an answer count as hopeless, so the later extender and preemption lose them.",
        "Put Ullage last in extenders, or set name_losers: true.",
        _short_answers,
    ),
    Rule(
        "UD132",
        ERROR,
        "A configuration that calls no extender",
        "kube-scheduler then never asks Ullage, and nothing says so.",
        "Add the stanzas of manifests/kustomize/overlays/default-scheduler/stanza.yaml under extenders.",
        _no_entry,
    ),
)
