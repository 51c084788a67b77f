"""The clip's bounds: a setting of losses, kept apart from them so that the driver need not load torch."""

from msgspec import Struct


class Clip(Struct, frozen=True, kw_only=True):
    """How far the ratio may move before a token stops pushing: [1 - low, 1 + high]."""

    low: float = 0.2
    high: float = 0.2
