"""The soak: what takes minutes, run by `make test-soak`. It shares the worlds of the rooms' tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ingest"))
