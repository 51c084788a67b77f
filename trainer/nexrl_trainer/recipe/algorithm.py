"""The `algorithm` part of a recipe: what can be set, what goes together, and the objective that follows from it.

The formulas are in `algorithms/`, and side by side on docs/algorithms.md.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from nexrl_trainer.algorithms.objective import Clip, Estimator, Importance, LossName, Objective, Temper
from nexrl_trainer.recipe.part import NotNegative, Part, Positive

AdvantageName = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "best", "distillation"]
Normalisation = Literal["token", "sequence", "rollout", "constant"]

LOSS_DEFAULTS: dict[LossName, dict[str, float | None]] = {
    "ppo": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None},
    "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "dual_clip": None},
    "cispo": {"clip_high": 4.0},
    "sapo": {"temper_positive": 1.0, "temper_negative": 1.05},
    "reinforce": {},
    "cross_entropy": {},
}
"""What each loss can be given, and what it does without."""
BOUNDS = ("clip_low", "clip_high", "dual_clip", "temper_positive", "temper_negative")
WITHOUT_RATIO = ("reinforce", "cross_entropy")
IMPORTANCE_DEFAULTS: dict[str, dict[str, float]] = {"truncate": {"high": 2.0}, "mask": {"low": 0.5, "high": 5.0}}


class Kl(Part, frozen=True, kw_only=True):
    coefficient: Annotated[float, Meta(ge=0)] = 0.0
    """0 leaves the KL out, and no reference policy is loaded."""
    place: Literal["loss", "reward"] = "loss"
    """`reward` takes the KL of a rollout's tokens off its reward, before advantages."""
    estimator: Estimator | None = None
    """`k2` or `k3` in the loss, `k1` in the reward; none is `k3` and `k1`."""
    unbiased: bool = False
    """Weigh each token's KL in the loss by current over behaviour (arXiv 2512.02556)."""
    reference: str | None = None
    """Directory of the reference policy; none is the model that the run started from."""

    def __post_init__(self) -> None:
        if not self.coefficient and self.changed():
            raise ValueError("algorithm.kl is described but not used: set algorithm.kl.coefficient, or remove the rest")
        if self.place == "reward" and self.estimator not in (None, "k1"):
            raise ValueError(f"kl.estimator={self.estimator}: in the reward only k1 has the KL's gradient; use k1")
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "kl.estimator=k1: in the loss its gradient is zero on average; use k2 or k3, or place reward"
            )
        if self.place == "reward" and self.unbiased:
            raise ValueError("kl.unbiased=true: k1 in the reward is unbiased as it is; remove it, or use place loss")


class Correction(Part, frozen=True, kw_only=True):
    correction: Literal["none", "truncate", "mask"] = "none"
    """`truncate` weighs tokens by min(proximal / behaviour, high); `mask` leaves out what lies outside low to high."""
    level: Literal["token", "sequence"] = "token"
    """`sequence` takes the product over the sequence's tokens."""
    low: Annotated[float, Meta(ge=0)] | None = None
    """Of `mask`; none is 0.5."""
    high: Annotated[float, Meta(gt=0)] | None = None
    """None is 2 for `truncate` and 5 for `mask`."""

    def __post_init__(self) -> None:
        if self.correction == "none" and self.changed():
            raise ValueError(
                "algorithm.importance is described but not used: set importance.correction to truncate or mask"
            )
        if self.correction == "truncate" and self.low is not None:
            raise ValueError(f"importance.low={self.low}: truncate has no lower bound; remove it, or use mask")
        bounds = self.bounds
        if bounds and bounds.low >= bounds.high:
            raise ValueError(f"importance.low={bounds.low} is not below importance.high={bounds.high}")

    @property
    def bounds(self) -> Importance | None:
        """The correction with its bounds; None without one."""
        if self.correction == "none":
            return None
        given = {name: value for name in ("low", "high") if (value := getattr(self, name)) is not None}
        settings = {**IMPORTANCE_DEFAULTS[self.correction], **given}
        return Importance(correction=self.correction, level=self.level, **settings)


class Overlong(Part, frozen=True, kw_only=True):
    limit: Positive | None = None
    """Sampled tokens of a rollout from which the whole penalty is taken off its reward; none takes nothing off."""
    buffer: Positive | None = None
    """Tokens before the limit over which the penalty grows from 0."""
    penalty: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if self.changed() and (self.limit is None or self.buffer is None or self.buffer > self.limit):
            raise ValueError(
                f"overlong.limit={self.limit}, overlong.buffer={self.buffer}: give both, the buffer the smaller"
            )


