"""Between HTTP and the resources: who may ask, how a request is read, on which thread it is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from trainkit.errors import did_you_mean
from trainkit.files.paths import check_job_id
from trainkit.files.plain import to_plain
from trainkit.server.messages import Answer, ProblemAnswer, Reply
from trainkit.server.problems import RefusedError, refused, type_of
from trainkit.server.site import Site

#: Bodies are refused above this size ...
MAX_BODY_BYTES = 64 * 1024
#: ... after they were read and thrown away up to this one, so that a client that sends before it listens sees why.
_DRAINED_BODY_BYTES = 8 * 1024 * 1024
#: What the server itself, or a page that wants no cached answer, puts into the query.
_FOREIGN_ARGUMENTS = ("token", "_xsrf", "no_track_activity")
RESOURCE = "trainkit"
#: Where the handlers find the site, the threads by lane, and the event that says that the server ends.
SITE, LANES, CLOSING = "trainkit_site", "trainkit_lanes", "trainkit_closing"


class Route(NamedTuple):
    """One method of one path.

    ``path`` is relative to the server's base URL; ``{job_id}`` in it stands for a job's id.  ``respond`` runs
    in the ``lane`` of that name, off the event loop.
    """

    method: str
    path: str
    respond: Callable[[Site, Any], Answer | Reply]
    request: type[msgspec.Struct]
    answer: type[Answer]
    statuses: tuple[int, ...] = (200,)
    lane: str = "look"
    explain: Callable[[Mapping[str, Any]], object] = lambda fields: None

    @property
    def summary(self) -> str:
        """What the route does: the first line of what its function says of itself."""
        return (self.respond.__doc__ or "").partition("\n")[0]

    @property
    def takes_body(self) -> bool:
        """Whether what is asked comes as JSON in the body, rather than in the address."""
        return self.method == "POST"


def to_json(answer: msgspec.Struct) -> bytes:
    """Return an answer as strict JSON."""
    return msgspec.json.encode(to_plain(msgspec.to_builtins(answer)))


@web.stream_request_body
class Handler(APIHandler):
    """Authenticates, bounds the body before it is read, and answers errors in our words."""

    auth_resource = RESOURCE
    #: What can be done here, besides OPTIONS.
    methods: tuple[str, ...] = ("GET",)

    @property
    def site(self) -> Site:
        """What the functions behind the routes know of the server."""
        site: Site = self.settings[SITE]
        return site

    @property
    def closing(self) -> threading.Event:
        """Set when the server ends."""
        closing: threading.Event = self.settings[CLOSING]
        return closing

    async def prepare(self) -> None:  # type: ignore[override]  # as in APIHandler
        """Refuse who may not ask, and what is too large, before the body is read."""
        self._body = bytearray()
        self._received = 0
        await super().prepare()
        method = getattr(self, (self.request.method or "").lower(), None)
        if self.current_user is None and not getattr(method, "__allow_unauthenticated", False):
            raise web.HTTPError(403)
        if int(self.request.headers.get("Content-Length", "0")) > _DRAINED_BODY_BYTES:
            raise _too_large()

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or throw it away once there is too much."""
        self._received += len(chunk)
        if self._received <= MAX_BODY_BYTES:
            self._body += chunk
        elif self._received > _DRAINED_BODY_BYTES and not self._finished:
            self._refuse(_too_large())

    async def in_lane(self, lane: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what may wait for a disk off the event loop.

        Raises:
            RefusedError: 503, the server ends.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.settings[LANES][lane], function, *arguments
            )
        except (asyncio.CancelledError, RuntimeError):  # what a lane that was shut down says
            if not self.closing.is_set():
                raise
            raise RefusedError(503, "the server is about to end") from None

    def query(self) -> dict[str, str]:
        """Return the arguments of the address.

        Raises:
            RefusedError: one is given twice, or is not UTF-8.
        """
        fields = {}
        for name, values in self.request.query_arguments.items():
            if name in _FOREIGN_ARGUMENTS or (name.isdigit() and values == [b""]):
                continue
            if len(values) > 1:
                raise RefusedError(400, f"{name!r:.80} is given {len(values)} times in the address")
            try:
                fields[name] = values[0].decode("utf-8")
            except UnicodeDecodeError:
                raise RefusedError(400, f"{name!r:.80} is not UTF-8") from None
        return fields

    def json(self) -> dict[str, Any]:
        """Return the body.

        Raises:
            RefusedError: it is too large, not JSON, or not an object.
        """
        if self._received > MAX_BODY_BYTES:
            raise _too_large()
        try:
            fields = msgspec.json.decode(bytes(self._body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RefusedError(400, f"the body is not JSON: {error}", type="NotJSON") from None
        if not isinstance(fields, dict):
            raise RefusedError(400, "the body is not a JSON object, such as {}", type="NotJSON")
        return fields

    def answer(self, answer: msgspec.Struct, status: int, headers: Mapping[str, str]) -> None:
        """Send an answer."""
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")
        self.finish(to_json(answer))

    def _refuse(self, error: RefusedError) -> None:
        if error.status == 429:
            self.set_header("Retry-After", "5")
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods))
        self.answer(ProblemAnswer(error=error.problem), error.status, {})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error that the server, or nobody, has foreseen; its traceback is in the log only."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, RefusedError):
            self._refuse(error)
            return
        message: str | None
        if isinstance(error, web.HTTPError):
            message = error.log_message % error.args if error.log_message and error.args else error.log_message
        else:
            message = "something unforeseen happened; the server's log tells more"
        self._refuse(RefusedError(status_code, message or _WORDS.get(status_code) or type_of(status_code)))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is worth it: a refusal is the client's business."""
        if not isinstance(value, RefusedError):
            super().log_exception(typ, value, tb)


