"""Reads what pods used from Prometheus, and never at Prometheus' expense.

Every query has a time-out (told to the server too), an answer has a largest size, ranges are cut so that no answer
exceeds a number of points, one query runs at a time, and after each one the reader rests so that queries take no
more than a share of the time: a slow server is asked less. Counter resets are mended by ``rate()``, stale series are
left out by Prometheus itself; values that make no sense are dropped and counted.

Metrics read: ``container_cpu_usage_seconds_total``, ``container_memory_working_set_bytes`` (cAdvisor),
``kube_pod_owner`` and, to record, ``kube_pod_start_time`` (kube-state-metrics).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import aiohttp
import msgspec
import numpy as np
from msgspec import Raw, Struct

from placement.errors import UNREADABLE, ConfigError, why
from placement.knowledge import workload_of
from placement.learning.usage import MOST_USED, STEP_S
from placement.resources import CPU, MEMORY, FloatArray
from scheduler.errors import SourceError
from scheduler.metrics import Metrics
from scheduler.settings import UsageSettings
from scheduler.slices import SLICE, by_slices

log = logging.getLogger(__name__)

CONTAINERS = ('container!=""', 'container!="POD"')
"""Real containers: not the pod's own cgroup (no container), nor the pause container of old cAdvisors."""
CPU_USAGE, MEMORY_USAGE = "container_cpu_usage_seconds_total", "container_memory_working_set_bytes"
_MATCHER = r'[a-zA-Z_][a-zA-Z0-9_]*(=|!=|=~|!~)"([^"\\\n]|\\.)*"'
_SELECTOR = re.compile(rf"{_MATCHER}(,{_MATCHER})*")
WINDOW_S = 120
"""Of the rate that stands for "now"; two scrapes must fall into it."""
PODS_H = 24
"""Hours of what pods are (owner, start) per query."""
MAX_STEPS = 10_000
"""Prometheus itself refuses more than 11,000 steps."""
POINTS, BYTES = 1000, 2**15
"""Values, and bytes of an answer, that are worked on before others may run: about half a millisecond each."""


BY = "namespace, pod, exported_namespace, exported_pod"
"""What names a pod. Where a scrape's own labels win (``honor_labels: false``), the pod's are the exported ones."""


def _of(metric: str, *matchers: str) -> str:
    return f"{metric}{{{','.join(filter(None, matchers))}}}"


def cpu_expression(window_s: int, selector: str = "") -> str:
    """Cores by pod, over a window. Of series that only differ in who scraped them (a pair of Prometheus servers, two
    jobs) one counts; what a container used before a restart, under another ``id``, is added."""
    rate = f"rate({_of(CPU_USAGE, *CONTAINERS, selector)}[{window_s}s])"
    return f"sum by ({BY}) (max by ({BY}, container, id, name) ({rate}))"


def memory_expression(window_s: int, selector: str = "") -> str:
    """Largest working set by pod, in a window; before and after a restart a container does not hold it twice."""
    series = _of(MEMORY_USAGE, *CONTAINERS, selector)
    return f"sum by ({BY}) (max by ({BY}, container) (max_over_time({series}[{window_s}s])))"


EXPRESSIONS: dict[str, Callable[[int, str], str]] = {CPU: cpu_expression, MEMORY: memory_expression}


class PodSeries(NamedTuple):
    """One resource of one pod: ``(S,)`` unix seconds, and cores or bytes."""

    namespace: str
    pod: str
    resource: str
    time_s: FloatArray
    values: FloatArray


class _Series(Struct):
    metric: dict[str, str]
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []


class _Data(Struct):
    result: list[Raw] = []


class _Answer(Struct):
    status: str
    data: _Data | None = None
    errorType: str = ""
    error: str = ""


_decode = msgspec.json.Decoder(_Answer).decode
_decode_series = msgspec.json.Decoder(_Series).decode


