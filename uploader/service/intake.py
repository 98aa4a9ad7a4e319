"""Jobs from a message broker (NATS JetStream, Redis Streams), through FastStream.

A message is a job as JSON, or a list of jobs. It becomes rows in the job store, and is acknowledged only when they are
durable. Its id is kept there in the same transaction, for longer than its jobs are: so a message that comes twice is
taken in once, and what one daemon took, another knows. What cannot become a job is set aside in the stream or subject
`NAME.refused`, with the reason, and then acknowledged: it is neither lost nor does it come again. A message that
somebody took and never acknowledged is taken over after a minute.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import structlog

from uploader.errors import InputError, JobStoreError, hide_login
from uploader.service.job_format import PushJob, read_document, read_each, read_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from faststream.nats import NatsMessage
    from nats.js import JetStreamContext

    from uploader.jobs import JobSpec, JobStore, Submitted
    from uploader.service.allowed import Allowed
    from uploader.service.metrics import Metrics
    from uploader.service.options import PushOptions

STRANDED_SECONDS: Final = 60.0
GROUP: Final = "uploader"
_PAUSE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0
_MOST_BYTES: Final = 1024 * 1024
_MOST_SHOWN: Final = 100
_LIBRARY_FIELD: Final = b"__data__"

_log = structlog.get_logger("uploader.intake")
_SILENT: Final = logging.getLogger("uploader.intake.library")
"""FastStream writes a line for every message; what happens is in our own log."""


@dataclass(frozen=True, slots=True)
class IntakeUrl:
    """`nats://HOST[:PORT]/SUBJECT` or `redis://HOST[:PORT]/STREAM`."""

    scheme: str
    server: str
    name: str

    @classmethod
    def parse(cls, text: str) -> IntakeUrl:
        """Read it; raises InputError."""
        shown = hide_login(text)
        try:
            parts = urlsplit(text)
            is_url = parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise InputError(
                f"--intake {shown} is no URL: is the port from 1 to 65535, an IPv6 address in brackets, and each '@', "
                "'/' and '#' of the password written as %40, %2F and %23?"
            )
        name = parts.path.strip("/")
        if parts.scheme not in {"nats", "redis", "tls", "rediss"} or not parts.hostname:
            raise InputError(f"--intake {shown}: write nats://HOST/SUBJECT or redis://HOST/STREAM")
        if not name or not all(character.isalnum() or character in "._-" for character in name):
            raise InputError(f"--intake {shown}: the subject or stream has letters, digits, '.', '_' and '-'")
        if parts.query or parts.fragment:
            raise InputError(f"--intake {shown}: the URL has no query (?…) and no fragment (#…)")
        return cls(parts.scheme, f"{parts.scheme}://{parts.netloc}", name)


@dataclass(frozen=True, slots=True)
class Came:
    """A message as the broker gave it; `key` is the same whenever it comes, and no other message's."""

    content: bytes
    key: str

    @classmethod
    def of(cls, broker: str, name: str, place: str, content: bytes) -> Came:
        """`place` is its id in the stream `name`.

        The content is part of the key: places begin anew where a stream is made anew, and two brokers may have streams
        of one name. What is no other message may be dropped, what only looks alike may not.
        """
        digest = hashlib.sha256(f"{place}\0".encode() + content).hexdigest()
        return cls(content, f"{broker}:{name[:_MOST_SHOWN]}:{place[:_MOST_SHOWN]}:{digest[:32]}")


