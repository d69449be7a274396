"""The gRPC services through a real server and real channels on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from placement.errors import ConfigError
from placement.pods import GpuRequest
from scheduler import service
from scheduler._pb import placement_pb2 as pb
from scheduler._pb import placement_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from scheduler.errors import ListenError
from scheduler.learning.telemetry import Sample, SampleError, Subject, UsageStore
from scheduler.metrics import Metrics
from scheduler.service import GrpcServer, plain_spec
from scheduler.settings import GrpcSettings
from tests.live_engine import Live, cpu_pod

REPO = Path(__file__).resolve().parent.parent
CERTS = REPO / "manifests" / "kustomize" / "overlays" / "self-signed" / "make-certs.sh"


@asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncIterator[tuple[Live, GrpcServer]]:
    """A live engine behind a server on a free port."""
    live = Live(path / "records.db")
    server = GrpcServer(GrpcSettings(port=0, **options), live.engine)
    await server.start()
    try:
        yield live, server
    finally:
        await server.stop(0)
        live.recorder.close()


@asynccontextmanager
async def asking(server: GrpcServer) -> AsyncIterator[tuple[Any, Any]]:
    """Stubs of both services."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield placement_pb2_grpc.PlacementStub(channel), telemetry_pb2_grpc.TelemetryStub(channel)


def plain(cores: float, **more: Any) -> pb.PodQuestion:
    candidates = more.pop("candidates", [])
    pod = pb.PlainPod(namespace="shop", cpu_millicores=int(cores * 1000), memory_bytes=2**30, **more)
    return pb.PodQuestion(plain=pod, candidates=candidates)


