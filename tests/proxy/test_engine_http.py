"""The HTTP client against real servers: whole bodies and streams, kept connections, and everything that breaks."""

import asyncio
import contextlib
import ssl
import subprocess

import pytest
from aiohttp import web
from proxy_world import served, until
from raw_server import HANG_UP, chunked, plain, raw

from nexrl.errors import ConfigError
from nexrl_proxy.engines import connection, http
from nexrl_proxy.engines.connection import HttpError, Taker, UnansweredError
from nexrl_proxy.engines.http import ConnectError, Upstream


@pytest.fixture
async def open_upstream():
    async with contextlib.AsyncExitStack() as stack:

        def of(url: str, **options) -> Upstream:
            upstream = Upstream(url, **options)
            stack.push_async_callback(upstream.close)
            return upstream

        yield of


def echo() -> web.Application:
    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"x-path": request.path_qs})

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for size in range(1, 200):
            await response.write(b"x" * size + b"\n")
            await asyncio.sleep(0)
        return response

    app = web.Application(client_max_size=2**27)
    app.add_routes([web.post("/echo", whole), web.get("/echo", whole), web.post("/events", events)])
    return app


class Pieces(list[bytes]):
    """What a body came in; wants `most` at a time."""

    def __init__(self, most: int = 2**62) -> None:
        super().__init__()
        self.most = most

    def __call__(self, piece: bytes) -> bool:
        self.append(piece)
        return len(self) % self.most != 0


async def streamed(upstream: Upstream, path: str = "/events") -> bytes:
    found = Pieces()
    async with upstream.stream("POST", path, b"{}") as reply:
        assert await reply.status() == 200
        assert not await reply.feed(found)
    return b"".join(found)


async def test_bodies_arrive_whole_in_both_directions_whatever_their_size(open_upstream):
    async with served(echo()) as url:
        upstream = open_upstream(url)
        for size in (0, 1, 65_536, 5_000_000):
            body = bytes(index % 251 for index in range(size))
            answer = await upstream.fetch("POST", "/echo", body)
            assert (answer.status, answer.body) == (200, body)
        assert (await upstream.fetch("GET", "/echo?a=1")).headers[b"x-path"] == b"/echo?a=1"


async def test_a_stream_of_aiohttp_arrives_whole(open_upstream):
    async with served(echo()) as url:
        assert await streamed(open_upstream(url)) == b"".join(b"x" * size + b"\n" for size in range(1, 200))


async def test_many_requests_at_once_each_get_their_own_answer(open_upstream):
    async with served(echo()) as url:
        upstream = open_upstream(url)
        bodies = [b"%d" % index for index in range(100)]
        answers = await asyncio.gather(*(upstream.fetch("POST", "/echo", body) for body in bodies))
        assert [answer.body for answer in answers] == bodies


@pytest.mark.parametrize("response", [plain(b"abc"), chunked([b"a", b"bc"])], ids=["length", "chunked"])
async def test_a_response_in_single_bytes_is_read_and_its_connection_used_again(response, open_upstream):
    pieces = [response[place : place + 1] for place in range(len(response))]
    async with raw(pieces, pieces) as server:
        upstream = open_upstream(server.url)
        assert (await upstream.fetch("POST", "/", b"{}")).body == b"abc"
        assert await streamed(upstream, "/") == b"abc"
        assert server.connections == 1


async def test_a_stream_that_said_its_last_word_gives_its_connection_back_when_the_response_ends(open_upstream):
    response = chunked([b"data: [DONE]\n\n"])
    async with raw([response[:-5], b"0\r\n", b"\r\n"], [plain(b"")]) as server:
        upstream = open_upstream(server.url)
        async with upstream.stream("POST", "/", b"") as reply:
            assert await reply.feed(found := Pieces(most=1))
            assert found == [b"data: [DONE]\n\n"]
        await until(lambda: bool(upstream._idle))
        await upstream.fetch("POST", "/")
        assert server.connections == 1


