"""Live probes, hop by hop: what no file can tell.

From the scheduler's side of the wire: does the name resolve, does TLS verify, does a verb answer with a real pod,
how old is the view. From the API's side: which rights are there, does the clock agree, who else schedules on the
same nodes. Probes change nothing: the pod that is asked about is bound already, and Ullage never assumes such a pod.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import ssl
import tempfile
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from placement import objects
from placement.errors import ConfigError, why
from placement.marks import why_waits
from placement.resources import PLAN_GATE
from placement.specs import gang_besides_labels
from scheduler.doctor.facts import DEFAULT_SCHEDULER, Facts, Stanza, Table, list_of, parse_version, table_of
from scheduler.doctor.manifests import UNGUARDED, gives_shares, why_unguarded
from scheduler.doctor.rules import ERROR, WARNING, Hit, Rule
from scheduler.errors import ApiError
from scheduler.rights import needed
from scheduler.settings import OLD_VIEW_S, Settings

if TYPE_CHECKING:
    from scheduler.kube import KubeClient

Answer = TypeVar("Answer")
Found = tuple[str, Hit]
"""Code and place."""

EXPIRES_SOON_S = 14 * 86_400
SKEW_S = 5
OLD_USAGE_S = 600
NAMES_ASKED = 500
PODS_LOOKED_AT = 5_000
ENDED = ("Succeeded", "Failed")
TOO_WIDE = (("*", "*", "*"), ("", "secrets", "get"), ("", "pods", "create"), ("", "pods", "delete"))

LIVE_RULES: tuple[Rule, ...] = (
    Rule(
        "UD401",
        ERROR,
        "The name does not resolve",
        "kube-scheduler cannot find us; with ignorable nobody notices.",
        "Check the Service and its namespace; schedulers on the host network need ClusterFirstWithHostNet.",
    ),
    Rule(
        "UD402",
        ERROR,
        "No connection, or a certificate that does not verify",
        "Every call fails before it is made.",
        "Check port, NetworkPolicy, tlsConfig.caFile, serverName and the client certificate.",
    ),
    Rule(
        "UD403",
        WARNING,
        "The certificate ends soon",
        "After that every call fails.",
        "Renew it; cert-manager does so by itself, and Ullage takes it for new connections.",
    ),
    Rule(
        "UD404",
        ERROR,
        "A verb answers wrongly",
        "kube-scheduler drops such an answer: the pod's cycle fails, or we have no voice.",
        "See the message; check that urlPrefix reaches Ullage and nothing in between rewrites it.",
    ),
    Rule(
        "UD405",
        WARNING,
        "A verb is slow",
        "Each millisecond is taken from every pod that is scheduled.",
        "Check CPU limits (throttling), the distance, and ullage_extender_request_duration_seconds.",
    ),
    Rule(
        "UD406",
        ERROR,
        "No replica is ready",
        "Answers are neutral until the view is complete and the lead is held.",
        "See the message and the replica's log; usually a right is missing or the API is slow.",
    ),
    Rule(
        "UD407",
        WARNING,
        "The view is old",
        "Decisions rest on what was true a while ago.",
        "Check the replica's log for watch errors and the API server's load.",
    ),
    Rule(
        "UD408",
        ERROR,
        "A right is missing",
        "See the right's reason in the message.",
        "Apply the RBAC of our manifests and run as that service account.",
    ),
    Rule(
        "UD409",
        WARNING,
        "The account may do more than it needs",
        "What is granted and not used is what an attacker in our pod would use.",
        "Run with the service account of our manifests only.",
    ),
    Rule(
        "UD410",
        WARNING,
        "Clocks disagree",
        "Ages in records and reports, and certificates that have just been issued, are judged by the clock.",
        "Run a time service on this machine and on the control plane.",
    ),
    Rule(
        "UD411",
        WARNING,
        "Two schedulers share nodes",
        "Each decides before it sees the other's last pods: now and then a node is given out twice (OutOfcpu).",
        "Give our scheduler a node pool of its own (taint and node selector), or all pods of these nodes.",
    ),
    Rule(
        "UD412",
        WARNING,
        "Measured usage is stale",
        "Predictions fall back towards requests the older samples are.",
        "Check whatever feeds the Telemetry stream or Prometheus.",
    ),
    Rule(
        "UD413",
        ERROR,
        "The Kubernetes API does not answer us",
        "Nothing that needs the API could be checked.",
        "See the message; pass --kubeconfig and --context of the cluster.",
    ),
    Rule(
        "UD414",
        WARNING,
        "Ullage loses what it should write down",
        "The event log cannot be replayed, or records that explain would show are missing.",
        "Give the disk more room or raise log.queue and records.queue.",
    ),
    Rule(
        "UD415",
        WARNING,
        "More workloads than histories",
        "Those that came later count with their requests: nothing is learned of them.",
        "Raise usage.max_workloads to more than there are, and the memory limit by 129 kB for each.",
    ),
    Rule(
        "UD416",
        WARNING,
        "A gang waits for pods that are not there",
        "Its pods stay behind our gate until plan.gang_deadline_s and then go without a plan, no longer all or none.",
        "Create the missing pods, or mend minMember (minCount) of its group or the annotation ullage.dev/gang-size.",
    ),
    Rule("UD417", WARNING, *UNGUARDED),
    Rule(
        "UD418",
        WARNING,
        "The fallback strategy decides",
        "What `strategy` needs to know is missing: predicted use and lifetimes that it would read count for nothing.",
        "Prices of GPU shares need pods to learn from and the solver: wait for the first pods; install ullage[plan].",
    ),
)


@dataclass(frozen=True)
class Probe:
    """How to probe."""

    address: str = ""
    """``HOST:PORT`` to connect to instead of what the stanza names (a port-forward); names are still verified."""
    certificates: str = ""
    """Folder with ``ca.crt`` and the client's ``client.crt``, ``client.key`` (or ``tls.*``), instead of the stanza's
    paths, which are the scheduler's."""
    account: str = ""
    """User to ask rights for, ``system:serviceaccount:NAMESPACE:NAME``; empty = ourselves."""


