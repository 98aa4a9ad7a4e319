"""The daemon's HTTP API, and the Python client for it."""

from __future__ import annotations

import hashlib
import io
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.component.a_daemon import a_job, working
from uploader.errors import InputError, UnusableError
from uploader.service.allowed import Allowed, LayoutPattern, RepositoryPattern
from uploader.service.daemon_client import DaemonClient
from uploader.service.http_api import ROUTES, Api, ApiSettings
from uploader.service.http_reading import MOST_BODY_BYTES
from uploader.service.http_server import Listen, listening
from uploader.service.options import PushOptions
from uploader.service.tokens import ANYBODY, Caller, Tokens, read_tokens
from uploader.testing import FakeRegistry, Fault, Hold
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

JOB = {"sources": ["graph.json"], "to": "oci://host/cache"}


async def ask(url: str | URL, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body, headers=named) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.asyncio
async def test_a_job_from_submission_to_report(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    async with FakeRegistry() as registry, working(tmp_path) as works, DaemonClient(works.url) as client:
        to = registry.destination("cache")
        job, created = await client.submit({"sources": [str(graph)], "to": to, "options": {"codec": "zstd"}})
        assert created
        kinds = [event.kind async for event in client.events(job)]
        assert kinds[:2] == ["submitted", "leased"]
        assert kinds[-1] == "succeeded"
        shown = await client.job(job)
        assert (shown.state, shown.to, shown.options) == ("succeeded", to, {"codec": "zstd"})
        assert (await client.report(job))["totals"]["pushed"] == 1
        jobs, following = await client.jobs(state="succeeded")
        assert ([one.id for one in jobs], following) == ([job], None)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [{}, [], None, {"jobs": [{}], "next": None}, {"retried": "x"}, {"id": "a"}])
async def test_a_server_that_is_no_daemon_is_named(answer: Any) -> None:
    async def say(_: web.Request) -> web.Response:
        return web.json_response(answer)

    other = web.Application()
    other.router.add_route("*", "/{path:.*}", say)
    async with TestServer(other) as server, DaemonClient(str(server.make_url(""))) as client:
        for asked in (
            client.submit(JOB),
            client.submit_all([JOB]),
            client.jobs(),
            client.job("a"),
            client.cancel("a"),
            client.retry("a"),
            client.retry_dead(),
            client.workers(),
        ):
            with pytest.raises(UnusableError, match=f"{server.port} is no uploader daemon"):
                await asked


