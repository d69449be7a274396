"""Builds what the end-to-end tests run and says so: ``python -m tests.e2e.build``. What is in the cache is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

from tests.e2e.control_plane import ControlPlaneError, binaries
from tests.e2e.renderers import MODULES, renderer
from tests.e2e.test_expander import autoscaler


def say(what: str, build: Callable[[], object]) -> None:
    """Build one thing, telling before and after."""
    print(f"building {what} …", flush=True)
    began = time.monotonic()
    print(f"  {build()} ({time.monotonic() - began:.0f} s)", flush=True)


def main() -> int:
    """Build everything; 1 if something cannot be built."""
    try:
        say("etcd, kube-apiserver and kube-scheduler (four minutes cold)", binaries)
        say("the autoscaler's client (ten seconds)", autoscaler)
        for name in MODULES:
            say(name, partial(renderer, name))
    except ControlPlaneError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
