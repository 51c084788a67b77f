"""What a run that goes on may say differently from its first start: how it learns, not what. Pure."""

from typing import Any

import msgspec

from nexrl_trainer.recipe.tree import Recipe

MAY_CHANGE = frozenset({
    # How long, who is told, and where the recipe lies.
    "steps", "evaluation.every", "evaluation.patience", "trackers", "folder",
    # How agents are run. One that times out is a failed rollout, from which nothing is learned.
    "agent.concurrency", "agent.workers", "agent.timeout_s", "agent.attempts", "agent.limits", "agent.keep_files",
    "agent.preload",
    "agent.kubernetes.proxy", "agent.kubernetes.ingest", "agent.kubernetes.namespace", "agent.kubernetes.context",
    "agent.kubernetes.start_s",
    # What fits the machine: the same sums, but for the order that they are added up in.
    "train.threads", "train.micro_batch_tokens", "train.activation_checkpointing",
    "engine.threads", "engine.max_running", "engine.replicas", "engine.publication",
    "proxy.host", "proxy.port", "proxy.models", "ingest.host", "ingest.port", "ray",
    # What is kept.
    "checkpoints", "keep_batches",
})  # fmt: skip
"""Settings, or whole parts, by their path. `evaluation.limit` and `.success_at` are not among them: the evaluations of
one run are compared with each other."""


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Return what differs and may not, in words. Example: ["seed was 0, is 4"]."""
    return _differences(msgspec.to_builtins(before), msgspec.to_builtins(now), "")


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key, new in now.items():
        name, old = f"{prefix}{key}", before.get(key)
        if name in MAY_CHANGE:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} was {old!r}, is {new!r}")
    return found
