"""Which node group Cluster Autoscaler is told to grow, from its own bytes over a real channel to the choice."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from placement.errors import ConfigError
from placement.planning import expansion as groups_to_grow
from placement.planning.expansion import Costs, Offer, costs_of
from placement.planning.plans import Deadline, WorkClock
from placement.planning.purchase import Demand, Shape, fluid_bound
from scheduler._pb import expander_pb2 as pb
from scheduler._pb import expander_pb2_grpc
from scheduler.metrics import Metrics
from scheduler.planning import expander, expansion
from scheduler.planning.expander import SERVICE, ExpanderServer
from scheduler.planning.expansion import Unpriced, advise
from scheduler.planning.prices import read_prices
from scheduler.settings import ExpanderSettings, HttpSettings, Settings, read_settings
from tests.autoscaler import container, node, pod, question, upstream
from tests.certificates import found, issue
from tests.test_service import fails

pytestmark = pytest.mark.timeout(120)
PRICES = """name,cores,gib,usd_per_hour,spot_usd_per_hour
small,4,16,0.20,0.06
large,32,128,1.50,
gpu,16,64,4.00,
owned,64,256,0,
"""
SMALL, LARGE = node("small", "3800m", "15Gi"), node("large", "31500m", "126Gi")
GPU = node("gpu", "15500m", "62Gi", {"nvidia.com/gpu": "4"})
WEB = [pod(f"web-{n}", "1500m", "2Gi") for n in range(3)]
TRAINING = pod("training", "2", "8Gi", {"nvidia.com/gpu": "1"})
TWO = {"a": SMALL, "b": LARGE}
FOR_WEB = {"a": (2, WEB), "b": (1, WEB)}


@pytest.fixture(autouse=True)
def _without_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other things is slow, and that is no failure."""
    monkeypatch.setattr(expansion, "TIME_S", 60.0)
    monkeypatch.setattr(expander, "ANSWER_S", 60.0)


def book(folder: Path, text: str = PRICES) -> str:
    path = folder / "prices.csv"
    path.write_text(text)
    return str(path)


def advised(folder: Path, asked: bytes, prices: str = PRICES) -> tuple[str, ...]:
    return advise(asked, book(folder, prices)).groups


# ── the choice ────────────────────────────────────────────────────────────────────────────────


def offer(group: str, nodes: int, usd: float, **amounts: int) -> Offer:
    return Offer(group, nodes, usd, {"pods": 110, **amounts})


def costs(offers: list[Offer], waiting: Mapping[Any, int]) -> Costs:
    return costs_of(offers, waiting, Deadline(5.0, WorkClock()))


def test_a_group_costs_its_nodes_and_what_has_to_be_bought_after_it() -> None:
    core = (("cpu", 1000),)
    device = (("cpu", 1000), ("gpu", 1))
    offers = [offer("cpu", 2, 1.0, cpu=4000), offer("gpu", 2, 5.0, cpu=8000, gpu=1)]
    waiting = {(core, frozenset({0, 1})): 8, (device, frozenset({1})): 1}
    found = costs(offers, waiting)
    assert found.found[0] == pytest.approx(2 * 1.0 + 5.0)
    assert found.least[1] == pytest.approx(10.0), "it is all that it costs: it leaves nobody waiting"
    assert found.best == (0,)
    one = costs([offers[0], offer("gpu", 1, 5.0, cpu=16000, gpu=1)], waiting)
    assert one.best == (1,), "a node that has to be bought anyway has room for all"


def test_equal_groups_are_all_named_and_a_dearer_one_is_not() -> None:
    offers = [offer(zone, 3, usd, cpu=4000) for zone, usd in (("a", 1.0), ("b", 1.5), ("c", 1.0))]
    assert costs(offers, {((("cpu", 3000),), frozenset({0, 1, 2})): 3}).best == (0, 2)


