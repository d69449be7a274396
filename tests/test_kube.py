"""The API client: configuration, errors in words, lists, watches, leases."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.config.incluster_config import InClusterConfigLoader
from msgspec import Raw

from placement.errors import ConfigError
from scheduler import kube
from scheduler.api import Who
from scheduler.errors import ApiError, RewoundError
from scheduler.evictions import mark_target
from scheduler.gates import GATE, clear, lift, nominate
from scheduler.informer import Informer, Reflector
from scheduler.kube import KubeClient
from scheduler.lead import Lead
from scheduler.lease import Election
from scheduler.metrics import Metrics
from scheduler.modes import Modes
from scheduler.settings import KubeSettings, LeaseSettings
from scheduler.view import Reader, sinks
from tests.api_server import ApiServer, api_server, client_of, kubeconfig, node_object, pod_object, served
from tests.certificates import found, issue
from tests.live_engine import Live
from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Names:
    """A sink that keeps names."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lists = 0

    @staticmethod
    def _name(raw: Raw) -> str:
        return bytes(raw).split(b'"name": "')[1].split(b'"')[0].decode()

    def put(self, raw: Raw) -> str:
        self.names.add(self._name(raw))
        return self._name(raw)

    def drop(self, raw: Raw) -> None:
        self.names.discard(self._name(raw))

    def known(self) -> dict[str, int]:
        return dict.fromkeys(self.names, 0)

    def lose(self, key: str) -> None:
        self.names.discard(key)

    def listed(self) -> None:
        self.lists += 1


async def test_a_list_is_read_page_by_page(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        for i in range(25):
            api.put("nodes", node_object(f"n{i:02d}"))
        pages = [page async for page in client.list_pages("/api/v1/nodes", page_size=10)]
    assert [len(p.items or ()) for p in pages] == [10, 10, 5]
    assert pages[-1].metadata.resourceVersion == str(api.version)


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (401, "credentials are not accepted"),
        (403, "may not list pods: grant it what manifests/kustomize/base/rbac.yaml does"),
        (500, "500 a fault"),
        (0, "check the address"),
    ],
)
async def test_a_refusal_says_what_to_do(tmp_path: Path, status: int, part: str) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        for _ in range(2):
            api.fail_next("GET", "/pods", status)
        with pytest.raises(ApiError, match=part) as caught:
            await client.call("GET", "/api/v1/pods")
        assert caught.value.status == status
        assert "a-token" not in str(caught.value)


async def test_an_expired_token_is_renewed_once_and_the_call_repeated(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.fail_next("GET", "/version", 401)
        assert b"36" in await client.call("GET", "/version")


async def test_a_kubeconfig_that_is_away_while_we_run_is_a_call_that_failed(tmp_path: Path) -> None:
    """Whoever writes it anew may remove it first; the process goes on, and the next call reads it."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        path = Path(client.settings.kubeconfig)
        text = path.read_text()
        path.unlink()
        api.fail_next("GET", "/version", 401)
        with pytest.raises(ApiError, match="401"):
            await client.call("GET", "/version")
        api.fail_next("GET", "/pods", 401)
        with pytest.raises(ApiError, match="401"):
            await anext(client.watch("/api/v1/pods", "1", timeout_s=5, silence_s=5, opened=lambda: None))
        path.write_text(text)
        api.fail_next("GET", "/version", 401)
        assert b"36" in await client.call("GET", "/version")


async def test_a_token_that_cannot_be_read_for_a_moment_is_a_call_that_failed(tmp_path: Path) -> None:
    """And no end of the process: whoever follows the API tries again."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("secret")
    authority.write_text("any")
    where = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    loader = InClusterConfigLoader(str(token), str(authority), environ=where)
    async with api_server() as api, client_of(api, tmp_path) as client:
        loader.load_and_set(client.configuration)
        assert b"36" in await client.call("GET", "/version")
        for content in (None, ""):
            loader.token_expires_at = datetime.datetime.now()
            token.unlink() if content is None else token.write_text(content)
            with pytest.raises(ApiError, match="token of the service account"):
                await client.call("GET", "/version")
            with pytest.raises(ApiError, match="token of the service account"):
                await anext(client.watch("/api/v1/pods", "1", timeout_s=5, silence_s=5, opened=lambda: None))
        token.write_text("another")
        assert b"36" in await client.call("GET", "/version")


@asynccontextmanager
async def tls_client(
    folder: Path, context: ssl.SSLContext | None, handle: Handler, host: str = "127.0.0.1"
) -> AsyncIterator[KubeClient]:
    """A client that trusts ``us.pem`` and is ``current.pem``, and a server of one page."""
    async with served(handle, context) as port:
        cluster = {"server": f"https://{host}:{port}", "certificate-authority": "us.pem"}
        user = {"client-certificate": "current.pem", "client-key": "current.key"}
        whole = {
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (folder / "kubeconfig").write_text(json.dumps(whole), encoding="utf-8")
        client = await KubeClient.connect(KubeSettings(kubeconfig=str(folder / "kubeconfig")))
        try:
            yield client
        finally:
            await client.close()


async def test_a_client_certificate_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    found(tmp_path, "us")
    for name in ("old", "new", "server"):
        issue(tmp_path, name, "us")

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        (((_, name),),) = request.transport.get_extra_info("peercert")["subject"]
        return web.Response(status=200 if name == "new" else 401, text=name)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "us.pem"))
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    for ending in ("pem", "key"):
        (tmp_path / f"current.{ending}").write_bytes((tmp_path / f"old.{ending}").read_bytes())
    async with tls_client(tmp_path, context, handle) as client:
        with pytest.raises(ApiError, match="401"):
            await client.call("GET", "/version")
        for ending in ("pem", "key"):
            (tmp_path / f"current.{ending}").write_bytes((tmp_path / f"new.{ending}").read_bytes())
        assert await client.call("GET", "/version") == b"new"


