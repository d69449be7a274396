"""The Kubernetes API as far as we need it: typed lists and watches, and a few writes.

Configuration and authentication come from the official client (kubeconfig, in-cluster, exec plug-ins, OIDC); the
calls are aiohttp, and objects are decoded by msgspec, because the official models take about seventy times as
long for a list of 5,000 pods. This is the only file that knows either library.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
import yaml
from msgspec import Raw, Struct

from placement.errors import UNREADABLE, ConfigError, nearest
from scheduler.clocks import boot_s
from scheduler.errors import ApiError
from scheduler.rights import what_to_do
from scheduler.settings import KubeSettings

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 2**20
"""One watch event; etcd refuses objects beyond 1.5 MiB, so anything like this is not Kubernetes."""


BUSY_S, BUSY_TIMES = 1.0, 10
"""Until a page of a list is asked for again, as kube-apiserver advises whom it refuses, and how often, as client-go does."""
REST_S = 0.002
"""Between two looks at a watch; the first event after a pause is taken at once."""
RENEW_S = 30.0
"""For new credentials."""
BACKLOG_BYTES = 2**16
"""Where so much came at once there is a backlog, and no rest."""
UNKNOWN_AUTHORITY = "its certificate is not signed by the configured authority; check certificate-authority-data"
BY_OUR_CLOCK = "by this machine's clock; renew it, or set the clock"
NOT_THIS_HOST = (
    "its certificate is for other names; give the server by one of them, or tls-server-name in the kubeconfig"
)
DISTRUST = {
    9: f"its certificate, or its authority's, is not valid yet {BY_OUR_CLOCK}",
    10: f"its certificate, or its authority's, has expired {BY_OUR_CLOCK}",
    62: NOT_THIS_HOST,
    64: NOT_THIS_HOST,
}
"""OpenSSL's ``X509_V_ERR`` → what is wrong and what to do; all others are about who signed."""


class ListMeta(Struct):
    """Where a list stands in time, and where its next page is."""

    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Page(Struct):
    """One page of a list; items are decoded by whoever asked."""

    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[Raw] | None = None


class WatchEvent(Struct):
    """``ADDED MODIFIED DELETED BOOKMARK ERROR``."""

    type: str
    object: Raw


class Status(Struct):
    """What the API says when it refuses."""

    message: str = ""
    reason: str = ""
    code: int = 0


_decode_page = msgspec.json.Decoder(Page).decode
_decode_event = msgspec.json.Decoder(WatchEvent).decode
_decode_status = msgspec.json.Decoder(Status).decode


def read_status(body: bytes | Raw) -> Status:
    """The API's Status object; an empty one if it is something else."""
    try:
        return _decode_status(body)
    except UNREADABLE:
        return Status()