class Prometheus:
    """One server. Close it when done."""

    def __init__(
        self,
        settings: UsageSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waits_s: Sequence[float] = (),
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.waits_s = waits_s
        """Before a query is sent again to a server that has answered before, and is too slow now or away: one for each try."""
        self._has_answered = False
        self.num_refused = 0
        """Values that made no sense."""
        self.base = settings.prometheus.rstrip("/")
        if not self.base.startswith(("http://", "https://")):
            raise ConfigError(
                f"usage.prometheus = {settings.prometheus!r}: must be an address such as http://prometheus:9090"
            )
        self.selector = settings.prometheus_selector
        if self.selector and not _SELECTOR.fullmatch(self.selector):
            raise ConfigError(
                f'usage.prometheus_selector = {self.selector!r}: must be label matchers such as cluster="a",env!="test"'
            )
        self._clock = clock
        self._sleep = sleep
        self._rest_until = 0.0
        self._one = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._ssl = _authority(settings.prometheus_ca)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    # ── usage ─────────────────────────────────────────────────────────────────────────────────

    async def now(self, unix_s: float) -> list[PodSeries]:
        """What each pod uses at this moment; pods without two recent scrapes are absent."""
        found = []
        for resource, expression in EXPRESSIONS.items():
            answer = await self._ask("query", {"query": expression(WINDOW_S, self.selector), "time": f"{unix_s:.3f}"})
            found += await self._pods(answer, resource)
        return found

    async def history(self, first_s: int, last_s: int) -> AsyncIterator[list[PodSeries]]:
        """Five-minute samples on the grid that end in ``[first_s, last_s]``, oldest chunk first, one list a query."""
        start = -(-first_s // STEP_S) * STEP_S
        per_query = await self._steps_per_query(last_s)
        while start <= last_s:
            end = min(last_s // STEP_S * STEP_S, start + (per_query - 1) * STEP_S)
            if end < start:
                return
            for resource, expression in EXPRESSIONS.items():
                asked = {
                    "query": expression(STEP_S, self.selector),
                    "start": str(start),
                    "end": str(end),
                    "step": str(STEP_S),
                }
                yield await self._pods(await self._ask("query_range", asked), resource)
            start = end + STEP_S

    async def _steps_per_query(self, at_s: int) -> int:
        """How many steps fit into the largest answer, from the number of pods measured in the last week."""
        expression = f"count(sum by ({BY}) (last_over_time({_of(CPU_USAGE, *CONTAINERS, self.selector)}[7d])))"
        answer = await self._ask("query", {"query": expression, "time": str(at_s)})
        number = _number(answer[0].value[1]) if answer and answer[0].value else 1.0
        return max(1, min(MAX_STEPS, int(self.settings.max_points / (number if number >= 1 else 1.0))))

    async def owners(self, at_s: int, days: float) -> dict[tuple[str, str], str]:
        """Workload of each pod seen in the ``days`` before ``at_s``, by (namespace, pod); the newest of a name."""
        series, found = (
            _of("kube_pod_owner", 'owner_is_controller!="false"', self.selector),
            dict[tuple[str, str], str](),
        )
        async for labels, _ in self._day_by_day(f"group by ({BY}, owner_kind, owner_name)", series, at_s, days):
            kind, owner = labels.get("owner_kind", ""), labels.get("owner_name", "")
            if kind and owner and kind != "<none>":
                namespace, pod = _pod_of(labels)
                found[namespace, pod] = workload_of(namespace, f"{kind}/{owner}")
        return found

    async def starts(self, at_s: int, days: float) -> dict[tuple[str, str], set[int]]:
        """Unix times when kubelets took pods that were seen in the ``days`` before ``at_s``, by (namespace, pod).

        There are several of a name under which pods were made anew: the UID tells them apart.
        """
        series, found = _of("kube_pod_start_time", self.selector), dict[tuple[str, str], set[int]]()
        async for labels, value in self._day_by_day(f"max by ({BY}, uid)", series, at_s, days):
            if value > 0:
                found.setdefault(_pod_of(labels), set()).add(int(value))
        return found

    async def _day_by_day(
        self, grouped: str, series: str, at_s: int, days: float
    ) -> AsyncIterator[tuple[dict[str, str], float]]:
        """Labels and last values, a day at a time, the oldest first: where pods come and go, weeks at once take too long."""
        hours = max(1, math.ceil(days * 24))
        for back in range((hours - 1) // PODS_H * PODS_H, -1, -PODS_H):
            expression = f"{grouped} (last_over_time({series}[{min(PODS_H, hours - back)}h]))"
            answers = await self._ask("query", {"query": expression, "time": str(at_s - back * 3600)})
            async for answer in by_slices(answers):
                yield answer.metric, _number(answer.value[1]) if answer.value else math.nan

    async def _pods(self, answer: list[_Series], resource: str) -> list[PodSeries]:
        """Series by pod, without values that make no sense."""
        most = MOST_USED[resource]
        found = []
        points = sum(len(series.values) for series in answer)
        async for series in by_slices(answer, _per_slice(len(answer), POINTS, points)):
            times, values = [], []
            for at, text in series.values or ([series.value] if series.value else []):
                if 0 <= (value := _number(text)) <= most:
                    times.append(at)
                    values.append(value)
                else:
                    self.num_refused += 1
                    self.metrics.usage_refused.labels("impossible value").inc()
            namespace, pod = _pod_of(series.metric)
            if pod and values:
                found.append(PodSeries(namespace, pod, resource, np.array(times, float), np.array(values, float)))
        return found

    # ── one query ─────────────────────────────────────────────────────────────────────────────

    async def _ask(self, path: str, form: dict[str, str]) -> list[_Series]:
        """Send a query when its turn comes, and again if that may help.

        Raises
        ------
        SourceError : no answer in time, a refusal, too large an answer, or one that is not Prometheus'.
        """
        async with self._one:
            for wait_s in self.waits_s:
                try:
                    return await self._ask_once(path, form)
                except SourceError as error:
                    if not self._has_answered or error.kind not in ("timeout", "away"):
                        raise
                    log.warning("a query failed, and is sent again", extra={"error": str(error), "wait_s": wait_s})
                await self._sleep(wait_s)
            return await self._ask_once(path, form)

    async def _ask_once(self, path: str, form: dict[str, str]) -> list[_Series]:
        await self._sleep(max(0.0, self._rest_until - self._clock()))
        began = self._clock()
        try:
            answer = await self._send(path, form)
        except SourceError as error:
            self.metrics.usage_queries.labels(error.kind).inc()
            raise
        finally:
            taken = self._clock() - began
            self._rest_until = self._clock() + taken * (1 / self.settings.busy_share - 1)
            self.metrics.usage_query_duration.observe(taken)
        self.metrics.usage_queries.labels("answered").inc()
        self._has_answered = True
        return answer

    async def _send(self, path: str, form: dict[str, str]) -> list[_Series]:
        settings, url = self.settings, f"{self.base}/api/v1/{path}"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=settings.timeout_s))
        try:
            data = form | {"timeout": f"{settings.timeout_s:g}s"}
            async with self._session.post(url, data=data, headers=self._headers(), ssl=self._ssl) as response:
                body = await self._read(response, url)
                status = response.status
        except TimeoutError as error:
            raise SourceError(
                f"Prometheus {self.base}: no answer within {settings.timeout_s:g} s; "
                "raise usage.timeout_s or lower usage.max_points",
                "timeout",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(
                f"Prometheus {self.base}: cannot be reached ({error}); check its address", "away"
            ) from error
        return await _result(self.base, status, body)

    async def _read(self, response: aiohttp.ClientResponse, url: str) -> bytes:
        parts, size = [], 0
        async for chunk in response.content.iter_chunked(2**18):
            size += len(chunk)
            if size > self.settings.max_answer_bytes:
                raise SourceError(
                    f"{url}: the answer exceeds {self.settings.max_answer_bytes} bytes; lower usage.max_points",
                    "too large",
                )
            parts.append(chunk)
        return b"".join(parts)

    def _headers(self) -> dict[str, str]:
        path = self.settings.prometheus_token_file
        if not path:
            return {}
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(
                f"usage.prometheus_token_file {path}: cannot be read ({why(error)})", "refused"
            ) from error
        if not token.isprintable():
            raise SourceError(f"usage.prometheus_token_file {path}: must hold one token on one line", "refused")
        return {"Authorization": token if " " in token else f"Bearer {token}"}


def _pod_of(labels: Mapping[str, str]) -> tuple[str, str]:
    """Namespace and name of the pod that was measured, not of the one that measured it."""
    namespace, pod = labels.get("exported_namespace", ""), labels.get("exported_pod", "")
    return namespace or labels.get("namespace", ""), pod or labels.get("pod", "")


def _number(text: str) -> float:
    """A sample's value; NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _per_slice(number: int, most: int, total: int) -> int:
    """How many of a ``number`` of series are worked on at once, so that a slice has ``most`` of what all have ``total``."""
    return max(1, min(SLICE, most * number // max(total, 1)))


async def _result(base: str, status: int, body: bytes) -> list[_Series]:
    """The answer's series. Those of a large cluster take a tenth of a second, and verbs are answered on the same loop."""
    try:
        answer = _decode(body)
        if answer.status == "success" and answer.data is not None:
            raws = answer.data.result
            return [_decode_series(raw) async for raw in by_slices(raws, _per_slice(len(raws), BYTES, len(body)))]
    except UNREADABLE as error:
        if status >= 300:
            text = " ".join(body[:100].decode("utf-8", "replace").split())
            raise SourceError(
                f"Prometheus {base}: HTTP {status} {text}; check address and rights", "refused"
            ) from error
        raise SourceError(f"{base}: the answer is not Prometheus' ({error}); check the address", "malformed") from error
    kind = "timeout" if answer.errorType == "timeout" else "refused"
    raise SourceError(f"Prometheus {base}: {answer.errorType} {answer.error[:300]}", kind)


def _authority(path: str) -> ssl.SSLContext | bool:
    """How to check the server's certificate.

    Raises
    ------
    ConfigError : the file cannot be used.
    """
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"usage.prometheus_ca = {path!r}: cannot be used ({error}); give a PEM file") from error
