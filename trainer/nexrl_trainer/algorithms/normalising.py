"""What each trained token counts: the whole normalisation of the loss, fixed before anything is masked by the loss.

Pure. `token`: DAPO, arXiv 2503.14476, section 3.3. `sequence`: GRPO, arXiv 2402.03300, equation 3. `constant`: Dr.
GRPO, arXiv 2503.20783, section 3.2.
"""

from collections import Counter
from collections.abc import Sequence


def token_weights(
    lengths: Sequence[int], rollouts: Sequence[str], normalisation: str, constant: int | None = None
) -> list[float]:
    """Return the weight of a trained token of each sequence, from their trained tokens and the rollouts they are of.

    Example: lengths 2 4 2, rollouts a a b -> token 1/8 1/8 1/8; sequence 1/6 1/12 1/6; rollout 1/12 1/12 1/4;
    constant 10: 1/20 1/20 1/20.
    """
    tokens: Counter[str] = Counter()
    for length, rollout in zip(lengths, rollouts, strict=True):
        tokens[rollout] += length
    match normalisation:
        case "token":
            return [1 / tokens.total()] * len(lengths)
        case "sequence":
            return [1 / (len(lengths) * length) for length in lengths]
        case "rollout":
            return [1 / (len(tokens) * tokens[rollout]) for rollout in rollouts]
        case "constant" if constant:
            return [1 / (len(tokens) * constant)] * len(lengths)
        case _:
            raise ValueError(
                f"normalisation={normalisation}, constant={constant}: choose token, sequence, rollout, constant"
            )