async def test_a_stream_that_never_ends_does_not_keep_its_connection(open_upstream, monkeypatch):
    monkeypatch.setattr(connection, "LINGER_S", 0.05)
    async with raw([chunked([b"data: [DONE]\n\n"], ending=b"")]) as server:
        async with open_upstream(server.url).stream("POST", "/", b"") as reply:
            await reply.feed(Pieces(most=1))
        await asyncio.wait_for(server.closed.wait(), 5)


async def leave(upstream: Upstream) -> None:
    async with upstream.stream("POST", "/", b"") as reply:
        await reply.feed(Pieces(most=1))
        raise RuntimeError


async def test_leaving_a_stream_with_an_error_closes_the_connection(open_upstream):
    async with raw([chunked([b"a"], ending=b"")]) as server:
        with pytest.raises(RuntimeError):
            await leave(open_upstream(server.url))
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_cancelled_request_closes_its_connection(open_upstream):
    async with raw([]) as server:
        asking = asyncio.create_task(open_upstream(server.url).fetch("POST", "/", b"{}"))
        await until(lambda: bool(server.requests))
        asking.cancel()
        await asyncio.wait_for(server.closed.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_body_that_breaks_off_gives_what_came_and_then_the_error(open_upstream):
    async with raw([chunked([b"a", b"b"], ending=b"5\r\nab"), HANG_UP]) as server:
        async with open_upstream(server.url).stream("POST", "/", b"") as reply:
            found = Pieces()
            with pytest.raises(HttpError, match="middle of its answer"):
                await reply.feed(found)
        assert b"".join(found) == b"abab"


async def test_what_a_taker_raises_reaches_who_feeds_it_and_closes_the_connection(open_upstream):
    def refuses(piece: bytes) -> bool:
        raise ValueError(piece)

    async with raw([chunked([]).removesuffix(b"0\r\n\r\n"), b"1\r\na\r\n"]) as server:
        with pytest.raises(ValueError, match="a"):
            await fed(open_upstream(server.url), refuses)
        await asyncio.wait_for(server.closed.wait(), 5)


async def fed(upstream: Upstream, taker: Taker) -> None:
    async with upstream.stream("POST", "/", b"") as reply:
        await reply.feed(taker)


async def test_what_may_have_been_sampled_is_never_asked_twice(open_upstream):
    async with raw([plain(b"")], [HANG_UP], [plain(b"")]) as server:
        upstream = open_upstream(server.url)
        await upstream.fetch("POST", "/")
        with pytest.raises(UnansweredError):
            await upstream.fetch("POST", "/generate", b"{}")
        assert len(server.requests) == 2


async def test_what_does_no_harm_is_asked_again_where_a_kept_connection_turned_out_closed(open_upstream):
    async with raw([plain(b"")], [HANG_UP], [plain(b"again")]) as server:
        upstream = open_upstream(server.url)
        await upstream.fetch("POST", "/")
        assert (await upstream.fetch("GET", "/health", repeatable=True)).body == b"again"
        assert server.connections == 2


@pytest.mark.parametrize("script", [[HANG_UP], [b"HTTP/1.1 2", HANG_UP]], ids=["fresh connection", "answer began"])
async def test_even_that_is_not_repeated_where_it_would_not_help(script, open_upstream):
    async with raw(script) as server:
        with pytest.raises(HttpError):
            await open_upstream(server.url).fetch("GET", "/health", repeatable=True)
        assert len(server.requests) == 1


async def test_a_connection_that_the_server_closed_while_idle_is_not_used(open_upstream):
    async with raw([plain(b""), HANG_UP], [plain(b"")]) as server:
        upstream = open_upstream(server.url)
        await upstream.fetch("POST", "/")
        await until(lambda: not upstream._idle[0].usable)
        await upstream.fetch("POST", "/")
        assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_connection_idle_for_longer_than_servers_keep_theirs_is_not_used(open_upstream, monkeypatch):
    async with raw([plain(b"")], [plain(b"")]) as server:
        upstream = open_upstream(server.url)
        await upstream.fetch("POST", "/")
        monkeypatch.setattr(http, "IDLE_S", -1.0)
        await upstream.fetch("POST", "/")
        assert server.connections == 2


async def test_bytes_on_an_idle_connection_are_no_answer_to_the_next_request(open_upstream):
    async with raw([plain(b"")], [plain(b"true")]) as server:
        upstream = open_upstream(server.url)
        await upstream.fetch("POST", "/")
        [writer] = server.writers
        writer.write(plain(b"fake"))
        await asyncio.wait_for(server.closed.wait(), 5)
        assert (await upstream.fetch("POST", "/")).body == b"true"


async def test_an_answer_that_comes_before_the_request_was_sent_ends_the_connection(open_upstream):
    async with raw() as server:
        server.greeting = plain(b"too large", status="413 Content Too Large")
        upstream = open_upstream(server.url)
        answer = await upstream.fetch("POST", "/", b"x" * 50_000_000)
        assert (answer.status, answer.body, len(upstream._idle)) == (413, b"too large", 0)


async def test_a_slow_reader_stops_the_sender_and_loses_nothing(open_upstream):
    piece = b"x" * 2**16
    async with raw([chunked([])[:-5], *[b"10000\r\n" + piece + b"\r\n"] * 400, b"0\r\n\r\n"]) as server:
        async with open_upstream(server.url).stream("POST", "/", b"") as reply:
            await reply.status()
            await asyncio.sleep(0.1)
            found = Pieces(most=1)
            assert await reply.feed(found)
            assert len(found[0]) < 4 * connection.MOST_UNREAD
            found.most = 2**62
            assert not await reply.feed(found)
        assert b"".join(found) == 400 * piece


async def test_ipv6_is_spoken(open_upstream):
    async with raw([plain(b"six")], host="::1") as server:
        assert (await open_upstream(server.url).fetch("POST", "/")).body == b"six"
        assert f"host: {server.url.removeprefix('http://')}\r\n".encode() in server.requests[0]


async def test_https_is_spoken_and_a_strangers_certificate_refused(open_upstream, tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert]
    await asyncio.to_thread(subprocess.run, [*command.split(), *names], check=True, capture_output=True)
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(cert))
    serving.load_cert_chain(cert, key)

    async with raw([plain(b"secret")], tls=serving) as server:
        url = server.url.replace("http:", "https:")
        assert (await open_upstream(url, tls=trusting).fetch("GET", "/")).body == b"secret"
        with pytest.raises(ConnectError, match="certificate"):
            await open_upstream(url).fetch("GET", "/")


