"""Functions of tensors through torch's compiler, without the checks of ``torch.compile`` at every call."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

TensorFunction = Callable[..., Sequence[Tensor]]


def can_compile(device: torch.device) -> bool:
    """True if torch's compiler can work: with a C++ compiler, or Triton for a GPU."""
    if device.type == "cpu":
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        return any(shutil.which(compiler) for compiler in compilers if compiler)
    return importlib.util.find_spec("triton") is not None


def compile_function(function: Callable[..., Any], examples: Sequence[Tensor], *, threads: int | None = None) -> Any:
    """Compiles a function of tensors into few kernels; values that it closes over must never change.

    The function is traced once, at the shapes and dtypes of the examples, and the result is for these alone and does
    not check that. Traced branches are those that the examples took.

    Args:
        function: of tensors, to one tensor or a sequence of them; it may write into its arguments.
        examples: arguments as they will be.
        threads: number of threads of its own kernels; torch's number if not given.

    Returns:
        A function of the same arguments.
    """
    # Compiling in this process: a pool of helpers would be forked, which breaks MPI.
    options: dict[str, Any] = {"compile_threads": 1}
    if threads is not None:
        options["cpp.threads"] = threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch deprecates
        from torch import _inductor as inductor
        from torch._guards import TracingContext, tracing
        from torch._inductor.decomposition import select_decomp_table
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        graph = make_fx(function, decomposition_table=select_decomp_table())(*examples)
        # Only with a shape environment, though there is nothing dynamic, are results found in the compiler's cache.
        with _one_at_a_time(), tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
            compiled = inductor.compile(graph, list(examples), options=options)
        compiled(*(example.clone() for example in examples))
    return compiled


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of a machine's ranks the first one compiles, and the others find the result in the compiler's cache."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    try:
        folder = Path(cache_dir())
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "marl.lock").open("w")
    except OSError:  # then every rank compiles
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Compiled:
    """A function that is compiled at its first call, once for each combination of shapes.

    Where the compiler fails, it warns and runs the function as it is.

    Args:
        function: of tensors, to a sequence of tensors; see ``compile_function``.
        threads: see there.
    """

    def __init__(self, function: TensorFunction, *, threads: int | None = None) -> None:
        self._function = function
        self._threads = threads
        self._compiled: dict[tuple[torch.Size, ...], TensorFunction] = {}

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        """The function's results."""
        shapes = tuple([tensor.shape for tensor in tensors])
        compiled = self._compiled.get(shapes)
        if compiled is None:
            compiled = self._compiled[shapes] = self._compile(tensors)
        return compiled(*tensors)

    def _compile(self, tensors: Sequence[Tensor]) -> TensorFunction:
        try:
            return cast("TensorFunction", compile_function(self._function, tensors, threads=self._threads))
        except Exception as error:  # a compiler can fail in any way: missing headers, a full disk, ...
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(f"torch's compiler failed ({reason[0]}); this runs without it", RuntimeWarning, stacklevel=3)
            return self._function


def call_with(module: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]) -> Any:
    """Calls a module with the first tensors as its parameters of these names, and the others as arguments.

    Parameters must be arguments of what is compiled: the compiler treats values that are closed over as constants.
    """
    return functional_call(module, dict(zip(names, tensors, strict=False)), tuple(tensors[len(names) :]))


def compiled_module(module: nn.Module, *, threads: int | None = None) -> TensorFunction:
    """A module's forward, compiled; it reads the parameters' current values at each call, and needs no gradients.

    Args:
        module: whose forward takes tensors and returns a tuple of them.
        threads: see ``compile_function``.
    """
    names, parameters = _parameters(module)
    compiled = Compiled(lambda *tensors: call_with(module, names, tensors), threads=threads)
    data: list[Tensor] = []

    def call(*arguments: Tensor) -> Sequence[Tensor]:
        if not data:  # not before: an optimizer may move parameters into its own buffer
            data.extend(parameter.detach() for parameter in parameters)
        return compiled(*data, *arguments)

    return call


def compiled_gradients(
    loss: nn.Module, parameters: Sequence[nn.Parameter] | None = None, *, threads: int | None = None
) -> Callable[..., Sequence[Tensor]]:
    """Adds the gradient of a module's loss to its parameters' ``grad``, in one compiled function.

    Args:
        loss: whose forward takes tensors and returns the loss, a scalar, and tensors of metrics.
        parameters: those of the module whose gradients are wanted; all if not given. Each has a ``grad``.
        threads: see ``compile_function``.

    Returns:
        A function of the module's arguments that returns the metrics.
    """
    names, everything = _parameters(loss)
    wanted = {id(parameter) for parameter in (everything if parameters is None else parameters)}
    chosen = [index for index, parameter in enumerate(everything) if id(parameter) in wanted]
    data = [parameter.detach() for parameter in everything]
    sums = [gradient for index in chosen if (gradient := everything[index].grad) is not None]

    def gradients(*tensors: Tensor) -> Sequence[Tensor]:
        given = [tensor.detach() for tensor in tensors[: len(data)]]
        for index in chosen:
            given[index].requires_grad_()
        with torch.enable_grad():
            value, *metrics = call_with(loss, names, [*given, *tensors[len(data) :]])
            result = torch.autograd.grad(value, [given[index] for index in chosen])
        return [*result, *(metric.detach() for metric in metrics)]

    compiled = Compiled(gradients, threads=threads)

    def add(*arguments: Tensor) -> Sequence[Tensor]:
        results = compiled(*data, *arguments)
        for total, part in zip(sums, results, strict=False):
            total += part
        return results[len(sums) :]

    return add


def _parameters(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    named = dict(module.named_parameters())
    return list(named), list(named.values())
