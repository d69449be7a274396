"""Certificates for tests of TLS, made by ``openssl``."""

from __future__ import annotations

import subprocess
from pathlib import Path


def openssl(folder: Path, *args: str) -> None:
    """Run it in a folder."""
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def found(folder: Path, name: str) -> None:
    """Key and certificate of a new authority."""
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")  # fmt: skip


def issue(folder: Path, name: str, authority: str, days: str = "2") -> None:
    """Key and certificate ``name`` signed by ``authority``."""
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", days, "-copy_extensions", "copy", "-out", f"{name}.pem")  # fmt: skip