async def fails(call: Any, code: Any) -> str:
    """The call ends with this status; its message."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == code, caught.value.details()
    return str(caught.value.details())


async def test_a_question_over_grpc_is_answered_as_the_extender_decides(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), asking(server) as (placement, _):
        before = live.state.version, len(live.events)
        answer = await placement.Decide(pb.DecideRequest(question=plain(6)))
        again = await placement.Decide(pb.DecideRequest(question=plain(0.5, gpu_count=1, gpu_milli=500)))
        assert (live.state.version, len(live.events)) == before, "a question changes nothing"
        assert live.ask("a", cpu_pod(6)).decision.node == answer.decision.node == "n1"
        shared = live.ask("b", cpu_pod(0.5, gpu=GpuRequest(1, 500))).decision
        assert again.decision.node == shared.node
        assert list(again.decision.devices) == [0]
        assert answer.decision.strategy == "best-fit"
        assert answer.decision.strategy_digest == live.engine.strategy.digest


async def test_a_pod_may_be_a_kubernetes_object(tmp_path: Path) -> None:
    containers = [{"name": "c", "resources": {"requests": {"cpu": "6", "memory": "1Gi"}}}]
    pod = {"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": {"containers": containers}}
    async with serving(tmp_path) as (_, server), asking(server) as (placement, _telemetry):
        question = pb.PodQuestion(pod_json=json.dumps(pod), candidates=["n2", "n0"])
        assert (await placement.Decide(pb.DecideRequest(question=question))).decision.node == "n2"


async def test_scores_and_reasons_name_every_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, server), asking(server) as (placement, _telemetry):
        scores = await placement.Score(pb.ScoreRequest(question=plain(6)))
        assert {n.node: n.priority for n in scores.nodes}["n1"] == 10
        assert {n.node for n in scores.nodes} == {"n1", "n2"}
        told = await placement.Explain(pb.ExplainRequest(question=plain(6)))
        assert told.decision.node == "n1"
        assert told.runner_up == "n2"
        assert [(r.reason, list(r.nodes)) for r in told.rejected] == [("Insufficient cpu", ["n0"])]
        assert [t.node for t in told.top] == ["n1", "n2"]
        assert sum(told.top[0].parts.values()) == told.top[0].score


@pytest.mark.parametrize(
    ("question", "code", "says"),
    [
        (pb.PodQuestion(), "INVALID_ARGUMENT", "set pod_json or plain"),
        (pb.PodQuestion(pod_json="{"), "INVALID_ARGUMENT", "cannot be read"),
        (pb.PodQuestion(pod_json="[" * 10_000), "INVALID_ARGUMENT", "cannot be read"),
        (plain(-1), "INVALID_ARGUMENT", "out of range"),
        (plain(1, gpu_count=2, gpu_milli=500), "INVALID_ARGUMENT", "GPU request"),
        (plain(1, candidates=["n1", "ghost"]), "NOT_FOUND", "ghost"),
        (plain(1, extended={"example.com/nic": 1}), "NOT_FOUND", "no node offers 'example.com/nic'"),
    ],
)
async def test_a_bad_question_has_a_code_and_a_reason(
    question: pb.PodQuestion, code: str, says: str, tmp_path: Path
) -> None:
    async with serving(tmp_path) as (live, server), asking(server) as (placement, _telemetry):
        resources = list(live.state.resources)
        call = placement.Decide(pb.DecideRequest(question=question))
        assert says in await fails(call, getattr(grpc.StatusCode, code))
        assert live.state.resources == resources, "nothing is kept of questions"
        assert (await placement.Decide(pb.DecideRequest(question=plain(1)))).decision.node


async def test_a_replica_that_does_not_serve_says_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), asking(server) as (placement, _telemetry):
        live.engine.is_leading = lambda: False
        call = placement.Decide(pb.DecideRequest(question=plain(1)))
        assert "another replica leads" in await fails(call, grpc.StatusCode.UNAVAILABLE)


async def test_a_defect_is_internal_and_tells_nothing(tmp_path: Path) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("secret detail")

    async with serving(tmp_path) as (live, server), asking(server) as (placement, _telemetry):
        live.engine.in_force = broken  # type: ignore[method-assign]  # a defect, injected
        call = placement.Decide(pb.DecideRequest(question=plain(1)))
        assert "secret" not in await fails(call, grpc.StatusCode.INTERNAL)


async def test_the_callers_deadline_ends_a_call(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, server), asking(server) as (placement, _telemetry):
        stream = placement.WatchDecisions(pb.WatchDecisionsRequest(), timeout=0.2)
        await fails(stream.read(), grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_decisions_are_streamed_as_they_happen_and_slow_readers_are_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), asking(server) as (placement, _telemetry):
        stream = placement.WatchDecisions(pb.WatchDecisionsRequest(namespace="shop"))
        await stream.initial_metadata()
        live.ask("a", cpu_pod(6))
        first = await stream.read()
        assert (first.pod_name, first.decision.node, first.missed) == ("a", "n1", 0)
        answered = live.ask("b", cpu_pod(1))
        for _ in range(5000):
            live.engine.listeners[-1](answered)
        seen = missed = 0
        while seen + missed < 5001:
            event = await stream.read()
            seen, missed = seen + 1, missed + event.missed
        stream.cancel()
        assert seen + missed == 5001
        assert missed > 0


async def test_health_follows_the_engine(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="ullage.v1.Placement"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        live.engine.is_synced = lambda: False
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_whoever_watches_health_hears_of_it_whoever_else_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub, question = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="")
        one, other = stub.Watch(question), stub.Watch(question)
        assert [(await watch.read()).status for watch in (one, other)] == [health_pb2.HealthCheckResponse.SERVING] * 2
        one.cancel()
        await asyncio.sleep(0.1)
        live.engine.is_leading = lambda: False
        async with asyncio.timeout(4):
            assert (await other.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        other.cancel()


async def test_health_knows_the_services_that_there_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub, statuses = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckResponse
        live.engine.is_synced = lambda: False
        for name, status in (("", statuses.NOT_SERVING), ("ullage.v1.Telemetry", statuses.SERVING)):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == status
        for name in ("ullage.v1.Plans", "nobody"):
            question = health_pb2.HealthCheckRequest(service=name)
            await fails(stub.Check(question), grpc.StatusCode.NOT_FOUND)
            watch = stub.Watch(question)
            assert (await watch.read()).status == statuses.SERVICE_UNKNOWN
            watch.cancel()


async def test_reflection_lists_the_services(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {"ullage.v1.Placement", "ullage.v1.Telemetry", "grpc.health.v1.Health"} <= names
        call.cancel()


def sample(node: str = "n1", **values: Any) -> telemetry_pb2.UsageSample:
    return telemetry_pb2.UsageSample(node=telemetry_pb2.NodeSubject(name=node), **(values or {"cpu_millicores": 5}))


async def report(telemetry: Any, *samples: telemetry_pb2.UsageSample) -> telemetry_pb2.ReportSummary:
    async def sending() -> AsyncIterator[telemetry_pb2.UsageSample]:
        for one in samples:
            yield one

    return await telemetry.Report(sending())


async def test_samples_of_pods_nodes_and_devices_are_kept(tmp_path: Path) -> None:
    pod = telemetry_pb2.UsageSample(pod=telemetry_pb2.PodSubject(uid="u"), memory_bytes=0.0)
    device = telemetry_pb2.UsageSample(device=telemetry_pb2.DeviceSubject(node="n1", index=3), gpu_share=0.5)
    async with serving(tmp_path) as (live, server), asking(server) as (_, telemetry):
        summary = await report(telemetry, sample(), pod, device)
        assert (summary.accepted, dict(summary.refused)) == (3, {})
        assert set(server.store.latest) == {Subject("node", "n1"), Subject("pod", "u"), Subject("device", "n1", "3")}
        assert server.store.latest[Subject("pod", "u")].memory_bytes == 0.0
        assert server.store.latest[Subject("pod", "u")].cpu_millicores is None
        assert b'ullage_telemetry_samples_total{outcome="accepted"} 3.0' in live.metrics.expose()


async def test_samples_that_make_no_sense_are_counted_and_the_stream_goes_on(tmp_path: Path) -> None:
    old, new = Timestamp(seconds=10), Timestamp(seconds=20)
    bad = [
        telemetry_pb2.UsageSample(cpu_millicores=1),
        telemetry_pb2.UsageSample(node=telemetry_pb2.NodeSubject(name="n1")),
        sample(cpu_millicores=float("nan")),
        sample(cpu_millicores=-1.0),
        sample(gpu_share=1.5),
        sample("x" * 300),
        sample(time=Timestamp(seconds=2**33), cpu_millicores=1.0),
        sample(time=Timestamp(seconds=-(2**62)), cpu_millicores=1.0),
        sample(time=Timestamp(seconds=1, nanos=2**31 - 1), cpu_millicores=-1.0),
        sample(""),
    ]
    async with serving(tmp_path) as (_, server), asking(server) as (_, telemetry):
        stale = [sample(time=new, cpu_millicores=1.0), sample(time=old, cpu_millicores=1.0)]
        summary = await report(telemetry, *bad, *stale)
        assert (summary.accepted, dict(summary.refused)) == (1, {"malformed": len(bad), "stale": 1})


async def test_memory_is_bounded_when_nobody_takes_samples() -> None:
    store = UsageStore(100, Metrics(), lambda: 1000.0)
    for i in range(1000):
        await store.put(Sample(Subject("pod", f"u{i}"), 1.0, cpu_millicores=1.0))
    assert len(store) == len(store.latest) == 100
    assert store.refused["evicted"] == 900


async def test_a_sample_that_waited_while_a_newer_one_of_its_pod_came_is_stale() -> None:
    store = UsageStore(1, Metrics(), lambda: 1000.0)
    store.has_taker = True
    await store.put(Sample(Subject("pod", "other"), 1.0, cpu_millicores=1.0))
    pod = Subject("pod", "uid")
    newer, older = (asyncio.create_task(store.put(Sample(pod, at, cpu_millicores=at))) for at in (20.0, 10.0))
    await asyncio.sleep(0)
    store.take(1)
    assert await newer == "accepted"
    store.take(1)
    assert await older == "stale"
    assert store.latest[pod].cpu_millicores == 20
    assert len(store) == 0


async def test_senders_wait_when_somebody_takes_samples() -> None:
    store = UsageStore(10, Metrics(), lambda: 1000.0)
    store.has_taker = True

    async def send() -> None:
        for i in range(25):
            await store.put(Sample(Subject("pod", f"u{i}"), 1.0, cpu_millicores=1.0))

    sending = asyncio.create_task(send())
    taken: list[str] = []
    while len(taken) < 25:
        await asyncio.sleep(0)
        assert len(store) <= 10
        taken += [s.subject.name for s in store.take(4)]
    await sending
    assert taken == [f"u{i}" for i in range(25)]
    assert store.refused["evicted"] == 0


async def test_a_stream_is_held_back_over_the_wire(tmp_path: Path) -> None:
    async with serving(tmp_path, max_samples=100) as (_, server), asking(server) as (_, telemetry):
        server.store.has_taker = True
        sent = 0

        async def sending() -> AsyncIterator[telemetry_pb2.UsageSample]:
            nonlocal sent
            for i in range(50_000):
                sent = i
                yield sample(f"node-{i:05d}" + "x" * 200)

        call = telemetry.Report(sending())
        for _ in range(200):
            await asyncio.sleep(0.005)
        assert len(server.store) == 100
        assert sent < 49_999, "flow control stopped the sender"
        call.cancel()


async def test_too_large_a_message_is_refused_and_others_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=2048) as (_, server), asking(server) as (placement, _telemetry):
        large = pb.DecideRequest(question=pb.PodQuestion(pod_json="x" * 5000))
        await fails(placement.Decide(large), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert (await placement.Decide(pb.DecideRequest(question=plain(1)))).decision.node


async def test_too_many_streams_are_refused_and_questions_get_through(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, max_calls=4) as (_, server),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = placement_pb2_grpc.PlacementStub(channel)
        health = health_pb2_grpc.HealthStub(channel)

        async def first(stream: Any) -> Any:
            return await stream.read()

        streams = [stub.WatchDecisions(pb.WatchDecisionsRequest()), health.Watch(health_pb2.HealthCheckRequest())]
        await streams[0].initial_metadata()
        await first(streams[1])
        await fails(first(stub.WatchDecisions(pb.WatchDecisionsRequest())), grpc.StatusCode.RESOURCE_EXHAUSTED)
        await fails(report_raw(channel), grpc.StatusCode.RESOURCE_EXHAUSTED)
        for _ in range(10):
            assert (await stub.Decide(pb.DecideRequest(question=plain(1)))).decision.node
        for stream in streams:
            stream.cancel()
        async with asyncio.timeout(10):
            while True:
                again = stub.WatchDecisions(pb.WatchDecisionsRequest())
                try:
                    await again.initial_metadata()
                    assert again.cancel()
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


FROZEN = """
import sys, grpc
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
streams = [channel.unary_stream("/grpc.health.v1.Health/Watch")(b"") for _ in range(2)]
for stream in streams:
    next(stream)
