"""Who is told that something changed that others wait for: callbacks, called from the thread that knows of it."""

import logging
import threading
from collections.abc import Callable

Told = Callable[[], None]
_log = logging.getLogger(__name__)


class Bell:
    """Rings for everybody who listens."""

    def __init__(self) -> None:
        self._told: set[Told] = set()
        self._turn = threading.Lock()

    def listen(self, told: Told) -> None:
        with self._turn:
            self._told.add(told)

    def leave(self, told: Told) -> None:
        with self._turn:
            self._told.discard(told)

    def ring(self) -> None:
        """Tell everybody; whoever raises keeps neither the others nor the thread that rings from going on."""
        with self._turn:
            for told in self._told:
                try:
                    told()
                except Exception:  # noqa: BLE001 - whoever listens may be at their end
                    _log.exception("one who waits could not be told")