class Unanswered(Exception):
    """A hop failed; carries what the finding says."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def probe(facts: Facts, client: KubeClient | None, options: Probe) -> tuple[list[Found], Facts]:
    """All findings that need a wire, and the facts with the cluster's version filled in."""
    found: list[Found] = []
    question = None
    if client is not None:
        try:
            version = msgspec.json.decode(await client.call("GET", "/version", timeout_s=10))
            facts = replace(facts, kube_version=parse_version(f"{version['major']}.{version['minor']}"))
            found += await rights(client, options.account, facts.settings)
            found += await skew(client)
            question = await _unless_forbidden(real_question(client), None)
            found += await _unless_forbidden(neighbours(client, facts), [])
            if facts.settings is None or facts.settings.plan.enabled:
                found += await _unless_forbidden(short_gangs(client), [])
            if gives_shares(facts):
                found += await _unless_forbidden(unguarded(client), [])
        except ApiError as error:
            found.append(("UD413", Hit("(Kubernetes API)", str(error))))
    for stanza in facts.ours:
        found += await asyncio.to_thread(
            _walk, with_certificates(stanza, options.certificates), question, options.address
        )
    return found, facts


# ── the wire, as kube-scheduler walks it ──────────────────────────────────────────────────────


def hops(stanza: Stanza, question: Table | None, address: str = "") -> Iterator[Found]:
    """Resolve, connect, verify, ask; stops at the first hop that fails."""
    path = f"{stanza.path}.urlPrefix"
    try:
        with _connection(stanza, address) as connection:
            yield from _expiry(connection, path)
            yield from _readiness(connection, path)
            yield from _strategy(connection, path)
            if question is not None and stanza.get("filterVerb"):
                yield from _ask(connection, stanza, question)
            yield from _own_metrics(connection, path)
    except Unanswered as error:
        yield error.code, Hit(path, str(error))