print("open", flush=True)
sys.stdin.read()
"""


async def test_streams_of_a_caller_that_is_there_no_more_are_given_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine died, or hangs: no goodbye comes, and nothing is sent to it that would fail."""
    monkeypatch.setattr(service, "KEEPALIVE_MS", 1000)
    async with serving(tmp_path, max_calls=4) as (_, server):
        caller = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FROZEN, str(server.port)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert caller.stdout is not None, "a pipe"
        try:
            assert await caller.stdout.readline() == b"open\n"
            await asyncio.sleep(3)  # it answers a few times first
            caller.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                while True:
                    stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                    with suppress(grpc.aio.AioRpcError):
                        await stream.read()
                        stream.cancel()
                        break
                    await asyncio.sleep(0.1)
        finally:
            caller.kill()
            await caller.wait()


async def report_raw(channel: Any) -> Any:
    """A Telemetry stream without a sample."""

    async def nothing() -> AsyncIterator[bytes]:
        for sample in tuple[bytes, ...]():
            yield sample

    return await channel.stream_unary("/ullage.v1.Telemetry/Report")(nothing())


def _pass_on(source: socket.socket, sink: socket.socket, sizes: list[int]) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sizes.append(len(data))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def _join(listener: socket.socket, port: int, sizes: list[int]) -> None:
    """Pass on one connection, and count what the caller sends."""
    with listener.accept()[0] as caller, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_pass_on, args=(server, caller, []))
        back.start()
        _pass_on(caller, server, sizes)
        back.join()


