"""Stands in for `sgl-kernel`, which has no build for this CPU: SGLang may import it, and what it would call raises.

Nothing is computed here. Without a GPU SGLang takes its own PyTorch paths; one that needs a kernel fails by name.
"""

import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

__version__ = "0.0.0+absent"


def _absent(name: str) -> Callable[..., NoReturn]:
    def kernel(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{name} is a compiled kernel, and there is none for this machine")

    return kernel


class _Package(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{self.__name__}.{name}")


sys.modules[__name__].__class__ = _Package