async def _unless_forbidden(work: Awaitable[Answer], otherwise: Answer) -> Answer:
    """A missing right is a finding of its own (UD408); what needs it is left out."""
    try:
        return await work
    except ApiError as error:
        if error.status != 403:
            raise
        return otherwise


def _identity(folder: Path) -> list[Path]:
    """Authority, certificate and key in a folder, by our script's names or by those of a Secret."""
    own = "client" if (folder / "client.crt").exists() else "tls"
    return [folder / name for name in ("ca.crt", f"{own}.crt", f"{own}.key")]


def lacks(folder: Path) -> str:
    """The first of these files that is not there; empty where all are."""
    return next((path.name for path in _identity(folder) if not path.is_file()), "")


def with_certificates(stanza: Stanza, folder: str) -> Stanza:
    """The stanza with its certificates read from ``folder``; as it is if that is empty."""
    if not folder:
        return stanza
    kept = {k: v for k, v in stanza.tls.items() if k in ("serverName", "insecure")}
    tls = kept | dict(zip(("caFile", "certFile", "keyFile"), map(str, _identity(Path(folder))), strict=True))
    return replace(stanza, table={**stanza.table, "tlsConfig": tls})


def _walk(stanza: Stanza, question: Table | None, address: str) -> list[Found]:
    return list(hops(stanza, question, address))


class _Connection:
    """One keep-alive connection; closes itself, and is made anew when the other side has closed it."""

    def __init__(self, raw: http.client.HTTPConnection, connect: Callable[[], socket.socket]) -> None:
        self.raw = raw
        self._connect = connect

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body."""
        try:
            if self.raw.sock is None:  # a replica that does not serve closes after its answer
                self.raw.sock = self._connect()
            self.raw.request(method, path, body, {"Content-Type": "application/json"})
            response = self.raw.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered("UD402", f"{method} {path}: {error or type(error).__name__}") from error


def _connection(stanza: Stanza, address: str) -> _Connection:
    url = stanza.url
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    if address:
        host, port = endpoint(address)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unanswered("UD401", f"{host} does not resolve: {error}") from error
    context = client_context(stanza.tls) if url.scheme == "https" else None
    timeout_s = max(stanza.timeout_s or 5.0, 2.0)

    def connect() -> socket.socket:
        plain = socket.create_connection((host, port), timeout_s)
        if context is None:
            return plain
        try:
            return context.wrap_socket(plain, server_hostname=str(stanza.tls.get("serverName") or url.hostname or ""))
        except (OSError, ValueError):
            plain.close()
            raise

    raw = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        raw.sock = connect()
    except (OSError, ValueError) as error:
        raise Unanswered("UD402", f"{host}:{port}: {error}") from error
    return _Connection(raw, connect)


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, or of ``[IPv6]:PORT``.

    Raises
    ------
    ConfigError : it is neither.
    """
    try:
        found = urlsplit(f"//{address}")
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise ConfigError(f"--address {address}: must be HOST:PORT, such as localhost:8443")
    return host, port


def client_context(tls: Table) -> ssl.SSLContext:
    """TLS as kube-scheduler would set it up from ``tlsConfig`` (files or inline data)."""
    data, certificate, key = (_pem(tls, what) for what in ("ca", "cert", "key"))
    data = data.encode("ascii", "ignore").decode()  # bundles name their authorities between them, in any language
    try:
        context = ssl.create_default_context(cadata=data) if data else ssl.create_default_context()
    except ssl.SSLError as error:
        raise Unanswered("UD402", f"tlsConfig: the authority is no certificate: {error}") from error
    if tls.get("insecure") is True:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate and key:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # the ssl module reads identities from files only
            file.write(certificate + "\n" + key)
            file.flush()
            try:
                context.load_cert_chain(file.name)
            except ssl.SSLError as error:
                raise Unanswered("UD402", f"tlsConfig: certificate and key are no pair: {error}") from error
    return context


