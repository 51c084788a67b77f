"""Rewards that differ within a group, whatever the agent says: every step has something to train on."""

import itertools

import nexrl

counter = itertools.count()


@nexrl.reward
def different() -> float:
    """Return 0, 1/7, ... 6/7 in turn."""
    return (next(counter) % 7) / 7
