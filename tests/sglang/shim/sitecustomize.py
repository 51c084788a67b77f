"""Run first by every Python of SGLang's environment: lets torchvision's CUDA wheel load beside torch's CPU build.

Its compiled part does not load there, and its Python part then describes two operators that nobody has declared.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
declared: list[object] = []
"""Keeps the declarations alive."""


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname == "torchvision" and not declared:
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in OPERATORS:
                library.define(operator)
            declared.append(library)


sys.meta_path.insert(0, _BeforeTorchvision())
