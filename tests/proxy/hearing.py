"""Ask an engine for a completion and keep what was heard, also where it ends in an error."""

from nexrl_proxy.engines import Completion, Engine, Work


class Heard:
    """The completion as it was when it last grew, and how often it did."""

    def __init__(self) -> None:
        self.completion = Completion()
        self.yields = 0


async def hear(engine: Engine, work: Work, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    try:
        async for heard.completion in engine.complete(work):
            heard.yields += 1
    finally:
        await engine.close()
    return heard
