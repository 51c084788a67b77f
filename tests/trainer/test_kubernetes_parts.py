"""What the Kubernetes runner decides without a cluster: names, manifests, how attempts stand, what recipes may say."""

import re
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import Pod
from msgspec import ValidationError, convert

from nexrl.errors import ConfigError
from nexrl_trainer.inputs import read as read_inputs
from nexrl_trainer.recipe import load_recipe
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.recipe.job_template import JobTemplate
from nexrl_trainer.rollouts.runners.kubernetes.cluster import ALLOWED
from nexrl_trainer.rollouts.runners.kubernetes.manifests import Given, job_of, object_name, run_label, secret_of
from nexrl_trainer.rollouts.runners.kubernetes.patience import Patience, in_words, passes, pause
from nexrl_trainer.rollouts.runners.kubernetes.runner import IDENTITY, identity
from nexrl_trainer.rollouts.runners.kubernetes.standing import DELETED, Standing, deleted, explained, standing
from nexrl_trainer.rollouts.runners.runner import printed_answer
from nexrl_trainer.services.running import from_here

PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()
ATTEMPTS = st.text("abzABZ019_-:@", min_size=1, max_size=200)
JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "mine", "labels": {"team": "t"}},
    "spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "agent:{version}"}]}}},
}


def on_the_page(name):
    return re.search(rf"^```yaml {name}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]


def changed(path, value):
    """The Job with one more thing in it; `[]` is the first container."""
    job = msgspec.msgpack.decode(msgspec.msgpack.encode(JOB))
    node, names = job, path.split(".")
    for name in names[:-1]:
        node = node["containers"][0] if name == "[]" else node.setdefault(name, {})
    node[names[-1]] = value
    return job


def read(folder, job, container=None):
    (folder / "job.yaml").write_text(job if isinstance(job, str) else yaml.safe_dump(job))
    return JobTemplate.read(folder / "job.yaml", container)


@given(ATTEMPTS, ATTEMPTS)
def test_every_attempt_has_a_name_of_its_own_that_a_pods_label_can_hold(one, other):
    name = object_name(one)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name + "-abcde") <= 63
    assert (name == object_name(other)) == (one == other)


@given(st.text("abzABZ019_-", min_size=1, max_size=60))
def test_a_runs_label_is_one_whatever_the_run_is_called(run):
    label = run_label(run, "0123456789")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", label)
    assert len(label) <= 63


def test_a_run_directory_keeps_its_identity_and_another_has_another(tmp_path):
    assert identity(tmp_path / "a") == identity(tmp_path / "a") != identity(tmp_path / "b")


def test_an_identity_that_a_crash_left_empty_is_made_up_anew(tmp_path):
    (tmp_path / IDENTITY).touch()
    assert len(identity(tmp_path)) == 10
    assert identity(tmp_path) == identity(tmp_path)


def attempt(**fields):
    defaults = {"attempt": "r-1@eval", "run": "r-9", "fields": {"version": "7"}, "environment": {}, "files": {}}
    return Given(**{**defaults, **fields})


def test_an_attempts_job_is_the_template_with_what_is_the_runs(tmp_path):
    job = changed("spec.template.spec.[].env", [{"name": "TEAM", "value": "$(OPENAI_API_KEY)"}])
    about = attempt(environment={"OPENAI_API_KEY": "nxr-r.s"}, files={"a/b.txt": "text"})
    made = job_of(read(tmp_path, job), about, limit_s=700.2, files_at="/nexrl")
    name = object_name("r-1@eval")
    ours = {"nexrl.dev/run": "r-9", "nexrl.dev/attempt": name}
    reference = {"secretKeyRef": {"key": "OPENAI_API_KEY", "name": name}}
    assert msgspec.to_builtins(made) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {"team": "t", **ours},
            "annotations": {"nexrl.dev/attempt": "r-1@eval"},
        },
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "activeDeadlineSeconds": 761,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": ours, "annotations": {"nexrl.dev/attempt": "r-1@eval"}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 5,
                    "containers": [
                        {
                            "name": "agent",
                            "image": "agent:7",
                            "env": [
                                {"name": "OPENAI_API_KEY", "valueFrom": reference},
                                {"name": "TEAM", "value": "$(OPENAI_API_KEY)"},
                            ],
                            "volumeMounts": [{"name": "nexrl-files", "mountPath": "/nexrl", "readOnly": True}],
                        }
                    ],
                    "volumes": [
                        {
                            "name": "nexrl-files",
                            "secret": {"secretName": name, "items": [{"key": "file-0", "path": "a/b.txt"}]},
                        }
                    ],
                },
            },
        },
    }
    made.metadata.uid = "u"
    secret = secret_of(made, about)
    assert secret.stringData == {"OPENAI_API_KEY": "nxr-r.s", "file-0": "text"}
    assert [owner.uid for owner in secret.metadata.ownerReferences] == ["u"]


