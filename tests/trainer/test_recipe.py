import pytest

from nexrl.errors import ConfigError
from nexrl_trainer.recipe import load_recipe, to_yaml

MINIMAL = """
name: small
steps: 3
model: {path: model}
tasks: {train: train.jsonl}
agent: {command: [python, agent.py, "{question}"]}
reward: reward.py
"""


def written(tmp_path, text=MINIMAL, name="recipe.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def load(path, *overrides, **environment):
    return load_recipe(path, overrides, environment)


def test_the_command_line_wins_over_the_environment_which_wins_over_the_recipe(tmp_path):
    path = written(tmp_path, MINIMAL + "train: {learning_rate: 1e-3, threads: 4}\n")
    recipe = load(path, "train.learning_rate=3e-3", NEXRL_TRAIN__LEARNING_RATE="2e-3", NEXRL_TRAIN__THREADS="2")
    assert (recipe.train.learning_rate, recipe.train.threads) == (3e-3, 2)


def test_numbers_may_be_written_as_people_write_them(tmp_path):
    assert load(written(tmp_path, MINIMAL + "train: {learning_rate: 1e-3}\n")).train.learning_rate == 0.001


def test_a_recipe_extends_another_part_by_part(tmp_path):
    written(tmp_path, MINIMAL + "rollouts: {groups_per_step: 2, group_size: 4}\n", "base.yaml")
    recipe = load(written(tmp_path, "extends: base.yaml\nsteps: 9\nrollouts: {group_size: 16}\n"))
    assert (recipe.steps, recipe.rollouts.groups_per_step, recipe.rollouts.group_size) == (9, 2, 16)


def test_environment_variables_are_put_in_with_their_type_or_their_default(tmp_path):
    text = MINIMAL.replace("steps: 3", "steps: ${env:HOW_MANY,5}").replace("path: model", "path: '${env:WHERE}/m'")
    recipe = load(written(tmp_path, text), WHERE="/data")
    assert (recipe.steps, recipe.model.path) == (5, "/data/m")
    assert load(written(tmp_path, text), WHERE="/data", HOW_MANY="8").steps == 8


def test_the_effective_recipe_loads_to_itself(tmp_path):
    recipe = load(written(tmp_path), "algorithm.clip_high=0.28")
    assert load(written(tmp_path, to_yaml(recipe), "effective.yaml")) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "stepz: 4\n", [], "stepz"),
        (MINIMAL + "train: {optimiser: adam}\n", [], r"optimiser.*\$\.train"),
        (
            MINIMAL + "proxy: {models: {small: {url: http://h}}}\n",
            [],
            r"proxy\.models\.small: .* this one another",
        ),
        (MINIMAL, ["rollouts.group_size=1"], r">= 2.*\$\.rollouts\.group_size"),
        (MINIMAL, ["train.backend=megatron"], r"megatron.*\$\.train\.backend"),
        (MINIMAL, ["engine.kind=tgi"], r"tgi.*\$\.engine\.kind"),
        (MINIMAL, ["engine.kind=vllm"], "engine.updates=in_flight: vLLM does not say which weights sampled a token"),
        (MINIMAL, ["engine={kind: vllm, updates: drained, verify: true}"], "engine.verify: vLLM lays out weights"),
        (MINIMAL, ["engine.publication=tensors"], "publication=tensors: kind 'embedded' reads files; use disk"),
        (MINIMAL, ["engine.publication=broadcast"], "publication=broadcast: kind 'embedded' reads files; use disk"),
        (
            MINIMAL,
            ["engine={kind: sglang, publication: broadcast, colocated: true}"],
            "publication=broadcast: NCCL connects no two processes on one GPU.* use disk, shared_memory or tensors",
        ),
        (
            MINIMAL,
            ["engine={kind: sglang, url: 'http://localhost:1', publication: broadcast}", "ray.address=auto"],
            "broadcast: engine.url=http://localhost:1 is only this machine's, .* at which others reach it",
        ),
        (MINIMAL, ["engine.colocated=true"], "engine.colocated: kind 'embedded' has no such setting"),
        (
            MINIMAL,
            ["engine={kind: sglang, colocated: true}", "rollouts.max_staleness=1"],
            "engine.colocated: .* set rollouts.max_staleness=0",
        ),
        (MINIMAL, ["engine={url: 'http://h:1', max_running: 9}"], "max_running: a server at http://h:1 has no such"),
        (MINIMAL, ["engine={kind: sglang, url: 'h:1'}"], "engine.url=h:1: give addresses like http://host:30000"),
        (MINIMAL, ["engine={kind: sglang, url: 'http://h:1, http://h:1/'}"], "names an engine twice"),
        (MINIMAL, ["engine={kind: sglang, url: 'http://h:1', replicas: 2}"], "engine.replicas: a server at"),
        (MINIMAL, ["engine={kind: sglang, url: 'http://h:1', flags: {tp-size: 2}}"], "engine.flags: a server at"),
        (MINIMAL, ["engine={kind: sglang, max_length: 9}"], "max_length: kind 'sglang' .* context-length"),
        (MINIMAL, ["engine.python=/sgl/bin/python"], "engine.python: kind 'embedded' has no such setting; remove it"),
        (MINIMAL, ["engine={kind: sglang, flags: {port: 1}}"], "flags.port: follows from nothing: a free one is taken"),
        (MINIMAL, ["engine={kind: sglang, flags: {enable-metrics: false}}"], "enable-metrics=false: .* remove it"),
        (
            MINIMAL,
            ["engine={kind: sglang, url: 'http://far:30000', publication: shared_memory}"],
            "http://far:30000 is not on this machine; use disk",
        ),
        (MINIMAL, ["engine.publication=shared_memory", "ray.address=auto"], "with ray.address=auto, .*use disk"),
        (MINIMAL, ["rollouts.stale=keep"], "synchronous rollouts are never stale; set rollouts.max_staleness"),
        (MINIMAL, ["rollouts.oversampling=0.5"], r">= 1.*\$\.rollouts\.oversampling"),
        (
            MINIMAL,
            ["rollouts.dynamic_sampling=2", "algorithm.advantage=reinforce_pp"],
            "advantage=reinforce_pp .* teach too; leave dynamic sampling out",
        ),
        (MINIMAL, ["evaluation.patience=2"], "patience=2: nothing is evaluated on the way; set evaluation.every"),
        (MINIMAL, ["steps"], "path=value"),
        (MINIMAL, ["name.x=1"], "is a value"),
        ("[1, 2]", [], "expected a mapping"),
        ("a: [", [], "no YAML"),
        ("extends: recipe.yaml", [], "extends itself"),
        (MINIMAL.replace("steps: 3", "steps: ${env:NOWHERE}"), [], "export NOWHERE"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, text), *overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "train: {learning_rat: 1e-3}",
            [],
            "{file}: Object contains unknown field `learning_rat`: did you mean `learning_rate`? - at `$.train`",
        ),
        (
            "agent: {command: [a], limits: {cpu: 3}}",
            [],
            "{file}: Object contains unknown field `cpu`: did you mean `cpu_s`? - at `$.agent.limits`",
        ),
        (
            "learning_rate: 1e-3",
            [],
            "{file}: Object contains unknown field `learning_rate`: did you mean `train.learning_rate`?",
        ),
        (
            "train: {group_size: 4}",
            [],
            "{file}: Object contains unknown field `group_size`: did you mean `rollouts.group_size`? - at `$.train`",
        ),
        ("", ["seed=1", "step=1"], "step=1: Object contains unknown field `step`: did you mean `steps`?"),
        (
            "",
            ["train={lr: 1}"],
            "train={{lr: 1}}: Object contains unknown field `lr`: did you mean `learning_rate`? - at `$.train`",
        ),
        ("train: {optimiser: adam}", [], "{file}: Object contains unknown field `optimiser` - at `$.train`"),
        (
            "tasks: {train: [{path: a, repat: 2}]}",
            ["seed=1"],
            "{file}: Object contains unknown field `repat`: did you mean `repeat`? - at `$.tasks.train[0]`",
        ),
        ("steps: soon", [], "{file}: Expected `int`, got `str` 'soon' - at `$.steps`"),
        (
            "checkpoints: {every: 2}",
            ["checkpoints.every=1", "checkpoints.every=0"],
            "checkpoints.every=0: Expected `int` >= 1, got 0 - at `$.checkpoints.every`",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_was_meant_what_stands_there_and_who_set_it(tmp_path, text, overrides, message):
    path = written(tmp_path, f"extends: base.yaml\n{text}\n")
    written(tmp_path, MINIMAL, "base.yaml")
    with pytest.raises(ConfigError) as refused:
        load(path, *overrides)
    assert str(refused.value) == message.format(file=path)


@pytest.mark.parametrize(
    ("written_as", "message"),
    [
        (
            "agent: python agent.py {question}",
            "'python agent.py {question}' - at `$.agent`; write agent: {command: [python, agent.py, '{question}']}",
        ),
        ("agent: [python, agent.py]", "at `$.agent`; write agent: {command: [python, agent.py]}"),
        ("agent: {command: python agent.py}", "at `$.agent.command`; write command: [python, agent.py]"),
        ("agent: {command: [python, agent.py, {question}]}", "at `$.agent.command[2]`; write '{question}'"),
        ("agent: {command: [a], env: {HOST: h, PORT: 80}}", "`int` 80 - at `$.agent.env[...]`; write PORT: '80'"),
        ("tasks: train.jsonl", "at `$.tasks`; write tasks: {train: train.jsonl}"),
        ("tasks: {train: {path: a.jsonl}}", "at `$.tasks.train`; write train: [{path: a.jsonl}]"),
        ("tasks: {train: [a.jsonl]}", "at `$.tasks.train[0]`; write {path: a.jsonl}"),
        ("policies: {critic: models/critic}", "at `$.policies[...]`; write critic: {path: models/critic}"),
        ("engine: vllm", "at `$.engine`; write engine: {kind: vllm}"),
        (
            "engine: {kind: embeded}",
            "'embeded': did you mean `embedded`? - at `$.engine.kind`; it is one of embedded, sglang, vllm",
        ),
        (
            "rollouts: {group_size: 1}",
            "group_size`; Rollouts per task that are compared with each other; a group of one has no baseline.",
        ),
        ("train: {lora: {targets: all-linear}}", "at `$.train.lora.targets`; write targets: [all-linear]"),
        ("train: {lora: true}", "at `$.train.lora`; it has settings of its own: rank, alpha, targets"),
        ("agent: 'python \"agent.py'", 'at `$.agent`; write agent: {command: [python "agent.py]}'),
        ("evaluation: {before: 'yes'}", "Expected `bool`, got `str` 'yes' - at `$.evaluation.before`"),
    ],
)
def test_a_value_of_another_type_is_told_with_what_to_write(tmp_path, written_as, message):
    written(tmp_path, MINIMAL, "base.yaml")
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, f"extends: base.yaml\n{written_as}\n"))
    assert str(refused.value).endswith(message)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (MINIMAL + "seed: 1\nsteps: 4\n", "'steps' stands in line 3 and again in line 9"),
        (MINIMAL + "train: {ranks: 1, ranks: 1}\n", "'ranks' stands in line 8 and again in line 8"),
    ],
)
def test_a_key_that_stands_twice_is_refused_and_not_silently_the_last(tmp_path, text, lines):
    with pytest.raises(ConfigError, match=f"{lines}, and only one can count: remove the other$"):
        load(written(tmp_path, text))


