"""The loopback port: switch modes, kill, and look into the ledger, while running.

It listens on 127.0.0.1 only and has no authentication: whoever may exec into the pod may use it.
"""

from __future__ import annotations

import json
from typing import Any

from placement.errors import PlacementError
from scheduler.engine import Engine
from scheduler.server import Request, Response, problem


class Admin:
    """``GET /mode``, ``POST /mode {"mode": …}``, ``POST /kill``, ``POST /revive``, ``GET /ledger`` and ``/pod/UID``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        modes = self.engine.modes
        route = (request.method, request.path)
        if route in (("POST", "/kill"), ("POST", "/revive")):
            modes.kill(request.path == "/kill")
        elif route == ("POST", "/mode"):
            try:
                modes.switch(str(json.loads(bytes(request.body))["mode"]))
            except PlacementError as error:
                return problem(400, str(error))
            except (ValueError, KeyError, TypeError, RecursionError):
                return problem(400, 'send {"mode": "off|shadow|score|decide"}')
        elif request.method == "GET" and request.path.startswith("/pod/"):
            return self._pod(request.path.removeprefix("/pod/"))
        elif route == ("GET", "/ledger"):
            return Response(json.dumps(self._ledger()).encode())
        elif route != ("GET", "/mode"):
            return problem(404, "here are GET /mode, POST /mode, POST /kill, POST /revive, GET /ledger, GET /pod/UID")
        answer = {"mode": modes.default, "killed": modes.is_killed, "namespaces": modes.by_namespace}
        return Response(json.dumps(answer).encode())

    def _pod(self, uid: str) -> Response:
        resident = self.engine.state.residents.get(uid)
        if resident is None:
            return problem(404, "the ledger counts no such pod")
        where = {"node": self.engine.state.names[resident.row], "devices": resident.devices, "bound": resident.is_bound}
        return Response(json.dumps(where).encode())

    def _ledger(self) -> dict[str, Any]:
        """Who is where, as the columns count it."""
        state = self.engine.state
        pods = {
            uid: {"node": state.names[r.row], "devices": r.devices, "bound": r.is_bound}
            for uid, r in state.residents.items()
        }
        return {
            "version": state.version,
            "nodes": sorted(state.row_of),
            "pods": pods,
            "reservations": sorted(self.engine.ledger.reservations),
            "serving": not self.engine.why_not_serving(),
            "binding": self.engine.may_give_devices(),
        }
