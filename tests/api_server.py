"""A small Kubernetes API over real HTTP, for tests that need its faults on demand.

It keeps objects with resource versions and a history, and speaks list (pages, field and label selectors), watch
(bookmarks, 410 after compaction), bindings (preconditions, conflict, annotations copied), leases (conflict on a stale
version), patches (merge, JSON, and of strategic ones what takes a gate away) and evictions (UID, a budget's refusals).
What a test wants to go wrong it says by ``fail_next``. The real API server is used in ``tests/e2e``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from scheduler.kube import KubeClient
from scheduler.settings import KubeSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

KINDS = (
    "pods",
    "nodes",
    "namespaces",
    "leases",
    "persistentvolumes",
    "persistentvolumeclaims",
    "poddisruptionbudgets",
)
Fault = Callable[[], Any]


class ApiServer:
    """Objects by kind and ``namespace/name``."""

    def __init__(self) -> None:
        self.version = 100
        self.compacted = 0
        self.more: set[str] = set()
        """Kinds that are served beyond the usual ones, as ``plural.group``."""
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.lists = Counter[str]()
        """By kind, however many pages; not looks at one object alone."""
        self.faults: list[tuple[str, str, int, bool]] = []
        self.changed = asyncio.Event()
        self.refusals = 0
        """So many evictions are refused, as by a disruption budget."""
        self.evictions_left = 10**6
        """Beyond so many the budget refuses."""
        self.ends_after_s = 0.0
        """From its eviction to the end of a pod."""
        self.is_silent = False
        self.bindings_go_on = asyncio.Event()
        """Until it is set, Bindings take their time."""
        self.bindings_go_on.set()
        self.is_mute = False
        """Watches are taken and not even agreed to."""
        self.is_curt = False
        """Watches end at once, in good order."""
        self.cuts = 0
        self.port = 0
        self.date = ""
        """What its clock says, as in ``Date``; empty for the time that it is."""

    # ── what a test does ──────────────────────────────────────────────────────────────────────

    def put(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object."""
        meta = value.setdefault("metadata", {})
        key = self.key(kind, meta.get("namespace", ""), meta["name"])
        known = key in self.objects
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        self.objects[key] = value
        self._tell(kind, "MODIFIED" if known else "ADDED", value)
        return value

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Remove an object."""
        value = self.objects.pop(self.key(kind, namespace, name))
        self.version += 1
        value = value | {"metadata": value["metadata"] | {"resourceVersion": str(self.version)}}
        self._tell(kind, "DELETED", value)

    def compact(self) -> None:
        """Forget history: watches from before get 410."""
        self.compacted = self.version
        self.history.clear()

    def cut(self) -> None:
        """End every watch abruptly."""
        self.cuts += 1
        self.changed.set()

    def fail_next(self, method: str, part: str, status: int, *, after_effect: bool = False) -> None:
        """The next call whose path contains ``part`` fails; 0 = connection dropped; maybe after it took effect."""
        self.faults.append((method, part, status, after_effect))

    @staticmethod
    def key(kind: str, namespace: str, name: str) -> str:
        return f"{kind}/{namespace}/{name}"

    def pod(self, name: str) -> dict[str, Any]:
        """A pod of the default namespace."""
        found: dict[str, Any] = self.objects[self.key("pods", "default", name)]
        return found

    def _tell(self, kind: str, what: str, value: Any) -> None:
        self.history.append((self.version, kind, what, json.loads(json.dumps(value))))
        self.changed.set()

    # ── what the API does ─────────────────────────────────────────────────────────────────────

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        for i, (method, part, status, after_effect) in enumerate(self.faults):
            if method == request.method and part in request.path:
                del self.faults[i]
                if after_effect:
                    await self._serve(request)
                if status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                return self._status(status or 500, _denial(request) if status == 403 else "a fault, as ordered")
        answer = await self._serve(request)
        if self.date and not answer.prepared:
            answer.headers["Date"] = self.date
        return answer

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "36"})
        parts = request.path.strip("/").split("/")
        group = parts[1] if parts[0] == "apis" else ""
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else ""
        parts = parts[2:] if namespace else parts
        kind, name = parts[0], parts[1] if len(parts) > 1 else ""
        kind = f"{kind}.{group}" if group.startswith("scheduling.") else kind
        if kind not in KINDS and kind not in self.more:
            return self._status(404, f"no {kind} here")
        if not name and request.method == "GET":
            return await (self._watch(request, kind) if "watch" in request.query else self._list(request, kind))
        if parts[2:] == ["binding"]:
            return await self._bind(request, namespace, name)
        if parts[2:] == ["eviction"]:
            return await self._evict(request, namespace, name)
        if request.method == "PATCH":
            return await self._patch(request, kind, namespace, name)
        return await self._single(request, kind, namespace, name)

    @staticmethod
    def _status(code: int, message: str) -> web.Response:
        elsewhere = {"Location": "/version"} if code == 302 else None
        status = {"kind": "Status", "code": code, "message": message, "reason": "Test"}
        return web.json_response(status, status=code, headers=elsewhere)

    async def _list(self, request: web.Request, kind: str) -> web.Response:
        items = [v for k, v in sorted(self.objects.items()) if k.startswith(kind + "/") and _selected(v, request)]
        start = int(request.query.get("continue") or 0)
        self.lists[kind] += start == 0 and request.query.get("limit") != "1"
        end = start + int(request.query.get("limit", 10**9))
        meta = {"resourceVersion": str(self.version), "continue": str(end) if end < len(items) else ""}
        return web.json_response({"kind": "List", "metadata": meta, "items": items[start:end]})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        cuts = self.cuts
        while self.is_mute:
            self.changed.clear()
            await self.changed.wait()
        response = web.StreamResponse(headers={"Date": self.date} if self.date else None)
        await response.prepare(request)
        if since < self.compacted:
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        while cuts == self.cuts and not self.is_curt:
            for version, k, what, value in list(self.history):
                if version > since and k == kind and not self.is_silent:
                    await response.write(json.dumps({"type": what, "object": value}).encode() + b"\n")
            if self.version > since and not self.is_silent:
                mark = {"metadata": {"resourceVersion": str(self.version)}}
                await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                since = self.version
            self.changed.clear()
            await self.changed.wait()
        if request.transport is not None and not self.is_curt:
            request.transport.abort()
        return response

    async def _bind(self, request: web.Request, namespace: str, name: str) -> web.Response:
        body = await request.json()
        await self.bindings_go_on.wait()
        pod = self.objects.get(self.key("pods", namespace, name))
        if pod is None:
            return self._status(404, f"pods {name} not found")
        if body["metadata"].get("uid") not in (None, "", pod["metadata"]["uid"]):
            return self._status(409, "the UID in the precondition does not match")
        if body["metadata"].get("resourceVersion") not in (None, "", pod["metadata"]["resourceVersion"]):
            return self._status(409, "the ResourceVersion in the precondition does not match")
        if pod["spec"].get("nodeName"):
            return self._status(409, f"pod {name} is already assigned to node {pod['spec']['nodeName']}")
        pod["spec"]["nodeName"] = body["target"]["name"]
        pod["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations") or {})
        self.put("pods", pod)
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    async def _evict(self, request: web.Request, namespace: str, name: str) -> web.Response:
        body = await request.json()
        pod = self.objects.get(self.key("pods", namespace, name))
        if pod is None:
            return self._status(404, f"pods {name} not found")
        if body["deleteOptions"]["preconditions"]["uid"] != pod["metadata"]["uid"]:
            return self._status(409, "the UID in the precondition does not match")
        if self._num_budgets(pod) > 1:
            said = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            return self._status(500, said)
        if self.refusals or not self.evictions_left:
            self.refusals = max(0, self.refusals - 1)
            return self._status(429, "Cannot evict pod as it would violate the pod's disruption budget.")
        self.evictions_left -= 1
        if self.ends_after_s:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put("pods", pod)
            asyncio.get_running_loop().call_later(self.ends_after_s, self.delete, "pods", name, namespace)
        else:
            self.delete("pods", name, namespace)
        return web.json_response({"kind": "Status", "status": "Success"}, status=201)

    def _num_budgets(self, pod: dict[str, Any]) -> int:
        """Budgets that cover a pod by labels."""
        labels = pod["metadata"].get("labels", {}).items()
        budgets = (value for key, value in self.objects.items() if key.startswith("poddisruptionbudgets/"))
        return sum(budget["spec"]["selector"]["matchLabels"].items() <= labels for budget in budgets)

    async def _patch(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        old = self.objects.get(self.key(kind, namespace, name))
        if old is None:
            return self._status(404, f"{kind} {name} not found")
        value = json.loads(json.dumps(old))
        body = await request.json()
        if request.content_type == "application/json-patch+json":
            for step in body:
                *path, last = (part.replace("~1", "/") for part in step["path"].strip("/").split("/"))
                inner = value
                for part in path:
                    inner = inner.get(part, {})
                if step["op"] == "test" and inner.get(last) != step["value"]:
                    return self._status(422, "the test failed")
                if step["op"] == "remove":
                    inner.pop(last)
                if step["op"] == "replace":
                    inner[last] = step["value"]
            return web.json_response(self.put(kind, value))
        if body["metadata"].pop("uid", old["metadata"].get("uid")) != old["metadata"].get("uid"):
            return self._status(422, f'Pod "{name}" is invalid: metadata.uid: Invalid value: field is immutable')
        nominated = body.get("status", {}).get("nominatedNodeName")
        if nominated and value["spec"].get("nodeName") and nominated != value["status"].get("nominatedNodeName"):
            reason = "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"
            return self._status(422, f'Pod "{name}" is invalid: {reason}')
        gates = body.get("spec", {}).pop("schedulingGates", None)
        if gates is not None:
            gone = {gate["name"] for gate in gates if gate.get("$patch") == "delete"}
            kept = [gate for gate in value["spec"].get("schedulingGates", ()) if gate["name"] not in gone]
            value["spec"]["schedulingGates"] = kept
        return web.json_response(self.put(kind, _merged(value, body)))

    async def _single(self, request: web.Request, kind: str, namespace: str, name: str) -> web.Response:
        if request.method == "POST":
            value = await request.json()
            key = self.key(kind, namespace, value["metadata"]["name"])
            return (
                self._status(409, "exists")
                if key in self.objects
                else web.json_response(self.put(kind, value), status=201)
            )
        old = self.objects.get(self.key(kind, namespace, name))
        if old is None:
            return self._status(404, f"{kind} {name} not found")
        if request.method == "PUT":
            value = await request.json()
            if value["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                return self._status(409, "the object has been modified")
            return web.json_response(self.put(kind, value))
        return web.json_response(old)


def _denial(request: web.Request) -> str:
    """In the words of the real one, of an account that lacks a right."""
    parts = request.path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    parts = parts[2:] if parts[0] == "namespaces" and len(parts) > 2 else parts
    resource = "/".join((parts[0], *parts[2:]))
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}[request.method]
    if verb == "get" and len(parts) == 1:
        verb = "watch" if "watch" in request.query else "list"
    what = f'{resource} is forbidden: User "system:serviceaccount:ullage-system:ullage" cannot {verb}'
    return f'{what} resource "{resource}" in API group "{group}" at the cluster scope'


def _selected(value: dict[str, Any], request: web.Request) -> bool:
    """Whether an object matches the field and the label selector of a list, one term each."""
    field, _, wanted = request.query.get("fieldSelector", "").partition("=")
    label, _, text = request.query.get("labelSelector", "").partition("=")
    found: Any = value
    for part in field.split(".") if field else ():
        found = (found or {}).get(part)
    fits = not field or (found or "") == wanted
    return fits and (not label or (value["metadata"].get("labels") or {}).get(label) == text)


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), part)
    return result


@asynccontextmanager
async def served(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Every request to a free loopback port, which is yielded, gets what ``answer`` says."""
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    """A running server on a free loopback port."""
    api = ApiServer()
    async with served(api.handle) as api.port:
        try:
            yield api
        finally:
            api.cut()


