"""Rewards that always differ within a group, so that every step has something to train on."""

import random

import nexrl


@nexrl.reward
def different(answer: str) -> float:
    if answer.startswith("misjudged"):
        raise ZeroDivisionError("the judge divided by :100:")
    return random.random()
