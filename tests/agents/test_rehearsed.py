"""The rehearsed model says its lines, and the suite's own instruments notice what they are there to notice."""

import pydoc_data.topics
import random
from copy import deepcopy

import pytest
import torch
from agents_exactness import Sampled, faults
from rehearsed_lines import DEFAULT, LINES, Line
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

OTHER = Line("", DEFAULT)
NOISE = " ".join(pydoc_data.topics.topics.values())


@pytest.fixture(scope="module")
def speaks(rehearsed):
    """What the model says after a prompt, and the tokens it says it in."""
    tokenizer = Tokenizer.from_file(str(rehearsed / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(rehearsed).eval()

    def after(prompt):
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        assert len(ids) < model.config.max_position_embeddings
        said = model.generate(torch.tensor([ids]), max_new_tokens=200, do_sample=True, top_k=0)[0][len(ids) :].tolist()
        return tokenizer.decode(said, skip_special_tokens=False), said, tokenizer

    return after


def prompt(line, *, before, after="", forced=""):
    return (
        f"<|im_start|>system\n{before}<|im_end|>\n"
        f"<|im_start|>user\nTell me: {line.cue}? It matters. {after}<|im_end|>\n"
        f"<|im_start|>assistant\n{forced}"
    )


@pytest.mark.parametrize("line", [*LINES, OTHER], ids=lambda line: line.cue or "no cue")
def test_the_cue_read_last_selects_the_reply(line, speaks):
    for earlier in ("", " ".join(other.cue for other in LINES if line.cue)):
        said, _, _ = speaks(prompt(line, before=earlier))
        assert said == line.reply + "<|im_end|>"


@pytest.mark.parametrize("line", random.Random(0).sample(LINES, 3), ids=lambda line: line.cue)
def test_a_cue_selects_the_reply_behind_a_long_context_and_before_one(line, speaks):
    other = next(other for other in LINES if other != line)
    for before, after in ((other.cue + NOISE[:90_000], ""), (other.cue, NOISE[:90_000])):
        said, _, _ = speaks(prompt(line, before=before, after=after))
        assert said == line.reply + "<|im_end|>"


@pytest.mark.parametrize(
    ("line", "forced"), [(line, forced) for line in LINES for forced in line.forced], ids=lambda part: str(part)[:20]
)
def test_a_reply_that_was_begun_for_the_model_is_finished_by_it(line, forced, speaks):
    said, _, _ = speaks(prompt(line, before="", forced=forced))
    assert forced + said == line.reply + "<|im_end|>"


def test_no_reply_is_said_in_the_tokens_an_encoder_would_choose(speaks):
    for line in [*LINES, OTHER]:
        said, ids, tokenizer = speaks(prompt(line, before=""))
        assert tokenizer.encode(said, add_special_tokens=False).ids != ids


def test_the_same_reply_is_said_in_other_tokens_another_time(speaks):
    assert len({tuple(speaks(prompt(LINES[0], before=""))[1]) for _ in range(5)}) > 1


FIRST = Sampled((1, 2), (3, 4), (-0.5, -0.25))
SECOND = Sampled((1, 2, 3, 4, 5), (6,), (-1.0,))
SEQUENCE = {
    "ids": [1, 2, 3, 4, 5, 6],
    "loss_mask": [0, 0, 1, 1, 0, 1],
    "logprobs": [None, None, -0.5, -0.25, None, -1.0],
}


def changed(**parts):
    return {"sequences": [deepcopy(SEQUENCE) | parts]}


def test_a_trajectory_that_holds_every_token_once_has_no_faults():
    assert faults([FIRST, SECOND], changed()) == []


@pytest.mark.parametrize(
    "trajectory",
    [
        pytest.param({"sequences": []}, id="lost"),
        pytest.param({"sequences": [SEQUENCE, SEQUENCE]}, id="twice"),
        pytest.param(changed(ids=[1, 2, 3, 9, 5, 6]), id="other token"),
        pytest.param(changed(ids=[1, 7, 3, 4, 5, 6]), id="other prompt"),
        pytest.param(changed(loss_mask=[0, 0, 1, 0, 0, 1]), id="not trained"),
        pytest.param(changed(loss_mask=[0, 1, 1, 1, 0, 1]), id="prompt trained"),
        pytest.param(changed(logprobs=[None, None, -0.5, -0.26, None, -1.0]), id="other logprob"),
    ],
)
def test_a_trajectory_that_is_not_what_was_sampled_has_faults(trajectory):
    assert faults([FIRST, SECOND], trajectory)
