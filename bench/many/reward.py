"""The cheapest judge: what is measured is everything around it."""

import nexrl


@nexrl.reward
def ended(answer: str) -> float:
    """Return 1 where the agent got to its end."""
    return float(answer == "done")
