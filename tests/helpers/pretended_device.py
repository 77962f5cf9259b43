"""A device that is not there: tensors that claim to be on it are computed on the CPU, and meet no others.

So it can be tried on any machine whether everything is where it should be, as on a GPU: an operation of tensors of two
devices raises RuntimeError, and so does reading a tensor of the device by numpy. Import it before anything that uses
``torch.inference_mode``, which torch does not allow for such tensors, and which is switched off here.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


def _without_inference(mode: bool = True) -> Any:
    return torch.no_grad() if mode else contextlib.nullcontext()


torch.inference_mode = _without_inference  # type: ignore[assignment, misc]
DEVICE = torch.device("lazy:0")
"""One of the names that torch knows and that no build of torch computes on by itself."""
_TRANSFERS = ("aten::_to_copy", "aten::copy_")


class Elsewhere(Tensor):
    """A tensor of the device.

    Args:
        inner: what it holds, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        return Tensor._make_wrapper_subclass(  # type: ignore[no-any-return, attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _is_there(device: Any) -> bool:
    return torch.device(device).type == DEVICE.type


def _dispatch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    name = func.overloadpacket._qualified_op_name
    if there and name not in _TRANSFERS:
        # Numbers without dimensions go to a GPU by themselves.
        strangers = [tuple(t.shape) for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
        if strangers:
            raise RuntimeError(f"{func}: tensors of shapes {strangers} are on the CPU, others on {DEVICE}")
    here = dict(kwargs)
    if kwargs.get("device") is not None:
        there = _is_there(kwargs["device"])
        here["device"] = torch.device("cpu")
    elif name == "aten::copy_":
        there = isinstance(args[0], Elsewhere)
    result = func(*tree_map(_inner, args), **tree_map(_inner, here))
    if not there:
        return result
    # What is done in place gives back the tensor that it was done to.
    known = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value)

    return tree_map(outer, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


class _Functions(TorchFunctionMode):
    """What torch does to tensors beneath its dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None and _is_there(kwargs["device"]):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if not args or not isinstance(args[0], Elsewhere):
            return func(*args, **kwargs)
        inner = args[0].inner
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(f"a tensor on {DEVICE} cannot be read by numpy; call cpu() first")
        instead: dict[Any, Callable[[], Any]] = {Tensor.data_ptr: inner.data_ptr, Tensor.tolist: inner.tolist}
        if func in instead:
            return instead[func]()
        if func is Tensor.new_tensor:
            return torch.tensor(*args[1:], dtype=kwargs.get("dtype", inner.dtype)).to(DEVICE)
        result = func(*args, **kwargs)
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].inner = args[1].inner.detach()
        return result


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


@contextlib.contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Within it, there is the device."""
    with _Functions(), _Operations():
        yield DEVICE