def _at_rest(sizes: list[int]) -> int:
    """How much has come once no more does; the server's event loop stands still meanwhile."""
    last = -1
    while sum(sizes) != last or not sizes:
        last = sum(sizes)
        time.sleep(0.3)
    return last


async def test_calls_that_nobody_has_taken_yet_hold_little(tmp_path: Path) -> None:
    """However many there were, all of their messages were in memory before the first was refused."""
    sizes: list[int] = []
    async with serving(tmp_path) as (_, server):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            between = threading.Thread(target=_join, args=(listener, server.port, sizes))
            between.start()
            with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
                ask = channel.unary_unary("/ullage.v1.Placement/Decide")
                calls = [ask.future(bytes(2_000_000)) for _ in range(20)]
                assert _at_rest(sizes) < len(calls) * 2**17
            between.join()


async def test_too_many_calls_are_refused(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, max_calls=1) as (_, server),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as one,
    ):
        stream = placement_pb2_grpc.PlacementStub(one).WatchDecisions(pb.WatchDecisionsRequest())
        await stream.initial_metadata()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as other:
            call = placement_pb2_grpc.PlacementStub(other).Decide(pb.DecideRequest(question=plain(1)))
            await fails(call, grpc.StatusCode.RESOURCE_EXHAUSTED)
        stream.cancel()


