"""For tests of agents and of reward functions: a model that answers from a script, and rollouts written by hand.

    with Endpoint("Let me think.", "4") as model:
        subprocess.run(["python", "agent.py"], env={**os.environ, **model.environment("s-1")})
        assert [asked.session for asked in model.requests] == ["s-1", "s-1"]

    assert polite(messages=rollout("2+2?", "4, with pleasure").messages) == 1.0

Same ids and times in every run. Nothing here needs a model, a proxy, or a package besides `nexrl`.
"""

from nexrl.testing.endpoint import Asked, Endpoint
from nexrl.testing.rollouts import rollout

__all__ = ["Asked", "Endpoint", "rollout"]
