"""What a recipe says about the proxy: where it listens, how replies are read and sampled, and what else it serves."""

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.part import Part, Positive


class Sampling(Part, frozen=True, kw_only=True):
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: int | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_new_tokens: Positive | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None


class SamplingRule(Part, frozen=True, kw_only=True):
    force: Sampling = Sampling()
    """In force whatever an agent asks for: many ask for temperature 0, at which nothing is explored or trained."""
    default: Sampling = Sampling()
    """In force where an agent asks for nothing."""


class SamplingPolicy(Part, frozen=True, kw_only=True):
    train: SamplingRule = SamplingRule()
    eval: SamplingRule = SamplingRule()


class OtherModel(Part, frozen=True, kw_only=True):
    url: str
    """Base URL of a server with `/v1/chat/completions`: OpenAI's or its like, vLLM, SGLang."""
    model: str | None = None
    """The name it has there; without, the one that agents ask for."""
    key_variable: str | None = None
    """The environment variable that holds the server's API key."""


class Proxy(Part, frozen=True, kw_only=True):
    url: str | None = None
    """Address of a proxy that runs already and serves the agents whose `sessions` are learned from."""
    host: str = "127.0.0.1"
    """Address that it listens on; `0.0.0.0` is every one of this machine. Agents elsewhere, in a cluster say, need one
    that is not this machine's alone; there it serves nobody without a key of this run."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tool_parser: str = "auto"
    """Format of tool calls; `auto` takes it from the chat template. `nexrl proxy --help` lists them."""
    reasoning_parser: str = "auto"
    history: Literal["append", "template"] = "append"
    """Earlier turns stay as they were sampled, or the chat template renders them anew, which may end a chain."""
    sampling: SamplingPolicy = SamplingPolicy()
    models: dict[str, OtherModel] = field(default_factory=dict[str, OtherModel])
    """Other models, by the names that agents ask for: a judge, a planner, somebody who plays the user. Their calls are
    recorded with the session and never trained; any other name means the model that is."""

    @property
    def key_variables(self) -> frozenset[str]:
        """Names of the environment variables that hold keys of other models."""
        return frozenset(other.key_variable for other in self.models.values() if other.key_variable)

    def check(self) -> None:
        """Raise ConfigError where another model has no address, or its key is not in the environment."""
        for name, other in self.models.items():
            parts = urlsplit(other.url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ConfigError(f"proxy.models.{name}.url={other.url}: give http://HOST:PORT/v1, or https")
            if other.key_variable and not os.environ.get(other.key_variable):
                raise ConfigError(
                    f"proxy.models.{name}.key_variable={other.key_variable}: it is not set; export it before the run"
                )
