"""One request, one answer, over aiohttp: connections, bodies, time limits, redirects."""

from __future__ import annotations

import os
import re
import ssl
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from yarl import URL

from uploader.errors import InputError, RegistryError, SourceError, UnusableError, UploaderError
from uploader.oci.http import Answer, Lost, Request, Response, Slice
from uploader.registry.addresses import is_at, is_web_address, origin_of, proxy_for
from uploader.registry.bodies import SliceBody, Timeouts, Watch, pour, read_body
from uploader.registry.meter import Meter
from uploader.registry.reach import InwardError, Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from uploader.registry.certificates import Certificates

LARGEST_ERROR_BYTES = 64 * 1024
_REDIRECTS = 5
_WRITES = frozenset({"POST", "PUT", "PATCH"})
_HEADERS_WE_SET = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_LISTS = frozenset({"www-authenticate", "link"})  # headers that may come several times; of others the first counts
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"
_PLAIN_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~/?=&%:+,-]*")  # nothing in it can lead to another host
_WANTS_TLS = re.compile("HTTP request (to an HTTPS server|was sent to HTTPS port)")  # Go's servers; nginx


class Transport:
    """Connections to one registry and to its token service. Mutable: the session, once it is open.

    `certificates` are shown to, and trusted of, the registry alone; `reach` says what other hosts it may send us to.
    """

    def __init__(
        self,
        origin: str,
        *,
        connections: int,
        user_agent: str,
        timeouts: Timeouts,
        ca_file: Path | None,
        meter: Meter | None = None,
        certificates: Certificates | None = None,
        reach: Reach | None = None,
    ) -> None:
        self.origin = origin_of(origin)
        self._reach = reach or Reach(self.origin)
        self._connections = connections
        self._user_agent = user_agent
        self._timeouts = timeouts
        uses_tls = self.origin.startswith("https:")
        self._tls = _tls_context(ca_file) if ca_file else True  # True: aiohttp's own, which it has made already
        self._tls_of_registry = self._tls
        if certificates is not None and uses_tls and (certificates.authorities or certificates.own):
            self._tls_of_registry = _tls_context(ca_file)
            certificates.load(self._tls_of_registry)
        self._proxies: dict[str, str | None] = {}
        self.meter = meter or Meter()

    def metered(self, meter: Meter) -> Transport:
        """The same connections for another push, once they are open."""
        other = copy(self)
        other.meter = meter
        return other

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=self._connections, ssl=self._tls, keepalive_timeout=30, resolver=self._reach
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
            skip_auto_headers=_HEADERS_WE_SET,
            headers={"User-Agent": self._user_agent},
            auto_decompress=False,
            request_class=_Request,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def exchange(self, request: Request, authorization: str, *, most: int, home: str = "") -> Answer:
        """Send the request; `authorization` goes to the origin `home` (the registry's, if not given), nowhere else.

        The answer's body is cut after `most` bytes, that of a refusal after 64 KiB. Raises SourceError when the
        request's body cannot be read any more, RegistryError when it leads where it must not go, and UnusableError when
        a certificate is not trusted.
        """
        home = home or self.origin
        url = asked = self._resolve(request, self.origin, request.url)
        for _ in range(_REDIRECTS):
            headers = dict(request.headers)
            if authorization and is_at(url, home):
                headers["authorization"] = authorization
            if is_at(url, self.origin):
                answer = await self._once(request, url, headers, most)
            else:
                answer = replace(await self._elsewhere(request, url, headers, most), elsewhere=True)
            if not isinstance(answer, Response):
                return answer
            if not _redirects(request, answer):
                return answer if url == asked else _located(answer, url)
            location = self._resolve(request, url, answer.header("location"))
            if request.secret and origin_of(location) != home:
                return answer
            url = location
        return Lost(f"redirected more than {_REDIRECTS} times")

    async def _elsewhere(self, request: Request, url: str, headers: Mapping[str, str], most: int) -> Answer:
        """At another host than the registry, which must not be inside a private network where the registry is not."""
        try:
            self._reach.check(urlsplit(url).hostname or "")
            answer = await self._once(request, url, headers, most)
        except InwardError as error:
            raise RegistryError(f"{request.subject}: {error}") from None
        if isinstance(answer, Lost):
            return replace(answer, reason=f"{answer.reason} (at {origin_of(url)}, where the registry sent us)")
        return answer

    def _resolve(self, request: Request, base: str, location: str) -> str:
        """The address that `location` means at `base`: http or https, never from https to http.

        A proxy that ends TLS before a registry that does not know of it makes that registry name itself with http:
        such a Location is taken to the registry's own origin.
        """
        path = location.removeprefix(self.origin)
        if _PLAIN_PATH.fullmatch(path):  # by far the most: nothing to parse
            here = path != location or base == self.origin
            return (self.origin if here else origin_of(base)) + path
        try:
            url = urljoin(base, quote(location, safe=_URL_CHARACTERS))
        except ValueError:
            url = ""
        if not is_web_address(url):
            raise RegistryError(f"{request.subject}: was sent on to an address that cannot be used")
        target = urlsplit(url)
        if target.scheme == "https" or self.origin.startswith("http:"):
            return url
        if target.hostname == urlsplit(self.origin).hostname:
            return self.origin + url[len(f"http://{target.netloc}") :]
        raise RegistryError(f"{request.subject}: was sent on from https to {origin_of(url)}, which has no TLS")

    def _proxy(self, url: str) -> str | None:
        origin = self.origin if is_at(url, self.origin) else origin_of(url)
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(origin)
        return self._proxies[origin]

    async def _once(self, request: Request, url: str, headers: Mapping[str, str], most: int) -> Answer:
        watch = Watch(self._timeouts, request.size)
        try:
            return await self._send(request, url, headers, most, watch)
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnusableError(
                f"the certificate of {error.host}:{error.port} is not trusted ({error.certificate_error.args[-1]}); "
                "give the file of its authority with --ca-file"
            ) from error
        except aiohttp.ClientConnectorSSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error.os_error):
                raise UnusableError(
                    f"{error.host}:{error.port} does not speak TLS: if it is a registry with plain http, write oci+http://"
                ) from error
            return Lost(f"no TLS with {error.host}:{error.port}: {_os_reason(error)}", connected=False)
        except aiohttp.ClientHttpProxyError as error:
            raise UnusableError(
                f"the proxy refused to connect to {urlsplit(url).hostname} with {error.status}: check HTTPS_PROXY, "
                "its login, and NO_PROXY"
            ) from None
        except aiohttp.ClientConnectorError as error:
            return Lost(f"cannot connect to {error.host}:{error.port}: {_os_reason(error)}", connected=False)
        except aiohttp.ConnectionTimeoutError:
            return Lost(f"cannot connect within {self._timeouts.connect:g} s", connected=False)
        except (_BrokenError, ConnectionError):
            return Lost("the connection was closed before the answer", complete=watch.complete)
        except TimeoutError:
            reason = f"no progress for {self._timeouts.stall:g} s, or no answer in time"
            return Lost(reason, complete=watch.complete)
        except (aiohttp.ClientError, ValueError) as error:
            if (broken := _source_error(error)) is not None:
                raise broken from None
            if isinstance(error, aiohttp.ClientResponseError):  # Go's servers send a body, even where HEAD was asked
                _refuse_plain_http(url, error.message)
            return Lost(f"the connection broke ({_kind(error)})", complete=watch.complete)

    async def _send(self, request: Request, url: str, headers: Mapping[str, str], most: int, watch: Watch) -> Response:
        body: bytes | SliceBody | None = None
        match request.body:
            case Slice() as piece:
                body = SliceBody(piece, watch, self.meter)
            case content if content or request.method in {"POST", "PUT", "PATCH"}:
                if self.meter.limit is not None:
                    await self.meter.limit.wait_for(len(content))
                body = content
        with watch.scope:
            async with self._session.request(
                request.method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy(url),
                ssl=self._tls_of_registry if is_at(url, self.origin) else self._tls,
                middlewares=(partial(_send_once, before=self.meter.before_write),),
            ) as response:
                if request.sink is not None and response.status == 200:
                    await pour(response, request.sink, watch)
                    content = b""
                else:  # only what was asked for may be large
                    content = await read_body(response, most if response.ok else min(most, LARGEST_ERROR_BYTES), watch)
            if isinstance(request.body, bytes) and request.body:
                self.meter.sent(len(request.body))
            if response.status == 400 and url.startswith("http:"):
                _refuse_plain_http(url, content.decode(errors="replace"))
            return Response(response.status, _headers_of(response), content)
        raise TimeoutError


