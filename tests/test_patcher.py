"""The lean client for many writes: same outcomes as the full one, over real HTTP, whatever breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from scheduler.errors import ApiError
from scheduler.gates import MERGE
from scheduler.planning.patcher import Patcher
from tests.api_server import api_server, client_of, pod_object, served

BODY = {"metadata": {"annotations": {"a": "b"}}}


async def test_many_patches_go_through_few_connections(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        patcher = Patcher(client, width=4)
        for i in range(50):
            api.put("pods", pod_object(f"p{i}"))
        paths = [f"/api/v1/namespaces/default/pods/p{i}" for i in range(50)]
        await asyncio.gather(*[patcher.call("PATCH", path, BODY, content_type=MERGE) for path in paths])
        assert all(api.pod(f"p{i}")["metadata"]["annotations"] == {"a": "b"} for i in range(50))
        assert len(patcher.idle) <= 4
        await patcher.close()


async def test_a_refusal_is_the_same_error_as_the_full_client_raises(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        patcher = Patcher(client, width=1)
        errors = []
        for caller in (patcher, client):
            with pytest.raises(ApiError) as caught:
                await caller.call("PATCH", "/api/v1/namespaces/default/pods/ghost", BODY, content_type=MERGE)
            errors.append((str(caught.value), caught.value.status, caught.value.reason))
        assert errors[0] == errors[1]
        assert errors[0][1] == 404
        await patcher.close()


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_connection_that_breaks_costs_nothing_but_time(after_effect: bool, tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        patcher = Patcher(client, width=1)
        api.put("pods", pod_object("p"))
        path = "/api/v1/namespaces/default/pods/p"
        await patcher.call("PATCH", path, {"metadata": {}}, content_type=MERGE)
        api.fail_next("PATCH", "pods/p", 0, after_effect=after_effect)
        await patcher.call("PATCH", path, BODY, content_type=MERGE)
        assert api.pod("p")["metadata"]["annotations"] == {"a": "b"}
        await patcher.call("PATCH", path, BODY, content_type=MERGE)
        await patcher.close()


async def test_what_had_no_answer_in_time_is_not_done_again(tmp_path: Path) -> None:
    """A planner that was stopped with a nomination on its way, for a minute, must not write it anew when another one leads."""
    asked = list[str]()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        await asyncio.sleep(600)
        raise AssertionError

    async with api_server() as api, client_of(api, tmp_path) as client, served(hang) as port:
        client.base = f"http://127.0.0.1:{port}"
        patcher = Patcher(client, width=1)
        calls = [patcher.call("PATCH", path, BODY, content_type=MERGE, timeout_s=0.5) for path in ("/x", "/y")]
        for told in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(told, ApiError)
            assert (told.status, "no answer in time" in str(told)) == (0, True)
        assert asked == ["/x"], "nor done at all once its time is over"
        await patcher.close()


async def test_a_chunked_answer_is_read_to_its_end(tmp_path: Path) -> None:
    """An answer that is cut or misread would spoil the next one on the connection."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=422)
        response.enable_chunked_encoding()
        await response.prepare(_request)
        for part in (b'{"message":', b'"no way, ' + b"x" * 5000, b'"}'):
            await response.write(part)
            await asyncio.sleep(0)
        return response

    async with api_server() as api, client_of(api, tmp_path) as client, served(refuse) as port:
        client.base = f"http://127.0.0.1:{port}"
        patcher = Patcher(client, width=1)
        for _ in range(3):
            with pytest.raises(ApiError, match=r"422 no way, x{5000}"):
                await patcher.call("PATCH", "/x", BODY, content_type=MERGE)
        await patcher.close()


async def test_credentials_that_ran_out_are_left_to_the_full_client(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        patcher = Patcher(client, width=1)
        api.put("pods", pod_object("p"))
        api.fail_next("PATCH", "pods/p", 401)
        await patcher.call("PATCH", "/api/v1/namespaces/default/pods/p", BODY, content_type=MERGE)
        assert api.pod("p")["metadata"]["annotations"] == {"a": "b"}
        assert not patcher.idle, "a connection keeps the client certificate that it was made with"
        await patcher.close()
