"""Several engines as one: sessions stay, load spreads, failures pass by, and a held door makes nobody turn back."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from proxy_world import served, until
from scripted_engine import Line, ScriptedEngine

from nexrl.errors import ConfigError
from nexrl_proxy.engines import EngineLost
from nexrl_proxy.engines.balance import Load, choose
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.pool import Pool

loads = st.builds(Load, healthy=st.booleans(), running=st.integers(0, 9), sessions=st.integers(0, 9))


def pool_of(count: int = 2, **options) -> Pool:
    """Return a pool of engines that nobody asks anything of."""
    urls = ",".join(f"http://127.0.0.1:{port}" for port in range(1, count + 1))
    return Pool(engines_of(urls, Serving()), **options)


async def seat(pool: Pool, session: str) -> str:
    async with pool.seat(session) as engine:
        return engine.url[-1]


async def fail(pool: Pool, error: type[BaseException]) -> None:
    async with pool.seat("a"):
        assert pool.running == 1
        raise error


def shown(pool: Pool, field: str) -> list:
    return [engine[field] for engine in pool.describe()["engines"]]


@given(st.lists(loads, min_size=1, max_size=5))
def test_a_new_session_goes_where_least_runs_among_the_healthy(engines):
    chosen = engines[choose(engines, None)]
    healthy = [load for load in engines if load.healthy] or engines
    assert chosen in healthy
    assert (chosen.running, chosen.sessions) == min((load.running, load.sessions) for load in healthy)


@given(st.lists(loads, min_size=1, max_size=5), st.data())
def test_a_session_stays_unless_its_engine_is_out_and_another_is_not(engines, data):
    home = data.draw(st.integers(0, len(engines) - 1))
    must_move = not engines[home].healthy and any(load.healthy for load in engines)
    chosen = choose(engines, home)
    assert (chosen != home) == must_move
    assert engines[chosen].healthy or not must_move


async def test_sessions_that_start_one_after_the_other_spread_and_stay():
    pool = pool_of(3)
    assert [await seat(pool, name) for name in "abcdef"] == list("123123")
    assert [await seat(pool, name) for name in "fedcba"] == list("321321")
    assert shown(pool, "sessions") == [2, 2, 2]


async def test_a_new_session_goes_where_fewer_requests_run():
    pool = pool_of(2)
    async with pool.seat("a"), pool.seat("a"), pool.seat("b"):
        assert shown(pool, "running") == [2, 1]
        assert await seat(pool, "c") == "2"
    assert (pool.running, shown(pool, "running")) == (0, [0, 0])


async def test_sessions_that_are_over_or_long_unused_are_forgotten():
    pool = pool_of(2, most_sessions=3)
    for name in "abcd":
        await seat(pool, name)
    assert shown(pool, "sessions") == [1, 2]
    pool.forget("b")
    pool.forget("b")
    assert shown(pool, "sessions") == [1, 1]


async def test_a_request_counts_while_it_has_its_seat_whatever_happens_in_it():
    pool = pool_of(1)
    for error in (RuntimeError, EngineLost, asyncio.CancelledError):
        with pytest.raises(error):
            await fail(pool, error)
    assert pool.running == 0


async def test_a_session_moves_when_a_request_lost_its_engine_and_a_lone_engine_is_tried_again():
    for count, then in ((2, "2"), (1, "1")):
        pool = pool_of(count)
        with pytest.raises(EngineLost):
            await fail(pool, EngineLost)
        assert shown(pool, "healthy")[0] is False
        assert await seat(pool, "a") == then
        assert sum(shown(pool, "sessions")) == 1


async def test_while_held_requests_wait_and_all_go_on_when_released():
    pool = pool_of(2)
    pool.hold()
    waiting = [asyncio.create_task(seat(pool, name)) for name in "abc"]
    await asyncio.sleep(0.01)
    assert pool.describe()["waiting"] == 3
    assert pool.describe()["held"]
    waiting[2].cancel()
    await asyncio.wait([waiting[2]])
    assert (pool.describe()["waiting"], pool.running) == (2, 0)
    pool.release()
    assert await asyncio.gather(*waiting[:2]) == ["1", "2"]
    assert (pool.describe()["waiting"], pool.describe()["held"]) == (0, False)


async def test_held_again_before_they_had_their_turn_they_go_on_waiting():
    pool = pool_of(1)
    pool.hold()
    waiting = asyncio.create_task(seat(pool, "a"))
    await asyncio.sleep(0)
    pool.release()
    pool.hold()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    pool.release()
    assert await waiting == "1"


async def test_draining_ends_with_the_last_running_request_and_not_with_those_that_wait():
    pool = pool_of(2)
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(pool.seat("a"))
        await running.enter_async_context(pool.seat("b"))
        pool.hold()
        late = asyncio.create_task(seat(pool, "c"))
        assert not await pool.drain(0.01)
        draining = asyncio.create_task(pool.drain(5))
        await asyncio.sleep(0.01)
        assert not draining.done()
    assert await draining
    assert not late.done()
    pool.release()
    await late


async def test_nothing_running_is_drained_at_once():
    assert await pool_of(1).drain(0)


async def test_a_release_tells_the_version_to_engines_that_do_not_know_theirs():
    for kind in ("sglang", "vllm", "openai"):
        pool = Pool(engines_of("http://127.0.0.1:1", Serving(kind=kind)))
        pool.hold()
        pool.release(weight_version=7)
        assert getattr(pool.engines[0], "_weight_version", 7) == 7


async def test_an_upstream_without_a_neighbour_is_asked_how_it_is_only_where_that_is_in_doubt():
    asked: list[str] = []
    app = web.Application()

    async def models(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"data": []})

    app.router.add_get("/v1/models", models)
    async with served(app) as url:
        pool = Pool(engines_of(url, Serving(kind="openai")), check_every_s=0.005)
        pool.start()
        await asyncio.sleep(0.05)
        assert asked == []
        with contextlib.suppress(EngineLost):
            async with pool.seat("a"):
                raise EngineLost("gone")
        await until(lambda: shown(pool, "healthy") == [True])
        count = len(asked)
        await asyncio.sleep(0.05)
        assert len(asked) == count == 1
        await pool.stop()


async def test_an_engine_that_stops_answering_is_taken_out_and_comes_back_by_itself_and_both_are_said_once(caplog):
    engines = [ScriptedEngine(), ScriptedEngine()]
    ill: set[int] = set()
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for index, engine in enumerate(engines):
            engine.script = lambda _: Line(ids=[1])
            engine.app.router.add_get("/health", health(index, ill))
            urls.append(await stack.enter_async_context(served(engine.app)))
        pool = Pool(engines_of(",".join(urls), Serving()), check_every_s=0.01)
        pool.start()
        async with pool.seat("a") as engine:
            assert engine.url == urls[0]
        ill.add(0)
        await until(lambda: shown(pool, "healthy") == [False, True])
        async with pool.seat("a") as engine:
            assert engine.url == urls[1]
        ill.clear()
        await until(lambda: shown(pool, "healthy") == [True, True])
        async with pool.seat("b") as engine:
            assert engine.url == urls[0]
        await pool.stop()
    said = [f"engine {urls[0]} does not answer: it gets no requests until it does", f"engine {urls[0]} answers again"]
    assert [record.message for record in caplog.records if record.name == "nexrl_proxy.engines.pool"] == said


def health(index: int, ill: set[int]):
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=503 if index in ill else 200)

    return answer


async def test_a_doubted_engine_is_asked_at_once_and_one_that_answers_is_back_at_once():
    scripted = ScriptedEngine()
    scripted.app.router.add_get("/health", health(0, set()))
    async with served(scripted.app) as url:
        pool = Pool(engines_of(url, Serving()), check_every_s=60)
        pool.start()
        with pytest.raises(EngineLost):
            await fail(pool, EngineLost)
        assert shown(pool, "healthy") == [False]
        await until(lambda: shown(pool, "healthy") == [True])
        await pool.stop()


@pytest.mark.parametrize(
    ("urls", "kind", "complaint"),
    [
        ("", "sglang", "at least one URL"),
        ("http://a:1, http://a:1/", "sglang", "twice"),
        ("http://a:1", "tgi", "use one of sglang, vllm, openai"),
        ("http://a:1,a:2", "sglang", "'a:2' is no engine's URL"),
    ],
)
def test_engines_that_cannot_be_made_are_refused_before_anything_starts(urls, kind, complaint):
    with pytest.raises(ConfigError, match=complaint):
        engines_of(urls, Serving(kind=kind))