class KubeClient:
    """One connection pool to one API server. Make it with :meth:`connect`."""

    def __init__(
        self, session: aiohttp.ClientSession, configuration: Any, settings: KubeSettings, purpose: str = ""
    ) -> None:
        self.session = session
        self.configuration = configuration
        self.settings = settings
        self.base = str(configuration.host).rstrip("/")
        self.tls = _tls(configuration)
        self.rest_s = REST_S
        self._boot_unix_s: float | None = None
        """What the API server's clock says to be unix time when our :func:`boot_s` began."""
        self.purpose = purpose
        """What it is used for, where that is one of :data:`scheduler.rights.GRANTS`: refusals then name that manifest."""

    def server_s(self) -> float:
        """Unix time by the API server's clock, as of its last answer or newest watch; by ours where it does not say."""
        return time.time() if self._boot_unix_s is None else self._boot_unix_s + boot_s()

    def _set_clock(self, date: str) -> None:
        try:
            self._boot_unix_s = parsedate_to_datetime(date).timestamp() - boot_s()
        except (ValueError, OverflowError):
            self._boot_unix_s = None

    @classmethod
    async def connect(cls, settings: KubeSettings, purpose: str = "") -> KubeClient:
        """Read the configuration; nothing is sent yet. ``async with`` closes it, as :meth:`close` does.

        Raises
        ------
        ConfigError : the file is not there. ApiError : no usable configuration.
        """
        configuration = await _configuration(settings)
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        try:
            return cls(session, configuration, settings, purpose)
        except (OSError, ssl.SSLError) as error:
            await session.close()
            raise ApiError(f"the certificates of the Kubernetes configuration cannot be used: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self.session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def headers(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """What every request carries, credentials included; ``extra`` wins.

        Raises
        ------
        ApiError : the service account's token cannot be read now.
        """
        from kubernetes.aio.config import ConfigException

        headers = {"Accept": "application/json", "User-Agent": "ullage"}
        try:
            token = await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except (ConfigException, OSError) as error:
            raise ApiError(f"{self.base}: the token of the service account cannot be read: {error}") from error
        if token:
            kind, _, rest = token.strip().partition(" ")
            headers["Authorization"] = f"Bearer {rest.strip() or kind}"
        return headers | (extra or {})

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", timeout_s: float = 30
    ) -> bytes:
        """One request; its answer's body. ``timeout_s`` is for everything, renewed credentials included.

        Raises
        ------
        ApiError : any status but 2xx (``status`` says which), or no answer (``status`` 0).
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._call(method, path, body, content_type)
        except TimeoutError as error:
            raise unreachable(self.base, method, path, error) from error

    async def _call(self, method: str, path: str, body: Any, content_type: str, *, is_again: bool = False) -> bytes:
        headers = await self.headers({"Content-Type": content_type} if body is not None else None)
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with self.session.request(
                method,
                self.base + path,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
                allow_redirects=False,  # a page to log in at is no answer, and no sign that a pod was bound
                **self._connection(),
            ) as response:
                answer = await response.read()
                self._set_clock(response.headers.get("Date", ""))
                if response.status < 300:
                    return answer
                if response.status != 401 or is_again or not await self._renew():
                    raise refused(method, path, response.status, answer, self.purpose)
        except (aiohttp.ClientError, OSError) as error:
            if not _is_distrust(error) or is_again or not await self._renew():
                raise unreachable(self.base, method, path, error) from error
        return await self._call(method, path, body, content_type, is_again=True)

    @property
    def server_name(self) -> str | None:
        """Name in the server's certificate, when it is not the host's."""
        return getattr(self.configuration, "tls_server_name", None)

    @property
    def has_proxy(self) -> bool:
        """Whether the API server is reached through a proxy."""
        return bool(getattr(self.configuration, "proxy", None))

    def _connection(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"ssl": self.tls}
        if getattr(self.configuration, "proxy", None):
            extra["proxy"] = self.configuration.proxy
        if getattr(self.configuration, "tls_server_name", None):
            extra["server_hostname"] = self.configuration.tls_server_name
        return extra

    async def _renew(self) -> bool:
        """Read the configuration again after a 401, or where the server's certificate is not trusted: tokens, client
        certificates and the authority are replaced while we run."""
        try:
            async with asyncio.timeout(RENEW_S):  # a program that makes tokens may hang
                configuration = await _configuration(self.settings)
            self.tls = _tls(configuration)
        except (ApiError, ConfigError, OSError):  # errors of TLS are among them, and no answer in time
            return False
        self.configuration = configuration
        return True

    async def list_pages(self, path: str, *, page_size: int) -> AsyncIterator[Page]:
        """Pages of one consistent list, most recent state. Once it has begun, a server that is too busy for a page is asked
        for that page again: many pages would hardly ever all succeed in one go."""
        token, tries, is_told = "", 0, False
        while True:
            query = {"limit": str(page_size)} | ({"continue": token} if token else {})
            mark = "&" if "?" in path else "?"
            try:
                body = await self.call("GET", f"{path}{mark}{urlencode(query)}", timeout_s=60)
            except ApiError as error:
                if not tries or not (error.status == 429 or error.status >= 500):
                    raise
                if not is_told:  # such an answer may take a minute, and the list many of them
                    is_told = True
                    log.warning("server is too busy for a list, is asked again", extra={"error": str(error)})
                tries -= 1
                await asyncio.sleep(BUSY_S)
                continue
            try:
                page = _decode_page(body)
            except UNREADABLE as error:
                raise ApiError(
                    f"GET {path}: the answer is not a Kubernetes list ({error}); is {self.base} an API server?"
                ) from error
            yield page
            token, tries = page.metadata.continue_, BUSY_TIMES
            if not token:
                return

    async def watch(
        self, path: str, resource_version: str, *, timeout_s: float, silence_s: float, opened: Callable[[], None]
    ) -> AsyncIterator[WatchEvent]:
        """Events after ``resource_version``, bookmarks included, until the server ends the watch or says nothing for
        ``silence_s``; ``opened`` is called once it has agreed to it.

        Silence alone is no fault: while nothing of a kind changes, kube-apiserver has no newer version to put into a
        bookmark, and sends none. Whoever asks again hears whether it is there.

        Raises
        ------
        ApiError : refused (410 when the version is too old), cut, or no answer in ``silence_s``.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(timeout_s)),
        }
        try:
            async with (
                asyncio.timeout(silence_s) as opening,
                self.session.get(
                    f"{self.base}{path}?{urlencode(query)}",
                    headers=await self.headers(),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_s),
                    allow_redirects=False,
                    **self._connection(),
                ) as response,
            ):
                if response.status != 200:
                    if response.status == 401:
                        await self._renew()
                    raise refused("WATCH", path, response.status, await response.read(), self.purpose)
                opening.reschedule(None)
                self._set_clock(response.headers.get("Date", ""))
                opened()
                try:
                    async for line in _lines(response, self.rest_s):
                        yield _decode_event(line)
                except aiohttp.SocketTimeoutError:
                    return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if _is_distrust(error):
                await self._renew()
            raise unreachable(self.base, "WATCH", path, error) from error
        except UNREADABLE as error:
            raise ApiError(f"WATCH {path}: an event cannot be read: {error}") from error


async def _lines(response: aiohttp.ClientResponse, rest_s: float) -> AsyncIterator[bytes]:
    """Lines of the answer as they come. Under a stream of events they are read a few at a time: to wake up for each
    costs more than to take it in, and disturbs whoever else works."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise ApiError("a watch event exceeds 64 MiB; this is not a Kubernetes API server")
        if len(chunk) < BACKLOG_BYTES and response.connection is not None:
            await _rest(response.connection.transport, rest_s)


async def _rest(transport: asyncio.Transport | None, rest_s: float) -> None:
    """Leave what comes meanwhile to the kernel."""
    if transport is not None:
        transport.pause_reading()
        await asyncio.sleep(rest_s)
        transport.resume_reading()


async def _configuration(settings: KubeSettings) -> Any:
    """The official client's configuration, by its own rules of precedence."""
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
    from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

    configuration = Configuration()
    path = settings.kubeconfig or os.environ.get("KUBECONFIG", "")
    if not path and Path(KUBE_CONFIG_DEFAULT_LOCATION).expanduser().exists():
        path = KUBE_CONFIG_DEFAULT_LOCATION
    if path and not any(Path(part).expanduser().is_file() for part in path.split(os.pathsep)):
        given = "--kubeconfig" if settings.kubeconfig else "$KUBECONFIG"
        raise ConfigError(f"kubeconfig {path}: no such file; correct {given}, or leave it out inside a pod")
    try:
        if path:
            await load_kube_config(
                config_file=path, context=settings.context or None, client_configuration=configuration
            )
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        why = str(error).rstrip(".")
        if path:
            known = _contexts(path)
            if settings.context and known and settings.context not in known:
                raise ConfigError(
                    f"kubeconfig {path}: has no context {settings.context!r}; {nearest(settings.context, known)}"
                ) from error
            raise ApiError(
                f"no Kubernetes configuration from {path}: {why}; pass another as --kubeconfig FILE"
            ) from error
        raise ApiError(
            f"no Kubernetes configuration: $KUBECONFIG is not set, {KUBE_CONFIG_DEFAULT_LOCATION} is not there, and this is "
            f"no pod with a service account ({why}); pass --kubeconfig FILE"
        ) from error
    return configuration


def _contexts(path: str) -> list[str]:
    """Names of the contexts of a kubeconfig; none where it has no context in use, or cannot be read."""
    from kubernetes.aio.config import ConfigException, list_kube_config_contexts

    try:
        found, _ = list_kube_config_contexts(config_file=path)
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []
    return [str(context["name"]) for context in found]


def _tls(configuration: Any) -> ssl.SSLContext | bool:
    if not str(configuration.host).startswith("https"):
        return False
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def refused(method: str, path: str, code: int, body: bytes, purpose: str = "") -> ApiError:
    """The error that stands for an answer other than 2xx; ``purpose`` as for :func:`scheduler.rights.what_to_do`."""
    path = path.partition("?")[0]  # the page of a list would make each such error another one
    status = read_status(body)
    text = status.message or body[:200].decode("utf-8", "replace")
    hint = {
        401: "the credentials are not accepted: log in again or check the token",
        403: what_to_do(text, purpose),
    }.get(code, "callers are sent elsewhere: give the API server's own address" if code < 400 else "")
    return ApiError(f"{method} {path}: {code} {text}{hint and f'; {hint}'}", code, status.reason)


def _is_distrust(error: BaseException) -> bool:
    """Whether a connection was given up because of the server's certificate."""
    return isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError)


def unreachable(base: str, method: str, path: str, error: BaseException) -> ApiError:
    """The error that stands for no answer."""
    path = path.partition("?")[0]
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        advice = DISTRUST.get(getattr(error.certificate_error, "verify_code", 0), UNKNOWN_AUTHORITY)
    elif isinstance(error, aiohttp.ClientSSLError):
        advice = "TLS failed; check that the address is an API server's"
    elif isinstance(error, TimeoutError):
        advice = "no answer in time; check that the API server is up and reachable"
    else:
        advice = "check the address and that the API server is up"
    is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
    what = error if is_proxy else getattr(error, "os_error", error)  # without the address, which is said already
    return ApiError(f"{method} {base}{path}: {str(what) or type(error).__name__}; {advice}")
