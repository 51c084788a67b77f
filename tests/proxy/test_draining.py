"""A proxy that is asked to stop lets nobody in, and answers to their end those who are in; asked twice, it ends."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest
from proxy_world import ADMIN, served
from scripted_engine import Line
from worker_world import HELLO, Proxy, World

from nexrl.keys import attempt_key
from nexrl_proxy.listening import SHUTDOWN_TIMEOUT_S

pytestmark = pytest.mark.slow


class Stream(World):
    """A proxy with one stream of it under way, whose engine goes on when `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.engine.script = lambda _: Line(ids=[300, 301, 302, 303], pause_before=2)
        self.engine.wait = self.wait
        self.reply: aiohttp.ClientResponse

    async def wait(self, rid: str) -> bool:
        self.engine.paused.set()
        await self.released.wait()
        return self.engine.aborted[rid].is_set()

    async def begin(self) -> None:
        body = {"messages": [HELLO], "stream": True}
        headers = {"authorization": f"Bearer {attempt_key('a-1', ADMIN)}"}
        self.reply = await self.http.post(f"{self.proxy.url}/v1/chat/completions", json=body, headers=headers)
        await self.engine.paused.wait()

    async def shut(self) -> None:
        """Wait until the port takes nobody any more."""
        address = self.proxy.url.removeprefix("http://").split(":")
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection(*address)
                    writer.close()
                    await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def streaming(model, data, *flags: str) -> AsyncIterator[Stream]:
    world = Stream()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(served(world.engine.app))
        ingest = await stack.enter_async_context(served(world.ingest.app))
        world.http = await stack.enter_async_context(aiohttp.ClientSession())
        world.proxy = await asyncio.to_thread(Proxy, model, data, engine, ingest, *flags)
        stack.callback(world.proxy.directory.cleanup)
        try:
            await world.begin()
            yield world
        finally:
            world.released.set()
            if world.proxy.process.poll() is None:
                world.proxy.process.kill()
                await asyncio.to_thread(world.proxy.close)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stream_under_way_is_answered_to_its_end_and_recorded_while_nobody_new_is_let_in(
    model_dir, tmp_path, workers
):
    async with streaming(model_dir("chatml"), tmp_path, "--workers", str(workers)) as world:
        world.proxy.process.send_signal(signal.SIGTERM)
        await world.shut()
        await asyncio.sleep(SHUTDOWN_TIMEOUT_S + 1)  # longer than a server gives what it cuts
        assert world.proxy.process.poll() is None
        world.released.set()
        assert (await world.reply.text()).endswith("data: [DONE]\n\n")
        assert await asyncio.to_thread(world.proxy.close) == 0
        assert [list(call.completion) for call in world.ingest.calls] == [[300, 301, 302, 303]]


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("why", "flags"),
    [("asked twice", ()), ("parent gone", ("--exit-with-parent",)), ("no time to drain", ("--drain-s", "0"))],
)
async def test_a_stream_is_cut_where_nobody_waits_for_it(model_dir, tmp_path, workers, why, flags):
    async with streaming(model_dir("chatml"), tmp_path, "--workers", str(workers), *flags) as world:
        world.proxy.process.send_signal(signal.SIGTERM)
        if why != "no time to drain":
            await world.shut()
        if why == "asked twice":
            world.proxy.process.send_signal(signal.SIGTERM)
        if why == "parent gone":
            world.proxy.process.stdin.close()
        async with asyncio.timeout(15):  # the 30 s of a drain are not waited for
            code = await asyncio.to_thread(world.proxy.close)
        assert code == 0
        with pytest.raises(aiohttp.ClientError):
            await world.reply.text()
