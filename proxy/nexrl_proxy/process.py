"""What a process that serves needs of its surroundings: enough open files."""

import contextlib
import resource


def allow_many_files() -> None:
    """Raise the limit of open files as far as the system lets: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS calls it unlimited, and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
