"""The learning rate of a step. Pure."""

import math

from nexrl_trainer.recipe.train import Train


def learning_rate(config: Train, step: int, steps: int) -> float:
    """Return the learning rate of step 0, 1, ... of a run of `steps`.

    Rises evenly over the warm-up, to the whole at its end, then falls by the schedule and would be 0 at `steps`.

    Example: 1.0, linear, warm-up 2, 6 steps -> 0.5 1.0 1.0 0.75 0.5 0.25
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shares = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * shares[config.schedule]
