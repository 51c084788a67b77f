"""What a recipe can say: one frozen tree, handed down by part.

What follows from other values is a property, so no file can set it inconsistently. Reading and merging is `file.py`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.algorithm import Algorithm
from nexrl_trainer.recipe.part import NotNegative, Part, Positive, Seconds


class Model(Part, frozen=True, kw_only=True):
    path: str
    """Directory in Hugging Face layout: config, tokenizer with chat template, safetensors."""
    make: str | None = None
    """Script run as `python SCRIPT --out PATH` where `path` does not exist yet."""


class Tasks(Part, frozen=True, kw_only=True):
    train: str
    """JSONL file, one task a row. A row may name itself with `id`."""
    heldout: str | None = None
    """JSONL file of tasks that are never trained on."""


class Agent(Part, frozen=True, kw_only=True):
    command: Annotated[list[str], Meta(min_length=1)]
    """Program and arguments; `{name}` stands for the task's field of that name. `python` is this Python."""
    stdin: str | None = None
    """Text for the agent's standard input, with the same `{name}`s."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    timeout_s: Seconds = 120.0
    concurrency: Positive = 8
    """Agents running at the same time."""
    attempts: Positive = 2
    """Tries per rollout before it is recorded as failed."""


class Rollouts(Part, frozen=True, kw_only=True):
    groups_per_step: Positive = 8
    group_size: Annotated[int, Meta(ge=2)] = 8
    """Rollouts per task that are compared with each other; a group of one has no baseline."""


class Lora(Part, frozen=True, kw_only=True):
    """Low-rank adapters, arXiv 2106.09685: the model's own weights stay, only the adapters are trained."""

    rank: Positive
    alpha: Positive
    """The adapters' product counts alpha / rank."""
    targets: Annotated[list[str], Meta(min_length=1)]
    """Linear layers that get one, by the end of their name: `q_proj`, `down_proj`; `all-linear` is all but the head."""


class Train(Part, frozen=True, kw_only=True):
    backend: Literal["torch", "deepspeed"] = "torch"
    """`torch` is one process, on a CPU or one GPU; `deepspeed` is `ranks` processes that share each batch."""
    ranks: Positive = 1
    """Processes of the deepspeed backend; each takes `threads` CPU threads and, where the cluster has them, a GPU."""
    zero_stage: Literal[1, 2, 3] = 2
    """What deepspeed's ranks share out: the optimizer's state; its gradients too; the weights too."""
    offload_optimizer: bool = False
    """Deepspeed keeps the optimizer's state in CPU memory and steps there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Of the trainer and of the embedded engine; `auto` takes a GPU where torch sees one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the trainer and the embedded engine compute in; the trainer keeps float32 parameters."""
    threads: Positive = 1
    """CPU threads of the trainer; two were slower than one on small models."""
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-6
    """Of the steps after the warm-up, before the schedule lowers it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from the end of the warm-up to 0 after the last step."""
    warmup_steps: NotNegative = 0
    """First steps, over which the learning rate rises evenly."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    grad_clip: Annotated[float, Meta(gt=0)] = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    micro_batch_tokens: Positive = 8192
    """Tokens of packed sequences that go through the model at once, shared beginnings counted once; a longer sequence
    goes alone."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: slower, much less memory."""
    lora: Lora | None = None
    """Train adapters on the torch backend; engines get the merged weights, checkpoints hold the adapter as well."""

    def __post_init__(self) -> None:
        for name, default in (("ranks", 1), ("zero_stage", 2), ("offload_optimizer", False)):
            value = getattr(self, name)
            if self.backend == "torch" and value != default:
                raise ValueError(f"train.{name}={value} is the deepspeed backend's: set train.backend=deepspeed")
        if self.backend == "deepspeed" and self.lora:
            raise ValueError("train.lora is the torch backend's: remove it, or set train.backend=torch")


