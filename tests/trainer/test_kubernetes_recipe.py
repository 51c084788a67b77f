"""What a recipe may say of an agent in a cluster, and what docs/agents.md says it needs there."""

import pytest
import yaml
from job_templates import RECIPE, on_the_page
from msgspec import ValidationError, convert

from nexrl.errors import ConfigError
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.runners.kubernetes.permissions import ALLOWED

WHERE = {"template": "job.yaml", "proxy": "http://t:1", "ingest": "http://t:2"}


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"command": ["a"]}, "give one of"),
        ({"stdin": "x"}, "agent.stdin: a Kubernetes agent has no such setting; use agent.env or agent.files"),
        ({"limits": {"cpu_s": 1}}, "agent.limits: .* set resources in the template"),
        ({"network": "services"}, "agent.network: .* use a NetworkPolicy"),
        ({"answer": "file:x", "files": {}}, "agent.answer=file:x: .* use stdout, last_line or message"),
        ({"workers": 2}, "agent.workers is about"),
        ({"kubernetes": {**WHERE, "proxy": "http://t:1/v1"}}, "matching regex"),
        ({"files": {"../a": ""}}, "give a path inside"),
    ],
)
def test_settings_that_a_cluster_does_not_have_are_refused_by_name(agent, said):
    with pytest.raises(ValidationError, match=said):
        convert({"kubernetes": WHERE, **agent}, Agent)


@pytest.mark.parametrize(
    ("proxy", "url", "said"),
    [
        ("{port: 1}", "http://t:1", "proxy.host=127.0.0.1: pods cannot reach .* set proxy.host: 0.0.0.0"),
        ("{host: 0.0.0.0}", "http://t:1", "proxy.port=0 takes any free port"),
        ("{host: 0.0.0.0, port: 1}", "http://localhost:1", "to a pod that is itself"),
    ],
)
def test_an_address_that_no_pod_reaches_is_refused_with_the_remedy(tmp_path, proxy, url, said):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(proxy=proxy, url=url))
    with pytest.raises(ConfigError, match=said):
        load_recipe(tmp_path / "recipe.yaml", environment={})
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(proxy="{host: 0.0.0.0, port: 1}", url="http://t:1"))
    assert load_recipe(tmp_path / "recipe.yaml", environment={}).proxy.host == "0.0.0.0"


def test_the_role_on_the_page_is_what_the_runner_needs():
    role, _ = yaml.safe_load_all(on_the_page("role.yaml"))
    given = {(rule["apiGroups"][0], rule["resources"][0]): tuple(rule["verbs"]) for rule in role["rules"]}
    assert given == ALLOWED