class Taker:
    """Turns messages into jobs."""

    def __init__(
        self, store: JobStore, allowed: Allowed, defaults: PushOptions, max_attempts: int, metrics: Metrics
    ) -> None:
        self._store = store
        self._allowed = allowed
        self._defaults = defaults
        self._max_attempts = max_attempts
        self._metrics = metrics

    async def take(self, came: Came, set_aside: Callable[[str], Awaitable[None]]) -> None:
        """Returns when the message may be acknowledged: its jobs are durable, or it is set aside."""
        key = came.key
        try:
            jobs = await anyio.to_thread.run_sync(self._read, came.content, key)
            answers = await self._submit([job.spec(self._max_attempts) for job in jobs], key)
        except InputError as error:
            _log.warning("message set aside", key=key, why=str(error))
            await set_aside(str(error))
            self._metrics.intake.add(result="set-aside")
            return
        if not answers:
            _log.info("message came again", key=key)
            self._metrics.intake.add(result="known")
        for answer in answers:
            self._metrics.intake.add(result="taken" if answer.created else "known")
            _log.info("message taken", key=key, job=answer.id, created=answer.created)

    async def _submit(self, specs: list[JobSpec], key: str) -> list[Submitted]:
        while True:
            try:
                return await self._store.submit(specs, message=key)
            except JobStoreError as error:
                _log.warning("the job store does not take a message", key=key, error=str(error))
                await anyio.sleep(_PAUSE_SECONDS)

    def _read(self, content: bytes, key: str) -> list[PushJob]:
        if len(content) > _MOST_BYTES:
            raise InputError(f"a message has at most {_MOST_BYTES} bytes, this one {len(content)}")
        document = read_document(content, "message")
        if document == []:
            raise InputError("the message is an empty list of jobs")
        return read_each(document, partial(self._read_job, key))

    def _read_job(self, key: str, document: object, place: str) -> PushJob:
        job = read_job(document, self._defaults)
        self._allowed.admit(job)
        return job if job.key is not None else replace(job, key=f"{key}{place}")


class Draining(Protocol):
    """Tells when to take no more."""

    @property
    def draining(self) -> bool:
        """Whether no more jobs are to be taken in."""


async def take_in(
    url: IntakeUrl, taker: Taker, daemon: Draining, *, stranded_seconds: float = STRANDED_SECONDS
) -> None:
    """Take in messages until the daemon drains; comes back for as long as the broker is away."""
    from faststream.exceptions import FastStreamException  # noqa: PLC0415 - only who has a broker needs it

    errors: tuple[type[Exception], ...] = (OSError, FastStreamException, *_broker_errors(url.scheme))
    opened = _nats if url.scheme in {"nats", "tls"} else _redis
    while not daemon.draining:
        try:
            async with opened(url, taker, stranded_seconds) as lives:
                _log.info("taking in", broker=url.scheme, name=url.name)
                while lives() and not daemon.draining:  # noqa: ASYNC110 - it is the connection that is watched
                    await anyio.sleep(_PAUSE_SECONDS)
        except errors as error:
            _log.warning("the broker does not answer", broker=url.scheme, error=f"{type(error).__name__}: {error}")
        await anyio.sleep(_PAUSE_SECONDS)


def _broker_errors(scheme: str) -> tuple[type[Exception], ...]:
    if scheme in {"nats", "tls"}:
        from nats.errors import Error as NatsError  # noqa: PLC0415

        return (NatsError,)
    from redis.exceptions import RedisError  # noqa: PLC0415

    return (RedisError,)


@asynccontextmanager
async def _nats(url: IntakeUrl, taker: Taker, stranded_seconds: float) -> AsyncIterator[Callable[[], bool]]:
    """A durable pull consumer of the stream that has the subject; it is made where there is none."""
    from faststream import AckPolicy  # noqa: PLC0415
    from faststream.nats import JStream, NatsBroker, PullSub  # noqa: PLC0415
    from nats.js.api import ConsumerConfig  # noqa: PLC0415

    broker = NatsBroker(url.server, max_reconnect_attempts=-1, logger=_SILENT, apply_types=False)
    stream = JStream(_stream_name(url.name), declare=False)
    # A consumer that counts deliveries would strand a message; jobs count their own attempts.
    config = ConsumerConfig(ack_wait=stranded_seconds, max_deliver=-1, filter_subject=url.name)

    async def take(message: NatsMessage) -> None:
        async def set_aside(why: str) -> None:
            headers = {"Uploader-Refused": _one_line(why)}
            await broker.publish(message.body, f"{url.name}.refused", headers=headers, stream=stream.name)

        await taker.take(_came_by_nats(url, message), set_aside)
        await message.ack_sync()

    broker.subscriber(
        url.name,
        stream=stream,
        durable=GROUP,
        config=config,
        pull_sub=PullSub(batch_size=50, timeout=_PAUSE_SECONDS),
        ack_policy=AckPolicy.MANUAL,
        decoder=_whole,
    )(take)
    client = await broker.connect()
    async with _ending(client.close), _ending(broker.stop):
        await _have_stream(client.jetstream(), url.name)
        await broker.start()
        yield lambda: True  # it reconnects by itself


