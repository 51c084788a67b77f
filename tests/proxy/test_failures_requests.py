"""Requests that are wrong: refused in their dialect's shape, never sampled for, never a burden to others."""

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import zstandard
from aiohttp import web
from failure_clients import DIALECTS, Dialect
from failure_world import Deployment, Service, key_of, new_attempt
from proxy_world import ADMIN, served

from nexrl_proxy.app import errors_as_answers
from nexrl_proxy.attribution import UNATTRIBUTED

pytest_plugins = ["failure_fixtures"]
DEEP = "[" * 100_000 + "]" * 100_000
MEGABYTE = 2**20


def body_of(dialect: Dialect, **more: Any) -> str:
    return json.dumps({**dialect.request, **more})


def with_raw(dialect: Dialect, name: str, raw: str) -> bytes:
    """Return a request with a field as it could not be encoded."""
    return (body_of(dialect)[:-1] + f', "{name}": {raw}}}').encode()


def said(dialect: Dialect, raw: bytes) -> bytes:
    """Return a request in which the user says these very bytes."""
    return body_of(dialect).encode().replace(b"hello", raw)


MALFORMED = {
    "nothing": lambda _: b"",
    "cut off": lambda dialect: body_of(dialect)[:-5].encode(),
    "not an object": lambda _: b"[]",
    "bytes that are not UTF-8": lambda dialect: said(dialect, b"h\xff\xfe"),
    "UTF-16": lambda dialect: body_of(dialect).encode("utf-16"),
    "a lone surrogate": lambda dialect: said(dialect, b"\\ud800 x"),
    "swapped surrogates": lambda dialect: said(dialect, b"\\udc00\\ud800"),
    "an encoded surrogate": lambda dialect: said(dialect, b"\xed\xa0\x80"),
    "NaN": lambda dialect: with_raw(dialect, "temperature", "NaN"),
    "Infinity": lambda dialect: with_raw(dialect, "temperature", "Infinity"),
    "more than a float holds": lambda dialect: with_raw(dialect, "top_p", "1e999"),
    "100,000 brackets": lambda _: DEEP.encode(),
    "100,000 brackets in the text": lambda dialect: said(dialect, b"x").replace(b'"x"', DEEP.encode()),
    "100,000 brackets in what is ignored": lambda dialect: with_raw(dialect, "metadata", '{"a": ' + DEEP + "}"),
    "a tool of bytes that are not UTF-8": lambda dialect: with_raw(dialect, "tools", '[{"name": "@"}]').replace(
        b"@", b"\xff"
    ),
}  # fmt: skip


async def post(
    service: Service, path: str, body: Any, headers: Mapping[str, Any], method: str = "POST"
) -> tuple[int, dict[str, Any]]:
    """Return status and body of an answer, which must be JSON."""
    async with (
        aiohttp.ClientSession(headers={"content-type": "application/json"}) as http,
        http.request(
            method, service.url + path, data=io.BytesIO(body) if isinstance(body, bytes) else body, headers=headers
        ) as reply,
    ):
        return reply.status, json.loads(await reply.read())


def keyed(attempt: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key_of(attempt)}", **more}


@pytest.mark.parametrize("malformed", MALFORMED)
@pytest.mark.parametrize("name", DIALECTS)
async def test_a_malformed_request_is_a_400_in_its_dialects_shape(deployment, name, malformed):
    dialect, mark, attempt = DIALECTS[name], deployment.mark(), new_attempt()
    status, body = await post(deployment.proxy, dialect.path, MALFORMED[malformed](dialect), keyed(attempt))
    assert status == 400, body
    assert dialect.described(body)["message"]
    assert deployment.mark() == mark


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_body_of_50_mb_is_a_413_that_takes_no_memory(deployment, name):
    dialect, attempt = DIALECTS[name], new_attempt()
    huge = body_of(dialect).encode() + b" " * (50 * MEGABYTE)
    before = deployment.proxy.resident()
    answers = await asyncio.gather(*(post(deployment.proxy, dialect.path, huge, keyed(attempt)) for _ in range(3)))
    for status, body in answers:
        assert status == 413
        assert "--max-body-mb" in dialect.described(body)["message"]
    assert deployment.proxy.resident() - before < 20 * MEGABYTE


@pytest.mark.parametrize("name", ["chat", "messages"])
async def test_the_official_clients_raise_the_413(deployment, name):
    dialect = DIALECTS[name]
    async with dialect.client(deployment.proxy.url, key_of(new_attempt())) as client:
        huge = [{"role": "user", "content": "a" * (50 * MEGABYTE)}]
        with pytest.raises(dialect.sdk.APIStatusError, match="larger than 32 MiB") as raised:
            await dialect.create(client)(**{**dialect.request, "messages": huge})
    assert raised.value.status_code == 413


