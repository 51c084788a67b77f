"""Environments as agents: what people have in place of an agent, played with the model by us."""