async def test_an_authority_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    for authority, server in (("us", "current"), ("them", "other")):
        found(tmp_path, authority)
        issue(tmp_path, server, authority)

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(text="here", headers={"Connection": "close"})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "current.pem", tmp_path / "current.key")
    async with tls_client(tmp_path, context, handle) as client:
        assert await client.call("GET", "/version") == b"here"
        context.load_cert_chain(tmp_path / "other.pem", tmp_path / "other.key")
        with pytest.raises(ApiError, match="not signed by the configured authority"):
            await client.call("GET", "/version")
        with pytest.raises(ApiError, match="not signed by the configured authority"):
            await anext(client.watch("/version", "1", timeout_s=5, silence_s=5, opened=lambda: None))
        (tmp_path / "us.pem").write_bytes((tmp_path / "them.pem").read_bytes())
        assert await client.call("GET", "/version") == b"here"


@pytest.mark.parametrize(
    ("days", "host", "told"),
    [
        (
            "-1",
            "127.0.0.1",
            "certificate has expired .*; its certificate, or its authority's, has expired by this mach",
        ),
        ("2", "localhost", "Hostname mismatch.*; its certificate is for other names; give the server by one of them"),
    ],
    ids=["expired", "for another host"],
)
async def test_what_is_wrong_with_a_certificate_is_said(tmp_path: Path, days: str, host: str, told: str) -> None:
    found(tmp_path, "us")
    issue(tmp_path, "current", "us", days)

    async def handle(_request: web.Request) -> web.Response:
        raise AssertionError

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "current.pem", tmp_path / "current.key")
    async with tls_client(tmp_path, context, handle, host) as client:
        with pytest.raises(ApiError, match=told):
            await client.call("GET", "/version")


async def test_an_address_that_speaks_no_tls_is_said_without_names_of_objects(tmp_path: Path) -> None:
    """They are others at each try, and a fault that lasts is told once."""
    found(tmp_path, "us")
    issue(tmp_path, "current", "us")

    async def handle(_request: web.Request) -> web.Response:
        raise AssertionError

    async with tls_client(tmp_path, None, handle) as client:
        with pytest.raises(ApiError, match=r"/version: \[SSL: \w+\] [^<]+; TLS failed; check that the address"):
            await client.call("GET", "/version")


