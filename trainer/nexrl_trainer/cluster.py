"""Ray: a private cluster on this machine, or somebody's running one; and what is placed on it."""

import contextlib
import logging
import math
import os
from collections.abc import Generator

import ray

from nexrl.errors import ServiceError
from nexrl_trainer.engines.servers.flags import parallel
from nexrl_trainer.engines.servers.kinds import SERVERS
from nexrl_trainer.recipe import Recipe

SMALLEST_CPUS = 4
"""What a private cluster claims to have at least: its few processes share cores gladly on a small laptop."""


@contextlib.contextmanager
def cluster(recipe: Recipe) -> Generator[None]:
    """Be connected to Ray; raises ServiceError where that fails. A private cluster is stopped at the end."""
    # Nothing about a user's runs leaves the machine unasked.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    private = recipe.ray.address is None
    ranks = (1 + len(recipe.algorithm.scorers)) * recipe.train.ranks
    each = ranks * recipe.train.threads + recipe.engine.started * recipe.engine.threads
    needed = each * len(recipe.models)
    cpus = max(SMALLEST_CPUS, os.cpu_count() or 1, needed) if private else None
    try:
        ray.init(
            address="local" if private else recipe.ray.address,
            num_cpus=cpus,
            include_dashboard=False if private else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises bare Exceptions when a node does not come up
        where = recipe.ray.address or "this machine"
        raise ServiceError(f"Ray on {where}: {error}; `nexrl doctor` says what is missing") from error
    try:
        if (found := ray.cluster_resources().get("CPU", 0)) < needed:
            # Ray would wait for more machines for ever, and say nothing.
            raise ServiceError(f"the Ray cluster has {found:g} CPUs, the run asks for {needed}: lower the `threads`")
        yield
    finally:
        ray.shutdown()


def gpus() -> float:
    """Return the number of GPUs the cluster has."""
    return float(ray.cluster_resources().get("GPU", 0))


def gpu_share(recipe: Recipe) -> float:
    """One GPU is shared by policies, engines that are started, and what else scores tokens; no GPU, no share."""
    shared = (1 + recipe.engine.started + len(recipe.algorithm.scorers)) * len(recipe.models)
    return 1 / shared if recipe.train.device != "cpu" and gpus() else 0.0


def engine_gpus(recipe: Recipe) -> float:
    """Return the GPUs of each engine that is started: a share of the only one there is, else whole ones.

    Raises ServiceError where the server's flags ask for more than there are, or the recipe for what one GPU cannot do.
    """
    share, server = gpu_share(recipe), SERVERS.get(recipe.engine.kind)
    ways = parallel(server, recipe.engine.flags) if server else {}
    wanted = math.prod(ways.values())
    if share and wanted == gpus() == 1 and recipe.engine.publication == "broadcast":
        raise ServiceError(
            "engine.publication=broadcast: NCCL connects no two processes on one GPU, and trainer and engine share the "
            "only one there is; use disk, shared_memory or tensors, or add GPUs"
        )
    if not share or wanted == gpus() == 1:
        return share
    started = recipe.engine.started * len(recipe.models)
    if wanted * started > gpus():
        named = ", ".join(f"{name}={value}" for name, value in ways.items())
        raise ServiceError(
            f"engine.replicas={recipe.engine.started} with {named} take {wanted * started} GPUs, the Ray "
            f"cluster has {gpus():g}: lower them, or add nodes"
        )
    return float(wanted)