def test_groups_that_leave_the_same_pods_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be hundreds of groups, and a bound for each took longer than an autoscaler waits."""
    looked: list[int] = []

    def bound(demand: Demand, shapes: list[Shape]) -> float:
        looked.append(len(demand.count))
        return fluid_bound(demand, shapes)

    monkeypatch.setattr(groups_to_grow, "fluid_bound", bound)
    offers = [offer(f"{zone}-{n}", 1, 1.0 + n, cpu=4000) for zone in "ab" for n in range(20)]
    waiting = {((("cpu", 3000),), frozenset(range(20))): 1, ((("cpu", 2000),), frozenset(range(20, 40))): 1}
    found = costs(offers, waiting)
    assert found.best == (0, 20)
    assert looked == [1, 1], "one for each zone"


def test_groups_that_leave_different_pods_are_looked_at_only_where_they_may_be_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bound for each of 300 groups took two seconds, and no limit of time ended that."""
    looked: list[int] = []

    def bound(demand: Demand, shapes: list[Shape]) -> float:
        looked.append(len(demand.count))
        return fluid_bound(demand, shapes)

    monkeypatch.setattr(groups_to_grow, "fluid_bound", bound)
    random = np.random.default_rng(3)
    offers = [
        offer(f"g{n}", 2, float(random.uniform(0.5, 2.0)), cpu=int(random.integers(4, 9)) * 1000) for n in range(40)
    ]
    waiting: dict[Any, int] = {
        ((("cpu", 500 + 100 * n),), frozenset(np.flatnonzero(random.random(40) < 0.8).tolist())): 4 for n in range(30)
    }
    found = costs(offers, waiting)
    assert 0 < len(looked) < 10
    monkeypatch.undo()
    demand, shapes = groups_to_grow._demand(offers, waiting)
    rest = [groups_to_grow._left(demand, n) for n in range(40)]
    each = [o.cost + fluid_bound(left, shapes) for o, left in zip(offers, rest, strict=True)]
    assert all(cost >= min(found.found.values()) for n, cost in enumerate(each) if n not in found.found)
    assert all(least <= cost + 1e-9 for least, cost in zip(found.least, each, strict=True)), (
        "they hold for all who wait"
    )


def test_bounds_end_with_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WorkClock()
    looked: list[float] = []

    def bound(demand: Demand, shapes: list[Shape]) -> float:
        looked.append(clock.done_s)
        clock.done_s += 0.2
        return fluid_bound(demand, shapes) + len(looked)  # each seems dearer than all before it

    monkeypatch.setattr(groups_to_grow, "fluid_bound", bound)
    monkeypatch.setattr(groups_to_grow, "_floor", lambda _demand, shapes: np.zeros(len(shapes)))
    offers = [offer(f"g{n}", 1, 1.0, cpu=4000) for n in range(40)]
    waiting: dict[Any, int] = {((("cpu", 1000),), frozenset({n})): 1 for n in range(40)}
    found = costs_of(offers, waiting, Deadline(2.0, clock))
    assert looked[-1] < 1.0, "half of the two seconds"
    assert found.found, "and one of them is bought for all the same"


def test_a_resource_that_nobody_offers_is_left_to_the_autoscaler() -> None:
    offers = [offer(name, 1, usd, cpu=4000, memory=2**61) for name, usd in (("a", 1.0), ("b", 3.0))]
    waiting: dict[Any, int] = {
        ((("claims", 2), ("cpu", 1000)), frozenset({0})): 1,
        ((("cpu", 2000), ("memory", 2**61)), frozenset({1})): 2,
    }
    found = costs(offers, waiting)
    assert found.found == {0: pytest.approx(4.0), 1: pytest.approx(4.0)}, "both pods of b on one node"


def test_the_rest_is_bought_of_several_groups() -> None:
    """What first-fit decreasing pays for it is dearer."""
    offers = [
        offer("first", 1, 0.5, cpu=1000),
        offer("narrow", 9, 1.0, cpu=5000),
        offer("wide", 9, 1.5, cpu=9000),
    ]
    others = frozenset({1, 2})
    waiting: dict[Any, int] = {
        ((("cpu", 1000),), frozenset({0})): 1,
        ((("cpu", 5000),), others): 2,
        ((("cpu", 4000),), others): 2,
    }
    assert costs(offers, waiting).found[0] == pytest.approx(0.5 + 2 * 1.5)


# ── from bytes to the choice ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_autoscalers_own_bytes_are_understood(tmp_path: Path, as_bytes: bool) -> None:
    asked = question(FOR_WEB, TWO, as_bytes=as_bytes)
    advice = advise(asked, book(tmp_path))
    answer = pb.BestOptionsResponse.FromString(advice.answer)
    assert [(o.nodeGroupId, o.nodeCount) for o in answer.options] == [("a", 2)]
    assert answer.options[0].debug == (
        "a: 2 at 0.2000 USD an hour for 3 of 3 pods, 0.4000 with all who wait; "
        "b: 1 at 1.5000 USD an hour for 3 of 3 pods, 1.5000 or more with all who wait"
    )
    assert len(advice.answer) < 300, "it does not send the pods back"


