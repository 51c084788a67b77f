"""Server-sent events from the bytes of a stream: only their data, as `https://html.spec.whatwg.org` section 9.2 has it.

Comments, names and ids are of no use here; engines put every event's data on one line.
"""

from typing import Final

DONE: Final = b"[DONE]"
_FIELD: Final = b"data:"


class Events:
    """Feed it pieces of any size; `ended` once the stream said `[DONE]`."""

    def __init__(self) -> None:
        self.ended = False
        self._pending: list[bytes] = []

    def push(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that became complete."""
        if not self._pending and piece.find(b"\n") == len(piece) - 2 and piece.endswith(b"}\n\n"):
            return self._data([piece[:-2]])  # one whole event, as engines send them
        lines = piece.split(b"\n")
        if len(lines) == 1:
            self._pending.append(piece)
            return []
        if self._pending:
            lines[0] = b"".join((*self._pending, lines[0]))
            self._pending.clear()
        if last := lines.pop():
            self._pending.append(last)
        return self._data(lines)

    def _data(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        for line in lines:
            if not line.startswith(_FIELD) or self.ended:
                continue
            data = line.removeprefix(_FIELD).strip()
            if data == DONE:
                self.ended = True
            elif data:
                found.append(data)
        return found
