"""What a recipe says about the models that learn: the first, and others beside it."""

import re
from collections.abc import Callable
from pathlib import Path

from nexrl.errors import ConfigError
from nexrl_trainer.recipe.engine import addresses
from nexrl_trainer.recipe.part import Part

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""Models are called so on Hugging Face's hub: an owner and a name."""
LAYOUT = "give a model directory in Hugging Face layout: config.json, tokenizer.json, a chat template, *.safetensors"


class Model(Part, frozen=True, kw_only=True):
    path: str
    """Directory in Hugging Face layout: config, tokenizer with chat template, safetensors."""
    make: str | None = None
    """Script run as `python SCRIPT --out PATH` where `path` does not exist yet."""

    def check(self, name: str, resolve: Callable[[str], Path]) -> None:
        """Raise ConfigError where the model, or the script that makes it, is not there; `name` is the setting's."""
        if self.make and not resolve(self.make).is_file():
            raise ConfigError(f"{name}.make={self.make}: no file {resolve(self.make)}")
        if not self.make:
            refuse_no_model(f"{name}.path={self.path}", self.path, resolve(self.path))


class Policy(Model, frozen=True, kw_only=True):
    url: str | None = None
    """As `engine.url`, of its own engines, where those run already."""

    @property
    def urls(self) -> list[str]:
        """Addresses of its engines that are running already."""
        return addresses(self.url)


def refuse_no_model(what: str, given: str, folder: Path) -> None:
    """Raise ConfigError, saying what it is about, where the folder of a given path holds no model."""
    if not folder.is_dir():
        name = given if HUB_NAME.fullmatch(given) else "NAME"
        raise ConfigError(
            f"{what}: no directory {folder}; a model is not looked up on a hub: download it first "
            f"(hf download {name} --local-dir {folder})"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{what}: no config.json in {folder}; {LAYOUT}")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{what}: no weights in {folder}, no *.safetensors; {LAYOUT}")
