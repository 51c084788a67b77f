"""What a recipe can say: one frozen tree, handed down by part; the larger parts have files of their own.

What follows from other values is a property, so no file can set it inconsistently. Reading and merging is `file.py`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from nexrl.errors import ConfigError
from nexrl.rewards import TOTAL
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.engine import Engine
from nexrl_trainer.recipe.model import Model, Policy, refuse_no_model
from nexrl_trainer.recipe.part import NotNegative, Part, Positive
from nexrl_trainer.recipe.proxy import Proxy
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.recipe.tasks import Tasks
from nexrl_trainer.recipe.together import refuse_contradictions
from nexrl_trainer.recipe.trackers import Trackers
from nexrl_trainer.recipe.train import Train


class Rewards(Part, frozen=True, kw_only=True):
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """What rewards count in the total, by their name or their function's; others count as their function says. May name
    rewards that somebody else gave to the session (`POST /api/sessions/{id}/rewards`) before it was judged."""
    agent: bool = False
    """`weights` may name rewards that the agent gave itself, with its own key."""
    missing: Literal["fail", "zero"] = "fail"
    """A reward in `weights` that nobody gave fails the rollout, or counts 0."""

    def __post_init__(self) -> None:
        if TOTAL in self.weights:
            raise ValueError(f"rewards.weights.{TOTAL}: that is the name of the weighted sum; remove it")
        if not self.weights and self.changed():
            raise ValueError("rewards.agent and rewards.missing are about rewards in rewards.weights: name some there")


class Rollouts(Part, frozen=True, kw_only=True):
    groups_per_step: Positive = 8
    group_size: Annotated[int, Meta(ge=2)] = 8
    """Rollouts per task that are compared with each other; a group of one has no baseline."""
    max_staleness: NotNegative = 0
    """Weight versions by which the oldest token of a group may be behind the weights it trains. 0 is synchronous: each
    step's rollouts are sampled with its own weights. With more, rollouts go on while a step trains."""
    stale: Literal["drop", "keep"] = "drop"
    """Groups that are older are left out and replaced, or trained: weigh those by `algorithm.importance`, or leave out
    their oldest tokens by `algorithm.filters.staleness`."""
    dynamic_sampling: NotNegative = 0
    """Groups whose rewards are all equal are replaced by others, up to so many times `groups_per_step` a step (DAPO,
    arXiv 2503.14476); 0 replaces none."""
    oversampling: Annotated[float, Meta(ge=1)] = 1.0
    """Groups started for each one that is trained: the first to finish are, so that no step waits for stragglers."""

    def __post_init__(self) -> None:
        if self.stale == "keep" and not self.max_staleness:
            raise ValueError("rollouts.stale=keep: synchronous rollouts are never stale; set rollouts.max_staleness")


class Ingest(Part, frozen=True, kw_only=True):
    url: str | None = None
    """Address of the ingest that it records to. Of both the key is in `NEXRL_ADMIN_KEY`."""
    host: str = "127.0.0.1"
    """Address that it listens on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0


class Evaluation(Part, frozen=True, kw_only=True):
    before: bool = True
    every: NotNegative = 0
    """Steps between evaluations; 0 evaluates only before and after."""
    limit: Positive | None = None
    """Use only the first so many held-out tasks."""
    success_at: float = 1.0
    """A rollout whose total reward reaches this is a success."""
    patience: Positive | None = None
    """The run stops after so many evaluations in a row without a new best; none never stops early."""

    def __post_init__(self) -> None:
        if self.patience is not None and not self.every:
            raise ValueError(
                f"evaluation.patience={self.patience}: nothing is evaluated on the way; set evaluation.every"
            )


class Checkpoints(Part, frozen=True, kw_only=True):
    every: Positive = 1
    keep: Positive = 2
    """Newest checkpoints that stay on disk."""


class Ray(Part, frozen=True, kw_only=True):
    address: str | None = None
    """A running cluster's address; none starts a private one on this machine and stops it at the end."""