GARBAGE = [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)), b"\x0a\x05ab", b"\x0b" * 2000]


@pytest.mark.parametrize("message", GARBAGE, ids=[f"{i}" for i in range(len(GARBAGE))])
async def test_bytes_that_are_no_message_are_the_callers_fault(
    message: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as (_, server), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:

        async def sending() -> AsyncIterator[bytes]:
            yield message

        async def read(call: Any) -> None:
            async for _ in call:
                pass

        reflect = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        code = grpc.StatusCode.INVALID_ARGUMENT
        await fails(channel.unary_unary("/ullage.v1.Placement/Decide")(message), code)
        await fails(read(channel.unary_stream("/ullage.v1.Placement/WatchDecisions")(message)), code)
        await fails(read(channel.unary_stream("/grpc.health.v1.Health/Watch")(message)), code)
        await fails(channel.stream_unary("/ullage.v1.Telemetry/Report")(sending()), code)
        await fails(read(channel.stream_stream(reflect)(sending())), code)
        stub = placement_pb2_grpc.PlacementStub(channel)
        assert (await stub.Decide(pb.DecideRequest(question=plain(1)))).decision.node
    assert not caplog.records


def test_a_sample_from_the_future_names_the_clock() -> None:
    with pytest.raises(SampleError, match="set clocks"):
        Sample(Subject("node", "n"), 1000.0, cpu_millicores=1.0).check(0.0)


# ── certificates ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of certificates by authority, made by the script that we ship."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; make-certs.sh needs it")
    root = tmp_path_factory.mktemp("certificates")

    def made(authority: str) -> Path:
        folder = root / authority
        if not folder.exists():
            subprocess.run(["sh", str(CERTS), "ullage-system", "30", str(folder)], check=True, capture_output=True)
        return folder

    return made


def channel_credentials(folder: Path, *, identity: Path | None) -> Any:
    key, certificate = (
        (None, None)
        if identity is None
        else ((identity / "client.key").read_bytes(), (identity / "client.crt").read_bytes())
    )
    return grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes(), key, certificate)


