"""Leader election against Leases that others wrote, answers that are late, lost or not the API server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scheduler.informer import Informer, Reflector
from scheduler.kube import KubeClient
from scheduler.lead import Lead
from scheduler.lease import Election
from scheduler.metrics import Metrics
from scheduler.settings import LeaseSettings
from tests.api_server import ApiServer, api_server, client_of
from tests.test_kube import Names
from tests.waiting import until

LEASE = "leases/ullage-system/ullage"


class Clock:
    """The clock of every replica that runs on while its machine sleeps."""

    def __init__(self) -> None:
        self.now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("scheduler.lease.boot_s", lambda: found.now)
    return found


def replica(client: KubeClient, name: str, **more: Any) -> Election:
    return Election(client, LeaseSettings(enabled=True, duration_s=15, identity=name, **more))


def put_lease(api: ApiServer, **spec: Any) -> None:
    api.put("leases", {"metadata": {"name": "ullage", "namespace": "ullage-system"}, "spec": spec})


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[ApiServer, KubeClient]]:
    async with api_server() as api, client_of(api, folder) as client:
        yield api, client


async def test_the_log_tells_when_the_lead_ends_and_why_it_is_not_renewed_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "scheduler.lease")

    def told() -> list[Any]:
        return [getattr(record, "leading", record.getMessage()) for record in caplog.records]

    async with served(tmp_path) as (api, client):
        election = replica(client, "1", renew_s=0.01)
        task = asyncio.create_task(election.run())
        await until(lambda: told() == [True])
        for _ in range(5):
            api.fail_next("GET", "/leases/", 503)
        clock.now += 11  # while it waited for its next turn
        await until(lambda: not api.faults and election.is_leading)
        await until(lambda: told() == [True, "lease not renewed", False, True])
        task.cancel()


async def test_a_standby_waits_as_long_as_the_lease_is_renewed(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (_, client):
        one, two = replica(client, "1"), replica(client, "2")
        for _ in range(20):
            await one._try()
            await two._try()
            assert (one.is_leading, two.is_leading) == (True, False)
            clock.now += 5


async def test_the_holder_says_for_how_long_it_holds_the_lease(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (api, client):
        put_lease(api, holderIdentity="old", leaseDurationSeconds=60, leaseTransitions=4)
        standby = replica(client, "new")
        for clock.now, leads in ((100, False), (159.9, False), (160, True)):
            await standby._try()
            assert standby.is_leading is leads
        assert api.objects[LEASE]["spec"]["leaseTransitions"] == 5


async def test_a_lease_says_no_less_than_its_holder_counts_on(tmp_path: Path, clock: Clock) -> None:
    """Kubernetes has whole seconds there; Bindings are on their way for up to a third of the duration after the lead ends."""
    async with served(tmp_path) as (api, client):
        await Election(client, LeaseSettings(enabled=True, duration_s=2.9, identity="1"))._try()
        assert api.objects[LEASE]["spec"]["leaseDurationSeconds"] == 3


async def test_a_lease_that_was_renewed_while_it_was_read_lasts_from_then(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (_, client):
        one, two = replica(client, "1"), replica(client, "2")
        call = client.call

        async def slow(method: str, path: str, *words: Any, **more: Any) -> bytes:
            clock.now += 5  # on its way; then it is renewed, then read
            client.call = call  # type: ignore[method-assign]  # the network is slow once
            await one._try()
            return await call(method, path, *words, **more)

        client.call = slow  # type: ignore[method-assign]  # the network is slow once
        await two._try()
        clock.now += 9.9
        assert one.is_leading
        clock.now += 5
        await two._try()
        assert not two.is_leading, "14.9 s since the renewal"


async def test_a_lease_that_somebody_made_in_advance_is_taken(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (api, client):
        put_lease(api)
        election = replica(client, "1")
        await election._try()
        assert election.is_leading
        put_lease(api, holderIdentity="without-a-word")
        await election._try()
        clock.now += 14.9
        await election._try()
        assert not election.is_leading
        clock.now += 0.2
        await election._try()
        assert election.is_leading, "our own duration counts where the holder gave none"


async def test_a_renewal_counts_from_when_it_was_begun(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby may have seen the write long before we got the answer."""
    async with served(tmp_path) as (_, client):
        election, call = replica(client, "1"), client.call
        await election._try()

        async def slow(method: str, *words: Any, **more: Any) -> bytes:
            answer = await call(method, *words, **more)
            clock.now += 4 if method == "PUT" else 0
            return answer

        monkeypatch.setattr(client, "call", slow)
        await election._try()
        clock.now += 5.9
        assert election.is_leading
        clock.now += 0.1
        assert not election.is_leading


async def test_one_call_that_fails_costs_no_lead(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, client):
        election = replica(client, "1", renew_s=0.02)
        task = asyncio.create_task(election.run())
        await until(lambda: election.is_leading)
        for method in ("GET", "PUT"):
            api.calls.clear()
            api.fail_next(method, "/leases/", 500)
            await until(lambda: len(api.calls) > 4)
            assert not api.faults
            assert all(m != "POST" for m, _ in api.calls), "nobody makes a Lease that cannot be read"
            assert election.term == 1
        task.cancel()


async def test_an_answer_that_is_not_the_api_servers_is_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (_, client):
        election, call, bad = replica(client, "1", renew_s=0.02), client.call, [True]

        async def odd(*words: Any, **more: Any) -> bytes:
            return b"<html>sign in</html>" if bad else await call(*words, **more)

        monkeypatch.setattr(client, "call", odd)
        task = asyncio.create_task(election.run())
        await asyncio.sleep(0.1)
        assert not election.is_leading
        bad.clear()
        await until(lambda: election.is_leading)
        task.cancel()


async def test_a_lease_that_is_given_up_is_free_at_once_and_keeps_its_count(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (api, client):
        put_lease(api, holderIdentity="", leaseTransitions=6)
        one, two = replica(client, "1"), replica(client, "2")
        await one._try()
        await two._try()
        assert api.objects[LEASE]["spec"]["leaseTransitions"] == 7
        await one.release()
        given_up = api.objects[LEASE]["spec"]
        assert (given_up["holderIdentity"], given_up["leaseTransitions"]) == ("", 7)
        await two._try()
        assert two.is_leading
        assert api.objects[LEASE]["spec"]["leaseTransitions"] == 8


async def test_a_standby_that_stops_leaves_the_lease_to_its_holder(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (api, client):
        one, two = replica(client, "1"), replica(client, "2")
        await one._try()
        await two._try()
        await two.release()
        assert api.objects[LEASE]["spec"]["holderIdentity"] == "1"
        assert one.is_leading


async def test_a_lease_that_cannot_be_given_up_expires(tmp_path: Path, clock: Clock) -> None:
    async with served(tmp_path) as (api, client):
        one, two = replica(client, "1"), replica(client, "2")
        await one._try()
        await two._try()
        api.fail_next("PUT", "/leases/", 500)
        await one.release()
        assert not one.is_leading
        clock.now += 15
        await two._try()
        assert two.is_leading


async def test_whoever_cannot_read_the_pods_does_not_act_yet_and_tries_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (api, client):
        informer, term = Informer([Reflector("pods", "/api/v1/pods", Names(), client, Metrics())]), 0
        lead = Lead(lambda: term, informer)
        informer.start()
        await until(lambda: informer.is_synced)
        term = 1
        api.fail_next("GET", "/pods", 403)
        await lead.follow()
        assert not lead.may_act
        assert not api.faults
        await lead.follow()
        assert lead.may_act
        await informer.stop()
