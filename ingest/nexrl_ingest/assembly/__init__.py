"""Assembly: calls to chains, chains to sequences, and how well they merged. Pure functions."""