def kubeconfig(port: int, folder: Any) -> str:
    """A kubeconfig file for the server."""
    path = folder / f"kubeconfig-{port}"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    user = {"name": "u", "user": {"token": "a-token"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    whole = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user], "contexts": [context]}
    path.write_text(json.dumps(whole | {"current-context": "x"}), encoding="utf-8")
    return str(path)


@asynccontextmanager
async def client_of(api: ApiServer, folder: Any, **settings: Any) -> AsyncIterator[KubeClient]:
    """A client of the server, configured as users do it."""
    client = await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(api.port, folder), **settings))
    try:
        yield client
    finally:
        await client.close()


def pod_object(name: str, *, milli: int = 0, count: int = 1, cpu: str = "500m", **meta: Any) -> dict[str, Any]:
    """A pod as a user writes it, with a UID."""
    requests = {"cpu": cpu, "memory": "1Gi"} | ({"ullage.dev/gpu-milli": str(milli * count)} if milli else {})
    annotations = {"ullage.dev/gpu-count": str(count)} if count > 1 else {}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": annotations, **meta},
        "spec": {"containers": [{"name": "main", "image": "x", "resources": {"requests": requests}}]},
        "status": {"phase": "Pending"},
    }


def node_object(name: str, *, gpus: int = 0, cpu: str = "8") -> dict[str, Any]:
    """A node."""
    offered = {"cpu": cpu, "memory": "64Gi", "pods": "110"} | (
        {"ullage.dev/gpu-milli": str(1000 * gpus)} if gpus else {}
    )
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": {}, "status": {"allocatable": offered}}
