"""A GPU that is not there: the CPU does its work, but its tensors neither meet the CPU's nor enter other processes.

For machines without one: a tensor that was forgotten on the wrong side fails here as it would there. Precision, speed,
memory and compilation are not pretended.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import DataLoader

from solution import training

GPU = torch.device("cuda")
REACHES_OVER = {"__getitem__", "__setitem__", "copy_"}
"""What a tensor on the GPU may do with one on the CPU: be indexed by it and copy it."""


class OnGpu(torch.Tensor):
    """A tensor of the GPU, recognised by its type."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def moved(values, there: bool):
    """Return values with every tensor in them on the GPU, or on the CPU."""
    side = OnGpu if there else torch.Tensor
    return tree_map_only(Tensor, lambda t: t if isinstance(t, OnGpu) == there else t.as_subclass(side), values)


def is_gpu(device) -> bool:
    return torch.device(device).type == "cuda"


class PretendedGpu(TorchFunctionMode):
    """While it is active, ``cuda`` is a device, and what mixes it with the CPU raises ``RuntimeError``."""

    def __init__(self):
        super().__init__()
        self.process, self.calls = os.getpid(), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [isinstance(tensor, OnGpu) for tensor in tensors]
        if name == "__get__":
            return self.attribute(function, args, any(there))
        if name == "_has_compatible_shallow_copy_type":
            return False  # parameters that move are replaced
        if name == "__deepcopy__" and there[0]:
            return self.deep_copy(*args)
        if name in ("to", "cpu"):
            return self.to(args[0], *(args[1:] if name == "to" else ["cpu"]), **kwargs)
        if name in ("numpy", "__array__") and any(there):
            raise RuntimeError("a tensor on the GPU is no array")
        if kwargs.get("device") is not None:
            made_there = is_gpu(kwargs["device"])
            result = function(*args, **kwargs | ({"device": "cpu"} if made_there else {}))
        elif any(there):
            self.check(name, tensors, there)
            made_there, result = True, function(*args, **kwargs)
        else:
            return function(*args, **kwargs)
        return moved(result, made_there)

    def attribute(self, function, args, there: bool):
        name = function.__self__.__name__
        if there and name in ("device", "is_cuda"):
            return GPU if name == "device" else True
        value = function(*args)
        return moved(value, True) if there and isinstance(value, Tensor) else value

    def deep_copy(self, tensor: Tensor, memo: dict) -> Tensor:
        copy = moved(moved(tensor, False).detach().clone(), True).requires_grad_(tensor.requires_grad)
        if isinstance(tensor, nn.Parameter):
            copy._is_param = True
        return memo.setdefault(id(tensor), copy)

    def to(self, tensor: Tensor, *wanted, **named) -> Tensor:
        if wanted and isinstance(wanted[0], Tensor):
            wanted = (GPU if isinstance(wanted[0], OnGpu) else "cpu", wanted[0].dtype, *wanted[1:])
        device, dtype, _, memory_format = torch._C._nn._parse_to(*wanted, **named)
        was_there = isinstance(tensor, OnGpu)
        is_there = was_there if device is None else is_gpu(device)
        formatted = {} if memory_format is None else {"memory_format": memory_format}
        tensor = moved(tensor, False).to(dtype or tensor.dtype, copy=is_there != was_there, **formatted)
        return moved(tensor, is_there)

    def check(self, name: str, tensors: list[Tensor], there: list[bool]) -> None:
        """Raise unless these tensors may be worked on together, and here."""
        self.calls += 1
        if os.getpid() != self.process:
            raise RuntimeError(f"{name}: a process that was forked cannot use the GPU")
        strangers = [tensor for tensor, on_gpu in zip(tensors, there, strict=True) if not on_gpu and tensor.ndim > 0]
        if strangers and not (there[0] and name in REACHES_OVER):
            raise RuntimeError(f"{name}: tensors of both devices, on the CPU {[list(t.shape) for t in strangers]}")


@contextmanager
def seeming_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """Let a GPU seem to be there."""
    load, autocast = torch.load, torch.autocast
    said = {"is_available": True, "is_bf16_supported": False, "max_memory_allocated": 0, "mem_get_info": (0, 2**30)}
    for name, value in said.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: autocast("cpu", enabled=False))
    monkeypatch.setattr(
        torch, "load", lambda path, map_location, **rest: moved(load(path, **rest), is_gpu(map_location))
    )
    monkeypatch.setattr(training, "DataLoader", lambda *args, pin_memory, **rest: DataLoader(*args, **rest))
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with torch.serialization.safe_globals([OnGpu]), PretendedGpu() as gpu:
            yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
