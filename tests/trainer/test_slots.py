import asyncio
from contextlib import AsyncExitStack

import pytest

from nexrl_trainer.rollouts.slots import Slots, Spent


async def test_whoever_waits_with_the_lowest_priority_is_next_and_among_equals_who_came_first():
    slots, order = Slots(1), []

    async def work(name, priority):
        async with slots.turn(priority):
            order.append(name)

    async with asyncio.TaskGroup() as tasks, slots.turn((1, 0)):
        for name, priority in (("new", (1, 9)), ("old", (1, 3)), ("evaluation", (0, 5)), ("old too", (1, 3))):
            tasks.create_task(work(name, priority))
        await asyncio.sleep(0)
    assert order == ["evaluation", "old", "old too", "new"]


async def test_no_more_run_than_there_are_slots_whoever_is_cancelled_and_when():
    slots, running, most = Slots(2), 0, 0

    async def work():
        nonlocal running, most
        async with slots.turn((0,)):
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0.001)
            finally:
                running -= 1

    tasks = [asyncio.create_task(work()) for _ in range(30)]
    for index, task in enumerate(tasks):
        if index % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(item, asyncio.CancelledError) for item in ended) == 10
    assert most == 2
    async with asyncio.timeout(1), slots.turn((0,)), slots.turn((0,)):
        pass  # both slots came back


async def test_a_slot_handed_to_somebody_who_is_cancelled_in_that_moment_is_handed_on():
    slots = Slots(1)

    async def work():
        async with slots.turn((0,)):
            await asyncio.sleep(60)

    async with slots.turn((0,)):
        waiting = asyncio.create_task(work())
        await asyncio.sleep(0)
    waiting.cancel()  # it has been given the slot, and has not run since
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1), slots.turn((0,)):
        pass


async def test_busy_seconds_count_once_and_taken_ones_for_every_slot():
    now = 0.0
    slots = Slots(3, clock=lambda: now)
    async with AsyncExitStack() as stack:
        now = 1.0
        await stack.enter_async_context(slots.turn((0,)))
        now = 3.0
        await stack.enter_async_context(slots.turn((0,)))
        now = 4.0
        assert slots.spent() == Spent(busy_s=3.0, taken_s=4.0)
    now = 9.0
    assert slots.spent() == Spent(busy_s=3.0, taken_s=4.0)
