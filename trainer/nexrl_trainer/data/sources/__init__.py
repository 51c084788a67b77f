"""Sources: one file a kind, each a function from a place to its rows. A new one is a file and a line of `kinds.py`."""
