"""Bodies of requests and replies: read within bounds, decoded strictly, written as JSON or as MessagePack with zstd.

A body says with its Content-Type whether it is JSON or MessagePack; without one it is what its route takes by default.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_origin

import msgspec
import zstandard
from aiohttp import web

from nexrl.records import Float32s, Int32s, decode, encode, unpack_float32s, unpack_int32s
from nexrl_ingest.otlp.packing import decompress
from nexrl_ingest.refusals import RefusedError, TooLargeError

T = TypeVar("T")
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a request's body, before and after decompression."""
JSON, MESSAGEPACK = "application/json", "application/msgpack"


async def received(request: web.Request) -> bytes:
    """Return the body as it was sent; raises TooLargeError before more than the bound is held."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is larger than {MAX_BODY_BYTES} bytes: send less at a time")
    return bytes(body)


async def read(request: web.Request) -> bytes:
    """Return the body, decompressed; raises TooLargeError before more than the bound is held."""
    encoding = request.headers.get("Content-Encoding", "")
    return await asyncio.to_thread(decompress, await received(request), encoding, MAX_BODY_BYTES)


async def record(request: web.Request, kind: type[T], default: str) -> T:
    """Return the body as a record of this kind; raises RefusedError where it is none."""
    body = await read(request)
    written = request.content_type if request.content_type in {JSON, MESSAGEPACK} else default
    try:
        if written == JSON:
            return msgspec.json.decode(body, type=kind, dec_hook=_numbers)
        return decode(body, kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError) as error:
        name = "JSON" if written == JSON else "MessagePack"
        raise RefusedError(f"the body is no {kind.__name__} in {name}: {error}") from error


def query(request: web.Request, kind: type[T]) -> T:
    """Return the query's parameters; raises RefusedError for an unknown one, a wrong type or a value out of bounds."""
    given: Mapping[str, Any] = {
        field.encode_name: request.query.getall(field.encode_name)
        if _repeats(field.type)
        else request.query[field.encode_name]
        for field in msgspec.structs.fields(kind)  # pyright: ignore[reportArgumentType]
        if field.encode_name in request.query
    }
    if unknown := sorted(set(request.query) - set(given)):
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))  # pyright: ignore[reportArgumentType]
        raise RefusedError(f"query parameter {unknown[0][:80]!r} is unknown here; there are: {known or 'none'}")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RefusedError(f"the query is wrong: {error}") from error


def _repeats(kind: Any) -> bool:
    """Whether a parameter may be given more than once."""
    return get_origin(kind.__origin__ if get_origin(kind) is Annotated else kind) is list


def json_reply(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value, enc_hook=_lists), content_type=JSON)


async def packed_reply(value: Any) -> web.Response:
    """Return exact records: MessagePack, zstd."""
    # A large reply takes a while to encode, and others are served meanwhile.
    body = await asyncio.to_thread(lambda: zstandard.ZstdCompressor(level=1).compress(encode(value)))
    return web.Response(body=body, content_type=MESSAGEPACK, headers={"Content-Encoding": "zstd"})


def _lists(value: Any) -> Any:
    if isinstance(value, Int32s | Float32s):
        return list(value)
    raise NotImplementedError(f"a {type(value).__name__} cannot be written as JSON")


def _numbers(kind: type, value: Any) -> Any:
    if kind is Int32s:
        return Int32s(value) if isinstance(value, list) else unpack_int32s(value)
    if kind is Float32s:
        return Float32s(value) if isinstance(value, list) else unpack_float32s(value)
    raise NotImplementedError(f"a {kind.__name__} cannot be part of a record")