def test_keys_that_are_merged_in_may_be_given_anew(tmp_path):
    agent = "agent: {command: [a], env: {<<: {A: z, B: y}, A: x}}"
    recipe = load(written(tmp_path, MINIMAL.replace('agent: {command: [python, agent.py, "{question}"]}', agent)))
    assert recipe.agent.env == {"A": "x", "B": "y"}


def test_what_is_no_yaml_is_named_by_its_file_its_setting_or_its_variable(tmp_path):
    path = written(tmp_path, "steps: 3\na: [\n")
    with pytest.raises(ConfigError, match=rf'^recipe {path} is no YAML: (.|\n)*in "{path}", line 3'):
        load(path)
    with pytest.raises(ConfigError, match=r"^'steps=\[': '\[' is no YAML value"):
        load(written(tmp_path), "steps=[")
    with pytest.raises(ConfigError, match=r"\$\{env:MANY\} is '\[', which is no YAML value"):
        load(written(tmp_path, MINIMAL.replace("steps: 3", "steps: ${env:MANY}")), MANY="[")


def test_settings_that_do_not_go_with_the_rest_are_named_beside_the_file(tmp_path):
    path = written(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load(path, "seed=1", "evaluation.patience=2")
    assert str(refused.value).startswith(f"{path} with evaluation.patience=2: evaluation.patience=2: nothing is")


def test_a_variable_that_has_a_wrong_value_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^NEXRL_TRAIN__THREADS=many: Expected `int`, got `str` 'many'"):
        load(written(tmp_path), NEXRL_TRAIN__THREADS="many")


def test_a_variable_that_names_no_setting_is_an_error_not_silence(tmp_path):
    with pytest.raises(ConfigError, match="NEXRL_STEPZ"):
        load(written(tmp_path), NEXRL_STEPZ="4")
    others = {"NEXRL_ADMIN_KEY": "not a setting", "NEXRL_ENGINE_KEY": "nor", "NEXRL_INGEST_URL": "nor"}
    assert load(written(tmp_path), **others, NEXRL_STEPS="4").steps == 4


def test_an_evaluation_without_tasks_is_refused_and_not_left_out(tmp_path):
    recipe = load(written(tmp_path), "evaluation.limit=8")
    with pytest.raises(ConfigError, match=r"evaluation\.limit: nothing to evaluate on; set tasks\.heldout"):
        recipe.check()
    with pytest.raises(ConfigError, match=r"reward=reward\.py: no file"):  # nothing to leave out is no error
        load(written(tmp_path), "evaluation.before=false").check()


def test_a_missing_file_is_named_before_anything_starts(tmp_path):
    recipe = load(written(tmp_path))
    with pytest.raises(ConfigError, match=r"reward=reward\.py: no file .*reward\.py"):
        recipe.check()


def test_a_model_that_is_no_directory_is_to_be_downloaded_first_and_one_that_is_not_whole_is_told_so(tmp_path):
    recipe = load(written(tmp_path), "model.path=Qwen/Qwen3-0.6B")
    folder = tmp_path / "Qwen" / "Qwen3-0.6B"
    with pytest.raises(ConfigError) as refused:
        recipe.check_models()
    assert str(refused.value) == (
        f"model.path=Qwen/Qwen3-0.6B: no directory {folder}; a model is not looked up on a hub: download it first "
        f"(hf download Qwen/Qwen3-0.6B --local-dir {folder})"
    )
    folder.mkdir(parents=True)
    layout = r"give a model directory in Hugging Face layout: .*\*\.safetensors$"
    with pytest.raises(ConfigError, match=rf"^model\.path=Qwen/Qwen3-0\.6B: no config\.json in {folder}; {layout}"):
        recipe.check_models()
    (folder / "config.json").touch()
    with pytest.raises(ConfigError, match=rf"^model\.path=Qwen/Qwen3-0\.6B: no weights in {folder}, .*; {layout}"):
        recipe.check_models()
    (folder / "model.safetensors").touch()
    recipe.check_models()
