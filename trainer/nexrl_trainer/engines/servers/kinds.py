"""The servers that a run can start: what they are called, and how they are asked for their flags."""

from msgspec import Struct


class Server(Struct, frozen=True, kw_only=True):
    """One kind of server."""

    name: str
    module: str
    """What Python runs."""
    help: str
    """The flag that lists all others."""
    seed: str
    """The flag of the seed of what it samples."""
    parallel: dict[str, str]
    """What multiplies the GPUs of a server, and the other names of it."""


SERVERS = {
    "sglang": Server(
        name="SGLang",
        module="sglang.launch_server",
        help="--help",
        seed="random-seed",
        parallel={
            "tp-size": "tensor-parallel-size",
            "pp-size": "pipeline-parallel-size",
            "dp-size": "data-parallel-size",
        },
    ),
    "vllm": Server(
        name="vLLM",
        module="vllm.entrypoints.openai.api_server",
        help="--help=all",
        seed="seed",
        parallel={name: name for name in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")},
    ),
}
