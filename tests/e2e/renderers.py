"""kustomize and helm, built once from Go modules and kept in the cache beside the control plane."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.e2e.control_plane import ControlPlaneError

MODULES = {
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
}


def folder() -> Path:
    """Where the tools are, built or not."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ullage" / "tools"


def renderer(name: str) -> str:
    """Path of ``kustomize`` or ``helm``, built if need be (two minutes cold).

    Raises
    ------
    ControlPlaneError : there is no Go, or the build fails.
    """
    found = shutil.which(name, path=os.pathsep.join([str(folder()), os.environ.get("ULLAGE_TOOLS", "")]))
    if found is not None:
        return found
    if shutil.which("go") is None:
        raise ControlPlaneError(f"`go` is not installed; {name} is built from its Go module")
    folder().mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(folder())}
    built = subprocess.run(
        ["go", "install", MODULES[name]], env=environment, capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise ControlPlaneError(f"building {name} failed:\n{built.stderr[-3000:]}")
    return str(folder() / name)