def test_whom_a_group_leaves_waiting_is_bought_for(tmp_path: Path) -> None:
    """The small nodes alone are cheaper; with what the training needs the GPU node, which takes all, is."""
    groups = {"a": SMALL, "g": GPU}
    assert advised(tmp_path, question({"a": (2, WEB), "g": (1, [*WEB, TRAINING])}, groups)) == ("g",)
    assert advised(tmp_path, question({"a": (2, WEB), "g": (2, [*WEB, TRAINING])}, groups)) == ("a",)


def test_a_pod_asks_for_what_kube_scheduler_counts(tmp_path: Path) -> None:
    """Both would be on one node, if not all of it counted: containers, the sidecar, the start, the overhead."""
    whole = {
        "containers": [container({"cpu": "1"}), container({"cpu": "500m"})],
        "initContainers": [container({"cpu": "250m"}, restartPolicy="Always"), container({"cpu": "3"})],
        "overhead": {"cpu": upstream("Quantity")(string="500m")},
    }
    heavy = [pod(f"heavy-{n}", spec=whole) for n in range(2)]
    first = node("owned", "64", "256Gi")
    asked = question({"z": (1, [pod("p")]), "a": (2, heavy)}, {"z": first, "a": node("small", "7", "15Gi")})
    advice = advise(asked, book(tmp_path))
    assert advice.groups == ("z", "a"), "equal: each of them is followed by the other"
    assert "z: 1 at 0.0000 USD an hour for 1 of 3 pods, 0.4000 with all who wait" in advice.words, "3.75 cores each"


def test_shares_of_devices_take_room(tmp_path: Path) -> None:
    shared = node("gpu", "15500m", "62Gi", {"ullage.dev/gpu-milli": "4000"})
    sharing = [pod(f"sharing-{n}", more={"ullage.dev/gpu-milli": "1000"}) for n in range(5)]
    asked = question({"z": (1, [pod("p")]), "g": (2, sharing)}, {"z": node("owned", "64", "256Gi"), "g": shared})
    assert "z: 1 at 0.0000 USD an hour for 1 of 6 pods, 8.0000 with" in advise(asked, book(tmp_path)).words


def test_prices_are_of_the_group_then_of_the_instance_type_and_of_spot(tmp_path: Path) -> None:
    spot = node("small", "3800m", "15Gi", labels={"karpenter.sh/capacity-type": "spot"})
    assert advised(tmp_path, question({"a": (2, WEB), "s": (3, WEB)}, {"a": SMALL, "s": spot})) == ("s",)
    assert advised(tmp_path, question(FOR_WEB, TWO), f"{PRICES}b,32,128,0.3,\n") == ("b",)
    assert advised(tmp_path, question(FOR_WEB, {"a": spot, "b": LARGE}), PRICES.replace("0.06", "0")) == ("a",)


def test_older_autoscalers_get_the_similar_groups_back(tmp_path: Path) -> None:
    asked = pb.BestOptionsRequest.FromString(question(FOR_WEB, TWO))
    asked.options[0].podBytes.extend([b"a-zone-2", b"a-zone-3"])
    answer = pb.BestOptionsResponse.FromString(advise(asked.SerializeToString(), book(tmp_path)).answer)
    assert list(answer.options[0].podBytes) == [b"a-zone-2", b"a-zone-3"]


