"""The network under training: a Hugging Face model on packed rows, whose head answers with logprobs."""