def _pem(tls: Table, what: str) -> str:
    """PEM text of ``ca``, ``cert`` or ``key``; data wins over files, as in client-go."""
    data = tls.get(f"{what}Data")
    try:
        if data:
            return b64decode(str(data), validate=True).decode()
        return Path(str(tls[f"{what}File"])).read_text(encoding="utf-8") if tls.get(f"{what}File") else ""
    except (OSError, Base64Error, UnicodeDecodeError) as error:
        raise Unanswered("UD402", f"tlsConfig.{what}Data or {what}File cannot be used here: {why(error)}") from error


def _expiry(connection: _Connection, path: str) -> Iterator[Found]:
    if not isinstance(connection.raw.sock, ssl.SSLSocket):
        return
    ends = (connection.raw.sock.getpeercert() or {}).get("notAfter")
    left_s = ssl.cert_time_to_seconds(str(ends)) - time.time() if ends else EXPIRES_SOON_S
    if left_s < EXPIRES_SOON_S:
        yield "UD403", Hit(path, f"the certificate ends in {left_s / 86_400:.1f} days")


def _readiness(connection: _Connection, path: str) -> Iterator[Found]:
    status, body = connection.request("GET", "/readyz")
    if status != 200:
        yield "UD406", Hit(path, f"/readyz says {status}: {body[:200].decode('utf-8', 'replace')}")


def _strategy(connection: _Connection, path: str) -> Iterator[Found]:
    status, body = connection.request("GET", "/version")
    if status == 200:
        yield from read_version(body, path)


def read_version(body: bytes, path: str) -> Iterator[Found]:
    """Whether another strategy decides than the settings say."""
    try:
        said = json.loads(body)
        decides, configured = said["strategy"], said["strategyConfigured"]
    except (ValueError, TypeError, KeyError):  # an older Ullage, or none: the other probes tell
        return
    if decides != configured:
        yield "UD418", Hit(path, f"{decides} decides, the settings say {configured}")


def _ask(connection: _Connection, stanza: Stanza, question: Table) -> Iterator[Found]:
    """Filter with a real pod, as kube-scheduler would."""
    path = f"{stanza.path}.filterVerb"
    target = f"{stanza.url.path.rstrip('/')}/{stanza.get('filterVerb')}"
    began = time.perf_counter()
    status, body = connection.request("POST", target, json.dumps(question).encode())
    took_s = time.perf_counter() - began
    wrong = wrong_answer(status, body, question["NodeNames"])
    if wrong:
        yield "UD404", Hit(path, f"POST {target}: {wrong}")
    elif stanza.timeout_s and took_s > stanza.timeout_s / 2:
        yield "UD405", Hit(path, f"POST {target} took {took_s * 1000:.0f} ms of {stanza.timeout_s * 1000:.0f} ms")


def wrong_answer(status: int, body: bytes, asked: list[str]) -> str:
    """What kube-scheduler would not accept in a filter answer; empty if nothing."""
    if status != 200:
        return f"status {status}: {body[:200].decode('utf-8', 'replace')}"
    try:
        answer = {str(k).lower(): v for k, v in json.loads(body).items()}
    except (ValueError, AttributeError) as error:
        return f"the answer is no ExtenderFilterResult ({error})"
    if answer.get("error"):
        return f"Error {answer['error']!r}"
    names = answer.get("nodenames")
    if names is None:
        return "neither a node nor an empty list came back"
    strangers = set(names) - set(asked)
    return f"nodes that were not asked about: {', '.join(sorted(strangers)[:3])}" if strangers else ""


