"""Engines: what samples tokens, and how new weights reach it."""
