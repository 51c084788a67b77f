"""The routes as an OpenAPI 3.1 description, from the same declarations that the server registers.

The doors of OTLP, whose bodies and errors have shapes of their own, are `openapi_otlp.py`'s part.
"""

import re
from importlib.metadata import version
from typing import Any, get_origin

import msgspec
from msgspec import Struct

from nexrl.records import Float32s, Int32s
from nexrl_ingest.api import openapi_otlp
from nexrl_ingest.api.bodies import JSON, MESSAGEPACK
from nexrl_ingest.api.route import Route
from nexrl_ingest.refusals import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

REFUSALS: tuple[type[RefusedError], ...] = (
    RefusedError,
    UnauthenticatedError,
    ForbiddenError,
    NotFoundError,
    ConflictError,
    TooLargeError,
    UnsupportedError,
    UnavailableError,
)
_PART = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{name}"
_REPLIES = {"json": JSON, "packed": MESSAGEPACK, "events": "text/event-stream", "text": "text/plain"}


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a request was refused: the thing, the value and the remedy."""

    message: str
    type: str


class Error(Struct, frozen=True, kw_only=True):
    error: Refusal


def description(routes: list[Route]) -> dict[str, Any]:
    """Return the OpenAPI document."""
    types = [kind for route in routes for kind in (route.body, route.reply, route.query) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, Error], schema_hook=_packed, ref_template=_REF)
    known = {_id(kind): schema for kind, schema in zip([*types, Error], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "NexRL ingest",
            "version": version("nexrl"),
            "description": "Captured sessions, rewards, and leased groups of trajectories.",
        },
        "paths": openapi_otlp.paths() | paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`nexrl key --help`"}},
        },
    }


def _operation(route: Route, known: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
        "responses": _responses(route, known),
    }
    if route.allow:
        operation["security"] = [{"key": []}]
        operation["description"] = f"Keys let in: {', '.join(sorted(route.allow))}."
    if route.body is not None:
        schema = known[_id(route.body)]
        content = {kind: {"schema": schema} for kind in (JSON, MESSAGEPACK)}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PART.findall(route.path)
    ]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    """Describe a query's fields; a parameter that may be left out has no null to send."""
    properties = components[route.query.__name__].get("properties", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": _not_null(schema)}
        for name, schema in properties.items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    options = [option for option in kept.get("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        return {key: value for key, value in kept.items() if key != "anyOf"} | options[0]
    if None in kept.get("enum", []):
        return kept | {"enum": [value for value in kept["enum"] if value is not None]}
    return kept


def _responses(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    refused = {"application/json": {"schema": known[_id(Error)]}}
    answered = {"description": "As asked.", "content": {_REPLIES[route.format]: {"schema": known[_id(route.reply)]}}}
    refusals = {
        str(error.status): {"description": f"`{error.type}`", "content": refused}
        for error in REFUSALS
        if route.allow or error in {RefusedError, UnavailableError}
    }
    return {"200": answered, **refusals}


def _id(kind: Any) -> str:
    return repr(kind) if get_origin(kind) else f"{kind.__module__}.{kind.__qualname__}"


def _packed(kind: type) -> dict[str, Any]:
    """Describe packed arrays: bytes in MessagePack, plain numbers in JSON."""
    if kind in {Int32s, Float32s}:
        number = "integer" if kind is Int32s else "number"
        return {"type": ["string", "array"], "items": {"type": number}, "description": "packed, little-endian"}
    raise NotImplementedError(kind)