class CallRewards(Part, frozen=True, kw_only=True):
    names: list[str] = field(default_factory=list[str])
    """Rewards of single calls that reach the tokens of that call and, discounted, of earlier ones in its chain."""
    discount: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """For each call further back."""

    def __post_init__(self) -> None:
        if not self.names and self.changed():
            raise ValueError(f"call_rewards.discount={self.discount}: nothing to discount; set call_rewards.names")


class Filters(Part, frozen=True, kw_only=True):
    truncated: Literal["train", "mask"] = "train"
    """`mask` keeps a rollout one of whose calls was cut off by its length in the baseline, and trains none of it."""
    altered: Literal["mask", "train"] = "mask"
    """Calls sampled under penalties, biases or a grammar: the trainer cannot recompute their logprobs."""
    staleness: NotNegative | None = None
    """Tokens sampled by weights more versions back than this are not trained; none trains all."""
    stale: Literal["token", "sequence"] = "sequence"
    """`sequence` leaves out whole sequences with such a token, `token` only the tokens."""

    agents: list[str] | None = None
    """Only what these sub-agents sampled is trained (`x-nexrl-agent`, `nexrl.agent`); `""` is whoever gave no name.
    None trains all."""
    frozen_agents: list[str] = field(default_factory=list[str])
    """All sub-agents but these are trained."""

    def __post_init__(self) -> None:
        if self.staleness is None and self.stale != "sequence":
            raise ValueError(f"filters.stale={self.stale}: nothing is too stale; set filters.staleness")
        if self.agents is not None and (self.frozen_agents or not self.agents):
            raise ValueError(
                f"filters.agents={self.agents}, filters.frozen_agents={self.frozen_agents}: name those that are "
                "trained, or those that are not"
            )


class Algorithm(Part, frozen=True, kw_only=True):
    advantage: AdvantageName = "grpo"
    """What a rollout is worth: `grpo` divides by the group's standard deviation, `dr_grpo` does not; docs/algorithms.md
    has the formulas."""
    loss: LossName = "ppo"
    """`ppo` is the clipped loss of GRPO, DAPO and Dr. GRPO too, which differ by advantage, bounds and normalisation."""
    clip_low: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Lower bound 1 - clip_low on the ratio; none is 0.2 for `ppo`, 3e-4 for `gspo`."""
    clip_high: Annotated[float, Meta(gt=0)] | None = None
    """Upper bound 1 + clip_high on the ratio; none is 0.2 for `ppo`, 4e-4 for `gspo`, 4 for `cispo`."""
    dual_clip: Annotated[float, Meta(gt=1)] | None = None
    """Bound on the ratio where the advantage is negative, of `ppo` and `gspo`; none has no such bound."""
    temper_positive: Annotated[float, Meta(gt=0)] | None = None
    """Of `sapo`, where the advantage is positive; none is 1."""
    temper_negative: Annotated[float, Meta(gt=0)] | None = None
    """Of `sapo`, where the advantage is negative; none is 1.05."""
    normalise: Normalisation | None = None
    """What counts the same in the loss: tokens, sequences or rollouts; `constant` divides by `constant_length`. None is
    `sequence` for `gspo` and `sapo`, `token` for others."""
    constant_length: Positive | None = None
    """Tokens by which `normalise: constant` divides each rollout's sum (Dr. GRPO)."""
    entropy: Annotated[float, Meta(ge=0)] = 0.0
    """Coefficient of the entropy bonus."""
    kl: Kl = Kl()
    """KL to a reference policy."""
    ratio_to: Literal["behaviour", "proximal"] | None = None
    """What stands under the ratio: the engine's logprobs, or the trainer's own before the step (decoupled). None is
    `behaviour`."""
    importance: Correction = Correction()
    """Correct for what lies between the engine's logprobs and the trainer's own before the step."""
    teacher: str | None = None
    """Directory of the model that `advantage: distillation` learns from; its vocabulary is the policy's."""
    call_rewards: CallRewards = CallRewards()
    """Rewards of single calls; an agent's own are not used."""
    overlong: Overlong = Overlong()
    """Soft punishment of long rollouts (DAPO)."""
    filters: Filters = Filters()
    """What is not trained."""
    minibatches: Positive = 1
    """Optimizer steps one pass over the step's rollouts is cut into."""
    epochs: Positive = 1
    """Passes over the step's rollouts."""

    def __post_init__(self) -> None:
        for refusal in (_bounds, _ratio, _normalisation, _advantage):
            refusal(self)

    @property
    def normalisation(self) -> Normalisation:
        """What counts the same in the loss."""
        return self.normalise or ("sequence" if self.loss in ("gspo", "sapo") else "token")

    @property
    def objective(self) -> Objective:
        """What the train service is asked to minimise."""
        bounds: dict[str, Any] = {**LOSS_DEFAULTS[self.loss], **_given(self)}
        return Objective(
            loss=self.loss,
            ratio_to=self.ratio_to or "behaviour",
            clip=Clip(low=bounds.get("clip_low", 0.2), high=bounds.get("clip_high", 0.2), dual=bounds.get("dual_clip")),
            temper=Temper(positive=bounds.get("temper_positive", 1.0), negative=bounds.get("temper_negative", 1.05)),
            kl=self.kl.coefficient if self.kl.place == "loss" else 0.0,
            estimator=self.kl.estimator or "k3",
            unbiased_kl=self.kl.unbiased,
            entropy=self.entropy,
            importance=self.importance.bounds,
        )

    @property
    def scorers(self) -> dict[str, str | None]:
        """The other policies it needs, by field of `Scorers`: their directories, None for where the run began."""
        reference = {"reference": self.kl.reference} if self.kl.coefficient else {}
        return {**reference, **({"teacher": self.teacher} if self.teacher else {})}

    @property
    def needs_proximal(self) -> bool:
        """Whether the logprobs before the step's first update must be kept: a lone update has them at hand."""
        used = self.ratio_to == "proximal" or self.importance.correction != "none"
        return used and self.minibatches * self.epochs > 1