_WORDS = {
    405: "not with this method",
    403: "not allowed: the server's token, or its login cookie with the XSRF token, is missing or wrong",
    404: "there is nothing at this address; /api/train/openapi.json lists what there is",
}


def _too_large() -> RefusedError:
    return RefusedError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")


def guarded(method: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    """Let only those in whom the server knows, and who may read (GET) or write (the rest)."""
    guarded_method: Callable[..., Any] = web.authenticated(authorized(resource=RESOURCE)(refusing(method)))
    return guarded_method


def refusing(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Answer the errors that a client has caused."""

    async def respond(self: Handler, *path: str) -> None:
        try:
            await method(self, *path)
        except Exception as error:
            answer = refused(error, in_body=self.request.method == "POST")
            if answer is None:
                raise
            self._refuse(answer)

    return respond


class RouteHandler(Handler):
    """Answers the methods of one path."""

    def initialize(self, routes: Mapping[str, Route]) -> None:
        """Take the routes of this path, by method."""
        self.routes = routes
        self.methods = tuple(routes)

    async def respond(self, *path: str) -> None:
        """Read the request, have it answered off the event loop, and send the answer."""
        route = self.routes.get(self.request.method or "")
        if route is None:
            allowed = ", ".join(self.methods)
            raise RefusedError(405, f"{self.request.method} is not possible here; allowed: {allowed}")
        fields: dict[str, Any] = self.json() if route.takes_body else self.query()
        if path:
            fields = {**fields, "job_id": path[0]}
        status = 422 if route.takes_body else 400
        request = read(route.request, fields, status=status, explain=route.explain)

        def respond() -> tuple[bytes, Reply]:
            result = route.respond(self.site, request)
            reply = result if isinstance(result, Reply) else Reply(result, route.statuses[0], {})
            return to_json(reply.answer), reply

        data, reply = await self.in_lane(route.lane, respond)
        self.set_status(reply.status)
        for name, value in reply.headers.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")
        self.finish(data)

    get = post = delete = put = patch = head = guarded(respond)


def read(
    kind: type[msgspec.Struct],
    fields: Mapping[str, Any],
    *,
    status: int,
    explain: Callable[[Mapping[str, Any]], object] = lambda fields: None,
) -> Any:
    """Make a request of loose fields.

    Args:
        kind: the request.
        fields: from a body (422 where they are wrong), or texts from the address (400).
        status: which of both.
        explain: raises an error that says better what is wrong, if it can.

    Raises:
        RefusedError: a field is unknown.
        JobIdError: not a job id.
        msgspec.ValidationError: a field has a value that is not allowed.
    """
    known = [field.name for field in msgspec.structs.fields(kind)]
    for name in fields:
        if name not in known:
            hint = did_you_mean(name[:80], known) or "."
            raise RefusedError(status, f"unknown field {name!r:.80}{hint} Fields: {', '.join(sorted(known))}")
    in_address = status == 400
    try:
        request = msgspec.convert(fields, kind, strict=not in_address)
    except msgspec.ValidationError:
        # These say it better than a schema can.
        if isinstance(fields.get("job_id"), str):
            check_job_id(fields["job_id"])
        explain(fields)
        raise
    for name in fields if in_address else ():
        if getattr(request, name) is None:  # lax conversion takes the text "null" for None
            raise RefusedError(400, f"{name}={fields[name]!r:.80} is not allowed; leave it out instead")
    return request


class HealthHandler(Handler):
    """Answers anybody."""

    def initialize(self, respond: Callable[[], Answer]) -> None:
        """Take what to answer."""
        self.respond = respond

    @allow_unauthenticated
    async def get(self) -> None:
        """Say that the server is there."""
        self.answer(self.respond(), 200, {})


class DocumentHandler(Handler):
    """Answers with the OpenAPI document."""

    def initialize(self, document: Mapping[str, Any]) -> None:
        """Take the document."""
        self.document = document

    async def respond(self) -> None:
        """Send the document."""
        await self.finish(msgspec.json.encode(self.document))

    get = guarded(respond)


class UnknownHandler(Handler):
    """Answers, below our path, what we do not have."""

    async def respond(self, *path: str) -> None:
        """Say that there is nothing."""
        raise RefusedError(404, _WORDS[404])

    get = post = delete = put = patch = head = guarded(respond)


def handlers(routes: list[Route]) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return what the server needs to answer the routes, their paths below its base URL."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    # The id is whatever is there: it is decoded after the match, and looked at then.
    return [
        (path.replace("{job_id}", "([^/]*)"), RouteHandler, {"routes": methods})
        for path, methods in by_path.items()
    ]
