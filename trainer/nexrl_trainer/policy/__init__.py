"""The policy under training: the train service's protocol, its torch backend, and what goes through it."""
