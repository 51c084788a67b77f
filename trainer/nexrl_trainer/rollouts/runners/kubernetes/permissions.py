"""What the trainer's account must be allowed to do in a cluster, asked before anything starts.

docs/agents.md has `ALLOWED` as a Role.
"""

from lightkube.models.authorization_v1 import ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.api_server import ApiServer
from nexrl_trainer.rollouts.runners.kubernetes.patience import TROUBLE, Patience, in_words

ALLOWED = {
    ("batch", "jobs"): ("create", "delete", "get", "list", "patch"),
    ("", "secrets"): ("create",),
    ("", "pods"): ("list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list",),
}
REVIEWS = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
START_S = 30.0


async def check_allowed(server: ApiServer, namespace: str, patience: Patience) -> None:
    """Raise ConfigError where the server is out of reach, or forbids what is needed in the namespace."""
    for (group, resource), verbs in ALLOWED.items():
        for verb in verbs:
            name, _, part = resource.partition("/")
            about = ResourceAttributes(group=group, resource=name, verb=verb, namespace=namespace)
            about.subresource = part or None
            if not await _may(about, server, patience):
                raise ConfigError(
                    f"agent.kubernetes: may not {verb} {resource} in namespace {namespace}; give the account "
                    "the Role that docs/agents.md has"
                )


async def _may(about: ResourceAttributes, server: ApiServer, patience: Patience) -> bool:
    review = SelfSubjectAccessReview(spec=SelfSubjectAccessReviewSpec(resourceAttributes=about))
    try:
        answer = await patience.ask(
            lambda: server.ask("POST", REVIEWS, SelfSubjectAccessReview, body=review), within_s=START_S
        )
    except (*TROUBLE, ValueError) as error:
        said = in_words(error) if isinstance(error, TROUBLE) else error
        raise ConfigError(f"agent.kubernetes: the cluster at {server.url} says: {said}") from error
    return bool(answer.status and answer.status.allowed)
