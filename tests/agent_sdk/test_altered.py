import pytest

from nexrl.sampling import altered


@pytest.mark.parametrize(
    ("sampling", "found"),
    [
        ({"temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "max_new_tokens": 5}, []),
        ({"frequency_penalty": 0.0, "presence_penalty": 0, "repetition_penalty": 1.0, "logit_bias": {}}, []),
        ({"repetition_penalty": 1.1, "frequency_penalty": -0.5}, ["frequency_penalty", "repetition_penalty"]),
        ({"json_schema": "{}", "logit_bias": {"5": -100}}, ["json_schema", "logit_bias"]),
        ({"json_schema": None}, []),
        ({"min_new_tokens": 8, "ignore_eos": True}, ["min_new_tokens"]),
        ({"min_new_tokens": 0}, []),
    ],
)
def test_what_moves_the_distribution_beyond_temperature_is_named(sampling, found):
    assert altered(sampling) == found