class Engine(Part, frozen=True, kw_only=True):
    kind: Literal["embedded", "sglang"] = "embedded"
    """`embedded` is started for the run; `sglang` is a server that is already running at `url`."""
    url: str | None = None
    max_running: Positive = 32
    """Requests the embedded engine samples for at the same time; more wait."""
    max_length: Positive | None = None
    """Longest prompt plus completion of the embedded engine, in tokens; none is all the model has positions for."""
    threads: Positive = 1
    """CPU threads of the embedded engine."""

    def __post_init__(self) -> None:
        if self.kind == "sglang" and not self.url:
            raise ValueError("kind 'sglang' needs the server's address: set engine.url, for example http://host:30000")
        for name, default in (("max_running", 32), ("max_length", None), ("threads", 1)):
            if self.kind == "sglang" and getattr(self, name) != default:
                raise ValueError(f"engine.{name} is the embedded engine's: give an SGLang server its own flags")
        if self.kind == "embedded" and self.url:
            raise ValueError(f"kind 'embedded' starts its own process: remove engine.url={self.url}")


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


class Proxy(Part, frozen=True, kw_only=True):
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tool_parser: str = "auto"
    """Format of tool calls; `auto` takes it from the chat template. `nexrl proxy --help` lists them."""
    reasoning_parser: str = "auto"
    history: Literal["append", "template"] = "append"
    """Earlier turns stay as they were sampled, or the chat template renders them anew, which may end a chain."""
    sampling: SamplingPolicy = SamplingPolicy()


class Ingest(Part, frozen=True, kw_only=True):
    port: Annotated[int, Meta(ge=0, le=65535)] = 0


class Evaluation(Part, frozen=True, kw_only=True):
    before: bool = True
    every: NotNegative = 0
    """Steps between evaluations; 0 evaluates only before and after."""
    limit: Positive | None = None
    """Use only the first so many held-out tasks."""
    success_at: float = 1.0
    """A rollout whose total reward reaches this is a success."""


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
    steps: Positive
    model: Model
    tasks: Tasks
    agent: Agent
    reward: str
    """Python file with functions marked `@nexrl.reward`."""
    rollouts: Rollouts = Rollouts()
    algorithm: Algorithm = Algorithm()
    train: Train = Train()
    engine: Engine = Engine()
    proxy: Proxy = Proxy()
    ingest: Ingest = Ingest()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    ray: Ray = Ray()
    keep_batches: bool = False
    """Also write what each step was trained on, token for token, to `batches/` in the run directory."""
    folder: str = field(default=".")
    """Folder that relative paths start from; filled in from where the recipe lies."""

    @property
    def sequences_per_step(self) -> int:
        """Rollouts planned for one step."""
        return self.rollouts.groups_per_step * self.rollouts.group_size

    def resolve(self, path: str) -> Path:
        """Return a path of the recipe as an absolute one: `~` is home, relative ones start at `folder`."""
        return (Path(self.folder) / Path(path).expanduser()).resolve()

    def check(self) -> None:
        """Raise ConfigError for what only shows against the file system: missing files, an unusable model."""
        if self.evaluation.every and not self.tasks.heldout:
            raise ConfigError(f"evaluation.every={self.evaluation.every}: nothing to evaluate on; set tasks.heldout")
        needed = {"tasks.train": self.tasks.train, "tasks.heldout": self.tasks.heldout, "reward": self.reward}
        needed |= {"model.make": self.model.make}
        for name, path in needed.items():
            if path and not self.resolve(path).is_file():
                raise ConfigError(f"{name}={path}: no file {self.resolve(path)}")
        if not self.model.make and not (self.resolve(self.model.path) / "config.json").is_file():
            raise ConfigError(f"model.path={self.model.path}: no config.json in {self.resolve(self.model.path)}")
        if self.train.backend == "deepspeed" and not find_spec("deepspeed"):
            raise ConfigError(
                "train.backend=deepspeed: it is not installed; beside torch, run "
                "DS_BUILD_OPS=0 pip install --no-build-isolation 'nexrl[deepspeed]'"
            )
        for name, path in self.algorithm.scorers.items():
            if path and not (self.resolve(path) / "config.json").is_file():
                raise ConfigError(f"the algorithm's {name}, {path}: no config.json in {self.resolve(path)}")
