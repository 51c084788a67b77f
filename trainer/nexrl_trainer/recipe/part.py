"""What the parts of a recipe are made of: a strict Struct, and numbers with bounds."""

from typing import Annotated

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the recipe; unknown keys are errors."""

    def changed(self) -> list[str]:
        """Return the names of settings that are not at their defaults."""
        return [
            field.name
            for field in fields(self)
            if getattr(self, field.name)
            != (field.default if field.default is not NODEFAULT else _made(field.default_factory))
        ]


def _made(factory: object) -> object:
    return factory() if callable(factory) else factory
