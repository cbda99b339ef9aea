"""The OpenAPI document, made from the routes and from the same definitions that validate the requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

import trainkit
from trainkit.files.plain import allow_non_finite, clean_descriptions
from trainkit.files.record import Record
from trainkit.server.http import Route
from trainkit.server.messages import HealthAnswer, JobRequest, ProblemAnswer

_TEMPLATE = "#/components/schemas/{name}"
#: What an answer may hold that is not a finite number.
_WITH_NUMBERS = ("Record", "Best", "Throughput")
#: The errors of every route.
_PROBLEMS = {
    400: "The address or the JSON cannot be read.",
    403: "The token, the login or the XSRF token is missing or wrong; or a path leads out of the root.",
    404: "There is no such job, or no such folder.",
    405: "Not with this method.",
    409: "Not in the state in which the job is.",
    413: "The body is too large.",
    422: "A value in the JSON is not allowed.",
    429: "Too many jobs run or wait.",
    503: "The job's files are locked by somebody; try again.",
    507: "The disk is full.",
}


def document(base_url: str, routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document.

    Args:
        base_url: the server's, as in ``/user/ann/``.
        routes: all of them.
    """
    routes = list(routes)
    kinds = [*{kind for route in routes for kind in (route.request, route.answer)}, HealthAnswer, ProblemAnswer]
    _, schemas = msgspec.json.schema_components([*kinds, JobRequest, Record], ref_template=_TEMPLATE)
    schemas.update({name: allow_non_finite(schemas[name]) for name in _WITH_NUMBERS})
    schemas = clean_descriptions(schemas)
    paths: dict[str, Any] = {"/health": {"get": _health()}, "/api/train/events": {"get": _events(schemas)}}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trainkit",
            "version": trainkit.__version__,
            "description": 'Train, watch and steer jobs. Numbers that are not finite are "NaN", "Infinity" and '
            '"-Infinity".',
        },
        "servers": [{"url": base_url.rstrip("/") or "/"}],
        "security": [{"token": []}, {"tokenInAddress": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token` and the server's token",
                },
                "tokenInAddress": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method} {route.path}",
        "summary": route.summary,
        "responses": {
            **{str(status): _json("Done.", route.answer.__name__) for status in route.statuses},
            **_problems(_PROBLEMS),
        },
    }
    if route.takes_body:
        operation["requestBody"] = {"required": True, **_content(route.request.__name__)}
    else:
        operation["parameters"] = _parameters(route.request, route.path, schemas)
    return operation


def _parameters(request: type[msgspec.Struct], path: str, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    schema = schemas[request.__name__]
    return [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in path else "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(one),
        }
        for name, one in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An address cannot say null: there, leaving out is what null is in JSON."""
    if "anyOf" not in schema:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    variants = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return {**rest, **variants[0]} if len(variants) == 1 else {**rest, "anyOf": variants}


def _events(schemas: dict[str, Any]) -> dict[str, Any]:
    stream = {"description": "Events, until the job is over.", "content": {"text/event-stream": {}}}
    return {
        "operationId": "GET /api/train/events",
        "summary": "Follow a job as server-sent events: status, metrics, events, logs, and end.",
        "parameters": _parameters(JobRequest, "/api/train/events", schemas),
        "responses": {
            "200": stream,
            "204": {"description": "The job is over, and all was sent before."},
            **_problems(_PROBLEMS),
        },
    }


def _health() -> dict[str, Any]:
    return {
        "operationId": "GET /health",
        "summary": "Whether the server is there; needs no token.",
        "security": [],
        "responses": {"200": _json("It is.", "HealthAnswer"), **_problems({405: _PROBLEMS[405]})},
    }


def _problems(problems: dict[int, str]) -> dict[str, Any]:
    return {str(status): _json(words, "ProblemAnswer") for status, words in problems.items()}


def _json(description: str, name: str) -> dict[str, Any]:
    return {"description": description, **_content(name)}


def _content(name: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": _TEMPLATE.format(name=name)}}}}
