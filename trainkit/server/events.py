"""A job as server-sent events: a page follows it without polling.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from tornado.iostream import StreamClosedError

from trainkit.errors import RecordError, UnknownJobError
from trainkit.server.http import Handler, guarded, read, to_json
from trainkit.server.messages import EndEvent, JobRequest
from trainkit.server.problems import RefusedError
from trainkit.server.streams import Cursor, Follower

#: Seconds between two looks at the files, and between two signs of life while nothing happens.
LOOK_S, SIGN_OF_LIFE_S = 0.2, 15.0
#: How many pages may follow at once.
MAX_FOLLOWERS = 100


class EventsHandler(Handler):
    """Streams the events `status`, `metrics`, `events`, `logs`, and `end` when the job is over."""

    followers = 0

    def initialize(self) -> None:
        """Nobody has left yet."""
        self._left = asyncio.Event()

    def on_connection_close(self) -> None:
        """Note that the page has gone."""
        self._left.set()
        super().on_connection_close()

    async def respond(self) -> None:
        """Send what happens until the job is over or the page has gone."""
        request = read(JobRequest, self.query(), status=400)
        cursor = Cursor.from_text(self.request.headers.get("Last-Event-ID", ""))
        follower = await self.in_lane("look", Follower, self.site, request, cursor)
        if cursor != Cursor() and await self.in_lane("look", lambda: follower.at_end):
            self.set_status(204)  # a page that comes back after the end is told not to come again
            await self.finish()
            return
        if EventsHandler.followers >= MAX_FOLLOWERS:
            raise RefusedError(429, f"{MAX_FOLLOWERS} pages follow jobs on this server already", type="TooMany")
        EventsHandler.followers += 1
        try:
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Accel-Buffering", "no")
            # The page has gone, or the server ends: nobody is left to be told.
            with contextlib.suppress(StreamClosedError, RefusedError):
                await self._follow(follower)
        finally:
            EventsHandler.followers -= 1

    async def _follow(self, follower: Follower) -> None:
        def news() -> list[bytes]:
            try:
                return [_event(name, to_json(answer), follower.cursor) for name, answer in follower.news()]
            except (UnknownJobError, RecordError):
                follower.over = True
                return [_event("end", to_json(EndEvent(status=None)), follower.cursor)]

        said_at = time.monotonic()
        while not (follower.over or self._left.is_set() or self.closing.is_set()):
            pieces = await self.in_lane("look", news)
            if not pieces and time.monotonic() - said_at > SIGN_OF_LIFE_S:
                pieces = [b": still here\n\n"]
            for piece in pieces:
                self.write(piece)
                await self.flush()  # waits for a slow page, so that nothing piles up
                said_at = time.monotonic()
            if not pieces:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._left.wait(), LOOK_S)
        await self.finish()

    get = guarded(respond)


def _event(name: str, data: bytes, cursor: Cursor) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(cursor).encode(), name.encode(), data)