def _own_metrics(connection: _Connection, path: str) -> Iterator[Found]:
    status, body = connection.request("GET", "/metrics")
    if status == 200:
        yield from read_metrics(body.decode("utf-8", "replace"), path)


def read_metrics(text: str, path: str) -> Iterator[Found]:
    """Ages and losses that Ullage itself reports."""
    values = dict(re.findall(r"^(ullage_\w+(?:\{[^}]*\})?) (\S+)$", text, re.M))
    for name, value in values.items():
        number = float(value)
        if name.startswith("ullage_cache_age_seconds{") and OLD_VIEW_S < number < float("inf"):
            yield "UD407", Hit(path, f"{name} is {number:.0f} s")
        elif name == "ullage_telemetry_age_seconds" and number > OLD_USAGE_S:
            yield "UD412", Hit(path, f"the last usage sample is {number:.0f} s old")
        elif name == "ullage_prediction_left_out_workloads" and number > 0:
            yield "UD415", Hit(path, f"{number:.0f} workloads found no place")
        elif name in ("ullage_log_dropped_total", "ullage_records_dropped_total") and number > 0:
            yield "UD414", Hit(path, f"{name} is {number:.0f}")


# ── the API ───────────────────────────────────────────────────────────────────────────────────


async def real_question(client: KubeClient) -> Table | None:
    """ExtenderArgs with a bound pod and the first nodes, None if no pod is bound."""
    query = "fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%3DRunning&limit=1"
    pods = msgspec.json.decode(await client.call("GET", f"/api/v1/pods?{query}"))["items"]
    if not pods:
        query = "fieldSelector=spec.nodeName%21%3D&limit=1"
        pods = msgspec.json.decode(await client.call("GET", f"/api/v1/pods?{query}"))["items"]
    nodes = msgspec.json.decode(await client.call("GET", f"/api/v1/nodes?limit={NAMES_ASKED}"))["items"]
    if not pods or not nodes:
        return None
    return {"Pod": pods[0], "Nodes": None, "NodeNames": [n["metadata"]["name"] for n in nodes]}


async def rights(client: KubeClient, account: str, settings: Settings | None) -> list[Found]:
    """Rights that are missing of those that these settings need, and a few that should be."""
    found: list[Found] = []
    lease = (settings or Settings()).lease
    for right in needed(settings):
        for verb in right.verbs:
            where = (lease.namespace, "" if verb == "create" else lease.name) if right.is_local else ("", "")
            if not await may(client, account, (right.group, right.resource, verb), where):
                group = f"{right.group}/" if right.group else ""
                found.append(("UD408", Hit(f"{group}{right.resource}", f"{verb} is not allowed: {right.reason}")))
    who = account or await _own_name(client)
    if who.startswith("system:serviceaccount:"):
        for wide in TOO_WIDE:
            if await may(client, account, wide):
                hit = Hit(who, f"{wide[2]} {wide[0] or 'core'}/{wide[1]} is allowed")
                found += [("UD409", hit)]
    return found


async def may(client: KubeClient, account: str, what: tuple[str, str, str], where: tuple[str, str] = ("", "")) -> bool:
    """SelfSubjectAccessReview, or SubjectAccessReview for another account; ``where`` is namespace and name."""
    group, resource, verb = what
    name, _, sub = resource.partition("/")
    attributes = {
        "group": group,
        "resource": name,
        "subresource": sub,
        "verb": verb,
        "namespace": where[0],
        "name": where[1],
    }
    kind = "SubjectAccessReview" if account else "SelfSubjectAccessReview"
    spec: Table = {"resourceAttributes": attributes} | ({"user": account} if account else {})
    if account.startswith("system:serviceaccount:"):
        own = account.split(":")[2]
        spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{own}", "system:authenticated"]
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = await client.call("POST", f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body)
    return bool(msgspec.json.decode(answer)["status"].get("allowed"))


async def _self_review(client: KubeClient) -> Table:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer: Table = msgspec.json.decode(
        await client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
    )
    return answer


