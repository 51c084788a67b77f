"""The models that one proxy answers for: its own, which may be trained, and others beside it, asked by their names.

Of these some learn too (`policies.py`). The others are OpenAI upstreams whose weights nobody here changes: a judge, a
planner, somebody who plays the user. Their calls are recorded with the session that made them, as inexact, so that
nothing of them is trained. Any name that nobody has means the own model.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_proxy.conversation import Sessions
from nexrl_proxy.dialects import Stored
from nexrl_proxy.engines.kinds import Serving, engines_of
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.engines.pools import Pools
from nexrl_proxy.named import read_named
from nexrl_proxy.planning import Plans
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.sampling import Sampler
from nexrl_proxy.spoken_planning import SpokenPlanner


class Other(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where another model is served."""

    url: str
    """Base URL of a server with `/v1/chat/completions`."""
    model: str | None = None
    """The name it has there; None: the one that agents ask for."""
    key_variable: str | None = None
    """The environment variable that holds the server's API key; None: it asks for none."""


class Model(Struct, frozen=True, eq=False):
    """What answers for one model."""

    planner: Plans
    sampler: Sampler


class Models:
    """All of them; use `start` and `stop` around their life."""

    def __init__(
        self, own: Model, others: Mapping[str, Model] | None = None, policies: Mapping[str, Model] | None = None
    ) -> None:
        """`policies` learn, as the own one may, `others` do not."""
        policies = policies or {}
        self.own = own
        self._beside = {**policies, **(others or {})}
        self.pools = Pools([model.sampler.pool for model in (own, *policies.values())])
        """Of the models whose weights change."""

    @property
    def names(self) -> list[str]:
        """Those of all models beside the own one."""
        return list(self._beside)

    @property
    def sessions(self) -> int:
        """How many conversations are in memory, each model's counted for itself."""
        return sum(len(sampler.sessions) for sampler in self._samplers())

    def named(self, name: str | None) -> Model:
        """Return the model that a request asks for."""
        return self._beside.get(name, self.own) if name else self.own

    async def stored(self, session: str, response: str) -> Stored | None:
        """Return a reply that any of them gave in a session, where requests may name it."""
        for planner in self._planners():
            if found := await planner.stored(session, response):
                return found
        return None

    async def delete(self, session: str, response: str) -> bool:
        """Let no request name a reply of a session any longer; returns whether one could. Raises ApiError."""
        for planner in self._planners():
            if await planner.delete(session, response):
                return True
        return False

    def start(self) -> None:
        for sampler in self._samplers():
            sampler.pool.start()

    async def stop(self) -> None:
        for sampler in self._samplers():
            await sampler.pool.stop()

    def running(self, session: str | None = None) -> int:
        """Return how many requests are being sampled, of one session or of all."""
        active = [sampler.active for sampler in self._samplers()]
        return sum(len(tasks) for each in active for of, tasks in each.items() if session in {None, of})

    async def settled(self, session: str | None = None) -> None:
        """Return once no request is being sampled, of one session or of all."""
        while self.running(session):
            for sampler in self._samplers():
                for each in [session] if session else list(sampler.active):
                    await sampler.settled(each)

    def forget(self, session: str) -> None:
        """Let go of a session that is over."""
        for sampler in self._samplers():
            sampler.forget(session)

    def counted(self) -> Counter[str]:
        """Return what was counted, of all models together."""
        return sum((Counter(sampler.counters) for sampler in self._samplers()), Counter[str]())

    def _planners(self) -> Iterator[Plans]:
        """Yield those of models beside the own one first: most need not ask ingest."""
        for other in self._beside.values():
            yield other.planner
        yield self.own.planner

    def _samplers(self) -> Iterator[Sampler]:
        yield self.own.sampler
        for other in self._beside.values():
            yield other.sampler


def read_others(path: Path | None, served_model: str) -> dict[str, Other]:
    """Read the file of `--models`, names and where they are served; raises ConfigError."""
    found = read_named("--models", path, Other, '{"NAME": {"url": ..., "model": ..., "key_variable": ...}}')
    if served_model in found:
        raise ConfigError(f"--models {path}: {served_model!r} is what --served-model is called: give another name")
    for name, other in found.items():
        if other.key_variable is not None and not os.environ.get(other.key_variable):
            raise ConfigError(f"--models {path}: {name!r} takes its key from {other.key_variable}, which is not set")
    return found


def other_model(name: str, other: Other, recorder: Recorder) -> Model:
    """Return what answers for another model; raises ConfigError."""
    key = os.environ.get(other.key_variable) if other.key_variable else None
    serving = Serving(kind="openai", key=key, model=other.model or name)
    # Sessions of its own: no prompt for the own model continues from what this one said.
    sessions = Sessions()
    sampler = Sampler(pool=Pool(engines_of(other.url, serving)), reading=None, recorder=recorder, sessions=sessions)
    return Model(SpokenPlanner(sessions=sessions, other_model=True), sampler)
