"""The policy under training: the train service's protocol, its backends, their placement and their checkpoints."""
