"""Whose turn it is: groups shared out among pools by their weights. Pure: a function of the group's number alone."""

from array import array
from collections.abc import Sequence


class Mixture:
    """Which pool each group is drawn from, and the how-manieth of that pool's it is.

    The next group goes to the pool with the largest weight / (2 x its groups so far + 1), of equals to the first: the
    method of A. Sainte-Lague (1910), which shares out seats. No later group changes an earlier one: of the first n
    groups, for every n, pool i of k has w_i n to within 1/2 + w_i k/2, where the weights add up to 1.

    Example: weights 3 and 1 -> pools 0 0 1 0, 0 0 1 0, ...
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)
        self._counts = [0] * len(self._weights)
        self._pools = array("H")
        self._places = array("q")

    def turn(self, number: int) -> tuple[int, int]:
        """Return (pool, how many of the groups before `number` were this pool's)."""
        if len(self._weights) == 1:
            return 0, number
        while len(self._pools) <= number:
            averages = [w / (2 * count + 1) for w, count in zip(self._weights, self._counts, strict=True)]
            pool = averages.index(max(averages))
            self._pools.append(pool)
            self._places.append(self._counts[pool])
            self._counts[pool] += 1
        return self._pools[number], self._places[number]
