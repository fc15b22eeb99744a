"""arq's queue in Redis, with a message that wakes the workers, which otherwise look once a second.

Nothing is lost if Redis is: due jobs are in PostgreSQL. A job in the queue only makes them start at once.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import Job, serialize_job
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mirror.core.rules.work.job import dumps, numbered

NAME: Final = default_queue_name
CHANNEL: Final = "everref:due"
LOOK_SECONDS: Final = 1.0  # between two looks at the queue when nothing was published
ANSWER_SECONDS: Final = 5.0  # for Redis to answer, after which it is away
AWAY_SECONDS: Final = 1.0  # before the next try at a Redis that is away

Waiting = Sequence[
    tuple[str, float]
]  # jobs that could begin, the oldest first: number, and its age in seconds

log = logging.getLogger("mirror.queue")


@dataclass(slots=True)
class Choice:
    """What happens to waiting jobs; those that are not named keep waiting."""

    begin: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)  # jobs whose work is already done
    again: float | None = None  # in how many seconds to look again; None: in LOOK_SECONDS


class Queue(ArqRedis):
    """arq's queue, for processes that add jobs."""

    @classmethod
    def at(cls, url: str, **options: Any) -> "Queue":
        """The queue at this address, connected to when it is first needed."""
        made: Queue = cls.from_url(url, **options)
        made.job_serializer, made.job_deserializer = dumps, json.loads
        return made

    async def enqueue_job(self, function: str, *args: Any, **options: Any) -> Job | None:
        """Add a job and wake the workers in one round trip; with options, exactly as arq does it."""
        if options:
            return await super().enqueue_job(function, *args, **options)
        number, now = numbered(uuid4().hex, *map(str, args)), round(time.time() * 1000)
        job = serialize_job(function, args, {}, None, now, serializer=self.job_serializer)
        async with self.pipeline(transaction=True) as together:
            together.psetex(job_key_prefix + number, self.expires_extra_ms, job)
            together.zadd(self.default_queue_name, {number: now})
            together.publish(CHANNEL, number)
            await together.execute()
        return Job(number, redis=self, _deserializer=self.job_deserializer)


class NoQueue:
    """In place of a queue where there is no Redis: nobody is told, and workers look for what is due."""

    def __init__(self) -> None:
        self.choose: Callable[[Waiting], Choice] = _all

    async def enqueue_job(self, function: str, *args: Any) -> None:
        """Tell nobody."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def lives(self) -> bool:
        """Never, so that a worker does what is periodical by its own clock."""
        return False

    def wake(self) -> None:
        """There is nothing to look at."""

    async def listen(self) -> None:
        """Hear nothing, until cancelled."""
        await asyncio.Event().wait()


class WorkerQueue(Queue):
    """arq's queue, for a worker that reads it.

    arq asks for waiting jobs every few milliseconds. Here such a request waits until
    something is published, a slot becomes free, or LOOK_SECONDS pass. A Redis
    outage makes it wait longer, whereas arq alone would end the worker.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.choose: Callable[[Waiting], Choice] = _all
        self._lives = False
        self._url = ""
        self._due = asyncio.Event()
        self._due.set()
        self._wait = LOOK_SECONDS

    @classmethod
    def at(cls, url: str, **options: Any) -> "WorkerQueue":
        """The queue at this address, connected to when it is first needed."""
        made = super().at(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(ConstantBackoff(AWAY_SECONDS), -1),
            retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
            **options,
        )
        assert isinstance(made, WorkerQueue)
        made._url = url
        return made

    def lives(self) -> bool:
        """Whether Redis answered the last request, a few seconds ago at most."""
        return self._lives

    def wake(self) -> None:
        """Look at the queue now."""
        self._due.set()

    async def zrangebyscore(  # type: ignore[override]
        self, name: str, min: Any, max: Any, start: int | None = None, num: int | None = None, **_: Any
    ) -> list[bytes]:
        """The jobs that may start here now: arq reads its queue with this command.

        `max` is what the time was when arq asked, in milliseconds; what came meanwhile is due as well.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                await self._due.wait()
        self._due.clear()
        now = time.time()
        due = round(now * 1000)
        found: list[Any] = await super().zrangebyscore(name, min, due, start, num, withscores=True)
        waiting = [(number.decode(errors="replace"), now - score / 1000) for number, score in found]
        choice = self.choose(waiting)
        self._wait = LOOK_SECONDS if choice.again is None else choice.again
        if choice.drop:
            async with self.pipeline(transaction=True) as together:
                together.zrem(name, *choice.drop)
                together.delete(*(job_key_prefix + number for number in choice.drop))
                await together.execute()
            self.wake()  # there may be more of them
        return [number.encode() for number in choice.begin]

    async def listen(self) -> None:
        """Listen for published messages, and track whether Redis answers, until cancelled."""
        told = False
        while True:
            try:
                async with Queue.at(self._url, socket_connect_timeout=ANSWER_SECONDS) as redis:
                    async for _ in _published(redis):
                        if told:
                            log.warning("Redis answers again")
                        self._lives, told = True, False
                        self.wake()
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                if not told:
                    why = type(error).__name__
                    log.warning("Redis does not answer (%s); until then workers poll PostgreSQL", why)
                self._lives, told = False, True
            await asyncio.sleep(AWAY_SECONDS)


async def _published(redis: Queue) -> Any:
    """Yields when listening has started, at each message, and every few seconds while Redis answers."""
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANNEL)
        while True:
            async with asyncio.timeout(ANSWER_SECONDS):
                await redis.ping()
            yield None
            while await channel.get_message(timeout=ANSWER_SECONDS):
                yield None


def _all(waiting: Waiting) -> Choice:
    return Choice([number for number, _ in waiting])
