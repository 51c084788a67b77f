"""An environment's file as an agent: what the callable runner's worker processes call, once for each attempt."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

import nexrl
from nexrl.errors import ConfigError
from nexrl.importing import import_file
from nexrl.parameters import wanted_parameters
from nexrl.sessions import with_session
from nexrl_trainer.rollouts.environments.episode import play
from nexrl_trainer.rollouts.environments.gymnasium import Environment
from nexrl_trainer.rollouts.environments.model import Model
from nexrl_trainer.rollouts.environments.rules import Played, Rules
from nexrl_trainer.rollouts.runners.callable_messages import Start
from nexrl_trainer.rollouts.runners.environment import fill

PARAMETERS = ("task",)


class Player:
    """Makes an environment for each attempt and plays it with the model, in the attempt's session."""

    def __init__(self, factory: Callable[..., Any], wanted: list[str], name: str, rules: Rules) -> None:
        self.is_async = True
        self._factory = factory
        self._wanted = wanted
        self._name = name
        self._rules = rules
        self._base_url, self._model = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_MODEL"]

    @classmethod
    def loaded(cls, file: str, member: str, rules: Rules) -> Self:
        """Import the file; raises ConfigError where that fails or nothing in it makes environments as it is asked."""
        factory, name = getattr(import_file(Path(file), "environment file"), member, None), f"{file}:{member}"
        if not callable(factory):
            raise ConfigError(f"environment file {file}: no class or function {member!r} in it")
        try:
            return cls(factory, wanted_parameters(factory, PARAMETERS), name, rules)
        except ValueError as error:
            raise ConfigError(f"environment {name} {error}") from error

    async def call(self, start: Start, threads: object) -> Played:  # noqa: ARG002 - each environment has its own
        """Play one episode; raises what `play` does."""
        task, system = start.task, self._rules.system
        patience = aiohttp.ClientTimeout(total=None)  # the attempt has a time limit of its own
        with nexrl.session(start.attempt, key=start.key):
            async with aiohttp.ClientSession(timeout=patience) as http:
                url = with_session(self._base_url, start.attempt)
                model = Model(http, url=url, key=start.key, name=self._model, max_tokens=self._rules.max_tokens)
                environment = await Environment.made(self._factory, dict.fromkeys(self._wanted, task), self._name)
                try:
                    return await play(
                        environment,
                        model,
                        task=task,
                        system=None if system is None else fill(system, task),
                        max_turns=self._rules.max_turns,
                    )
                finally:
                    await environment.close()
