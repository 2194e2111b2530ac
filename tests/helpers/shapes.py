"""The shapes of the tensors that code makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        tensors = result if isinstance(result, tuple | list) else (result,)
        self.seen |= {tuple(t.shape) for t in tensors if isinstance(t, torch.Tensor)}
        return result
