"""What a cluster is given for an attempt: names, its Job, its Secret."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_templates import attempt, changed, on_the_page, read

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.manifests import job_of, object_name, run_label, secret_of
from nexrl_trainer.rollouts.runners.kubernetes.runner import IDENTITY, identity

ATTEMPTS = st.text("abzABZ019_-:@", min_size=1, max_size=200)


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


def test_the_job_on_the_page_is_one_that_a_run_takes(tmp_path):
    template = read(tmp_path, on_the_page("job.yaml"))
    made = job_of(template, attempt(files={"maze.txt": "x"}), limit_s=1, files_at="/nexrl")
    assert made.spec.template.spec.containers[0].image == "registry.example/maze-agent:7"