def test_what_a_template_decides_itself_stays(tmp_path):
    job = changed("spec.ttlSecondsAfterFinished", 60)
    job["spec"]["template"]["spec"] |= {"terminationGracePeriodSeconds": 0, "serviceAccountName": "a"}
    made = job_of(read(tmp_path, job), attempt(), limit_s=1, files_at="/nexrl")
    assert made.spec.ttlSecondsAfterFinished == 60
    assert made.spec.template.spec.terminationGracePeriodSeconds == 0
    assert made.spec.template.spec.serviceAccountName == "a"
    with pytest.raises(ConfigError, match="asks for 'version'"):
        job_of(read(tmp_path, job), attempt(fields={}), limit_s=1, files_at="/nexrl")


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


WAITING = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes:\n none"}
ENDED = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:07Z"}
TAKEN = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}
OVER = {"now": "over"}
RAN = {**OVER, "logged": True, "ran_s": 7.0}


@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        ({"phase": "Pending"}, {}, {"now": "waiting", "reason": "its container has not started"}),
        (
            {"phase": "Pending", "conditions": [WAITING]},
            {},
            {"now": "waiting", "reason": "Unschedulable: 0/3 nodes: none"},
        ),
        ({"phase": "Pending"}, {"waiting": {"reason": "ErrImagePull"}}, {"now": "waiting", "reason": "ErrImagePull"}),
        (
            {"phase": "Pending"},
            {"waiting": {"reason": "CreateContainerConfigError", "message": "no x"}},
            {**OVER, "reason": "CreateContainerConfigError: no x"},
        ),
        ({"phase": "Running"}, {"running": {}}, {"now": "running", "logged": True}),
        ({"phase": "Running"}, {"terminated": {"exitCode": 0, **ENDED}}, RAN),
        ({"phase": "Failed"}, {"terminated": {"exitCode": 3, "reason": "Error", **ENDED}}, {**RAN, "exit_code": 3}),
        (
            {"phase": "Failed"},
            {"terminated": {"exitCode": 137, "reason": "OOMKilled", **ENDED}},
            {**RAN, "exit_code": 137, "reason": "OOMKilled (exit code 137)"},
        ),
        (
            {"phase": "Failed"},
            {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}},
            {**OVER, "exit_code": 128, "reason": "StartError: no such file (exit code 128)"},
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "disk"},
            {"terminated": {"exitCode": 137, **ENDED}},
            {**RAN, "exit_code": 137, "reason": "Evicted: disk"},
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded"},
            {"terminated": {"exitCode": 137, **ENDED}},
            {**RAN, "exit_code": 137, "timed_out": True},
        ),
        (
            {"phase": "Failed", "conditions": [TAKEN]},
            {"terminated": {"exitCode": 143, **ENDED}},
            {**RAN, "exit_code": 143, "disturbed": True, "reason": "EvictionByEvictionAPI: drain"},
        ),
        (
            {"phase": "Succeeded", "conditions": [TAKEN]},
            {"terminated": {"exitCode": 0, **ENDED}},
            {**RAN, "disturbed": True, "reason": "EvictionByEvictionAPI: drain"},
        ),
        (
            {"phase": "Failed", "reason": "Terminated", "message": "node shutdown"},
            {},
            {**OVER, "disturbed": True, "reason": "Terminated: node shutdown"},
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, {}, {**OVER, "timed_out": True}),
        ({"phase": "Failed"}, {}, {**OVER, "reason": "its pod Failed"}),
        (
            {
                "phase": "Failed",
                "initContainerStatuses": [
                    {"name": "clone", "state": {"terminated": {"exitCode": 1, "message": "no network"}}}
                ],
            },
            {"waiting": {"reason": "PodInitializing"}},
            {**OVER, "reason": "init container clone: exit code 1: no network"},
        ),
    ],
    ids=lambda value: "",
)
def test_how_an_attempt_stands_is_read_from_its_pod(status, state, expected):
    about = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
    inits = [{**about, **init} for init in status.get("initContainerStatuses", [])]
    full = {**status, "initContainerStatuses": inits, "containerStatuses": [{**about, "name": "agent", "state": state}]}
    assert standing(convert({"metadata": {"name": "p"}, "status": full}, Pod), "agent") == Standing(**expected)


def test_a_pod_that_somebody_deletes_says_so(tmp_path):
    terminated = {"exitCode": 143, "reason": "Error", **ENDED}
    status = {"name": "agent", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    pod = {
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Failed", "containerStatuses": [{**status, "state": {"terminated": terminated}}]},
    }
    assert standing(convert(pod, Pod), "agent").reason == "its pod was deleted (exit code 143)"


@pytest.mark.parametrize(
    ("spec", "status", "disturbed", "timed_out"),
    [
        ({"suspend": True}, {}, True, False),
        ({"suspend": False}, {}, False, False),
        ({}, {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}, False, True),
    ],
    ids=["preempted", "deleted", "too late"],
)
def test_why_a_pod_is_gone_is_read_from_its_job(spec, status, disturbed, timed_out):
    full = {"template": {"spec": {"containers": []}}, **spec}
    how = explained(DELETED, convert({"spec": full, "status": status}, Job))
    assert (how.disturbed, how.timed_out) == (disturbed, timed_out)


def test_a_pod_taken_away_before_its_container_ran_is_no_fault_of_the_agent():
    taken, left = (
        deleted(convert({"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": conditions}}, Pod))
        for conditions in ([TAKEN], [])
    )
    assert (taken.disturbed, taken.reason) == (True, "EvictionByEvictionAPI: drain")
    assert left == DELETED


