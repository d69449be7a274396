"""Certificates that are renewed while we run: a new connection gets what the files hold now, without a restart or a signal.

cert-manager and kubelets replace files under a process that knows nothing of it. What cannot be read or used (a key that
belongs to another certificate: one of two files was written, the other comes) changes nothing and is said once.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from placement.errors import ConfigError
from scheduler.settings import HttpSettings

log = logging.getLogger(__name__)


class Files:
    """Some files, and whether they changed since the last look."""

    def __init__(self, *paths: str) -> None:
        self._paths = [Path(path) for path in paths if path]
        self._stamps = self._look()

    def _look(self) -> list[tuple[int, int] | None]:
        stamps: list[tuple[int, int] | None] = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_ino, found.st_ctime_ns))
        return stamps

    def are_renewed(self) -> bool:
        """Whether one changed in content or rights, went or came since this was asked last."""
        before, self._stamps = self._stamps, self._look()
        return self._stamps != before


def tls_context(http: HttpSettings) -> ssl.SSLContext:
    """TLS as the settings say and the files are now.

    Raises
    ------
    ConfigError : a certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(http.tls_cert, http.tls_key)
        if http.client_ca:
            context.load_verify_locations(http.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"TLS files {http.tls_cert}, {http.tls_key}, {http.client_ca or '(no client authority)'}: {error}; "
            "they must be PEM, readable, and key and certificate must belong together"
        ) from error
    return context


class FollowedContext(ssl.SSLContext):
    """The same for a server that stays: for every connection, files that changed take effect, the authority of callers among
    them. A session is known to the context that it began with: who resumes one is not asked for a certificate again, and nobody
    resumes one whose authority was replaced since.

    Raises
    ------
    ConfigError : a certificate or key cannot be used.
    """

    def __new__(cls, _http: HttpSettings) -> FollowedContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, http: HttpSettings) -> None:
        self._http = http
        self._files = Files(http.tls_cert, http.tls_key, http.client_ca)
        self._now = tls_context(http)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection."""
        try:
            if self._files.are_renewed():
                self._now = tls_context(self._http)
                log.info("certificates read again", extra={"certificate": self._http.tls_cert})
        except ConfigError as error:
            log.warning("certificates cannot be read again, the old ones serve", extra={"error": str(error)})
        return self._now.wrap_bio(*args, **options)
