"""A machine of two devices, made of one: tensors bear a device each, and operations that mix them fail as on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self
from unittest.mock import patch

import accelerate
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from cmrm.models.vlm import VisionLanguageModel

# All arithmetic is the CPU's; only the number tells them apart. A tensor with none is the host's own.
DEVICES = (torch.device("cpu", 0), torch.device("cpu", 1))
# Here, as on GPUs, the host's integers may pick out of a device's tensor.
INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}
# What only asks something of a tensor.
ASKING = {"tolist", "item", "__bool__", "__int__", "__float__", "__len__", "dim", "size", "numel"}
GET_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined] # an attribute of C


class MixedDevicesError(RuntimeError):
    """Tensors of several devices met in one operation."""


class _OnDevice(Tensor):
    """A tensor that knows which device it is on: what operations return has no room for a name otherwise."""

    # The mode below sees every operation, and marks what comes of it.
    __torch_function__ = torch._C._disabled_torch_function_impl


def _number(tensor: Tensor) -> int | None:
    return getattr(tensor, "on_device", None)


def _find_tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    # Arguments are nested so alone; torch's tree_leaves, which knows more, took half of the time.
    for one in given:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, tuple | list):
            yield from _find_tensors(one)
        elif isinstance(one, dict):
            yield from _find_tensors(one.values())


def _mark(found: Any, number: int | None) -> Any:
    def mark(one: Any) -> Any:
        if type(one) is not _OnDevice:
            if not isinstance(one, Tensor) or isinstance(one, nn.Parameter):
                return one
            one = one.as_subclass(_OnDevice)
        one.on_device = number  # type: ignore[attr-defined] # a name that tensors have no field for
        return one

    return tree_map(mark, found) if isinstance(found, tuple | list | dict) else mark(found)


def _read_device(given: Any) -> torch.device | None:
    if isinstance(given, Tensor):
        number = _number(given)
        return torch.device("cpu") if number is None else DEVICES[number]
    return torch.device(given) if isinstance(given, torch.device | str) else None


class TwoDevices(TorchFunctionMode):
    """Inside, each operation is done where its tensors are; `MixedDevicesError` where they are in two places."""

    def __enter__(self) -> Self:
        """Have accelerate's hooks place weights on these devices, too."""
        real = accelerate.hooks.set_module_tensor_to_device
        self._patch = patch.object(accelerate.hooks, "set_module_tensor_to_device", partial(_place, real))
        self._patch.start()
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call] # torch has no types for it

    def __exit__(self, *raised: object) -> None:
        """Leave accelerate as it was."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call] # as above
        self._patch.stop()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func == GET_DEVICE:
            return _read_device(args[0])
        if func == Tensor.to:
            return _move(func, args[0], args[1:], given)
        if func == Tensor.as_subclass or func.__name__ in ASKING:
            return func(*args, **given)
        tensors = [*_find_tensors(args), *_find_tensors(given.values())]
        if func.__name__ in INDEXING:
            tensors = [one for place, one in enumerate(tensors) if place == 0 or _number(one) is not None]
        numbers = {_number(one) for one in tensors if one.dim()}
        if len(numbers) > 1:
            raise MixedDevicesError(f"{func.__name__}: tensors on {sorted(map(str, numbers))}")
        number = next(iter(numbers), _number(tensors[0]) if tensors else None)
        if (device := _read_device(given.get("device"))) is not None:
            number, given["device"] = device.index, "cpu"
        found = func(*args, **given)
        if func.__name__ == "__get__" and not isinstance(found, Tensor):
            return found
        return found if number is None else _mark(found, number)


def _move(func: Callable[..., Any], tensor: Tensor, args: Sequence[Any], given: dict[str, Any]) -> Any:
    asked = [*args, given.pop("device", None)]
    devices = [device for one in asked if (device := _read_device(one)) is not None]
    number = devices[0].index if devices else _number(tensor)
    # A tensor that is given stands for its dtype, too.
    rest = [one.dtype if isinstance(one, Tensor) else one for one in args]
    rest = [one for one in rest if not isinstance(one, torch.device | str)]
    found = func(tensor, *rest, **given) if rest or given else tensor
    if found is tensor and number == _number(tensor):
        return tensor
    return _mark(tensor.clone() if found is tensor else found, number)


def spread(vlm: VisionLanguageModel, *, first: int, offloaded: Collection[int] = ()) -> None:
    """Have accelerate put the blocks from `first` on, and the norm after them, on the second device.

    The rest is on the first. The weights of `offloaded` blocks stay on the host and are brought for each pass. Call it
    inside `TwoDevices`.
    """
    names = {id(module): name for name, module in vlm.model.named_modules()}
    there = {names[id(part)]: DEVICES[1] for part in (*vlm.blocks[first:], vlm.decoder.norm)}
    there |= {names[id(vlm.blocks[number])]: "cpu" for number in offloaded}
    here = dict.fromkeys(_list_rest(vlm.model, there), DEVICES[0])
    accelerate.dispatch_model(vlm.model, device_map=here | there, main_device=DEVICES[0], force_hooks=True)


def _list_rest(module: nn.Module, taken: Collection[str], prefix: str = "") -> Iterator[str]:
    """List the largest parts that hold none of those taken, by their names in the whole."""
    for name, part in module.named_children():
        whole = f"{prefix}{name}"
        if any(one.startswith(f"{whole}.") for one in taken):
            yield from _list_rest(part, taken, f"{whole}.")
        elif whole not in taken:
            yield whole


def _place(real: Callable[..., None], module: nn.Module, name: str, device: Any, **given: Any) -> None:
    """Do as accelerate's function of this place in `accelerate.hooks`, which makes new weights where it moves them."""
    target = torch.device(device)
    with torch._C.DisableTorchFunction():
        value = given.pop("value", None)
        plain = value.as_subclass(Tensor) if isinstance(value, Tensor) else value
        real(module, name, "cpu" if target.type == "cpu" else target, value=plain, **given)
    path, _, last = name.rpartition(".")
    holder = module.get_submodule(path)
    placed = holder._parameters.get(last)
    placed = holder._buffers.get(last) if placed is None else placed
    if placed is not None and target.type == "cpu":
        placed.on_device = target.index  # type: ignore[union-attr] # as above
