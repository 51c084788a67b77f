"""Advantages and losses: pure functions, one per paper."""
