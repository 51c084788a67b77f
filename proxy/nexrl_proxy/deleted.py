"""Replies that agents deleted: a session that is read back from ingest does not have them again.

What was sampled stays recorded. Ids are appended to a file in the proxy's directory, which all its workers share, so
that a deletion outlives the process; the latest ones are remembered.
"""

from collections import OrderedDict
from pathlib import Path

from nexrl.errors import ConfigError
from nexrl_proxy.conversation import remember
from nexrl_proxy.errors import ApiError

NAME = "deleted-responses"
MOST = 65536


class Deleted:
    """Ids of replies, kept in `path`."""

    def __init__(self, path: Path) -> None:
        """Read what was deleted earlier; raises ConfigError where the file cannot be read."""
        self._path = path
        try:
            lines = path.read_text().split() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--data: {path} cannot be read ({error}); mend it, or remove it") from error
        self._ids: OrderedDict[str, None] = OrderedDict.fromkeys(lines[-MOST:])

    def __contains__(self, response: str) -> bool:
        return response in self._ids

    def add(self, response: str) -> None:
        """Remember a reply; raises ApiError where the disk refuses."""
        try:
            with self._path.open("a") as file:
                file.write(f"{response}\n")
        except OSError as error:
            raise ApiError(
                f"response {response!r} cannot be deleted: the proxy's disk refuses ({error.strerror}); try again",
                status=503,
                kind="service_unavailable_error",
                code="disk_unavailable",
            ) from error
        remember(self._ids, response, None, most=MOST)
