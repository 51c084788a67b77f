"""Ask an engine for a completion and keep what was heard, also where it ends in an error."""

from collections.abc import Callable

from nexrl_proxy.engines import Completion, Engine, Work


class Heard:
    """The completion as it was when it last grew, and how often it did."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        """Call `then` each time."""
        self._then = then
        self.completion = Completion()
        self.times = 0

    def grown(self, completion: Completion) -> None:
        self.completion = completion
        self.times += 1
        self._then()

    def keeps_up(self) -> bool:
        return True

    async def caught_up(self) -> None:
        """Nobody waits."""


async def hear(engine: Engine, work: Work, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    try:
        await engine.complete(work, heard)
    finally:
        await engine.close()
    return heard
