"""Where in somebody's own files an error began: what went wrong, the line, and what stands there."""

import traceback
from pathlib import Path

LONGEST = 120
"""Characters of a line that are shown."""


def blamed(error: BaseException, folder: Path | None) -> str:
    """Return an error in words, with the innermost line of a file in `folder` that it came from.

    Example: `ValueError: no number (reward.py:12: return float(answer))`; without the line where there is none.
    """
    said = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__) if folder else []
    own = [frame for frame in frames if Path(frame.filename).parent == folder]
    if not own:
        return said
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    line = (own[-1].line or "")[:LONGEST]
    return f"{said} ({place}: {line})" if line else f"{said} ({place})"
