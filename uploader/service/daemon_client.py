"""The daemon's HTTP API for Python: what `uploader submit`, `jobs`, `cancel` and `retry` use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import aiohttp

from uploader.errors import InputError, UnusableError, hide_login

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

_T = TypeVar("_T")

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 60.0
_SILENCE_SECONDS: Final = 45.0  # a stream says every 15 s that it lives


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the daemon shows it; times are RFC 3339."""

    id: str
    state: str
    sources: tuple[str, ...]
    to: str
    options: Mapping[str, Any]
    key: str | None
    priority: int
    attempts: int
    created: str
    started: str | None
    finished: str | None
    progress: str | None
    error: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From JSON; keys that this version does not know are passed over. Raises KeyError, TypeError."""
        known = {"id": document["id"], "state": document["state"]}
        known |= {name: document.get(name) for name in cls.__slots__ if name not in known}
        return cls(**{**known, "sources": tuple(document.get("sources") or ())})

    @property
    def ended(self) -> bool:
        """Whether it is over, until somebody asks for a retry."""
        return self.state in {"succeeded", "failed", "dead", "cancelled"}


@dataclass(frozen=True, slots=True)
class EventView:
    """Something that happened to a job; give `seq` as `after` to go on behind it."""

    seq: int
    kind: str
    detail: str


class DaemonClient:
    """One daemon, for an `async with` block. Every method raises InputError for what it refuses, else UnusableError."""

    def __init__(self, server: str = DEFAULT_SERVER, token: str | None = None) -> None:
        """`server` is `http(s)://HOST:PORT`, or `unix:PATH`."""
        self._socket = server.removeprefix("unix:") if server.startswith("unix:") else None
        self._server = "http://localhost" if self._socket else server.rstrip("/")
        self._name = server if self._socket else hide_login(server)
        if not self._server.startswith(("http://", "https://")):
            raise self._no_url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @property
    def _no_url(self) -> InputError:
        return InputError(f"the server {self._name!r} is no URL: write http://HOST:PORT, or unix:PATH")

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> tuple[str, bool]:
        """The job's id, and whether it is new: not when a job with its key was there."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._ask(_submitted, "POST", "/v1/jobs", job, headers)

    async def submit_all(self, jobs: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
        """All of them or none."""
        return await self._ask(
            lambda answer: [_submitted(one) for one in answer["jobs"]], "POST", "/v1/jobs", list(jobs)
        )

    async def job(self, job: str) -> JobView:
        """One job."""
        return await self._ask(JobView.of, "GET", f"/v1/jobs/{_part(job)}")

    async def jobs(
        self, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[JobView], str | None]:
        """Some jobs, newest first, and the cursor of the next page."""
        query = {"state": state, "limit": str(limit), "cursor": cursor}
        given = {name: value for name, value in query.items() if value is not None}
        return await self._ask(_page, "GET", "/v1/jobs", query=given)

    async def report(self, job: str) -> Any:
        """The report of its latest try, as JSON (`uploader schema report`); None where it left none."""
        return await self._ask(_as_it_is, "GET", f"/v1/jobs/{_part(job)}/report", missing_is_none=True)

    async def cancel(self, job: str) -> bool:
        """Whether it is cancelled now; else its daemon was asked to stop it."""
        return await self._ask(lambda answer: bool(answer["cancelled"]), "POST", f"/v1/jobs/{_part(job)}/cancel")

    async def retry(self, job: str) -> None:
        """Try an ended job again."""
        await self._ask(_retried, "POST", f"/v1/jobs/{_part(job)}/retry")

    async def retry_dead(self) -> int:
        """Try all dead jobs again: how many."""
        return await self._ask(_retried, "POST", "/v1/jobs:retry-dead")

    async def stats(self) -> Any:
        """Counts, as JSON."""
        return await self._ask(_as_it_is, "GET", "/v1/stats")

    async def workers(self) -> Any:
        """The daemons that share the store, as JSON."""
        return await self._ask(lambda answer: answer["workers"], "GET", "/v1/workers")

    async def events(self, job: str, *, after: int = 0) -> AsyncIterator[EventView]:
        """What happens to a job. Ends when the job does, and also when the daemon goes: then ask again."""
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        url = f"{self._server}/v1/jobs/{_part(job)}/events"
        try:
            async with self._session.get(url, headers={"Last-Event-ID": str(after)}, timeout=timeout) as response:
                await self._check(response)
                seq = 0
                async for raw in response.content:
                    name, _, value = raw.decode().rstrip("\n").partition(": ")
                    if name == "id":
                        seq = int(value)
                    elif name == "data":
                        data = json.loads(value)
                        yield EventView(seq, data["kind"], data["detail"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_daemon from error

    async def _ask(
        self,
        read: Callable[[Any], _T],
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        missing_is_none: bool = False,
    ) -> _T:
        """What `read` makes of the answer."""
        try:
            async with self._session.request(
                method, self._server + path, json=body, headers=headers, params=query
            ) as response:
                if response.status == 404 and missing_is_none:
                    return read(None)
                await self._check(response)
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from error
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_daemon from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status < 400:
            return
        text = await response.text()
        try:
            detail = str(json.loads(text)["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"answered {response.status}, and not as an uploader daemon does"
        if response.status == 401:
            raise UnusableError(f"the daemon at {self._name}: {detail}; set UPLOADER_TOKEN or UPLOADER_TOKEN_FILE")
        if response.status >= 500:
            raise UnusableError(f"the daemon at {self._name}: {detail}")
        raise InputError(detail)

    @property
    def _no_daemon(self) -> UnusableError:
        """Something else has that port: it answers whatever it is asked."""
        return UnusableError(f"the server at {self._name} is no uploader daemon: it does not answer as one")

    def _unreachable(self, error: Exception) -> InputError | UnusableError:
        if isinstance(error, aiohttp.InvalidURL):  # whose text is the URL, with the login
            return self._no_url
        if isinstance(error, aiohttp.ClientConnectorError):
            return UnusableError(f"no daemon at {self._name}: {error.strerror}; start one with `uploader serve`")
        reason = str(error) or type(error).__name__
        return UnusableError(f"the daemon at {self._name} did not answer: {reason}")


def _as_it_is(answer: Any) -> Any:
    return answer


def _submitted(answer: Any) -> tuple[str, bool]:
    return answer["id"], answer["created"]


def _page(answer: Any) -> tuple[list[JobView], str | None]:
    return [JobView.of(one) for one in answer["jobs"]], answer["next"]


def _retried(answer: Any) -> int:
    return int(answer["retried"])


def _part(job: str) -> str:
    if not job or not all(character.isalnum() or character in "-_" for character in job):
        raise InputError(f"{job[:100]!r} is not the id of a job")
    return job
