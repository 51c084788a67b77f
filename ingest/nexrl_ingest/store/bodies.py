"""Bodies of blocks by their numbers: in files beside SQLite, in a table of PostgreSQL. The same answers."""

from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.segments import Place, Segments


class TableBodies:
    """Bodies in a table."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, spans: int, body: bytes) -> int:
        query = "INSERT INTO blocks (spans, body) VALUES (?, ?) RETURNING seq"
        [[number]] = self._connection.fetch(query, (spans, body))
        return number

    def read(self, number: int) -> bytes:
        [[body]] = self._connection.fetch("SELECT body FROM blocks WHERE seq = ?", (number,))
        return body

    def replace(self, number: int, spans: int, body: bytes) -> None:
        self._connection.execute("UPDATE blocks SET spans = ?, body = ? WHERE seq = ?", (spans, body, number))

    def withdraw(self, number: int) -> None:
        self.remove(number)

    def remove(self, number: int) -> None:
        self._connection.execute("DELETE FROM blocks WHERE seq = ?", (number,))


class SegmentBodies:
    """Bodies in files, and their places in a table."""

    def __init__(self, connection: Connection, segments: Segments) -> None:
        self._connection = connection
        self._segments = segments

    def add(self, spans: int, body: bytes) -> int:
        query = "INSERT INTO blocks (spans, segment, start, length, checksum) VALUES (?, ?, ?, ?, ?) RETURNING seq"
        [[number]] = self._connection.fetch(query, (spans, *self._segments.append(body)))
        return number

    def read(self, number: int) -> bytes:
        return self._segments.read(self._place(number))

    def replace(self, number: int, spans: int, body: bytes) -> None:
        query = "UPDATE blocks SET spans = ?, segment = ?, start = ?, length = ?, checksum = ? WHERE seq = ?"
        self._connection.execute(query, (spans, *self._segments.append(body), number))

    def withdraw(self, number: int) -> None:
        self._segments.take_back(self._place(number))
        self.remove(number)

    def remove(self, number: int) -> None:
        self._connection.execute("DELETE FROM blocks WHERE seq = ?", (number,))

    def _place(self, number: int) -> Place:
        query = "SELECT segment, start, length, checksum FROM blocks WHERE seq = ?"
        [row] = self._connection.fetch(query, (number,))
        return Place(*row)
