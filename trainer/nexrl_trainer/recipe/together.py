"""What of a recipe goes together and what does not: refusals that concern more than one part. Pure."""

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nexrl_trainer.algorithms.advantages import WITHOUT_BASELINE
from nexrl_trainer.recipe.engine import LOOPBACK

if TYPE_CHECKING:
    from nexrl_trainer.recipe.tree import Recipe

_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
OF_SESSIONS = ("groups_per_step", "group_size")
"""What of `rollouts` is about sessions that nobody planned, too."""


def refuse_contradictions(it: "Recipe") -> None:
    """Raise ValueError naming what contradicts what, and the remedy."""
    _dynamic_sampling(it)
    _places(it)
    _pods(it)
    _names(it)
    _policies(it)
    if it.sessions:
        _sessions(it)
        _singles(it)
        _evaluation(it)
    else:
        _planned(it)


def _dynamic_sampling(it: "Recipe") -> None:
    teaches_anyway = it.algorithm.advantage in WITHOUT_BASELINE or it.algorithm.call_rewards.names
    if it.rollouts.dynamic_sampling and teaches_anyway:
        raise ValueError(
            f"rollouts.dynamic_sampling={it.rollouts.dynamic_sampling}: with algorithm.advantage="
            f"{it.algorithm.advantage} and call_rewards={it.algorithm.call_rewards.names} groups whose rewards "
            "are all equal teach too; leave dynamic sampling out"
        )


def _places(it: "Recipe") -> None:
    if it.engine.publication == "shared_memory" and it.ray.address:
        raise ValueError(
            f"engine.publication=shared_memory: with ray.address={it.ray.address}, trainer and engine may be on "
            "different machines; use disk"
        )
    if it.engine.publication == "broadcast" and it.ray.address:
        for url in it.engine.urls:
            if urlsplit(url).hostname in LOOPBACK:
                raise ValueError(
                    f"engine.publication=broadcast: engine.url={url} is only this machine's, and with ray.address="
                    f"{it.ray.address} the trainer may be on another; give the address at which others reach it"
                )
    if it.engine.colocated and (it.sessions or it.rollouts.max_staleness):
        raise ValueError(
            "engine.colocated: sessions and rollouts with max_staleness are sampled while a step trains; set "
            "rollouts.max_staleness=0, or give engines a GPU of their own"
        )


def _pods(it: "Recipe") -> None:
    if it.agent is None or it.agent.kubernetes is None:
        return
    for name in ("proxy", "ingest"):
        part, told = getattr(it, name), getattr(it.agent.kubernetes, name)
        if urlsplit(told).hostname in LOOPBACK:
            raise ValueError(
                f"agent.kubernetes.{name}={told}: to a pod that is itself; give the address at which pods reach this "
                "machine"
            )
        if part.url is None and part.host in LOOPBACK:
            raise ValueError(
                f"{name}.host={part.host}: pods cannot reach what listens on this machine alone; set {name}.host: "
                f"0.0.0.0, and {name}.port to the port that agent.kubernetes.{name}={told} leads to"
            )
        if part.url is None and not part.port:
            raise ValueError(
                f"{name}.port=0 takes any free port, and agent.kubernetes.{name}={told} leads to one; set {name}.port"
            )


def _names(it: "Recipe") -> None:
    for name in it.policies:
        if not _NAME.fullmatch(name):
            raise ValueError(f"policies.{name}: a name has 1 to 60 letters, digits, '_' or '-'; give it another")
        if name == it.name:
            raise ValueError(f"policies.{name}: `model` is called so, as the run is; give this one another name")
        if name in it.proxy.models:
            raise ValueError(f"policies.{name}: proxy.models.{name} is another model; give one of them another name")
    if it.name in it.proxy.models:
        raise ValueError(f"proxy.models.{it.name}: the model that is trained is called so; give this one another name")