async def test_nobody_listening_is_an_error_of_its_own(open_upstream):
    async with raw() as server:
        url = server.url
    with pytest.raises(ConnectError, match="no connection: "):
        await open_upstream(url).fetch("GET", "/health")


async def test_a_connection_that_never_comes_about_is_given_up(open_upstream, monkeypatch):
    monkeypatch.setattr(http, "CONNECT_TIMEOUT_S", 0.05)

    async def never(*_, **__) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(ConnectError, match=r"no connection within 0\.05 s"):
        await open_upstream("http://127.0.0.1:9").fetch("GET", "/")


@pytest.mark.parametrize(
    "url", ["localhost:30000", "ftp://a", "http://", "http://a:port", "http://a:0", "http://a b", "http://a?x=1"]
)
def test_a_url_that_is_none_is_refused_before_anything_starts(url):
    with pytest.raises(ConfigError, match="no engine's URL"):
        Upstream(url)


def test_a_key_that_would_break_the_header_is_refused():
    with pytest.raises(ConfigError, match="authorization"):
        Upstream("http://a", headers={"authorization": "Bearer a\r\nx: y"})


async def test_headers_and_the_base_path_go_with_every_request(open_upstream):
    async with raw([plain(b"")]) as server:
        upstream = open_upstream(server.url + "/api/v1/", headers={"authorization": "Bearer k"})
        await upstream.fetch("POST", "/chat/completions", b"{}")
        head = server.requests[0].split(b"\r\n")
        assert head[0] == b"POST /api/v1/chat/completions HTTP/1.1"
        assert b"authorization: Bearer k" in head
        assert b"content-length: 2" in head