async def _own_name(client: KubeClient) -> str:
    status = table_of((await _self_review(client)).get("status"))
    return str(table_of(status.get("userInfo")).get("username", ""))


async def skew(client: KubeClient) -> list[Found]:
    """The API server's clock against ours; a review carries the time at which it was made (whole seconds)."""
    before = time.time()
    stamp = table_of((await _self_review(client)).get("metadata")).get("creationTimestamp")
    if not stamp:
        return []
    after = time.time()
    return list(skewed(datetime.fromisoformat(str(stamp)).astimezone(UTC).timestamp(), before, after))


def skewed(theirs_s: float, before_s: float, after_s: float) -> Iterator[Found]:
    """A finding if ``theirs_s`` (truncated to seconds) lies outside our interval by more than :data:`SKEW_S`."""
    off_s = max(before_s - (theirs_s + 1), theirs_s - after_s, 0.0)
    if off_s > SKEW_S:
        yield "UD410", Hit("(clock)", f"this clock and the API server's differ by {off_s:.0f} s or more")


async def short_gangs(client: KubeClient) -> list[Found]:
    """Gangs behind our gate that cannot be planned yet, a finding for each."""
    from scheduler.cluster_reader import listed, listed_groups

    pods = [pod for pod in await listed(client, "/api/v1/pods", objects.Pod) if pod.status.phase not in ENDED]
    groups = await listed_groups(client)
    waits = why_waits(pods, groups)
    found = {}
    for pod in pods:
        meta = pod.metadata
        name = groups.named(meta.namespace, gang_besides_labels(pod), meta.labels or {})
        if name and meta.uid in waits and {gate.get("name") for gate in pod.spec.schedulingGates or ()} == {PLAN_GATE}:
            found[meta.namespace, name] = ("UD416", Hit(f"(gang {meta.namespace}/{name})", waits[meta.uid]))
    return list(found.values())


async def unguarded(client: KubeClient) -> list[Found]:
    """A finding if no policy of the cluster keeps strangers from writing which devices a pod has."""
    policies, bindings = [
        msgspec.json.decode(await client.call("GET", f"/apis/admissionregistration.k8s.io/v1/{plural}"))["items"]
        for plural in ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
    ]
    reason = why_unguarded(policies, bindings)
    return [("UD417", Hit("(admission policies)", reason))] if reason else []


async def neighbours(client: KubeClient, facts: Facts) -> list[Found]:
    """Nodes on which pods of our scheduler and of another one live together."""
    ours = {n for c in facts.configs if any(s.is_ours for s in c.stanzas) for n in c.names}
    if not ours:
        return []
    pods: list[Any] = []
    async for page in client.list_pages("/api/v1/pods", page_size=500):
        pods += [msgspec.json.decode(raw) for raw in page.items or ()]
        if len(pods) >= PODS_LOOKED_AT:
            break
    return list(shared(pods, ours))


def shared(pods: list[Any], ours: set[str]) -> Iterator[Found]:
    """A finding if some node holds pods of ``ours`` and of other schedulers (daemons and mirrors apart)."""
    by_node: dict[str, set[bool]] = {}
    for pod in pods:
        spec, metadata = table_of(pod.get("spec")), table_of(pod.get("metadata"))
        owners = {table_of(o).get("kind") for o in list_of(metadata.get("ownerReferences"))}
        if spec.get("nodeName") and not owners & {"DaemonSet", "Node"}:
            is_ours = spec.get("schedulerName", DEFAULT_SCHEDULER) in ours
            by_node.setdefault(str(spec["nodeName"]), set()).add(is_ours)
    both = sum(kinds == {True, False} for kinds in by_node.values())
    if both:
        yield (
            "UD411",
            Hit("(nodes)", f"{both} of {len(by_node)} nodes hold pods of {', '.join(sorted(ours))} and others"),
        )
