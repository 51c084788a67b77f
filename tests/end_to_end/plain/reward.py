"""Rewards that always differ within a group, so that every step has something to train on."""

import itertools

import nexrl

counter = itertools.count()


@nexrl.reward
def different(answer: str) -> float:
    if answer.startswith("misjudged"):
        raise ZeroDivisionError("the judge divided by zero")
    return (next(counter) % 7) / 7