@asynccontextmanager
async def _ending(end: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Call `end` at the end, for a moment at most: libraries wait long, or for ever, when their broker is gone."""
    try:
        yield
    finally:
        with anyio.move_on_after(_STOP_SECONDS, shield=True):
            await end()


async def _have_stream(nats: JetStreamContext, subject: str) -> None:
    """Make the stream where there is none. Else its limits and replicas are its operator's, and stay.

    The library would declare it by setting everything that it was not told back to the server's defaults.
    """
    from nats.js.errors import NotFoundError  # noqa: PLC0415

    wanted = [subject, f"{subject}.refused"]
    try:
        config = (await nats.stream_info(_stream_name(subject))).config
    except NotFoundError:
        await nats.add_stream(name=_stream_name(subject), subjects=wanted)
        return
    known = config.subjects or []
    if missing := [one for one in wanted if one not in known]:
        config.subjects = [*known, *missing]
        await nats.update_stream(config)


@asynccontextmanager
async def _redis(url: IntakeUrl, taker: Taker, stranded_seconds: float) -> AsyncIterator[Callable[[], bool]]:
    """A consumer group of the stream: one subscriber takes what is new, one what others left lying."""
    from faststream import AckPolicy  # noqa: PLC0415
    from faststream.redis import RedisBroker, RedisMessage, StreamSub  # noqa: PLC0415
    from redis.exceptions import ResponseError  # noqa: PLC0415

    broker = RedisBroker(url.server, logger=_SILENT, apply_types=False)

    async def take(message: RedisMessage) -> None:
        (message_id,) = cast("list[bytes]", message.raw_message.get("message_ids"))
        came = Came.of("redis", url.name, message_id.decode(), message.body)

        async def set_aside(why: str) -> None:
            entry: dict[Any, Any] = {"job": bytes(message.body), "refused": _one_line(why).encode(), "id": message_id}
            await (await broker.connect()).xadd(f"{url.name}.refused", entry)

        await taker.take(came, set_aside)
        await message.ack()

    who = f"{GROUP}-{uuid.uuid4().hex}"
    stranded = int(stranded_seconds * 1000)
    for sub in (
        StreamSub(url.name, group=GROUP, consumer=who, max_records=50),
        StreamSub(url.name, group=GROUP, consumer=who, min_idle_time=stranded, polling_interval=1000),
    ):
        broker.subscriber(stream=sub, ack_policy=AckPolicy.MANUAL, parser=_field, decoder=_whole)(take)
    client = await broker.connect()
    # The library's own end leaves a connection open that still waits for messages.
    async with _ending(client.connection_pool.disconnect), _ending(broker.stop):
        with suppress(ResponseError):  # it is there; made by the library, it would pass over what is waiting already
            await client.xgroup_create(url.name, GROUP, id="0", mkstream=True)
        await broker.start()
        yield lambda: all(subscriber.running for subscriber in broker.subscribers)


async def _whole(message: object) -> object:
    """In place of decoding: messages are read here, since one that is no JSON must be set aside."""
    return message


async def _field(message: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], Awaitable[object]]) -> object:
    """An entry of a stream that FastStream did not write: its field `job`, or its only one."""
    fields: Mapping[bytes, bytes] = message["data"]
    if _LIBRARY_FIELD not in fields:
        only = next(iter(fields.values())) if len(fields) == 1 else b""
        message = {**message, "data": {_LIBRARY_FIELD: fields.get(b"job", only)}}
    return await parse(message)


def _came_by_nats(url: IntakeUrl, message: NatsMessage) -> Came:
    """Its place is the id that its sender gave it, who may send it twice, else that in the stream, and when."""
    given = (message.headers or {}).get("Nats-Msg-Id")
    told = message.raw_message.metadata
    return Came.of("nats", url.name, given or f"{told.sequence.stream}@{told.timestamp.isoformat()}", message.body)


def _stream_name(subject: str) -> str:
    """A stream's name may not have dots."""
    return subject.replace(".", "_")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