async def test_a_body_sent_in_chunks_is_read_and_a_huge_one_refused(deployment):
    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield body_of(chat).encode()
        for _ in range(size // MEGABYTE):
            yield b" " * MEGABYTE

    chat, attempt = DIALECTS["chat"], new_attempt()
    status, _ = await post(deployment.proxy, chat.path, chunks(0), keyed(attempt))
    assert status == 200
    assert len(await deployment.kept(attempt)) == 1
    status, body = await post(deployment.proxy, chat.path, chunks(40 * MEGABYTE), keyed(attempt))
    assert status == 413, chat.described(body)


async def test_a_packed_body_is_unpacked_only_as_far_as_the_limit_allows(deployment):
    chat, attempt = DIALECTS["chat"], new_attempt()
    headers = keyed(attempt, **{"content-encoding": "gzip"})
    status, _ = await post(deployment.proxy, chat.path, gzip.compress(body_of(chat).encode()), headers)
    assert status == 200
    bomb = gzip.compress(b" " * (200 * MEGABYTE), 1)
    before = deployment.proxy.resident()
    status, body = await post(deployment.proxy, chat.path, bomb, headers)
    assert status == 413, chat.described(body)
    assert deployment.proxy.resident() - before < 100 * MEGABYTE


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [("gzip", b"not packed", 400), ("gzip", gzip.compress(b"{}" * 50)[:-9], 400), ("deflate", b"{}", 400),
     ("zstd", b"not packed", 400), ("br", b"{}", 415)],
)  # fmt: skip
async def test_a_body_that_cannot_be_unpacked_is_refused(deployment, encoding, body, status):
    chat = DIALECTS["chat"]
    got, told = await post(deployment.proxy, chat.path, body, keyed(new_attempt(), **{"content-encoding": encoding}))
    assert got == status
    assert f"content-encoding '{encoding}'" in chat.described(told)["message"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress)]
)
async def test_bodies_are_unpacked(deployment, encoding, pack):
    headers = keyed(new_attempt(), **{"content-encoding": encoding})
    chat = DIALECTS["chat"]
    status, _ = await post(deployment.proxy, chat.path, pack(body_of(chat).encode()), headers)
    assert status == 200


@pytest.mark.parametrize("name", DIALECTS)
async def test_the_content_type_does_not_matter(deployment, name):
    dialect, attempt = DIALECTS[name], new_attempt()
    headers = keyed(attempt, **{"content-type": "application/x-www-form-urlencoded"})
    status, _ = await post(deployment.proxy, dialect.path, body_of(dialect), headers)
    assert status == 200


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_wrong_method_is_a_405_in_the_dialects_shape(deployment, name, method):
    dialect = DIALECTS[name]
    status, body = await post(deployment.proxy, dialect.path, None, keyed(new_attempt()), method)
    assert status == 405
    assert f"{method} {dialect.path}" in dialect.described(body)["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/", "/s/a-1/v1/files", "/v1/%FF", "/v2/chat/completions"])
async def test_an_unknown_path_is_a_404_that_names_it(deployment, path):
    status, body = await post(deployment.proxy, path, b"{}", keyed(new_attempt()))
    assert status == 404
    assert DIALECTS["chat"].described(body)["message"].startswith("POST /")


def forged(attempt: str) -> str:
    return key_of(attempt)[:-1] + ("a" if key_of(attempt)[-1] != "a" else "b")


@pytest.mark.parametrize("name", DIALECTS)
async def test_keys_open_what_they_are_for_and_nothing_else(deployment, name):
    dialect, mine, other = DIALECTS[name], new_attempt(), new_attempt()

    async def refused(key: str, path: str = dialect.path, **headers: str) -> int:
        status, body = await post(
            deployment.proxy, path, body_of(dialect), {"authorization": f"Bearer {key}", **headers}
        )
        assert dialect.described(body)["message"]
        return status

    mark = deployment.mark()
    assert await refused(forged(mine)) == 401
    assert await refused("nxr-") == 401
    assert await refused(key_of(mine), f"/s/{other}{dialect.path}") == 403
    assert await refused(key_of(mine), **{"x-nexrl-session": other}) == 403
    assert await refused(key_of(mine), **{"x-api-key": key_of(other)}) == 403
    assert await refused(ADMIN) == 403  # an agent that holds it shall not find that it works
    assert deployment.mark() == mark
    async with dialect.client(deployment.proxy.url, forged(mine)) as client:
        with pytest.raises(dialect.sdk.AuthenticationError):
            await dialect.create(client)(**dialect.request)