def test_every_copy_of_a_pod_counts_once(tmp_path: Path) -> None:
    """Its bytes may differ: maps have no order on the wire."""
    other = upstream("Pod")()
    other.CopyFrom(TRAINING)
    other.metadata.annotations["c"] = "d"
    groups = {"g": GPU, "h": GPU, "a": SMALL}
    asked = question({"g": (1, [TRAINING]), "h": (1, [other]), "a": (2, WEB)}, groups)
    assert "a: 2 at 0.2000 USD an hour for 3 of 4 pods, 4.4000 with" in advise(asked, book(tmp_path)).words


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (b"", "no pods"),
        (b"\xff\xff", "the question cannot be read"),
        (question({"a": (0, WEB)}, TWO), "'a' has no node, or is to get none: 0"),
        (question({"c": (1, WEB)}, TWO), "'c' has no node"),
        (question({"a": (1, [])}, TWO), "no pods"),
        (question({"a": (1, [pod("p", cpu="many")])}, TWO), "'many' of cpu does not parse"),
        (question({"a": (1, WEB)}, {"a": node("small", "-4", "1Gi")}), "'-4' of cpu is negative"),
    ],
)
def test_a_question_without_sense_is_one_sentence(tmp_path: Path, asked: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        advise(asked, book(tmp_path))
    assert not isinstance(caught.value, Unpriced)


def test_a_damaged_pod_or_node_is_one_sentence(tmp_path: Path) -> None:
    asked = pb.BestOptionsRequest.FromString(question(FOR_WEB, TWO, as_bytes=True))
    asked.options[0].podBytes[0] = b"\n\xff"
    with pytest.raises(ConfigError, match="a pod cannot be read"):
        advise(asked.SerializeToString(), book(tmp_path))
    asked.nodeBytesMap["b"] = b"\n\xff"
    with pytest.raises(ConfigError, match="the node of group b cannot be read"):
        advise(asked.SerializeToString(), book(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,usd_per_hour\nsmall,0.2\n", r"no price of group b \(large\); name the group there"),
        ("name,usd_per_hour\n", "holds no prices"),
        ("name,price\nsmall,0.2\n", "row 2: '' is no price"),
        ("name,usd_per_hour\nsmall,nan\n", "row 2: 'nan' is no price"),
        ("name,usd_per_hour,spot_usd_per_hour\nsmall,1,-1\n", "row 2: '-1' is no price"),
        ("name,usd_per_hour\nsmall,1\nsmall,1\n", "row 3: name 'small' is empty, or there twice"),
        ("InstanceType,usd_per_hour\nsmall,1\n", "row 2: name '' is empty"),
    ],
)
def test_without_prices_nothing_is_advised(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Unpriced, match=says):
        advised(tmp_path, question(FOR_WEB, TWO), text)


def test_of_many_groups_few_are_named(tmp_path: Path) -> None:
    options, nodes = {f"g{n}": (2, WEB) for n in range(300)}, {f"g{n}": SMALL for n in range(300)}
    advice = advise(question(options, nodes), book(tmp_path))
    assert len(advice.groups) == 300
    assert len(advice.words) < 500
    with pytest.raises(Unpriced, match=r"g3 \(small\) and 296 more; name the group there") as caught:
        advised(tmp_path, question(options, nodes), "name,usd_per_hour\nlarge,1\n")
    assert len(str(caught.value)) < 500, "longer ones do not fit into a status"


def test_the_books_of_the_documents_are_read() -> None:
    path = Path(__file__).resolve().parent.parent / "docs" / "prices-large.csv"
    assert read_prices(path)["general-16"] == (0.7769, 0.7769)


# ── over a channel ────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def serving(folder: Path, **http: Any) -> AsyncIterator[tuple[ExpanderServer, Metrics]]:
    settings = Settings(http=HttpSettings(**http), expander=ExpanderSettings(port=0, prices=book(folder)))
    metrics = Metrics()
    server = ExpanderServer(settings, metrics)
    await server.start()
    try:
        yield server, metrics
    finally:
        await server.stop()


def counted(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("ullage_expander_questions_total", {"outcome": outcome}) or 0.0


async def ask(stub: Any, asked: bytes) -> list[str]:
    answer = await stub.BestOptions(pb.BestOptionsRequest.FromString(asked))
    return [option.nodeGroupId for option in answer.options]


async def test_the_service_answers_counts_and_goes_on(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (server, metrics),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderStub(channel)
        assert await ask(stub, question(FOR_WEB, TWO)) == ["a"]
        book(tmp_path, PRICES.replace("0.20", "0.80"))
        assert await ask(stub, question(FOR_WEB, TWO)) == ["b"], "prices are read anew"
        assert counted(metrics, "answered") == 2
        unpriced = ask(stub, question({"a": (1, WEB), "x": (1, WEB)}, {"a": SMALL, "x": node("new", "8", "8Gi")}))
        assert r"x (new); name the group" in await fails(unpriced, grpc.StatusCode.FAILED_PRECONDITION)
        assert counted(metrics, "no price") == 1
        await fails(ask(stub, b""), grpc.StatusCode.INVALID_ARGUMENT)
        assert counted(metrics, "malformed") == 1
        os.kill(await server._process.run(os.getpid), signal.SIGKILL)
        while not server._process._pool._broken:  # type: ignore[union-attr]  # it is there, and knows soon
            await asyncio.sleep(0.01)
        assert "a new one is started" in await fails(ask(stub, question(FOR_WEB, TWO)), grpc.StatusCode.INTERNAL)
        assert counted(metrics, "failed") == 1
        assert await ask(stub, question(FOR_WEB, TWO)) == ["b"]


async def test_an_autoscaler_is_not_kept_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serving(tmp_path) as (server, metrics),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderStub(channel)
        monkeypatch.setattr(expander, "ANSWER_S", 0.0)
        await fails(ask(stub, question(FOR_WEB, TWO)), grpc.StatusCode.DEADLINE_EXCEEDED)
        assert counted(metrics, "late") == 1
        monkeypatch.setattr(expander, "ANSWER_S", 60.0)
        assert await ask(stub, question(FOR_WEB, TWO)) == ["a"], "the same process goes on"


async def test_a_process_that_cannot_be_started_is_a_counted_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no more processes are allowed: when the one that hung is replaced, and when one died."""

    def none_left() -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async with (
        serving(tmp_path) as (server, metrics),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderStub(channel)
        with monkeypatch.context() as patched:
            patched.setattr(server, "_replace_if_hung", none_left)
            await fails(ask(stub, question(FOR_WEB, TWO)), grpc.StatusCode.INTERNAL)
        with monkeypatch.context() as patched:
            patched.setattr(server, "_begin_anew", none_left)
            os.kill(await server._process.run(os.getpid), signal.SIGKILL)
            while not server._process._pool._broken:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            died = ask(stub, question(FOR_WEB, TWO))
            assert "no other can be started (Resource temp" in await fails(died, grpc.StatusCode.INTERNAL)
        assert counted(metrics, "failed") == 2
        await fails(ask(stub, question(FOR_WEB, TWO)), grpc.StatusCode.INTERNAL)
        assert await ask(stub, question(FOR_WEB, TWO)) == ["a"], "the next one is started"


async def test_a_new_process_is_not_ended_by_whoever_waited_for_the_one_that_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(tmp_path) as (server, metrics),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = expander_pb2_grpc.ExpanderStub(channel)
        prices = Path(book(tmp_path))
        prices.unlink()
        os.mkfifo(prices)  # as on a disk that hangs
        waits = asyncio.ensure_future(fails(ask(stub, question(FOR_WEB, TWO)), grpc.StatusCode.INTERNAL))
        with await asyncio.to_thread(prices.open, "w"):  # it is being read from now on
            prices.unlink()
            book(tmp_path)
            server._hung_s = 0.0
            assert await ask(stub, question(FOR_WEB, TWO)) == ["a"]
        assert "a new one is started" in await waits
        assert (counted(metrics, "answered"), counted(metrics, "failed")) == (1, 1)


async def test_it_is_listed_and_healthy_and_nothing_else_is_there(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        status = (await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status
        assert status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        listed = [s.name async for answer in call for s in answer.list_services_response.service]
        assert listed == sorted([SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"])


async def test_an_autoscaler_without_a_certificate_is_answered_where_kube_scheduler_must_show_one(
    tmp_path: Path,
) -> None:
    found(tmp_path, "authority")
    issue(tmp_path, "server", "authority")
    files = {"tls_cert": "server.pem", "tls_key": "server.key", "client_ca": "authority.pem"}
    root = (tmp_path / "authority.pem").read_bytes()
    async with serving(tmp_path, **{key: str(tmp_path / name) for key, name in files.items()}) as (server, _):
        trusted = grpc.ssl_channel_credentials(root)
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", trusted) as channel:
            assert await ask(expander_pb2_grpc.ExpanderStub(channel), question(FOR_WEB, TWO)) == ["a"]


async def test_a_price_book_that_cannot_be_read_is_said_at_the_start(tmp_path: Path) -> None:
    settings = Settings(expander=ExpanderSettings(port=0, prices=book(tmp_path, "name\n")))
    with pytest.raises(ConfigError, match="holds no prices"):
        await ExpanderServer(settings, Metrics()).start()


def test_a_port_needs_prices_and_a_certificate(tmp_path: Path) -> None:
    found(tmp_path, "server")
    tls = {"http.tls_cert": str(tmp_path / "server.pem"), "http.tls_key": str(tmp_path / "server.key")}
    asked: dict[str, Any] = {"expander.port": 9444, **tls}
    with pytest.raises(ConfigError, match=r"expander\.port = 9444: set without expander\.prices"):
        read_settings(None, asked)
    with pytest.raises(ConfigError, match="mount the price book there"):
        read_settings(None, {**asked, "expander.prices": str(tmp_path / "none.csv")})
    with pytest.raises(ConfigError, match=r"expander\.port = 9444: set without http\.tls_cert, but Cluster Autoscaler"):
        read_settings(None, {"expander.port": 9444, "expander.prices": book(tmp_path)})
    assert read_settings(None, {**asked, "expander.prices": book(tmp_path)}).expander.port == 9444
