"""A device that any machine has: torch's PrivateUse1 backend over CPU memory.

Its tensors lie in memory of the CPU, but mix with none of its tensors, and each operation computes
what the CPU computes. It counts what a GPU would wait for. It cannot be undone, and becomes
``torch.accelerator``: a process of its own installs it.
"""

import ctypes
from collections import Counter
from typing import Any

import torch
from pytorch_lightning.accelerators import AcceleratorRegistry, CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer.connectors.accelerator_connector import _AcceleratorConnector
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sim"
WAITS = Counter()
"""Waits so far, by kind."""
EPOCHS: list[Counter] = []
"""Waits of the epochs of a run that counted them."""
ALWAYS = {
    "aten::_local_scalar_dense": "scalar",
    "aten::equal": "scalar",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "mask",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
    "aten::repeat_interleave": "scalar",
    "aten::bincount": "scalar",
    "aten::linalg_eigh": "scalar",
}
"""Operations whose results the host waits for, or whose CUDA kernels read something of them."""
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_deepcopy_of_torch = Tensor.__deepcopy__
COPY = "aten::_copy_from"
"""Operation to which torch leaves a copy if one of its sides is on the device."""
_CPU, _SIM = 1, 12  # of DLPack: kDLCPU, kDLExtDev
_library = torch.library.Library("_", "IMPL")
_aten = torch.library.Library("aten", "IMPL")


class _Head(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("number", ctypes.c_int32))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _seen_as(tensor: Tensor, device: int) -> Tensor:
    """Return a tensor of the same memory on the other device."""
    capsule = torch._C._to_dlpack(tensor)
    head = _Head.from_address(_pointer(capsule, b"dltensor"))
    head.type, head.number = device, 0
    with torch.inference_mode(False):  # a view of a weight is no tensor of that mode
        return torch._C._from_dlpack(capsule)


def _is_ours(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(function, one) for one in value)
    return function(value)


def _fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute an operation of the device."""
    name, ours = op._schema.name, []
    if name in INDEXING and _is_ours(args[0]):  # as on a GPU, indices may be on the CPU
        args = (args[0], [one if one is None else one.to(NAME) for one in args[1]], *args[2:])

    def inside(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, Tensor):
            return value
        if not _is_ours(value):
            # As on a GPU: a number of the CPU may take part elementwise.
            if name != COPY and (value.dim() or torch.Tag.pointwise not in op.tags):
                raise RuntimeError(f"{name}: a tensor of shape {tuple(value.shape)} on the CPU")
            return value
        # An output of no size yet, which a kernel gives one, has no memory to share.
        seen = _seen_as(value, _CPU) if value.numel() else torch.empty_like(value, device="cpu")
        ours.append((value, seen))
        return seen

    inputs = _mapped(inside, args)
    named = {key: _mapped(inside, value) for key, value in kwargs.items()}
    named.pop("pin_memory", None)
    _count(name, args, kwargs)
    before = [seen.shape for _, seen in ours]
    # The CPU has no kernel for copies between devices.
    found = inputs[1].copy_(inputs[0]) if name == COPY else op(*inputs, **named)
    for shape, (value, seen) in zip(before, ours, strict=True):
        if seen.shape != shape:
            value.data = _seen_as(seen, _SIM)
    same = {id(seen): value for value, seen in ours}

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same[id(value)] if id(value) in same else _seen_as(value, _SIM)

    return _mapped(outside, found)


def _set(tensor: Tensor, storage: Any) -> Tensor:
    """Let a tensor of the device refer to a storage, as a copy of storages does."""
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    memory.kept = storage
    tensor.data = _seen_as(torch.frombuffer(memory, dtype=tensor.dtype), _SIM)
    return tensor


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """Copy a tensor, as ``copy.deepcopy`` does: the device's storages cannot be copied."""
    if not _is_ours(tensor) or tensor.requires_grad:
        return _deepcopy_of_torch(tensor, memo)
    return memo.setdefault(id(tensor), tensor.clone())


def _count(name: str, args: Any, kwargs: Any) -> None:
    if kind := ALWAYS.get(name):
        WAITS[kind] += 1
    elif name in INDEXING:
        masks = [
            one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)
        ]
        WAITS["mask"] += bool(masks)
    elif name == COPY:
        source, target, *non_blocking = args
        if not (_is_ours(source) and _is_ours(target)) and not any(non_blocking):
            WAITS["to_host" if _is_ours(source) else "to_device"] += 1


class SimAccelerator(CPUAccelerator):
    """One such device, for a Trainer."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing has to be set up."""

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)] * devices

    @staticmethod
    def name() -> str:
        return NAME


def install() -> None:
    """Make the device, for this process and for good."""
    _setup_privateuseone_for_python_backend(NAME)
    _library.fallback(_fallback, "PrivateUse1")
    _aten.impl("set_.source_Storage", _set, "PrivateUse1")
    Tensor.__deepcopy__ = _deepcopy
    AcceleratorRegistry.register(NAME, SimAccelerator)
    chosen = _AcceleratorConnector._choose_strategy

    def choose_strategy(connector: Any) -> Any:
        # Lightning takes an accelerator that it does not know for a CPU.
        ours = connector._accelerator_flag == NAME
        return SingleDeviceStrategy(torch.device(NAME, 0)) if ours else chosen(connector)

    _AcceleratorConnector._choose_strategy = choose_strategy
