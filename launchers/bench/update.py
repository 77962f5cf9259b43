"""``marl bench update``: the time of one update of each learner, beside that of its matrix products alone.

The environment is simple_spread, with continuous actions for MATD3 and MASAC, and settings are each algorithm's
defaults. The reference is measured in the same run: the matrix products of a few updates, forward and backward, are
recorded and repeated on factors of the same shapes and strides. No learner of these networks can be faster, unless it
needs fewer products.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from marl.core import Communicator
from marl.envs.factory import make_factory
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.launchers.bench.measurements import Measurement, compare
from marl.launchers.run.catalog import ALGORITHMS, find_algorithm
from marl.learning.compilation import can_compile

_CONTINUOUS: Final = ("matd3", "masac")
_FACTORS: Final = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""Index of the left factor in the arguments of each product: the first of those that add is the summand."""
_RECORDED_UPDATES: Final = 2
"""Updates whose products are recorded: some learners update their actors at every second one only."""

Layout = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides of a matrix, or of a batch of matrices."""
Product = tuple[Layout, Layout]
"""Both factors of a matrix product."""


class ProductRecorder(TorchDispatchMode):
    """Records the matrix products that are done while it is entered.

    Attributes:
        products: the number of products by the layouts of both factors.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation, and records it if it is a product."""
        name = func.overloadpacket.__name__.rstrip("_")
        if name in _FACTORS:
            left, right = args[_FACTORS[name] : _FACTORS[name] + 2]
            self.products[_layout(left), _layout(right)] += 1
        elif name in ("linear", "matmul"):
            # In inference mode they arrive here undecomposed.
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @property
    def operations(self) -> int:
        """Floating-point operations of all products: two for each multiplication, with its addition."""
        return sum(2 * times * math.prod(left[0]) * right[0][-1] for (left, right), times in self.products.items())


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tuple(tensor.stride())


def products_of(call: Callable[[], object]) -> ProductRecorder:
    """Records the matrix products of a call, with compiled functions run eagerly: their products could not be seen."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    recorder = ProductRecorder()
    with set_stance("force_eager") if set_stance else contextlib.nullcontext(), recorder:
        call()
    return recorder


def repeat_products(products: Mapping[Product, int]) -> Callable[[], None]:
    """Returns a function that does these products on constant matrices."""
    work = []
    for layouts, times in products.items():
        left, right = (torch.empty_strided(*layout).fill_(0.5) for layout in layouts)
        product = torch.mm if left.dim() == 2 else torch.bmm
        work.append((product, left, right, product(left, right), times))

    def repeat() -> None:
        for product, left, right, out, times in work:
            for _ in range(times):
                product(left, right, out=out)

    return repeat


def run(
    communicator: Communicator, algorithms: Sequence[str] | None = None, *, rounds: int = 40, seconds: float = 0.25
) -> Iterator[Measurement]:
    """Measures one update of each algorithm, sampling included, against the lower bound of its matrix products.

    Args:
        communicator: of one rank.
        algorithms: their names; all by default.
        rounds: the number of turns of update and lower bound.
        seconds: about the time of a turn, which updates every network at least once.

    Yields:
        A measurement for each algorithm; its ratio is the time of an update over that of its products.

    Raises:
        InputError: there are several ranks, or no such algorithm.
    """
    if communicator.size > 1:
        raise InputError("an update is measured in one process; leave --ranks out")
    for name in ALGORITHMS if algorithms is None else algorithms:
        plain, compiled = _experiments(name, communicator)
        try:
            yield from _measure(name, plain, compiled, rounds, seconds)
        finally:
            for experiment in (plain, compiled):
                if experiment is not None:
                    experiment.close()


def _experiments(name: str, communicator: Communicator) -> tuple[Experiment, Experiment | None]:
    """Makes the algorithm's experiment, and its compiled variant if it has one."""
    variant = find_algorithm(name)
    plain = variant.build(variant.default_config())
    environment = make_factory(
        "mpe2.simple_spread_v3", env_kwargs={"continuous_actions": name in _CONTINUOUS}, backend="batched"
    )
    compiled = plain.compiled() if can_compile(torch.device("cpu")) else None
    first, *second = (
        Experiment(ExperimentConfig(builder=builder, environment=environment), communicator)
        for builder in (plain, compiled)
        if builder is not None
    )
    return first, second[0] if second else None


class _Updates:
    """The updates of one learner, each after as much acting as it needs."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        experiment.loop.begin()
        for _ in range(_RECORDED_UPDATES):
            self()  # The first updates allocate memory, and compilers begin here.

    def __call__(self) -> float:
        """Does one update, and returns its milliseconds without the acting."""
        self.act()
        start = time.perf_counter()
        self._experiment.learner.step()
        return 1e3 * (time.perf_counter() - start)

    def act(self) -> None:
        """Acts until the dataset is ready."""
        while not self._experiment.dataset.ready():
            self._experiment.loop.step()

    def products(self) -> Counter[Product]:
        """Records the matrix products of _RECORDED_UPDATES updates."""
        recorded: Counter[Product] = Counter()
        for _ in range(_RECORDED_UPDATES):
            self.act()
            recorded += products_of(self._experiment.learner.step).products
        return recorded


def _measure(
    name: str, plain: Experiment, compiled: Experiment | None, rounds: int, seconds: float
) -> Iterator[Measurement]:
    updates = {f"update/{name}": _Updates(plain)}
    if compiled is not None:
        updates[f"update/{name}/compiled"] = _Updates(compiled)
    repeat = repeat_products(updates[f"update/{name}"].products())

    def lower_bound() -> float:
        start = time.perf_counter()
        repeat()
        return 1e3 * (time.perf_counter() - start) / _RECORDED_UPDATES

    lower_bound()
    values: dict[str, list[float]] = {row: [] for row in updates}
    references = []
    for _ in range(rounds):
        for row, update in updates.items():
            values[row].append(_mean(update, seconds))
        references.append(_mean(lower_bound, seconds / 4))
    for row, measured in values.items():
        yield compare(row, measured, references, "ms")


def _mean(call: Callable[[], float], seconds: float) -> float:
    """Averages the milliseconds that calls return, over about these seconds and a multiple of _RECORDED_UPDATES."""
    times: list[float] = []
    while not times or len(times) % _RECORDED_UPDATES or sum(times) < 1e3 * seconds:
        times.append(call())
    return sum(times) / len(times)