def _policies(it: "Recipe") -> None:
    if not it.policies:
        return
    if it.proxy.url:
        raise ValueError(
            f"policies: the proxy at proxy.url={it.proxy.url} does not know them; let the run start its own"
        )
    if it.engine.colocated:
        raise ValueError("policies: engine.colocated is for one model; give engines GPUs of their own")
    for name, path in it.algorithm.scorers.items():
        if path:
            raise ValueError(
                f"policies: {path}, the algorithm's {name}, can score the tokens of one model alone; leave it out, or "
                "train one model"
            )
    for name, policy in it.policies.items():
        if bool(policy.url) != bool(it.engine.url):
            raise ValueError(
                f"policies.{name}.url={policy.url}, engine.url={it.engine.url}: name the engines of every model where "
                "they run already, or of none"
            )
    urls = [*it.engine.urls, *(url for policy in it.policies.values() for url in policy.urls)]
    it.engine.check_addresses("engine.url and policies.*.url", urls)


def _planned(it: "Recipe") -> None:
    for name, given in (("agent", it.agent), ("reward", _judges(it)), ("tasks.train", it.tasks.train)):
        if given is None:
            raise ValueError(
                f"{name} is missing: a run needs tasks, an agent and reward functions, or it learns from `sessions`"
            )
    for name in ("proxy", "ingest"):
        if url := getattr(it, name).url:
            raise ValueError(f"{name}.url={url}: only a run that learns from `sessions` takes one that runs already")


def _judges(it: "Recipe") -> str | None:
    """Return what says how well an agent did: the reward file, or the environment that it acts in."""
    return it.reward or (it.agent and it.agent.environment)


def _sessions(it: "Recipe") -> None:
    for name in it.rollouts.changed():
        if name not in OF_SESSIONS:
            raise ValueError(
                f"rollouts.{name}: nobody plans sessions, they come when they come; remove it (sessions.max_staleness "
                "says how old they may be)"
            )
    if bool(it.proxy.url) != bool(it.ingest.url) or (it.proxy.url and not it.engine.url):
        raise ValueError(
            f"proxy.url={it.proxy.url}, ingest.url={it.ingest.url}, engine.url={it.engine.url}: name all three where "
            "they run already, or let the run start proxy and ingest"
        )
    for name in ("proxy", "ingest"):
        part = getattr(it, name)
        if part.url and (others := [other for other in part.changed() if other != "url"]):
            raise ValueError(f"{name}.{others[0]}: the one at {part.url} was started with its own; remove it")


def _singles(it: "Recipe") -> None:
    if not it.sessions or it.sessions.group == "key":
        return
    if "group_size" in it.rollouts.changed():
        raise ValueError(
            f"rollouts.group_size={it.rollouts.group_size}: with sessions.group=session each stands for itself; remove "
            "it, or set sessions.group: key"
        )
    if it.algorithm.advantage not in WITHOUT_BASELINE:
        raise ValueError(
            f"algorithm.advantage={it.algorithm.advantage} compares the rollouts of a group, and with sessions.group="
            f"session there is one in each; use {' or '.join(sorted(WITHOUT_BASELINE))}, or set sessions.group: key"
        )
    if it.algorithm.advantage == "reinforce_pp" and it.rollouts.groups_per_step == 1:
        raise ValueError(
            "rollouts.groups_per_step=1: reinforce_pp compares the sessions of a step, and one alone is always "
            "average: use more"
        )


def _evaluation(it: "Recipe") -> None:
    if it.tasks.train is not None:
        raise ValueError("tasks.train: the run learns from `sessions`; remove one of the two (tasks.heldout may stay)")
    if it.tasks.order != "shuffled":
        raise ValueError(f"tasks.order={it.tasks.order}: a run that learns from `sessions` draws no tasks; remove it")
    if isinstance(share := it.tasks.heldout, float):
        # For msgspec, which tells a ValueError with its path.
        raise ValueError(f"tasks.heldout={share}: a share of tasks.train, of which there is none; name a file")  # noqa: TRY004
    given = {"agent": it.agent, "reward": _judges(it), "tasks.heldout": it.tasks.heldout}
    lacking = [name for name, value in given.items() if value is None]
    if lacking and (len(lacking) < len(given) or it.rewards.changed() or it.tasks.changed()):
        raise ValueError(
            f"{lacking[0]} is missing: to evaluate on held-out tasks a run needs tasks.heldout, agent and reward; what "
            "judges `sessions` is in sessions.reward and sessions.feedback"
        )
