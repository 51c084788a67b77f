"""A process that serves is asked to stop: by a signal or its parent's end; a second signal asks it to make haste."""

import asyncio
import os
import signal
import sys

import pytest

from nexrl.errors import ConfigError
from nexrl.service import stopping


@pytest.mark.parametrize(
    ("numbers", "hurried"),
    [((signal.SIGTERM,), False), ((signal.SIGTERM, signal.SIGTERM), True), ((signal.SIGINT, signal.SIGTERM), True)],
    ids=["once", "twice at once", "by two signals"],
)
async def test_every_signal_counts_from_the_first_on(numbers, hurried):
    async with stopping() as told, asyncio.timeout(5):
        assert not told.asked.is_set()
        for number in numbers:
            os.kill(os.getpid(), number)
        await told.asked.wait()
        await asyncio.sleep(0)
        assert told.hurried.is_set() == hurried


@pytest.mark.parametrize("signalled", [False, True], ids=["alone", "behind a signal"])
async def test_the_parents_end_asks_for_haste_whenever_it_comes(monkeypatch, signalled):
    ours, parents = os.pipe()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        async with stopping(exit_with_parent=True) as told, asyncio.timeout(5):
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
                await told.asked.wait()
            assert (told.asked.is_set(), told.hurried.is_set()) == (signalled, False)
            os.close(parents)
            await told.hurried.wait()
            assert told.asked.is_set()


async def test_a_standard_input_that_no_parent_holds_is_refused(monkeypatch):
    with open(os.devnull) as nobodys:  # noqa: ASYNC230, PTH123 - it is never read
        monkeypatch.setattr(sys, "stdin", nobodys)
        with pytest.raises(ConfigError, match="--exit-with-parent: standard input is a file"):
            async with stopping(exit_with_parent=True):
                pass
