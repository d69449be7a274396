"""Reading usage from Prometheus over real HTTP: budgets, bad answers, and what serving makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from placement.errors import ConfigError
from placement.knowledge import Forecast
from placement.learning import boosted
from placement.learning.baselines import Target
from placement.learning.usage import STEP_S
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.errors import SourceError
from scheduler.learning import predict_worker, prometheus
from scheduler.learning.predict_worker import Source, WorkerLostError, WorkerProcess
from scheduler.learning.prometheus import Prometheus
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.learning.usage_learner import UsageLearner
from scheduler.ledger import Seen
from scheduler.metrics import Metrics
from scheduler.settings import UsageSettings, read_settings
from scheduler.slices import SLICE
from scheduler.view import Reader
from tests.api_server import served
from tests.live_engine import GIB, Live, Turns

NOW = 1_700_000_100
STEPS_A_DAY = 86_400 // STEP_S


class FakeProm:
    """Answers queries by functions of time; misbehaves on demand."""

    def __init__(self) -> None:
        self.pods: dict[str, Callable[[float], float]] = {}
        """Pod → cores at a time."""
        self.memory = float(GIB) / 2
        self.oldest_s = 0
        """It holds no samples from before."""
        self.starts: list[tuple[str, float, float]] = []
        """Pods, when each began, and until when it was seen."""
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[str] = []
        self.delay_s = 0.0
        self.raw: tuple[int, bytes] | None = None
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        form = {k: str(v) for k, v in (await request.post()).items()}
        name = "query_range" if "start" in form else "query"
        if (request.method, request.path) != ("POST", f"/api/v1/{name}"):
            return web.Response(status=404)
        self.forms.append(form)
        self.authorizations.append(request.headers.get("Authorization", ""))
        await asyncio.sleep(self.delay_s)
        if self.raw is not None:
            return web.Response(status=self.raw[0], body=self.raw[1])
        return web.json_response({"status": "success", "data": {"resultType": "x", "result": self._result(form)}})

    def _result(self, form: dict[str, str]) -> list[dict[str, Any]]:
        expression = form["query"]
        if expression.startswith("count"):
            return [{"metric": {}, "value": [float(form["time"]), str(len(self.pods))]}]
        if "kube_pod_owner" in expression:
            names = {"namespace": "shop", "owner_kind": "ReplicaSet", "owner_name": "web-7c9d8bf6c4"}
            return [{"metric": names | {"pod": pod}, "value": [0, "1"]} for pod in self.pods]
        if "kube_pod_start_time" in expression:
            hours, at_s = int(re.findall(r"\[(\d+)h\]", expression)[0]), float(form["time"])
            return [
                {"metric": {"namespace": "shop", "pod": pod, "uid": f"{number}"}, "value": [at_s, str(start)]}
                for number, (pod, start, seen_s) in enumerate(self.starts)
                if start <= at_s and seen_s > at_s - hours * 3600
            ]
        found = []
        for pod, cores in self.pods.items():
            series: dict[str, Any] = {"metric": {"namespace": "shop", "pod": pod}}

            def at(t: float, cores: Callable[[float], float] = cores) -> list[Any]:
                return [t, str(cores(t) if "cpu" in expression else self.memory)]

            if "start" in form:
                start, end, step = (int(form[k]) for k in ("start", "end", "step"))
                series["values"] = [at(t) for t in range(start, end + 1, step) if t >= self.oldest_s]
            else:
                series["value"] = at(float(form["time"]))
            found.append(series)
        return found


@asynccontextmanager
async def fake_prometheus(fake: FakeProm | None = None) -> AsyncIterator[FakeProm]:
    fake = fake or FakeProm()
    async with served(fake.answer) as fake.port:
        yield fake


@asynccontextmanager
async def reader(fake: FakeProm, metrics: Metrics | None = None, **settings: Any) -> AsyncIterator[Prometheus]:
    address = f"http://127.0.0.1:{fake.port}"
    given: dict[str, Any] = {"prometheus": address, "busy_share": 1.0, **settings}
    client = Prometheus(UsageSettings(**given), metrics or Metrics())
    try:
        yield client
    finally:
        await client.close()


async def test_a_long_range_is_cut_so_that_no_answer_exceeds_the_points() -> None:
    async with fake_prometheus() as fake, reader(fake, max_points=100) as client:
        fake.pods = {f"web-{i}": lambda t: 0.5 for i in range(10)}
        chunks = [c async for c in client.history(NOW - 86_400 + 1, NOW)]
    ranges = [f for f in fake.forms if "start" in f]
    assert max((int(f["end"]) - int(f["start"])) // STEP_S + 1 for f in ranges) == 10
    times = np.unique(np.concatenate([s.time_s for c in chunks for s in c if s.resource == CPU]))
    assert len(times) == 288
    assert (np.diff(times) == STEP_S).all()
    assert all(f["timeout"] == "20s" for f in ranges)


async def test_a_slow_server_is_given_rest_in_proportion() -> None:
    """By a clock that only a query, and a rest, move on."""
    now_s, took_s, rests = 0.0, iter((0.1, 0.4, 0.0, 0.2)), list[float]()

    class Slow(FakeProm):
        async def answer(self, request: web.Request) -> web.Response:
            nonlocal now_s
            now_s += next(took_s)
            return await super().answer(request)

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        rests.append(seconds)
        now_s += seconds

    async with fake_prometheus(Slow()) as fake:
        settings = UsageSettings(prometheus=f"http://127.0.0.1:{fake.port}", busy_share=0.25)
        client = Prometheus(settings, Metrics(), clock=lambda: now_s, sleep=sleep)
        await client.now(NOW)
        now_s += 0.5  # nobody asks for a while, which counts as rest
        await client.now(NOW)
        await client.close()
    assert rests == pytest.approx([0, 0.3, 0.7, 0])


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ((503, b"busy"), "refused"),
        ((200, b"<html>a login page</html>"), "malformed"),
        ((422, b'{"status":"error","errorType":"execution","error":"query timed out"}'), "refused"),
        (
            (503, b'{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}'),
            "timeout",
        ),
        ((200, b'{"status":"success"}'), "refused"),
        ((200, b'{"status":"\xff"}'), "malformed"),
        ((200, b'{"x":' + b"[" * 4000), "malformed"),
        ((200, b'{"status":"success","data":{"result":[{"metric":{},"value":[1e400,"1"]}]}}'), "malformed"),
        ((200, b" " * 5000), "too large"),
    ],
)
async def test_bad_answers_are_named_and_counted(raw: tuple[int, bytes], kind: str) -> None:
    metrics = Metrics()
    async with fake_prometheus() as fake, reader(fake, metrics, max_answer_bytes=4096) as client:
        fake.raw = raw
        with pytest.raises(SourceError) as caught:
            await client.now(NOW)
    assert caught.value.kind == kind
    assert f'ullage_usage_queries_total{{outcome="{kind}"}} 1.0' in metrics.expose().decode()


async def test_an_answer_that_is_none_is_told_in_one_line() -> None:
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.raw = (400, b"Client sent an HTTP request\n to an HTTPS server.\n")
        with pytest.raises(SourceError, match=r"HTTP 400 Client sent an HTTP request to an HTTPS server\.; check"):
            await client.now(NOW)


async def test_a_server_that_is_away_or_too_slow_is_named() -> None:
    async with fake_prometheus() as fake, reader(fake, timeout_s=0.1) as client:
        fake.delay_s = 0.5
        with pytest.raises(SourceError, match="no answer within"):
            await client.now(NOW)
    async with reader(fake) as client:
        with pytest.raises(SourceError, match="cannot be reached"):
            await client.now(NOW)


@pytest.mark.parametrize(("failures", "is_answered"), [(2, True), (3, False)])
async def test_hours_of_recording_outlast_a_server_that_is_busy_for_a_while(failures: int, is_answered: bool) -> None:
    """Only one that has answered before: a wrong address is told at once."""
    rests: list[float] = []
    busy = (503, b'{"status":"error","errorType":"timeout","error":"query timed out"}')

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        if len([one for one in rests if one]) == failures:
            fake.raw = None

    async with fake_prometheus() as fake:
        settings = UsageSettings(prometheus=f"http://127.0.0.1:{fake.port}", busy_share=1.0)
        client = Prometheus(settings, Metrics(), sleep=sleep, waits_s=(5.0, 10.0))
        fake.raw = busy
        with pytest.raises(SourceError, match="query timed out"):
            await client.now(NOW)
        assert not any(rests)
        fake.raw = None
        await client.now(NOW)
        fake.raw = busy
        if is_answered:
            await client.now(NOW)
        else:
            with pytest.raises(SourceError, match="query timed out"):
                await client.now(NOW)
        await client.close()
    assert [one for one in rests if one] == [5.0, 10.0]


async def test_values_that_make_no_sense_are_dropped_and_counted() -> None:
    metrics = Metrics()
    async with fake_prometheus() as fake, reader(fake, metrics) as client:
        fake.pods = {"a": lambda t: math.nan, "b": lambda t: -1.0, "c": lambda t: 3e6, "d": lambda t: 0.25}
        found = await client.now(NOW)
        for text in ("abc", "", "NaN"):
            one = {"metric": {"namespace": "shop", "pod": "e"}, "value": [NOW, text]}
            fake.raw = 200, json.dumps({"status": "success", "data": {"result": [one]}}).encode()
            assert await client.now(NOW) == []
            assert [chunk async for chunk in client.history(NOW - 600, NOW)] == [[]] * 2
    assert [s.pod for s in found if s.resource == CPU] == ["d"]
    assert 'ullage_usage_refused_total{reason="impossible value"} 15.0' in metrics.expose().decode()


async def test_owners_are_workloads_not_their_generations() -> None:
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-7c9d8bf6c4-abcde": lambda t: 1.0}
        assert await client.owners(NOW, 1) == {("shop", "web-7c9d8bf6c4-abcde"): "shop/Deployment/web"}


async def test_pods_that_had_one_name_after_the_other_each_have_their_start() -> None:
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.starts = [
            ("db-0", NOW - 200_000.0, NOW - 90_000),
            ("db-0", NOW - 90_000.0, NOW),
            ("db-1", NOW - 50.5, NOW),
        ]
        fake.starts.append(("odd", math.nan, NOW))
        of_three_days = await client.starts(NOW, 3)
        of_a_day = await client.starts(NOW, 1)
    assert of_three_days == {("shop", "db-0"): {NOW - 200_000, NOW - 90_000}, ("shop", "db-1"): {NOW - 51}}
    assert of_a_day[("shop", "db-0")] == {NOW - 90_000}
    assert len(fake.forms) == 4, "one query a day"


@pytest.mark.parametrize("token", [b"two\nlines", b"nul\x00", b"\xff", None])
async def test_a_token_that_is_none_is_a_failing_source_and_no_crash(tmp_path: Path, token: bytes | None) -> None:
    path = tmp_path / "token"
    if token is not None:
        path.write_bytes(token)
    async with fake_prometheus() as fake, reader(fake, prometheus_token_file=str(path)) as client:
        with pytest.raises(SourceError, match="prometheus_token_file"):
            await client.now(NOW)
    assert fake.forms == []


@pytest.mark.parametrize(("token", "sent"), [("abc", "Bearer abc"), ("Basic bWU6c2VjcmV0", "Basic bWU6c2VjcmV0")])
async def test_a_token_file_may_hold_any_scheme_of_credentials(tmp_path: Path, token: str, sent: str) -> None:
    path = tmp_path / "token"
    path.write_text(token + "\n")
    async with fake_prometheus() as fake, reader(fake, prometheus_token_file=str(path)) as client:
        await client.now(NOW)
    assert set(fake.authorizations) == {sent}


async def test_labels_that_a_scrape_renamed_name_the_pod_that_was_measured() -> None:
    """kube-state-metrics and cAdvisor scraped without ``honor_labels``: the plain labels are the scraper's."""
    scraper = {"namespace": "monitoring", "pod": "state-metrics-0"}
    pods = [scraper | {"exported_namespace": "shop", "exported_pod": f"web-{i}"} for i in (1, 2)]
    owners = [{**pod, "owner_kind": "StatefulSet", "owner_name": f"w{i}"} for i, pod in enumerate(pods)]
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.raw = (
            200,
            json.dumps(
                {"status": "success", "data": {"result": [{"metric": m, "value": [NOW, "1"]} for m in owners]}}
            ).encode(),
        )
        assert await client.owners(NOW, 1) == {
            ("shop", "web-1"): "shop/StatefulSet/w0",
            ("shop", "web-2"): "shop/StatefulSet/w1",
        }
        found = {(s.namespace, s.pod) for s in await client.now(NOW)}
    assert found == {("shop", "web-1"), ("shop", "web-2")}


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stale_s(.|\n)*usage.prometheus = 'prom:9090'"):
        read_settings(None, {"usage.stale_s": 10, "usage.prometheus": "prom:9090"})