class Recipe(Part, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
    seed: int = 0
    """Of the order of tasks, and of what engines sample. Rollouts run beside each other, so runs of one seed differ."""
    steps: Positive
    model: Model
    policies: dict[str, Policy] = field(default_factory=dict[str, Policy])
    """More models that learn, by the names that agents ask for: a critic, a planner. Each has engines of its own, as
    `engine` says, and is trained as `train` says, on what it sampled itself. Any other name means `model`."""
    tasks: Tasks = Tasks()
    agent: Agent | None = None
    """What is run on each task; none where the run learns from `sessions` and evaluates nothing."""
    reward: str | None = None
    """Python file with functions marked `@nexrl.reward`, which judge what the agent did. May be left out with
    `agent.environment`."""
    sessions: Sessions | None = None
    """Learn from sessions that nobody planned, in place of tasks: docs/external.md."""
    rewards: Rewards = Rewards()
    rollouts: Rollouts = Rollouts()
    algorithm: Algorithm = Algorithm()
    train: Train = Train()
    engine: Engine = Engine()
    proxy: Proxy = Proxy()
    ingest: Ingest = Ingest()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    ray: Ray = Ray()
    trackers: Trackers = Trackers()
    keep_batches: bool = False
    """Also write what each step was trained on, token for token, to `batches/` in the run directory."""
    folder: str = field(default=".")
    """Folder that relative paths start from; filled in from where the recipe lies."""

    def __post_init__(self) -> None:
        refuse_contradictions(self)

    @property
    def models(self) -> dict[str, Model]:
        """Every model that learns, by `Call.policy`; the first one's is empty."""
        return {"": self.model, **self.policies}

    @property
    def publishes_adapters(self) -> bool:
        """Whether engines are given the trained adapter alone: the embedded engine merges it itself."""
        return self.train.lora is not None and self.engine.kind == "embedded"

    @property
    def sequences_per_step(self) -> int:
        """Rollouts of one step."""
        return self.rollouts.groups_per_step * self.group_size

    @property
    def group_size(self) -> int:
        """Rollouts of one group."""
        return 1 if self.sessions and self.sessions.group == "session" else self.rollouts.group_size

    def resolve(self, path: str) -> Path:
        """Return a path of the recipe as an absolute one: `~` is home, relative ones start at `folder`."""
        return (Path(self.folder) / Path(path).expanduser()).resolve()

    @property
    def _files(self) -> dict[str, str | None]:
        return {"reward": self.reward, "sessions.reward": self.sessions.reward if self.sessions else None}

    def check(self) -> None:
        """Raise ConfigError for what only shows on this machine: missing files, packages, keys; not for the models."""
        # `before` is only ever set to leave an evaluation out.
        meant = {"before", "success_at"} if self.tasks.order == "curriculum" else {"before"}
        needless = set(self.evaluation.changed()) - meant
        if not self.tasks.heldout and (named := sorted(needless)):
            raise ConfigError(f"evaluation.{named[0]}: nothing to evaluate on; set tasks.heldout, or remove it")
        for name, path in self._files.items():
            if path and not self.resolve(path).is_file():
                raise ConfigError(f"{name}={path}: no file {self.resolve(path)}")
        if self.train.backend == "deepspeed" and not find_spec("deepspeed"):
            raise ConfigError(
                "train.backend=deepspeed: it is not installed; beside torch, run "
                "DS_BUILD_OPS=0 pip install --no-build-isolation 'nexrl[deepspeed]'"
            )
        if self.agent:
            self.agent.check(self.resolve)
        self.trackers.check()
        self.proxy.check()

    def check_models(self) -> None:
        """Raise ConfigError where a model that is not made, or the script that makes one, is not there."""
        for name, model in self.models.items():
            model.check(f"policies.{name}" if name else "model", self.resolve)
        for name, path in self.algorithm.scorers.items():
            if path:
                refuse_no_model(f"the algorithm's {name}, {path}", path, self.resolve(path))