def expired(authority: Path, folder: Path) -> Path:
    """A client certificate of ``authority`` that ended yesterday."""
    folder.mkdir()
    request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=late"]
    sign = ["x509", "-req", "-CA", str(authority / "ca.crt"), "-CAkey", str(authority / "ca.key"), "-CAcreateserial"]
    for args in (
        [*request, "-keyout", "client.key", "-out", "client.csr"],
        [*sign, "-days", "-1", "-in", "client.csr", "-out", "client.crt"],
    ):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)
    return folder


async def test_only_callers_of_our_authority_are_answered(certificates: Callable[[str], Path], tmp_path: Path) -> None:
    ours, strangers = certificates("ours"), certificates("strangers")
    files = {
        "tls_cert": str(ours / "server.crt"),
        "tls_key": str(ours / "server.key"),
        "client_ca": str(ours / "ca.crt"),
    }
    async with serving(tmp_path, **files) as (_, server):

        async def decide(credentials: Any) -> pb.DecideResponse:
            async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials) as channel:
                stub = placement_pb2_grpc.PlacementStub(channel)
                return await stub.Decide(pb.DecideRequest(question=plain(6)), timeout=60)

        assert (await decide(channel_credentials(ours, identity=ours))).decision.node == "n1"
        for bad in (
            channel_credentials(ours, identity=None),
            channel_credentials(ours, identity=strangers),
            channel_credentials(ours, identity=expired(ours, tmp_path / "expired")),
            channel_credentials(strangers, identity=ours),
        ):
            await fails(decide(bad), grpc.StatusCode.UNAVAILABLE)


async def test_renewed_certificates_are_taken_without_a_restart(
    certificates: Callable[[str], Path], tmp_path: Path
) -> None:
    old, new = certificates("ours"), certificates("strangers")
    for name in ("server.crt", "server.key"):
        shutil.copy(old / name, tmp_path / name)
    files = {"tls_cert": str(tmp_path / "server.crt"), "tls_key": str(tmp_path / "server.key")}
    async with serving(tmp_path, **files) as (_, server):
        for folder in (old, new):
            for name in ("server.crt", "server.key"):
                shutil.copy(folder / name, tmp_path / name)
            credentials = channel_credentials(folder, identity=None)
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials, options) as channel:
                stub = placement_pb2_grpc.PlacementStub(channel)
                assert (await stub.Decide(pb.DecideRequest(question=plain(6)), timeout=60)).decision.node == "n1"


async def test_missing_certificates_are_one_sentence(tmp_path: Path) -> None:
    live = Live(tmp_path / "records.db")
    server = GrpcServer(GrpcSettings(port=0, tls_cert="/none.crt", tls_key="/none.key"), live.engine)
    with pytest.raises(ConfigError, match="cannot be read"):
        await server.start()
    live.recorder.close()


async def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path) as (live, server):
        live.engine.metrics = Metrics()
        second = GrpcServer(GrpcSettings(port=server.port), live.engine)
        with pytest.raises(ListenError, match=r"stop what holds the port or set grpc\.port"):
            await second.start()


def test_the_generated_code_is_what_the_protocol_files_generate(tmp_path: Path) -> None:
    files = sorted((REPO / "proto").rglob("*.proto"))
    (tmp_path / "proto").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "proto")
    (tmp_path / "scheduler" / "_pb").mkdir(parents=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-Ischeduler/_pb={tmp_path / 'proto'}",
            *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")),
            *(f"scheduler/_pb/{file.name}" for file in files),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for made in (tmp_path / "scheduler" / "_pb").iterdir():
        assert made.read_text() == (REPO / "scheduler" / "_pb" / made.name).read_text(), (
            f"run `make proto`: {made.name}"
        )


def test_a_plain_pod_is_in_the_namespace_that_it_names() -> None:
    assert plain_spec(pb.PlainPod(namespace="shop")).namespace == "shop"
    assert plain_spec(pb.PlainPod()).namespace == "default"
