"""Several workers behind one port: they look like one proxy, and one that dies takes nothing with it."""

import asyncio

import aiohttp
from worker_world import workers_of


async def test_all_calls_of_a_session_are_one_workers_whatever_connection_they_come_on(model_dir, tmp_path):
    async with workers_of(model_dir("chatml"), tmp_path, 3) as world:
        sessions = [f"a-{number}" for number in range(12)]
        connector = aiohttp.TCPConnector(limit=5)
        async with aiohttp.ClientSession(connector=connector) as shared:
            answered = await asyncio.gather(*(world.talk(session, 4, http=shared) for session in sessions))
        counted = [await world.flush(session) for session in sessions]
        stats = await world.stats()
        print(stats)
        assert counted == [4] * 12
        assert world.chains() == dict.fromkeys(sessions, 1)
        assert {call.response for call in world.ingest.calls} == {one for ids in answered for one in ids}