@pytest.mark.asyncio
async def test_events_go_on_where_the_reader_was(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    release = anyio.Event()
    held = Fault(on="put-blob", then=Hold(release))
    async with (
        FakeRegistry(faults=[held]) as registry,
        working(tmp_path) as works,
        DaemonClient(works.url) as client,
    ):
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        first: AsyncIterator[Any] = client.events(job)
        seen = [await anext(first), await anext(first)]
        await first.aclose()  # type: ignore[attr-defined]
        release.set()
        rest = [event async for event in client.events(job, after=seen[-1].seq)]
        numbers = [event.seq for event in (*seen, *rest)]
        assert numbers == [event.seq for event in await works.store.events(job)]


@pytest.mark.asyncio
async def test_the_same_idempotency_key_is_the_same_job(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        works.drain.set()
        await works.ended.wait()
        url = f"{works.url}/v1/jobs"
        first = await ask(url, "POST", JOB, Idempotency_Key="k")
        second = await ask(url, "POST", JOB, Idempotency_Key="k")
        assert (first[0], second[0]) == (202, 200)
        assert first[1]["id"] == second[1]["id"]
        both = await ask(url, "POST", [JOB, JOB], Idempotency_Key="list")
        assert len({one["id"] for one in both[1]["jobs"]}) == 2
        assert (await ask(url, "POST", [JOB, JOB], Idempotency_Key="list"))[1]["jobs"][0]["created"] is False


@pytest.mark.asyncio
async def test_an_idempotency_key_with_another_request_is_refused(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        works.drain.set()
        await works.ended.wait()
        url = f"{works.url}/v1/jobs"
        job = {**JOB, "options": {"force": True, "level": 1}}
        first = await ask(url, "POST", job, Idempotency_Key="k")
        reordered = {**JOB, "options": {"level": 1, "force": True}}
        assert (await ask(url, "POST", reordered, Idempotency_Key="k"))[0] == 200
        other = {**job, "to": "oci://host/other"}
        status, said = await ask(url, "POST", other, Idempotency_Key="k")
        assert (status, first[1]["id"] in said["detail"]) == (422, True)
        status, said = await ask(url, "POST", [JOB, {**other, "key": "k"}])
        assert (status, first[1]["id"] in said["detail"]) == (422, True)
        assert len((await ask(url))[1]["jobs"]) == 1


@pytest.mark.asyncio
async def test_one_bad_job_of_a_list_refuses_all(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        for bad, word in (({"sorces": []}, "sources"), ({"sources": ["/etc/passwd"]}, "--source-root")):
            status, said = await ask(f"{works.url}/v1/jobs", "POST", [JOB, {**JOB, **bad}])
            assert (status, said["status"]) == (400, 400)
            assert said["detail"].startswith("job 2 of 2: ")
            assert word in said["detail"]
        assert (await ask(f"{works.url}/v1/jobs"))[1]["jobs"] == []


@pytest.mark.asyncio
async def test_what_is_wrong_is_a_problem_document(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        cases = {
            "/v1/jobs/none": 404,
            "/v1/jobs?state=lost": 400,
            "/v1/jobs?limit=9999": 400,
            "/v1/jobs?limit=-1": 400,
            "/nowhere": 404,
        }
        for path, wanted in cases.items():
            async with aiohttp.ClientSession() as session, session.get(works.url + path) as answer:
                assert (answer.status, answer.content_type) == (wanted, "application/problem+json"), path
        async with aiohttp.ClientSession() as session:
            big = session.post(
                f"{works.url}/v1/jobs",
                data=io.BytesIO(b" " * (MOST_BODY_BYTES + 1)),
                headers={"Content-Type": "application/json"},
            )
            async with big as answer:
                assert answer.status == 413
            async with session.post(f"{works.url}/v1/jobs", data=b"{}") as answer:
                assert answer.status == 415
            async with session.delete(f"{works.url}/v1/jobs") as answer:
                assert answer.status == 405


@pytest.mark.asyncio
async def test_without_tokens_web_pages_and_foreign_names_are_refused(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        assert (await ask(f"{works.url}/v1/stats"))[0] == 200
        assert (await ask(f"{works.url}/v1/stats", Origin="http://evil"))[0] == 403
        assert (await ask(f"{works.url}/v1/stats", Host="evil:80"))[0] == 403


@pytest.mark.asyncio
async def test_tokens_say_who_may_do_what(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("reader", "pusher")}
    file.write_text(
        f'[[token]]\nname = "r"\nsha256 = "{hashes["reader"]}"\n'
        f'[[token]]\nname = "p"\nsha256 = "{hashes["pusher"]}"\nscope = "full"\ndestinations = ["host/team/*"]\n'
    )
    async with working(tmp_path, tokens=read_tokens(file)) as works:
        url = f"{works.url}/v1/jobs"
        assert (await ask(url))[0] == 401
        assert (await ask(url, Authorization="Bearer wrong"))[0] == 401
        assert (await ask(url, Authorization="Bearer reader"))[0] == 200
        assert (await ask(url, "POST", JOB, Authorization="Bearer reader"))[0] == 403
        assert (await ask(url, "POST", JOB, Authorization="Bearer pusher"))[0] == 403
        mine = {**JOB, "to": "oci://host/team/cache"}
        assert (await ask(url, "POST", mine, Authorization="Bearer pusher"))[0] == 202
        from_another = {**mine, "options": {"base_image": "host/secret/os:12"}}
        assert (await ask(url, "POST", from_another, Authorization="Bearer pusher"))[0] == 403
        for act in ("pause", "resume", "drain"):
            for caller in ("reader", "pusher"):
                assert (await ask(f"{works.url}/v1/{act}", "POST", Authorization=f"Bearer {caller}"))[0] == 403
        assert (await ask(f"{works.url}/livez"))[0] == 200
        async with DaemonClient(works.url, "pusher") as client:
            assert (await client.stats())["workers"] == 1
        async with DaemonClient(works.url) as client:
            with pytest.raises(UnusableError, match="UPLOADER_TOKEN"):
                await client.stats()


@pytest.mark.asyncio
async def test_a_token_with_destinations_touches_no_job_to_elsewhere(tmp_path: Path) -> None:
    callers = (
        (hashlib.sha256(b"all").hexdigest(), Caller("all", "full")),
        (hashlib.sha256(b"some").hexdigest(), Caller("some", "full", (RepositoryPattern("host/team/*"),))),
    )
    async with working(tmp_path, tokens=Tokens(callers)) as works:
        works.drain.set()
        await works.ended.wait()
        url, some = f"{works.url}/v1/jobs", {"Authorization": "Bearer some"}
        theirs = (await ask(url, "POST", JOB, Authorization="Bearer all"))[1]["id"]
        mine = (await ask(url, "POST", {**JOB, "to": "oci://host/team/x"}, **some))[1]["id"]
        assert (await ask(f"{url}/{theirs}/cancel", "POST", **some))[0] == 403
        assert (await ask(f"{url}/{theirs}/retry", "POST", **some))[0] == 403
        assert (await ask(f"{url}:retry-dead", "POST", **some))[0] == 403
        assert (await ask(f"{url}/{mine}/cancel", "POST", **some))[0] == 200
        assert (await ask(f"{url}/{mine}/retry", "POST", **some))[0] == 202
        assert (await ask(f"{url}/{theirs}"))[0] == 401
        assert (await ask(f"{url}/{theirs}/cancel", "POST", Authorization="Bearer all"))[0] == 200
        assert (await ask(f"{url}:retry-dead", "POST", Authorization="Bearer all"))[0] == 202


@pytest.mark.asyncio
async def test_a_token_with_destinations_is_bound_to_its_layout_folders_too(tmp_path: Path) -> None:
    root = tmp_path.resolve()  # noqa: ASYNC240
    (root / "theirs").mkdir()
    (root / "team").mkdir()
    (root / "team" / "link").symlink_to(root / "theirs")
    some = Caller("some", "full", (LayoutPattern(f"oci-layout:{root}/team/**"),))
    callers = ((hashlib.sha256(b"all").hexdigest(), ANYBODY), (hashlib.sha256(b"some").hexdigest(), some))
    async with working(tmp_path, tokens=Tokens(callers), allowed=Allowed((root,), (root,))) as works:
        works.drain.set()
        await works.ended.wait()
        url, token = f"{works.url}/v1/jobs", {"Authorization": "Bearer some"}
        for folder, status in (("team/x", 202), ("theirs/x", 403), ("team/link/x", 403)):
            job = {**JOB, "to": f"oci-layout:{root / folder}"}
            assert (await ask(url, "POST", job, **token))[0] == status, folder
            given = (await ask(url, "POST", job, Authorization="Bearer all"))[1]["id"]
            assert (await ask(f"{url}/{given}/cancel", "POST", **token))[0] == (200 if status == 202 else 403)
        assert (await ask(url, "POST", JOB, **token))[0] == 403


@pytest.mark.asyncio
async def test_text_that_no_store_can_hold_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        url = f"{works.url}/v1/jobs"
        for key in ("\ud800", "a\0b"):
            assert (await ask(url, "POST", {**JOB, "key": key}))[0] == 400
        for odd in ("%00", "%ff", "%ED%A0%80", "x" * 500):
            assert (await ask(URL(f"{url}/{odd}", encoded=True)))[0] == 404
            assert (await ask(URL(f"{url}?cursor={odd}", encoded=True)))[0] == 400
        assert (await ask(url, "POST", JOB))[0] == 202


@pytest.mark.asyncio
async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with working(tmp_path, body_seconds=0.05) as works:
        host, port = works.url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as connection:
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            await connection.send(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert (await connection.receive()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.asyncio
async def test_the_head_of_a_request_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    """Else a thousand connections that send a line each are held for ever."""
    async with working(tmp_path, head_seconds=0.5) as works:
        host, port = str(URL(works.url).host), int(URL(works.url).port or 0)
        half = f"GET /livez HTTP/1.1\r\nHost: {host}\r\n".encode()
        async with await anyio.connect_tcp(host, port) as first, await anyio.connect_tcp(host, port) as second:
            await first.send(half)
            await second.send(half + b"\r\n" + half)
            assert (await second.receive()).startswith(b"HTTP/1.1 200 ")
            with anyio.fail_after(10):
                for connection in (first, second):
                    async for _ in connection:
                        pass  # until it is closed


@pytest.mark.asyncio
async def test_a_paused_daemon_begins_no_job_until_it_is_resumed(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": []})
    async with FakeRegistry() as registry, working(tmp_path) as works:
        assert (await ask(f"{works.url}/v1/pause", "POST"))[1] == {"paused": True}
        assert (await ask(f"{works.url}/livez"))[1]["paused"] is True
        job = {"sources": [str(graph)], "to": registry.destination("cache")}
        status, answer = await ask(f"{works.url}/v1/jobs", "POST", job)
        assert status == 202
        after, kinds = 0, set[str]()
        while events := await works.store.events(answer["id"], after=after, wait=0.5):
            after, kinds = events[-1].seq, kinds | {event.kind for event in events}
        assert kinds <= {"submitted", "leased", "released"}  # it may have been taken just when it was paused
        assert registry.requests == []
        assert (await ask(f"{works.url}/v1/resume", "POST"))[1] == {"paused": False}
        assert (await works.wait_end(answer["id"])).state == "succeeded"


@pytest.mark.asyncio
async def test_a_daemon_that_is_asked_to_drain_ends(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        assert (await ask(f"{works.url}/v1/drain", "POST"))[0] == 202
        await works.ended.wait()
        assert (await ask(f"{works.url}/readyz"))[0] == 503


@pytest.mark.asyncio
async def test_cancel_and_retry(tmp_path: Path) -> None:
    async with working(tmp_path) as works, DaemonClient(works.url) as client:
        works.drain.set()
        await works.ended.wait()
        job, _ = await client.submit(JOB)
        assert await client.cancel(job)
        assert (await client.job(job)).state == "cancelled"
        with pytest.raises(InputError, match="ended already"):
            await client.cancel(job)
        await client.retry(job)
        assert (await client.job(job)).state == "ready"
        with pytest.raises(InputError, match="is ready"):
            await client.retry(job)
        assert await client.retry_dead() == 0


@pytest.mark.asyncio
async def test_readyz_tells_of_draining_and_livez_does_not(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        assert (await ask(f"{works.url}/readyz"))[0] == 200
        works.drain.set()
        await works.ended.wait()
        assert (await ask(f"{works.url}/readyz")) == (503, {"ready": False, "problem": "draining"})
        assert (await ask(f"{works.url}/livez"))[0] == 200


@pytest.mark.asyncio
async def test_metrics_count_what_was_done(tmp_path: Path) -> None:
    graph = write_packages(tmp_path / "graph", {"a": [], "b": []})
    async with FakeRegistry() as registry, working(tmp_path) as works:
        (job,) = await works.submit(a_job(graph, registry.destination("cache")))
        await works.wait_end(job)
        works.drain.set()
        await works.ended.wait()
        async with aiohttp.ClientSession() as session, session.get(f"{works.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        assert 'uploader_jobs_finished_total{outcome="succeeded"} 1' in lines
        assert 'uploader_jobs_finished_total{outcome="dead"} 0' in lines
        assert f'uploader_manifests_total{{registry="{registry.host}",result="pushed"}} 2' in lines
        assert 'uploader_jobs{state="succeeded"} 1' in lines
        assert "uploader_job_duration_seconds_count 1" in lines


@pytest.mark.asyncio
async def test_a_body_that_is_not_what_its_headers_say_is_the_callers_fault(tmp_path: Path) -> None:
    async with working(tmp_path) as works, aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        async with session.post(f"{works.url}/v1/jobs", data=b"{}", headers=headers) as answer:
            assert answer.status == 400
            assert "gzip" in (await answer.json(content_type=None))["detail"]


@pytest.mark.asyncio
async def test_a_socket_where_a_daemon_answers_is_not_taken_from_it(tmp_path: Path) -> None:
    with TemporaryDirectory() as short:  # as paths of sockets must be
        place = Listen("", 0, f"{short}/s")
        async with working(tmp_path) as works:
            api = Api(works.store, works.daemon, ApiSettings(Allowed((tmp_path,)), PushOptions(), None))
            async with listening(api, place):
                with pytest.raises(InputError, match="another program listens there"):
                    async with listening(api, place):
                        pass
                await (await anyio.connect_unix(place.path)).aclose()
            assert await anyio.Path(place.path).is_socket()  # left behind, as by one that was killed
            async with listening(api, place):
                await (await anyio.connect_unix(place.path)).aclose()


@pytest.mark.asyncio
async def test_every_route_is_described(tmp_path: Path) -> None:
    async with working(tmp_path) as works:
        _, document = await ask(f"{works.url}/openapi.json")
        described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert described == {(route.method, route.path) for route in ROUTES}