# ── serving ───────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Unix time as the test says."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def learner_of(live: Live, clock: Clock, client: Prometheus | None, **settings: Any) -> UsageLearner:
    return UsageLearner(live.engine, UsageSettings(**settings), lambda: True, prometheus=client, clock=clock)


def web_pod(live: Live, name: str, cores: float = 4.0) -> None:
    spec = PodSpec(((CPU, round(cores * 1000)), (MEMORY, GIB)), namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4")
    live.ledger.see(Seen(f"uid-{name}", name, "shop", 1, spec, "n1"))


def forecast(live: Live) -> Forecast:
    forecasts = live.state.knowledge.forecasts
    assert forecasts is not None
    return forecasts.of["shop/Deployment/web"]


async def test_history_is_read_back_and_the_forecast_enters_as_knowledge(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0, "gone": lambda t: 2.0}
        learner = learner_of(live, clock, client)
        await learner.turn()
        first = forecast(live)
        version = live.state.knowledge.version
        assert (first.rung, first.cpu) == ("history", 2000), "the pod that is gone counts"
        assert first.memory == pytest.approx(GIB // 2, rel=1e-5)
        await learner.turn()
        assert live.state.knowledge.version == version, "nothing new is no new version"
        assert learner.current["uid-web-1"].cpu_millicores == 1000
    kinds = [e.kind for e in live.events]
    assert kinds.count("knowledge") == 1


async def test_nodes_that_were_used_up_before_a_restart_shut_every_rung_after_it(tmp_path: Path) -> None:
    """Two hours of one of three nodes are more than 1 % of a day."""

    def busy(then_s: int, cores: float) -> Callable[[float], float]:
        return lambda t: cores if then_s < t <= then_s + 7200 else 0.1

    for then_s, number, is_crowded in ((72_000, 2, True), (95_000, 2, False), (72_000, 1, False)):
        live, clock = Live(tmp_path / f"{then_s}-{number}.db"), Clock()
        async with fake_prometheus() as fake, reader(fake) as client:
            for name in ("web-1", "web-2")[:number]:
                web_pod(live, name)
                fake.pods[name] = busy(NOW - then_s, 4.0)
            learner = learner_of(live, clock, client)
            learner.forecaster.crowding.look(NOW - 600, 0, 3)
            await learner.turn()
            crowding = learner.forecaster.crowding
            assert crowding.is_crowded == is_crowded
            assert crowding.share == pytest.approx(24 / (3 * 288) if is_crowded else 0)
            assert forecast(live).rung == ("request" if is_crowded else "history")
            clock.now += STEP_S
            await learner.turn()
            assert crowding.share == pytest.approx(24 / (3 * 288) if is_crowded else 0), "it is counted once"


async def test_samples_from_after_what_was_asked_for_count_for_no_node(tmp_path: Path) -> None:
    class Ahead(FakeProm):
        def _result(self, form: dict[str, str]) -> list[dict[str, Any]]:
            return super()._result({**form, "end": str(int(form["end"]) + 600)} if "end" in form else form)

    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus(Ahead()) as fake, reader(fake) as client:
        fake.pods["web-1"] = lambda t: 4.0 if t > NOW else 0.1
        learner = learner_of(live, clock, client)
        await learner.turn()
        assert learner.forecaster.crowding.share == 0
        assert forecast(live).rung == "history"


class Churning(FakeProm):
    """A new job every four hours of the last days, and every hour of the last, of names that sort before everybody's."""

    def _result(self, form: dict[str, str]) -> list[dict[str, Any]]:
        if "kube_pod_owner" not in form["query"]:
            return super()._result(form)
        at, hours = int(form["time"]), int(form["query"].rpartition("[")[2].partition("h")[0])
        assert hours <= 24, "no query spans more than a day"
        found = super()._result(form)[-1:]
        for pod in list(self.pods)[:-1]:
            age_h = int(pod.removeprefix("job-"))
            if at - hours * 3600 <= NOW - age_h * 3600 <= at:
                owner = {"namespace": "shop", "pod": pod, "owner_kind": "Job", "owner_name": f"once{age_h}"}
                found.append({"metric": owner, "value": [0, "1"]})
        return found


async def test_jobs_that_are_gone_take_no_places_of_those_that_are_here(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus(Churning()) as fake, reader(fake) as client:
        fake.pods = {f"job-{age_h}": lambda t: 0.1 for age_h in (*range(280, 26, -4), *range(26, 1, -1))} | {
            "web-1": lambda t: 1.0
        }
        learner = learner_of(live, clock, client, max_workloads=30, history_days=12)
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == ("history", 1000)
        assert learner.forecaster.num_turned_away == 0
        assert len(learner.forecaster) <= 26, "jobs of the last day count: they may be there again tomorrow"


async def test_without_its_source_the_forecast_ages_falls_and_rises(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = learner_of(live, clock, client)
        await learner.turn()
        assert forecast(live).cpu == 1000
        fake.raw = (500, b"down")
        clock.now += 3 * 3600
        await learner.turn()
        assert forecast(live).rung == "history"
        assert 2000 < forecast(live).cpu < 4000
        clock.now += 4 * 3600
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == ("request", 4000)
        text = live.metrics.expose().decode()
        assert 'ullage_prediction_falls_total{rung="request"} 1.0' in text
        assert 'ullage_fallback_total{reason="usage source"} 2.0' in text
        fake.raw = None
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == ("history", 1000)
        assert 'ullage_prediction_workloads{rung="history"} 1.0' in live.metrics.expose().decode()


async def test_a_server_whose_clock_is_ahead_keeps_no_forecast_fresh(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = learner_of(live, clock, client)
        await learner.turn()
        one = {"metric": {"namespace": "shop", "pod": "web-1"}, "value": [NOW + 10**7, "1"]}
        fake.raw = 200, json.dumps({"status": "success", "data": {"result": [one]}}).encode()
        clock.now += 8 * 3600
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == ("request", 4000)
        assert 'ullage_usage_refused_total{reason="of the future"} 2.0' in live.metrics.expose().decode()


async def test_an_empty_server_leaves_the_requests(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        await learner_of(live, clock, client).turn()
    assert live.state.knowledge.forecasts is None


async def stream(live: Live, learner: UsageLearner, clock: Clock, hours: int, cpu: Callable[[int], float]) -> None:
    """``hours`` of the Telemetry stream for every pod, ``cpu`` by hour; a look at each hour's end."""
    assert learner.store is not None
    for hour in range(hours):
        for _ in range(12):
            clock.now += STEP_S
            for number, (uid, pod) in enumerate(list(live.ledger.pods.items())):
                name = uid if number % 2 else f"{pod.namespace}/{pod.name}"
                sample = Sample(Subject("pod", name), clock.now, cpu_millicores=cpu(hour), memory_bytes=1e8)
                await learner.store.put(sample)
        await learner.turn()


def many(live: Live, number: int) -> None:
    """Pods of as many workloads, on a node of 100 cores."""
    live.ledger.see_node(NodeSpec("big", ((CPU, 100_000), (MEMORY, 64 * GIB))))
    for i in range(number):
        spec = PodSpec(((CPU, 4000), (MEMORY, GIB)), namespace="shop", owner=f"StatefulSet/db{i}")
        live.ledger.see(Seen(f"uid-{i}", f"db{i}-0", "shop", 1, spec, "big"))


async def test_the_stream_feeds_histories_by_uid_and_by_name_and_promises_once_there_are_outcomes(
    tmp_path: Path,
) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    many(live, 12)
    learner = learner_of(live, clock, None, horizon="1h-peak")
    learner.store = UsageStore(1000, live.metrics, clock)
    await stream(live, learner, clock, 26, lambda hour: 700.4)
    assert forecast(live).rung == "request"
    await stream(live, learner, clock, 6, lambda hour: 700.4)
    await learner.store.put(Sample(Subject("pod", "nobody"), clock.now, cpu_millicores=1))
    await learner.turn()
    assert (forecast(live).rung, forecast(live).cpu) == ("history", 700)
    assert "uid-3" in learner.current
    live.ledger.lose("uid-3")
    await learner.turn()
    assert learner.current.keys() == live.ledger.pods.keys(), "who is gone is forgotten without Prometheus, too"
    assert 'ullage_usage_refused_total{reason="pod unknown"} 1.0' in live.metrics.expose().decode()


async def test_a_rung_whose_coverage_leaves_its_band_falls_and_rises_again(tmp_path: Path) -> None:
    """The load doubles every hour for a while, then stays: promises are broken, then kept."""
    live, clock = Live(tmp_path / "r.db"), Clock()
    many(live, 30)
    learner = learner_of(live, clock, None, horizon="1h-peak")
    learner.store = UsageStore(10_000, live.metrics, clock)

    def rung() -> str:
        forecasts = live.state.knowledge.forecasts
        assert forecasts is not None
        return forecasts.of["shop/StatefulSet/db3"].rung

    await stream(live, learner, clock, 31, lambda hour: 100)
    assert rung() == "history"
    await stream(live, learner, clock, 4, lambda hour: 200 * 2**hour)
    assert rung() == "request"
    assert 'ullage_prediction_trusted{rung="history"} 0.0' in live.metrics.expose().decode()
    await stream(live, learner, clock, 22, lambda hour: 1600)
    assert rung() == "history"


async def test_a_pod_killed_for_want_of_memory_is_forecast_to_need_more_than_it_asks_for(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    reader_of_pods = Reader()
    many(live, 20)
    learner = learner_of(live, clock, None, horizon="1h-peak")
    learner.store = UsageStore(10_000, live.metrics, clock)

    def see(version: int, *states: dict[str, Any]) -> None:
        """The watch shows the pod, its container with these states."""
        metadata = {"uid": "uid-web", "name": "web", "namespace": "shop", "resourceVersion": str(version)}
        metadata["ownerReferences"] = [{"kind": "StatefulSet", "name": "web", "controller": True, "uid": "o"}]  # type: ignore[assignment]  # JSON
        container = {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
        status = {"phase": "Running", "containerStatuses": [{"name": "c", **state} for state in states]}
        pod = {"metadata": metadata, "spec": {"nodeName": "big", "containers": [container]}, "status": status}
        live.ledger.see(reader_of_pods.pod(json.dumps(pod).encode()))

    see(1)
    await stream(live, learner, clock, 31, lambda hour: 100)
    web = live.state.knowledge.forecasts.of["shop/StatefulSet/web"]  # type: ignore[union-attr]  # known by now
    assert (web.rung, web.memory) == ("history", pytest.approx(1e8, rel=1e-5))
    killed = datetime.fromtimestamp(clock.now - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    see(2, {"lastState": {"terminated": {"reason": "Error", "finishedAt": killed}}})
    await learner.turn()
    assert live.state.knowledge.forecasts.of["shop/StatefulSet/web"] == web  # type: ignore[union-attr]
    see(3, {"lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": killed}}})
    see(4, {"lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": killed}}})
    await learner.turn()
    web = live.state.knowledge.forecasts.of["shop/StatefulSet/web"]  # type: ignore[union-attr]
    assert web.memory == pytest.approx(1.2 * GIB, rel=1e-5)


@pytest.mark.parametrize("damage", ["missing", "card", "file", "schema"])
async def test_a_model_that_cannot_be_used_is_counted_and_the_history_answers(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if damage != "missing":
        sha256 = hashlib.sha256(b"tree").hexdigest() if damage == "schema" else "0"
        entry = {"file": "m.txt", "sha256": sha256, "resource": CPU, "level": 0.95, "base": "max_24h"}
        entry |= {"target": {"horizon_h": 6, "statistic": "peak"}, "schema": "s"}  # type: ignore[dict-item]  # JSON
        card: dict[str, Any] = {"format": boosted.FORMAT, "models": [entry], "schemas": {"s": ["a"]}, "tasks": {}}
        (folder / "m.txt").write_text("tree")
        (folder / "card.json").write_text("{" if damage == "card" else boosted.card_text(card))
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = learner_of(live, clock, client, model=str(folder))
        await learner.turn()
    assert forecast(live).rung == "history"
    assert 'ullage_fallback_total{reason="model refused"} 1.0' in live.metrics.expose().decode()


async def test_use_of_thousands_of_pods_is_taken_in_while_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs are answered on the same loop, and late answers are neutral."""
    live, clock = Live(tmp_path / "r.db"), Clock()
    names = [f"web-{i}" for i in range(20 * SLICE)]
    for name in names:
        web_pod(live, name)
    series = [{"metric": {"namespace": "shop", "pod": name}, "value": [NOW, "1"]} for name in names]
    body = json.dumps({"status": "success", "data": {"result": series}}).encode()
    client = Prometheus(UsageSettings(prometheus="http://nobody", busy_share=1.0), Metrics())

    async def read(*_: Any) -> list[Any]:
        return await prometheus._result("", 200, body)

    monkeypatch.setattr(client, "_send", read)
    learner = learner_of(live, clock, client)
    async with Turns() as turns:
        await learner._read_now(client)
    assert len(learner.current) == len(names)
    assert turns.number >= (2 * 2 + 2) * 20, "two answers are decoded and understood, and all of it is taken in"


async def test_a_query_that_fails_costs_what_it_asked_for_and_not_weeks_that_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weeks of a large cluster are hundreds of queries and an hour of waiting between them; every seventh fails here."""
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake, max_points=STEPS_A_DAY) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        answers, number = fake._result, 0

        def fails_at_times(form: dict[str, str]) -> list[dict[str, Any]]:
            nonlocal number
            number += "start" in form
            if number % 7 == 6:
                number += 1
                raise web.HTTPServiceUnavailable
            return answers(form)

        monkeypatch.setattr(fake, "_result", fails_at_times)
        learner = learner_of(live, clock, client, history_days=10)
        for _ in range(10):
            await learner.turn()
        assert forecast(live).rung == "history"
        days = [form["start"] for form in fake.forms if "start" in form and "cpu" in form["query"]]
        assert len(days) < 2 * 10, "each day is read once, or twice if it failed"


async def test_a_worker_process_answers_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    worker = WorkerProcess()
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = UsageLearner(live.engine, UsageSettings(), lambda: True, prometheus=client, asker=worker, clock=clock)
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == ("history", 1000)
        for process in worker._process._pool._processes.values():  # type: ignore[union-attr]  # a real pool
            process.kill()
        fake.pods = {"web-1": lambda t: 2.0}
        clock.now += 600
        await learner.turn()
        await learner.turn()
        assert forecast(live).cpu == 2000
        assert 'ullage_fallback_total{reason="prediction worker"} 1.0' in live.metrics.expose().decode()
    worker.close()


def never_answers(_source: Source, _questions: object) -> None:
    time.sleep(600)


async def test_a_worker_that_hangs_is_replaced_and_forecasts_grow_old_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    worker = WorkerProcess()
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        settings = UsageSettings()
        learner = UsageLearner(live.engine, settings, lambda: True, prometheus=client, asker=worker, clock=clock)
        await learner.turn()
        assert forecast(live).rung == "history"
        fake.pods = {}
        with monkeypatch.context() as hanging:
            hanging.setattr(predict_worker, "_answers", never_answers)
            hanging.setattr(predict_worker, "HUNG_S", 0.2)
            clock.now += settings.stale_s + 600
            learner.forecaster.ask_again(live.state.knowledge.forecasts.of)  # type: ignore[union-attr]  # there are some
            await learner.turn()
        assert forecast(live).rung == "request", "no news sells no capacity"
        assert 'ullage_fallback_total{reason="prediction worker"} 1.0' in live.metrics.expose().decode()
        fake.pods = {"web-1": lambda t: 2.0}
        await learner.turn()
        assert forecast(live).rung == "history"
    worker.close()


async def test_a_worker_that_cannot_be_started_is_tried_again() -> None:
    worker, source = WorkerProcess(), Source("", -1.0, Target(6))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(WorkerLostError, match="cannot be started"):
            await worker.answers(source, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert await worker.answers(source, []) == []
    worker.close()