class _BrokenError(Exception):
    """The connection broke. Not one of aiohttp's errors, at which it would send some requests a second time."""


class _Request(aiohttp.ClientRequest):
    """May be called off by `before` as late as can be: when its connection is there. `before` may raise."""

    before: Callable[[], None] | None = None

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Begin to send it; without a body, nothing is waited for between `before` and the first byte."""
        self._ask_before()
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Send the body, in a task: up to Python 3.11 one that begins later, and with it the first byte."""
        try:
            self._ask_before()
        except UploaderError:
            conn.close()  # `send` will say why, when the request is tried again
            return
        await super().write_bytes(writer, conn, content_length)

    def _ask_before(self) -> None:
        if self.before is not None and self.method in _WRITES:
            self.before()


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType, before: Callable[[], None] | None
) -> aiohttp.ClientResponse:
    """aiohttp would repeat some requests by itself: that is the retry policy's business, and HEAD comes first."""
    if isinstance(request, _Request):
        request.before = before
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if (broken := _source_error(error)) is not None:
            raise broken from None
        raise _BrokenError from error


def _refuse_plain_http(url: str, said: str) -> None:
    if _WANTS_TLS.search(said):
        host = origin_of(url).removeprefix("http://")
        raise UnusableError(f"{host} speaks TLS and was asked by plain http: write oci://{host}/…")


def _redirects(request: Request, answer: Response) -> bool:
    if answer.status not in _REDIRECT_STATUS or not answer.header("location"):
        return False
    return request.method in {"GET", "HEAD"} or answer.status in {307, 308}


def _located(answer: Response, url: str) -> Response:
    """The answer with a Location that is absolute: whoever asked knows no other base for it than the first URL."""
    if location := answer.header("location"):
        with suppress(ValueError):  # no address: that is said where it is needed
            return replace(answer, headers={**answer.headers, "location": urljoin(url, location)})
    return answer


def _headers_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        if (key := name.lower()) not in headers:
            headers[key] = value
        elif key in _LISTS:
            headers[key] += f", {value}"
    return headers


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise InputError(f"--ca-file {ca_file}: {error.strerror or 'holds no certificate in PEM form'}") from error
    return context


def _os_reason(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    if number and number > 0 and not isinstance(error.os_error, ssl.SSLError):
        return os.strerror(number)  # "Connection refused", where asyncio says "Connect call failed"
    return error.strerror or _kind(error.os_error)


def _source_error(error: BaseException | None) -> SourceError | None:
    """The reason below, where it was the body that could not be read."""
    while error is not None and not isinstance(error, SourceError):
        error = error.__cause__
    return error


def _kind(error: BaseException) -> str:
    """The kind of error alone: its text may hold URLs."""
    return type(error).__name__