async def test_the_admin_key_speaks_for_an_attempt_only_where_it_names_one(deployment):
    chat, attempt = DIALECTS["chat"], new_attempt()
    headers = {"authorization": f"Bearer {ADMIN}"}
    status, body = await post(deployment.proxy, chat.path, body_of(chat), headers)
    assert status == 403
    assert "nexrl key ATTEMPT" in chat.described(body)["message"]
    assert ADMIN not in json.dumps(body)
    status, _ = await post(deployment.proxy, f"/s/{attempt}{chat.path}", body_of(chat), headers)
    assert status == 200
    assert len(await deployment.kept(attempt)) == 1


async def raw(deployment: Deployment, path: bytes, *headers: bytes) -> bytes:
    """Send bytes that no client library would; returns the status line."""
    body = body_of(DIALECTS["chat"]).encode()
    head = [b"POST " + path + b" HTTP/1.1", b"host: x", b"connection: close", b"content-length: %d" % len(body)]
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.proxy.port)
    writer.write(b"\r\n".join([*head, *headers, b"", body]))
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer.partition(b"\r\n")[0]


async def test_headers_and_paths_of_any_bytes_are_answered(deployment):
    chat, key = b"/v1/chat/completions", f"authorization: Bearer {key_of(new_attempt())}".encode()
    assert b" 401 " in await raw(deployment, chat, b"authorization: Bearer nxr-\xff.\xfe")
    assert b" 401 " in await raw(deployment, chat, b"x-api-key: \xff")
    assert b" 400 " in await raw(deployment, chat, b"x-nexrl-session: \xff\xfe")
    assert b" 200 " in await raw(deployment, chat, key, b"x-stainless-retry-count: \xff")
    assert b" 200 " in await raw(deployment, chat, key, b"baggage: nexrl.session\xff=%FF", b"traceparent: \xff")
    assert b" 400 " in await raw(deployment, b"/v1/\xff\xfe", key)
    assert b" 404 " in await raw(deployment, b"/v1/%ff%fe", key)
    assert b" 400 " in await raw(deployment, b"/s/%ff%fe/v1/chat/completions")


async def test_a_name_that_is_not_text_loses_no_call(deployment):
    attempt = new_attempt()
    key = f"authorization: Bearer {key_of(attempt)}".encode()
    assert b" 200 " in await raw(deployment, b"/v1/chat/completions", key, b"x-nexrl-agent: search\xff")
    [call] = await deployment.kept(attempt)
    assert call.agent == "search\ufffd"


async def test_where_a_session_is_required_a_request_without_a_key_is_a_401(deployment):
    unnamed = await post(deployment.proxy, "/v1/chat/completions", body_of(DIALECTS["chat"]), {})
    assert unnamed[0] == 200
    assert [call.session for call in await deployment.kept(UNATTRIBUTED)] == [UNATTRIBUTED]
    deployment.proxy.end()
    await asyncio.to_thread(deployment.proxy.start, "--require-session")
    for dialect in DIALECTS.values():
        status, body = await post(deployment.proxy, dialect.path, body_of(dialect), {"authorization": "Bearer sk-1"})
        assert status == 401
        assert "nexrl key ATTEMPT" in dialect.described(body)["message"]
        status, _ = await post(deployment.proxy, dialect.path, body_of(dialect), keyed(new_attempt()))
        assert status == 200
    deployment.proxy.end()


async def test_a_bug_is_a_500_in_the_dialects_shape_and_shows_nothing_of_itself(caplog):
    async def fails(_: web.Request) -> web.StreamResponse:
        raise ZeroDivisionError("a secret")

    app = web.Application(middlewares=[errors_as_answers])
    for dialect in DIALECTS.values():
        app.router.add_post(dialect.path, fails)
    async with served(app) as url, aiohttp.ClientSession() as http:
        for dialect in DIALECTS.values():
            async with http.post(url + dialect.path, data=b"{}") as reply:
                assert reply.status == 500
                assert "secret" not in dialect.described(await reply.json())["message"]
    assert caplog.text.count("ZeroDivisionError: a secret") == len(DIALECTS)


async def test_what_is_sent_half_and_then_dropped_leaves_nothing_behind(deployment):
    attempt, mark = new_attempt(), deployment.mark()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key_of(attempt)}\r\n"
        "content-length: 1000\r\n\r\n{"
    ).encode()
    for cut in (1, 20, request.index(b"\r\n\r\n"), len(request) - 1, len(request)):
        _, writer = await asyncio.open_connection("127.0.0.1", deployment.proxy.port)
        writer.write(request[:cut])
        await writer.drain()
        writer.close()
    await deployment.quiet()
    assert deployment.mark() == mark
    assert await deployment.flush(attempt) == 0


def test_logs_hold_no_key(deployment: Deployment):
    assert "nxr-" not in deployment.proxy.log()
    assert ADMIN not in deployment.proxy.log()


