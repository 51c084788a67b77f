"""Errors people can act on: each message names the thing, the value and the remedy.

NexrlError
├── ConfigError      a recipe, a flag or an environment variable is wrong; nothing was started
├── RewardError      a reward file or function cannot be used
├── ServiceError     a service we start or talk to failed: ingest, proxy, engine
├── PayloadError     a span or a record does not hold what it must
├── AccessError      a key is missing, wrong, or does not reach that far
└── RunError         a run cannot go on: every rollout failed, say
"""


class NexrlError(Exception):
    """Base of every error NexRL raises for a reason outside its own code."""


class ConfigError(NexrlError):
    """A recipe, a flag or an environment variable is wrong; nothing was started."""


class RewardError(NexrlError):
    """A reward file or function cannot be used."""


class ServiceError(NexrlError):
    """A service we start or talk to failed: ingest, proxy, engine."""


class PayloadError(NexrlError):
    """A span or a record does not hold what it must."""


class AccessError(NexrlError):
    """A key is missing, wrong, or does not reach that far."""


class RunError(NexrlError):
    """A run cannot go on."""