def _given(algorithm: Algorithm) -> dict[str, float]:
    return {name: value for name in BOUNDS if (value := getattr(algorithm, name)) is not None}


def _bounds(it: Algorithm) -> None:
    known = LOSS_DEFAULTS[it.loss]
    for name, value in _given(it).items():
        if name not in known:
            able = ", ".join(loss for loss, settings in LOSS_DEFAULTS.items() if name in settings)
            raise ValueError(f"{name}={value}: loss {it.loss} has no such bound; remove it, or use a loss of {able}")


def _ratio(it: Algorithm) -> None:
    if it.loss in WITHOUT_RATIO and it.ratio_to:
        raise ValueError(f"ratio_to={it.ratio_to}: loss {it.loss} has no ratio; remove it")
    if it.loss == "cross_entropy" and it.importance.correction != "none":
        raise ValueError("importance.correction: loss cross_entropy imitates, whoever sampled; remove it")
    if it.importance.correction != "none" and it.ratio_to != "proximal" and it.loss not in WITHOUT_RATIO:
        raise ValueError(
            f"importance.correction={it.importance.correction}: the ratio to the behaviour policy corrects already; "
            "set ratio_to: proximal, or remove it"
        )


def _normalisation(it: Algorithm) -> None:
    if (it.normalisation == "constant") != (it.constant_length is not None):
        raise ValueError(
            f"normalise={it.normalise}, constant_length={it.constant_length}: constant needs constant_length, "
            "and nothing else has one"
        )
    if it.loss == "gspo" and it.normalisation in ("token", "constant"):
        raise ValueError(
            f"normalise={it.normalise}: gspo has one ratio per sequence, which would then count by its length; "
            "use sequence or rollout"
        )


def _advantage(it: Algorithm) -> None:
    if (it.advantage == "best") != (it.loss == "cross_entropy"):
        raise ValueError(
            f"advantage={it.advantage}, loss={it.loss}: imitating the best rollouts takes advantage best and loss "
            "cross_entropy together"
        )
    if (it.advantage == "distillation") != (it.teacher is not None):
        raise ValueError(
            f"advantage={it.advantage}, teacher={it.teacher}: distillation needs a teacher, and nothing else has one"
        )
    if it.advantage == "distillation" and (it.overlong.limit or it.kl.place == "reward"):
        raise ValueError("advantage=distillation reads no reward: remove overlong and kl.place: reward")
    by_token = it.advantage == "distillation" or bool(it.call_rewards.names)
    if it.loss == "gspo" and by_token:
        raise ValueError("loss=gspo: advantages that differ within a sequence need a ratio per token; use ppo or cispo")
    if it.call_rewards.names and it.advantage not in ("grpo", "dr_grpo", "rloo"):
        raise ValueError(
            f"call_rewards.names: advantage {it.advantage} has no baseline for calls; use grpo, dr_grpo, rloo"
        )
