"""Text of token ids, by the tokenizer of the model that sampled them: where it lies, and ids where there is none.

A run directory has one in its newest checkpoint; until there is one, its recipe names the model's directory.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from nexrl.errors import ConfigError

Decoder = Callable[[list[int]], str]


class _Model(Struct, frozen=True):
    path: str


class _Recipe(Struct, frozen=True):
    """What a run's recipe.yaml says of its models."""

    folder: str
    """Where relative paths start."""
    model: _Model
    policies: dict[str, _Model] = {}


class Decoders:
    """The decoder of each model that learns, by `Call.policy`."""

    def __init__(self, source: str, model: Path | None) -> None:
        """`model` is the first model's directory, where people name one; else that of a run directory is looked for.

        Raises ConfigError where the one that is named has no tokenizer.
        """
        if model and not (model / "tokenizer.json").is_file():
            raise ConfigError(
                f"--model {model}: no tokenizer.json there; give a model directory in Hugging Face layout"
            )
        self._source, self._model = Path(source), model
        self._known: dict[str, Decoder] = {}
        self.lacking = False
        """Whether ids were asked for that nothing makes text of."""

    def of(self, policy: str) -> Decoder:
        """Return what makes text of a model's ids, or shows them where nothing does."""
        if policy not in self._known:
            folder = self._folder(policy)
            self.lacking |= folder is None
            self._known[policy] = _numbers if folder is None else _decoder(folder)
        return self._known[policy]

    def _folder(self, policy: str) -> Path | None:
        if first := self._model or _newest_checkpoint(self._source):
            # Where several models learn, the others lie in the folder of the first.
            own = first / "policies" / policy
            return first if not policy else own if own.is_dir() else None
        return _in_recipe(self._source / "recipe.yaml", policy)


def _newest_checkpoint(directory: Path) -> Path | None:
    """Return where a run directory has its tokenizer, None where this is no run directory or has none yet."""
    found = sorted(directory.glob("checkpoints/step-*/tokenizer.json"))
    return found[-1].parent if found else None


def _in_recipe(file: Path, policy: str) -> Path | None:
    """Return the directory of the model that a run begins with, None where that is not on this machine."""
    if not file.is_file():
        return None
    try:
        recipe = msgspec.yaml.decode(file.read_bytes(), type=_Recipe)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} names no model: {error}; give its directory: --model DIR") from error
    model = recipe.policies.get(policy) if policy else recipe.model
    folder = Path(recipe.folder) / Path(model.path).expanduser() if model else None
    return folder if folder and (folder / "tokenizer.json").is_file() else None


def _numbers(ids: list[int]) -> str:
    return " ".join(map(str, ids)) + " "


def _decoder(model: Path) -> Decoder:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