async def test_errors_of_a_list_are_told_alike_whichever_page_they_are_of(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in "abc":
            api.put("nodes", node_object(name))
        pages = client.list_pages("/api/v1/nodes", page_size=1)
        await anext(pages)
        api.fail_next("GET", "/nodes", 410)
        with pytest.raises(ApiError, match=r"^GET /api/v1/nodes: 410 a fault, as ordered$"):
            await anext(pages)


async def test_a_page_for_which_the_server_is_too_busy_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But the first, which costs nothing to begin with again later, and not for ever. It is said once a list."""
    monkeypatch.setattr(kube, "BUSY_S", 0.001)
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in "abc":
            api.put("nodes", node_object(name))
        api.fail_next("GET", "/nodes", 429)
        with pytest.raises(ApiError, match="429"):
            await anext(client.list_pages("/api/v1/nodes", page_size=1))
        seen = 0
        async for page in client.list_pages("/api/v1/nodes", page_size=1):
            seen += len(page.items or ())
            for status in (429, 503, 429):
                api.fail_next("GET", "/nodes", status)
        assert seen == 3
        assert [vars(r)["error"] for r in caplog.records] == ["GET /api/v1/nodes: 429 a fault, as ordered"]
        api.faults.clear()
        pages = client.list_pages("/api/v1/nodes", page_size=1)
        await anext(pages)
        for _ in range(100):
            api.fail_next("GET", "/nodes", 503)
        with pytest.raises(ApiError, match="503"):
            await anext(pages)
        assert len(api.faults) == 100 - 1 - kube.BUSY_TIMES


async def test_no_server_is_one_sentence(tmp_path: Path) -> None:
    client = await KubeClient.connect(KubeSettings(kubeconfig=kubeconfig(1, tmp_path)))
    try:
        with pytest.raises(ApiError, match=r"127\.0\.0\.1:1.*check the address"):
            await client.call("GET", "/version")
    finally:
        await client.close()


@pytest.mark.parametrize("text", ["", "not: [a kubeconfig", "{}", "current-context: nowhere"])
async def test_a_bad_kubeconfig_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ApiError, match="no Kubernetes configuration from"):
        await KubeClient.connect(KubeSettings(kubeconfig=str(path)))


async def test_a_context_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    path = kubeconfig(1, tmp_path)
    with pytest.raises(ConfigError, match=r"has no context 'prod'; known: \w+$"):
        await KubeClient.connect(KubeSettings(kubeconfig=path, context="prod"))


async def test_where_nothing_tells_of_a_cluster_every_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    said = r"\$KUBECONFIG is not set, .*/config is not there, .*; pass --kubeconfig FILE$"
    with pytest.raises(ApiError, match=said):
        await KubeClient.connect(KubeSettings())


async def test_a_kubeconfig_that_is_not_there_is_said_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere: no such file; correct --kubeconfig"):
        await KubeClient.connect(KubeSettings(kubeconfig=path))
    monkeypatch.setenv("KUBECONFIG", path)
    with pytest.raises(ConfigError, match=r"nowhere: no such file; correct \$KUBECONFIG"):
        await KubeClient.connect(KubeSettings())
    assert not caplog.records, "one message is enough"


async def followed(api: ApiServer, client: KubeClient) -> tuple[Reflector, Names, asyncio.Task[None]]:
    sink = Names()
    reflector = Reflector("nodes", "/api/v1/nodes", sink, client, Metrics())
    task = asyncio.create_task(reflector.run())
    await until(reflector.synced.is_set)
    return reflector, sink, task


async def test_a_watch_that_is_cut_resumes_without_a_new_list(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.put("nodes", node_object("a"))
        _reflector, sink, task = await followed(api, client)
        for name in ("b", "c"):
            api.cut()
            api.put("nodes", node_object(name))
            await until(lambda name=name: name in sink.names)
        assert sink.lists == 1
        task.cancel()


async def test_a_watch_resumes_from_the_last_version_that_it_saw(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        _reflector, sink, task = await followed(api, client)
        api.put("nodes", node_object("a"))
        await until(lambda: "a" in sink.names)
        api.compact()  # whoever asked for what came before "a" would have to read the list again
        api.cut()
        api.put("nodes", node_object("b"))
        await until(lambda: "b" in sink.names)
        assert sink.lists == 1
        task.cancel()


async def test_whoever_leads_again_reads_all_pods_again_before_it_acts(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        sink = Names()
        informer, term = Informer([Reflector("pods", "/api/v1/pods", sink, client, Metrics())]), 1
        lead = Lead(lambda: term, informer)
        informer.start()
        await until(lambda: informer.is_synced)
        await lead.follow()
        assert (lead.may_act, sink.lists) == (True, 1)
        term = 0
        await lead.follow()
        assert not lead.may_act
        term = 2
        assert not lead.may_act
        await lead.follow()
        assert (lead.may_act, sink.lists) == (True, 2)
        term = 3
        catching_up = asyncio.create_task(lead.follow())
        await asyncio.sleep(0)
        term = 4  # lost and won again while the list is read, which is older than what another leader did meanwhile
        await catching_up
        assert not lead.may_act
        await lead.follow()
        assert (lead.may_act, sink.lists) == (True, 4)
        await informer.stop()


async def test_every_time_that_a_replica_leads_has_a_number_of_its_own(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        one, two = (Election(client, LeaseSettings(enabled=True, duration_s=2, identity=name)) for name in ("1", "2"))
        await one._try()
        await one._try()
        assert (one.term, two.term) == (1, 0)
        await one.release()
        assert one.term == 0
        await two._try()
        assert two.term == 1
        await two.release()
        await one._try()
        assert one.term == 2


async def test_a_watch_that_falls_silent_is_given_up_and_resumed(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        object.__setattr__(client.settings, "silence_timeout_s", 0.2)
        _reflector, sink, task = await followed(api, client)
        api.is_silent = True
        api.put("nodes", node_object("late"))
        await asyncio.sleep(0.1)
        api.is_silent = False
        await until(lambda: "late" in sink.names)
        assert sink.lists == 1
        task.cancel()


async def test_a_kind_of_which_nothing_changes_is_silent_and_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """kube-apiserver sends bookmarks only of versions that a watch has not seen, and etcd tells it new ones of a quiet kind
    every ten minutes."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        object.__setattr__(client.settings, "silence_timeout_s", 0.2)
        reflector, sink, task = await followed(api, client)
        signs = set[float]()
        await until(lambda: signs.add(reflector.last_sign) or len(signs) == 4)
        assert not reflector.problem
        assert not caplog.records
        assert sink.lists == 1
        task.cancel()


async def test_a_server_that_takes_a_watch_and_answers_nothing_is_a_problem(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        object.__setattr__(client.settings, "silence_timeout_s", 0.2)
        reflector, _sink, task = await followed(api, client)
        api.is_mute = True
        api.cut()
        await until(lambda: "no answer in time" in reflector.problem)
        task.cancel()


async def test_a_watch_whose_credentials_are_never_made_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubeconfig may name a program that makes tokens, and that may hang."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        monkeypatch.setattr(client, "headers", lambda: asyncio.Event().wait())
        with pytest.raises(ApiError, match="no answer in time"):
            await anext(client.watch("/api/v1/pods", "1", timeout_s=600, silence_s=0.1, opened=lambda: None))


async def test_credentials_that_are_never_renewed_are_a_call_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(_settings: KubeSettings) -> None:
        await asyncio.Event().wait()

    async with api_server() as api, client_of(api, tmp_path) as client:
        monkeypatch.setattr(kube, "RENEW_S", 0.05)
        monkeypatch.setattr(kube, "_configuration", hangs)
        api.fail_next("GET", "/version", 401)
        with pytest.raises(ApiError, match="401"):
            await client.call("GET", "/version", timeout_s=600)


async def test_every_watch_tells_the_time(tmp_path: Path) -> None:
    """A planner makes no other calls whose answers do for hours, and writes that time where the sweeper compares it."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.date = format_datetime(datetime.datetime.fromtimestamp(10**9, datetime.UTC), usegmt=True)
        _reflector, _sink, task = await followed(api, client)
        assert 10**9 <= client.server_s() < 10**9 + 10**6
        api.date = format_datetime(datetime.datetime.fromtimestamp(2 * 10**9, datetime.UTC), usegmt=True)
        api.cut()
        await until(lambda: 2 * 10**9 <= client.server_s() < 2 * 10**9 + 10**6)
        task.cancel()
        for api.date in ("soon", "Mon, 1 Jan 9999999999999 00:00:00 GMT"):
            await client.call("GET", "/version")
            assert client.server_s() == pytest.approx(time.time(), abs=60), "what says no time is no clock"


async def test_a_page_to_log_in_at_is_no_answer_of_the_api(tmp_path: Path) -> None:
    """What stands before the API server may send those whose session is over to such a page: its 200 binds no pod."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        for method in ("GET", "POST"):
            api.fail_next(method, "/pods", 302)
            with pytest.raises(ApiError, match=r"302 .*callers are sent elsewhere"):
                await client.call(method, "/api/v1/pods", {})
        api.fail_next("GET", "/pods", 302)
        with pytest.raises(ApiError, match=r"302 .*callers are sent elsewhere"):
            await anext(client.watch("/api/v1/pods", "1", timeout_s=5, silence_s=5, opened=lambda: None))


async def test_what_vanished_while_history_was_compacted_vanishes_here(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        for name in ("a", "b"):
            api.put("nodes", node_object(name))
        _reflector, sink, task = await followed(api, client)
        api.is_silent = True
        api.delete("nodes", "a")
        api.put("nodes", node_object("c"))
        api.compact()
        api.version += 1
        api.is_silent = False
        api.cut()
        await until(lambda: sink.names == {"b", "c"})
        assert sink.lists == 2
        task.cancel()


async def test_a_server_whose_versions_run_backwards_ends_whoever_follows_it(tmp_path: Path) -> None:
    """etcd was restored from a backup. A watch from a version that is still to come is taken, and says nothing."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.put("nodes", node_object("a"))
        _reflector, _sink, task = await followed(api, client)
        api.version -= 1
        api.cut()
        await until(task.done)
        with pytest.raises(RewoundError, match="version 100 comes after 101, so etcd was restored"):
            task.result()


async def test_an_object_that_is_older_in_a_new_list_ends_whoever_follows_it(tmp_path: Path) -> None:
    """etcd was restored from a backup by the book: with later versions, and history compacted. The pods are as they were."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        pod = api.put("pods", pod_object("p"))
        before = pod["metadata"]["resourceVersion"]
        api.put("pods", pod | {"spec": pod["spec"] | {"nodeName": "a"}})
        ledger = Live(tmp_path / "r.db").ledger
        pods = next(s for s in sinks(ledger, Modes("decide"), Reader()) if s.kind == "pods")
        reflector = Reflector("pods", "/api/v1/pods", pods, client, Metrics())
        task = asyncio.create_task(reflector.run())
        await until(reflector.synced.is_set)
        pod["metadata"]["resourceVersion"] = before
        del api.objects["pods/default/p"]["spec"]["nodeName"]
        api.version += 10**9
        api.compact()
        api.cut()
        await until(task.done)
        with pytest.raises(RewoundError):
            task.result()


async def test_watches_that_end_at_once_are_not_begun_anew_at_once(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.is_curt = True
        _reflector, sink, task = await followed(api, client)
        await asyncio.sleep(0.5)
        assert len(api.calls) < 12
        api.is_curt = False
        api.put("nodes", node_object("late"))
        await until(lambda: "late" in sink.names)
        task.cancel()


class Overtaken(Names):
    """A sink of which somebody learns of another object while a list is read."""

    def put(self, raw: Raw) -> str:
        self.names.add("younger")
        return super().put(raw)


async def test_what_is_learned_while_a_list_is_read_is_not_lost_by_it(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path, page_size=1) as client:
        for name in ("a", "b"):
            api.put("nodes", node_object(name))
        sink = Overtaken()
        sink.names.add("older")
        await Reflector("nodes", "/api/v1/nodes", sink, client, Metrics()).read_list()
        assert sink.names == {"a", "b", "younger"}


async def test_an_optional_kind_that_is_not_granted_does_not_hold_up_readiness(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.fail_next("GET", "/nodes", 403)
        sink = Names()
        reflector = Reflector("nodes", "/api/v1/nodes", sink, client, Metrics(), is_optional=True)
        task = asyncio.create_task(reflector.run())
        await until(reflector.synced.is_set)
        assert "may not list nodes" in reflector.problem
        task.cancel()


async def test_one_holder_at_a_time_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        one, two = (
            Election(client, LeaseSettings(enabled=True, duration_s=2, renew_s=0.2, identity=name))
            for name in ("one", "two")
        )
        first = asyncio.create_task(one.run())
        await until(lambda: one.is_leading)
        second = asyncio.create_task(two.run())
        await asyncio.sleep(0.3)
        assert (one.is_leading, two.is_leading) == (True, False)
        first.cancel()
        both = False
        async with asyncio.timeout(30):
            while not two.is_leading:
                both = both or (one.is_leading and two.is_leading)
                await asyncio.sleep(0.01)
        assert not one.is_leading
        assert not both
        second.cancel()


async def test_a_leader_without_an_answer_stops_long_before_a_standby_may_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("scheduler.lease.boot_s", lambda: now[0])
    async with api_server() as api, client_of(api, tmp_path) as client:
        one, two = (Election(client, LeaseSettings(enabled=True, duration_s=15, identity=name)) for name in "12")
        await one._try()
        first = dict(api.objects["leases/ullage-system/ullage"]["spec"])
        assert (first["leaseDurationSeconds"], first["leaseTransitions"]) == (15, 0)
        now[0] = 101.0
        await one._try()
        await two._try()
        renewed = dict(api.objects["leases/ullage-system/ullage"]["spec"])
        assert (renewed["acquireTime"], renewed["leaseTransitions"]) == (first["acquireTime"], 0)
        for now[0], leads in ((110.9, True), (111.0, False), (115.9, False)):
            await two._try()
            assert (one.is_leading, two.is_leading) == (leads, False)
        now[0] = 116.0
        await two._try()
        assert (one.is_leading, two.is_leading) == (False, True)
        taken = api.objects["leases/ullage-system/ullage"]["spec"]
        assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("2", 1)
        assert taken["acquireTime"] > first["acquireTime"]


async def test_whoever_finds_another_name_in_the_lease_leads_no_more(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        election = Election(client, LeaseSettings(enabled=True, identity="1"))
        await election._try()
        assert election.is_leading
        lease = api.objects["leases/ullage-system/ullage"]
        api.put("leases", lease | {"spec": lease["spec"] | {"holderIdentity": "by-hand"}})
        await election._try()
        assert not election.is_leading


async def test_no_call_for_the_lease_takes_so_long_that_there_is_no_time_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        timeouts: list[float] = []
        call = client.call

        async def timed(*words: Any, timeout_s: float, **more: Any) -> bytes:
            timeouts.append(timeout_s)
            return await call(*words, timeout_s=timeout_s, **more)

        monkeypatch.setattr(client, "call", timed)
        for duration_s in (15.0, 2.0):
            election = Election(client, LeaseSettings(enabled=True, duration_s=duration_s, identity="1"))
            await election._try()
        assert timeouts == [5, 5, 1, 1]


async def test_whoever_lost_a_race_for_the_lease_does_not_lead_until_it_has_read_it_again(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        election = Election(client, LeaseSettings(enabled=True, renew_s=0.2))
        task = asyncio.create_task(election.run())
        await until(lambda: election.is_leading)
        api.fail_next("PUT", "/leases/", 409)
        await until(lambda: not election.is_leading)
        await until(lambda: election.is_leading)
        task.cancel()


async def test_a_new_pod_of_the_same_name_keeps_its_nomination_and_its_gate(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        new = pod_object("p", uid="uid-new")
        new["spec"]["schedulingGates"] = [{"name": GATE}]
        new["status"]["nominatedNodeName"] = "n"
        api.put("pods", new)
        old = Who("uid-old", "default", "p")
        assert not await clear(client, old, "n")
        for act in (lift(client, old), nominate(client, old, "other", 0.0), mark_target(client, old, "other")):
            with pytest.raises(ApiError, match="immutable") as caught:
                await act
            assert caught.value.status == 409, "as if it were gone"
        assert api.pod("p")["status"]["nominatedNodeName"] == "n"
        assert api.pod("p")["spec"]["schedulingGates"] == [{"name": GATE}]
        assert await clear(client, Who("uid-new", "default", "p"), "n")
