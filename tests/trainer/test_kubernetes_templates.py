"""Templates of Jobs that a run cannot keep to: refused by name, before anything starts."""

import sys

import pytest
from job_templates import JOB, changed, read, recipe_in

from nexrl.errors import ConfigError
from nexrl_trainer.inputs import read as read_inputs


@pytest.mark.parametrize(
    ("job", "container", "said"),
    [
        ("a: [", None, "while parsing a flow node"),
        ("kind: Pod", None, "give one object in it, of apiVersion batch/v1 and kind Job"),
        ("kind: Job\n---\nkind: Job", None, "give one object"),
        ("kind: Job", None, "spec.template.spec.containers is missing"),
        (changed("apiVersion", "batch/v2"), None, "apiVersion batch/v2: use batch/v1"),
        (changed("spec.ttlSecondAfterFinished", 1), None, "has no spec.ttlSecondAfterFinished"),
        (
            changed("spec.template.spec.[].imagePolicy", "x"),
            None,
            r"has no spec.template.spec.containers\[0\].imagePol",
        ),
        (changed("spec.template.spec.[].image", 3), None, r"Expected `str \| null`, got `int`"),
        (changed("spec.backoffLimit", 3), None, "remove spec.backoffLimit: what fails is made again under a new id"),
        (changed("spec.activeDeadlineSeconds", 3), None, "it follows from agent.timeout_s"),
        (changed("metadata.namespace", "x"), None, "set agent.kubernetes.namespace"),
        (changed("spec.template.spec.restartPolicy", "OnFailure"), None, "use Never"),
        (JOB, "other", "no container other; set agent.kubernetes.container to one of agent"),
        (changed("spec.template.spec.containers", [{"name": "a"}, {"name": "b"}]), None, "several containers; .* a, b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_template_that_a_run_could_not_keep_to_is_refused_by_name(tmp_path, job, container, said):
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, job, container)


def test_a_template_may_not_set_what_the_run_gives_each_attempt(tmp_path):
    job = changed("spec.template.spec.[].env", [{"name": "OPENAI_BASE_URL", "value": "https://api.openai.com"}])
    template = read(tmp_path, job)
    with pytest.raises(ConfigError, match="container agent sets OPENAI_BASE_URL, which the run gives each attempt"):
        template.refuse_variables({"OPENAI_BASE_URL": "http://proxy/v1"})


def test_a_template_is_held_against_every_task_before_anything_starts(tmp_path):
    assert read_inputs(recipe_in(tmp_path, JOB)).tasks
    with pytest.raises(ConfigError, match=r"asks for 'flavour', the task has .*version"):
        read_inputs(recipe_in(tmp_path, changed("spec.template.spec.[].image", "agent:{flavour}")))
    shell = changed("spec.template.spec.[].command", ["sh", "-c", "ls ${HOME}"])
    with pytest.raises(ConfigError, match=r"where \$\{HOME\} is no field, write \$\{\{HOME\}\}$"):
        read_inputs(recipe_in(tmp_path, shell))
    shell["spec"]["template"]["spec"]["containers"][0]["command"][-1] = "ls ${{HOME}}"
    assert read_inputs(recipe_in(tmp_path, shell)).tasks
    variable = {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    with pytest.raises(ConfigError, match="sets OPENAI_API_KEY"):
        read_inputs(recipe_in(tmp_path, changed("spec.template.spec.[].env", [variable])))


def test_own_settings_for_a_companys_proxy_and_for_telemetry_stay(tmp_path):
    own = {"NO_PROXY": ".svc", "HTTPS_PROXY": "http://out:1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}
    variables = [{"name": name, "value": value} for name, value in own.items()]
    assert read_inputs(recipe_in(tmp_path, changed("spec.template.spec.[].env", variables))).tasks


def test_without_its_client_the_remedy_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'nexrl\[kubernetes\]'"):
        read(tmp_path, JOB)