@pytest.mark.parametrize("code", [0, 143])
def test_an_agent_that_ended_while_its_pod_was_deleted_says_that_its_pod_is_gone(code):
    about = {"name": "agent", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    pod = {
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{**about, "state": {"terminated": {"exitCode": code, **ENDED}}}],
        },
    }
    assert standing(convert(pod, Pod), "agent").deleted


def answered(code, text="", **headers):
    request = httpx2.Request("GET", "http://c")
    response = httpx2.Response(code, text=text, headers=headers, request=request)
    return httpx2.HTTPStatusError("no", request=request, response=response)


def test_what_may_be_otherwise_is_asked_again_as_late_as_the_server_says():
    assert [passes(answered(code)) for code in (410, 429, 500, 503, 403, 404, 409, 422)] == [True] * 4 + [False] * 4
    assert passes(httpx2.ConnectError("no"))
    assert pause(answered(429, **{"Retry-After": "7"}), 0) == 7
    assert pause(answered(429, **{"Retry-After": "7000"}), 0) == 60
    assert 0.1 <= pause(httpx2.ConnectError("no"), 0) <= 0.2
    assert 5 <= pause(answered(503), 1000) <= 10


def test_a_server_is_quoted_and_so_is_who_stands_before_it():
    status = msgspec.json.encode({"kind": "Status", "message": "exceeded quota:\n pods"}).decode()
    assert in_words(answered(403, status)) == "exceeded quota: pods"
    assert in_words(answered(502, "<html>no")) == "502 <html>no"
    assert in_words(httpx2.ConnectError("refused")) == "ConnectError: refused"


async def test_who_refuses_is_not_asked_again():
    asked = []

    async def question():
        asked.append(1)
        raise answered(422, "no such image")

    with pytest.raises(ValueError, match="422 no such image"):
        await Patience(print).ask(question)
    assert asked == [1]


async def test_a_server_that_only_ever_fails_is_given_up_with_its_words_and_one_out_of_reach_is_not():
    status = msgspec.json.encode({"kind": "Status", "message": "failed calling webhook"}).decode()
    failing = answered(500, status, **{"Retry-After": "0"})

    def replies(*replies):
        left = list(replies)

        async def question():
            if isinstance(reply := left.pop(0), Exception):
                raise reply
            return reply

        return question

    with pytest.raises(ValueError, match=r"^failed calling webhook$"):
        await Patience(print).ask(replies(failing, failing), answered_s=0)
    away = answered(502, "<html>no", **{"Retry-After": "0"})
    assert await Patience(print).ask(replies(away, httpx2.ConnectError("no"), away, "made"), answered_s=0) == "made"


def test_an_answer_may_be_the_last_line():
    printed = "Thinking ...\n42\n\n"
    assert [printed_answer(where, printed) for where in ("stdout", "last_line", "message")] == [
        "Thinking ...\n42",
        "42",
        None,
    ]


def test_this_machine_reaches_what_listens_everywhere():
    assert from_here("http://0.0.0.0:80") == "http://127.0.0.1:80"
    assert from_here("http://[::]:80") == "http://[::1]:80"
    assert from_here("http://10.0.0.5:80") == "http://10.0.0.5:80"


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


RECIPE = """
name: r
steps: 1
model: {{path: model}}
tasks: {{train: tasks.jsonl}}
reward: reward.py
proxy: {proxy}
ingest: {{host: 0.0.0.0, port: 2}}
agent: {{kubernetes: {{template: job.yaml, proxy: "{url}", ingest: "http://t:2"}}}}
"""


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


def test_the_job_on_the_page_is_one_that_a_run_takes(tmp_path):
    template = read(tmp_path, on_the_page("job.yaml"))
    made = job_of(template, attempt(files={"maze.txt": "x"}), limit_s=1, files_at="/nexrl")
    assert made.spec.template.spec.containers[0].image == "registry.example/maze-agent:7"


def recipe_in(folder, job):
    for name, text in {
        "recipe.yaml": RECIPE.format(proxy="{host: 0.0.0.0, port: 1}", url="http://t:1"),
        "job.yaml": yaml.safe_dump(job),
        "tasks.jsonl": '{"id": "a", "version": "7"}\n',
        "reward.py": "import nexrl\n\n@nexrl.reward\ndef judged():\n    return 1.0\n",
        "model/config.json": "{}",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return load_recipe(folder / "recipe.yaml", environment={})


def test_a_template_is_held_against_every_task_before_anything_starts(tmp_path):
    assert read_inputs(recipe_in(tmp_path, JOB)).tasks
    with pytest.raises(ConfigError, match=r"asks for 'flavour', the task has .*version"):
        read_inputs(recipe_in(tmp_path, changed("spec.template.spec.[].image", "agent:{flavour}")))
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
