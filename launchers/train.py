"""``marl train``: one experiment, from a command line to a run directory."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import torch

from launchers.catalog import ALGORITHMS, find_algorithm
from launchers.devices import communicator_for, find_device, use_device
from launchers.elastic import Survival
from launchers.launch import use_fair_threads, world_size_from_environment
from launchers.mpi import ElasticCommunicator, check_fault_tolerance, run_on_ranks
from launchers.recipes import find_recipe
from launchers.run_directory import RunDirectory, default_run_path, refuse_other_config
from launchers.settings import ConfigT, Settings, decided, experiment_of, to_json
from launchers.start import JobOptions
from launchers.stopping import StopRequest
from launchers.supervise import rank_folder
from launchers.text import describe_evaluation, read_options, require_positive
from launchers.watchdog import Heartbeat, make_folder, watched_rank
from launchers.watched_communicator import WatchedCommunicator
from marl.checkpoints import AsyncCheckpointer, Checkpoint, Checkpointer, list_checkpoints, load_checkpoint
from marl.core import Communicator, Logger
from marl.counters import Counter
from marl.errors import InputError
from marl.experiment import Experiment, Result
from marl.loggers import JournalLogger, MultiLogger, OnlyNewer, TensorBoardLogger, TerminalLogger, WandbLogger
from marl.loggers.journal import plain_number
from marl.networks import is_image
from marl.replay import ReplayDataset

STOPPED = 75
T = TypeVar("T")
_MAY_DIFFER_ON_RESUME = (
    "steps",
    "evaluation_episodes",
    "evaluation_max_steps",
    "evaluate_every",
    "exploitability_every",
    "checkpoint_every",
    "row_every",
    "recipe",
    "env_failures",
    "device",
)
_SAVES_REPLAY = "algorithm.replay.checkpoint"


@dataclass(frozen=True, kw_only=True)
class Options(Settings[ConfigT], JobOptions, Generic[ConfigT]):
    """What ``marl train`` can be told."""

    recipe: str | None = None
    """Settings tuned for the pair: a recipe's name, or none for plain defaults. The pair's own if not given."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    checkpoint_replay: bool = False
    """Whether checkpoints hold replay, so that a resumed run goes on exactly; without it replay is filled anew."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Whether to log to W&B."""
    wandb_project: str = "marl"
    """The W&B project."""
    tensorboard: bool = False
    """Whether to write TensorBoard files into the run directory."""
    elastic_deadline: float = 30.0
    """Seconds in which they must be ready to go on; else the job ends, for --max-restarts to start it again."""


class Trainable(Protocol):
    """What a command puts together and runs: an Experiment, or something like it."""

    counter: Counter

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on where a checkpoint stopped."""

    def run(
        self,
        logger: Logger | None = None,
        checkpointer: Checkpointer | AsyncCheckpointer | None = None,
        should_stop: Callable[[], bool] = ...,
    ) -> Result:
        """Trains until all steps are done, or until some rank wants to stop."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that trains: ``marl NAME ALGORITHM ENV [OPTIONS]``."""

    name: str
    example: str
    """An environment to train on."""
    options: Any
    """Options, or a kind of them with more fields, generic in the algorithm's configuration."""
    build: Callable[[str, str, Any, Communicator, Path], Trainable]
    """From algorithm, environment, options, ranks and the run's directory to what is run."""
    check: Callable[[str, str, Any], object] = experiment_of
    """Refuses options that make no sense, before anything is started."""
    more_config: Callable[[Any], dict[str, Any]] = lambda options: {}
    """What ``config.json`` holds besides the settings."""
    devices: bool = True
    """Whether it computes on GPUs too."""
    survives: bool = True
    """Whether what is built can go on from a snapshot of its ranks' memory."""
    compiles: bool = True
    """Whether it can go through torch's compiler, which wants the same shapes at every step."""
    curve: str = "episode_return/mean"
    """The figure whose curve is drawn in the end."""


def _experiment(algorithm: str, env: str, options: Options[Any], communicator: Communicator, path: Path) -> Experiment:
    return Experiment(experiment_of(algorithm, env, options), communicator)


def train(words: list[str]) -> int:
    """Trains an algorithm; see ``main.main`` for the exit codes."""
    return run_command(
        Command(name="train", example="mpe2.simple_spread_v3", options=Options, build=_experiment), words
    )


def run_command(command: Command, words: list[str]) -> int:
    """Runs a command that trains on this rank; see ``main.main`` for the exit codes."""
    if not words or words[0].startswith("-"):
        return _explain(command, words)
    if len(words) < 2 or words[1].startswith("-"):
        find_algorithm(words[0])
        raise InputError(f"which environment? For instance: marl {command.name} {words[0]} {command.example}")
    algorithm, env, rest = words[0], words[1], words[2:]
    return run_on_ranks(lambda communicator: _train(command, *_read(command, algorithm, env, rest), communicator))


def _read(command: Command, algorithm: str, env: str, words: list[str]) -> tuple[str, str, Options[Any], str | None]:
    """Defaults, then the recipe, then the command line."""
    variant = find_algorithm(algorithm)
    config = variant.default_config()
    recipe = find_recipe(algorithm, env, _peek(words, "--recipe"), _peek(words, "--backend"))
    default: Any = command.options(algorithm=config)
    if recipe is not None:
        default = recipe(default)
    kind: Any = command.options[type(config)]  # the algorithm's own options
    program = f"marl {command.name} {algorithm} {env}"
    options: Options[Any] = read_options(kind, words, program=program, default=default)
    options.check()
    require_positive(keep_checkpoints=options.keep_checkpoints)
    if options.device != "cpu":
        if not command.devices:
            raise InputError(f"marl {command.name} computes on the CPU only; leave out --device {options.device}")
        find_device(options.device)
    if options.elastic and not command.survives:
        raise InputError(f"marl {command.name} cannot go on with fewer ranks; leave out --elastic")
    if options.elastic and options.ranks is None and world_size_from_environment() is None:
        raise InputError("--elastic is for several ranks: --ranks N, or mpirun --with-ft ulfm")
    if options.elastic_deadline <= 0:
        raise InputError(f"--elastic-deadline must be positive, got {options.elastic_deadline:g}")
    if options.checkpoint_replay:
        options = replace(options, algorithm=_with_saved_replay(algorithm, options.algorithm))
    if options.compile == "yes" and not command.compiles:
        raise InputError(f"marl {command.name} does not go through torch's compiler; leave out --compile yes")
    before = "no" if not command.compiles else _compiled_before(options)
    options = cast("Options[Any]", decided(algorithm, options, before))
    command.check(algorithm, env, options)
    return algorithm, env, options, None if recipe is None else recipe.__name__


def _compiled_before(options: Options[Any]) -> str | None:
    """How the run that is resumed decided; None where there is none, or one that cannot be read."""
    if not options.resume or options.out is None:
        return None
    try:
        return str(RunDirectory.open(options.out).config.get("compile", "no"))
    except InputError:
        return None  # which is told where the run is opened


def _with_saved_replay(algorithm: str, config: Any) -> Any:
    if not hasattr(config, "replay"):
        raise InputError(f"--checkpoint-replay is for algorithms with replay, which {algorithm} has not; leave it out")
    return replace(config, replay=replace(config.replay, checkpoint=True))


def _has_small_networks(experiment: Trainable) -> bool:
    """Whether networks are too small to gain from threads: those of leagues, and below a million parameters."""
    if not isinstance(experiment, Experiment):
        return True
    images = any(is_image(group.observation) for group in experiment.spec.groups)
    return not images and sum(tensor.numel() for tensor in experiment.learner.get_variables().values()) < 1_000_000


def _refills(experiment: Trainable) -> bool:
    dataset = getattr(experiment, "dataset", None)
    return isinstance(dataset, ReplayDataset) and dataset.refills


def _train(
    command: Command,
    algorithm: str,
    env: str,
    options: Options[Any],
    recipe: str | None,
    communicator: Communicator,
) -> int:
    if options.ranks not in (None, communicator.size):
        raise InputError(f"--ranks {options.ranks} under an mpirun that started {communicator.size}; leave it out")
    in_job = world_size_from_environment() is not None
    if options.max_restarts and in_job:
        raise InputError("--max-restarts cannot restart the mpirun that it runs under; use it with --ranks")
    if options.elastic:
        check_fault_tolerance()
    use_fair_threads()
    device = find_device(options.device)
    use_device(device)
    config = to_json(algorithm, env, _settings(options), recipe) | command.more_config(options)
    finished = _on_root(communicator, lambda: _check_directory(options, config))
    if _any_rank(communicator, bool(finished)):
        if finished:
            print(finished)
        return 0
    path = options.out
    if path is None:
        path = _agreed(communicator, default_run_path(algorithm, env, options.seed))
    title = f"{algorithm} on {env}, recipe {recipe}" if recipe else f"{algorithm} on {env}, no recipe (plain defaults)"
    with contextlib.ExitStack() as held:
        books = _Books(path, options, config, title, held, watched=in_job or options.watchdog > 0)
        work = _Work(
            build=lambda watched: command.build(algorithm, env, replace(options, device=str(device)), watched, path),
            options=options,
            device=device,
            path=path,
            books=books,
            communicator=communicator,
            in_job=in_job,
        )
        code = 1
        try:
            result = work.survive() if options.elastic else work.train()
            code = STOPPED if result.stopped else 0
        except BaseException as error:
            code = 2 if isinstance(error, InputError) else 1
            books.fail(error, refused=code == 2)
            raise
        finally:
            books.close(code)
        if books.run is not None:
            _report(books.run, result, communicator, command.curve)
        return code


class _Books:
    """What the first rank writes: the run directory, which it holds, the journal, trackers and checkpoints.

    Where the first rank dies and others go on, the next one opens them; where it lives, they stay open.

    Args:
        path: the run directory.
        options: of the command.
        config: what ``config.json`` holds.
        title: said at the beginning.
        held: takes the lock of the run directory.
        watched: whether ranks write down what they do.
    """

    def __init__(
        self,
        path: Path,
        options: Options[Any],
        config: dict[str, Any],
        title: str,
        held: contextlib.ExitStack,
        *,
        watched: bool,
    ) -> None:
        self._path, self._options, self._config, self._title = path, options, config, title
        self._held, self._watched = held, watched
        self._code = 1
        self._journal: JournalLogger | None = None
        self._wandb: WandbLogger | None = None
        self.run: RunDirectory | None = None
        self.logger: MultiLogger | None = None
        self.checkpointer: AsyncCheckpointer | None = None

    def open(self, communicator: Communicator, counter: Counter, *, again: bool) -> None:
        """Opens everything on the first rank, or cuts it back to where the experiment is. Collective.

        Args:
            communicator: the ranks.
            counter: where the experiment is.
            again: whether some rank has opened the run before.
        """
        run = _on_root(communicator, lambda: self._open(again=again))
        if run is None:
            return
        if self._journal is not None:
            self._journal.truncate_after(counter.updates)
            return
        ranks = f"{communicator.size} rank{'s' * (communicator.size > 1)}"
        print(f"{self._title}, {ranks}, into {run.path}", flush=True)
        self.run = run
        self._journal = JournalLogger(run.metrics)
        self._journal.truncate_after(counter.updates)
        # Trackers cannot take a row back, so what is done once more is told to them once.
        trackers = [OnlyNewer(tracker, "env_steps") for tracker in self._trackers(run, counter, again=again)]
        self.logger = MultiLogger([self._journal, *trackers, TerminalLogger(self._options.steps)])
        self.checkpointer = AsyncCheckpointer(
            Checkpointer(run.checkpoints, keep=self._options.keep_checkpoints, before=self._journal.sync)
        )

    def _trackers(self, run: RunDirectory, counter: Counter, *, again: bool) -> Iterator[Logger]:
        options = self._options
        if options.tensorboard:
            yield TensorBoardLogger(run.path / "tensorboard", resume_at=counter.env_steps or None)
        if options.wandb != "disabled":
            online = options.wandb == "online"
            self._wandb = WandbLogger(
                options.wandb_project,
                run.path.resolve().name,
                mode=options.wandb,
                config=self._config,
                directory=run.path,
                # Offline, a second run of the same identity would overwrite the first.
                run_id=run.run_id if online else None,
                resume=(options.resume or again) and online,
                group=f"{self._config['name']} {self._config['env']}",
            )
            yield self._wandb

    def _open(self, *, again: bool) -> RunDirectory:
        run = self.run
        if run is None:
            resume = self._options.resume or again
            run = RunDirectory.open(self._path) if resume else RunDirectory.create(self._path, self._config)
            self._held.enter_context(run.locked())
            self._held.callback(self._sweep)
            if resume:
                run.write_config(self._config)
        if self._watched:
            make_folder(rank_folder(self._path))
        return run

    def fail(self, error: BaseException, *, refused: bool) -> None:
        """Finishes the checkpoint that is being written; says how to go on, where there was a reason to end.

        Raises:
            InputError: there is no checkpoint yet; says so, and why the run ended.
        """
        if self.checkpointer is not None:
            _finish_writing(self.checkpointer)
        if self.run is not None and refused and not (not self._options.resume and _withdraw(self.run)):
            _say_how_to_go_on(self.run, error)

    def close(self, code: int) -> None:
        """Closes everything that is open, with the exit code."""
        if self._wandb is not None and self.run is not None:
            newest = Checkpointer(self.run.checkpoints).latest
            if newest is not None and code == 0:
                self._wandb.log_artifact(newest, self.run.path.resolve().name)
            self._wandb.close(code)
        if self.logger is not None:
            self.logger.close()
        self._code = code

    def _sweep(self) -> None:
        """Removes what ranks wrote down, unless it tells how they failed; the last that is done in the folder."""
        if self._code != 1:
            shutil.rmtree(rank_folder(self._path), ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A rank's part in training: parts are put together once, or again by those that are left when a rank dies."""

    build: Callable[[Communicator], Trainable]
    options: Options[Any]
    device: torch.device
    path: Path
    books: _Books
    communicator: Communicator
    in_job: bool

    def survive(self) -> Result:
        """Trains, and goes on when ranks die."""
        assert isinstance(self.communicator, ElasticCommunicator)
        survival = Survival(self.communicator, self.options.elastic_deadline, _warn)
        with StopRequest() as stop:
            return survival.together(lambda snapshot: self.train(snapshot, survival, stop))

    def train(
        self,
        snapshot: Checkpoint | None = None,
        survival: Survival | None = None,
        stop: StopRequest | None = None,
    ) -> Result:
        """Puts the experiment together and trains.

        Args:
            snapshot: where to go on; None for where the options say.
            survival: told of every update, where the run is to survive.
            stop: whether somebody asks to stop, where it is heard already; else it is while training.
        """
        communicator, options, books = self.communicator, self.options, self.books
        heartbeat = Heartbeat(communicator.rank)
        ranks = communicator_for(communicator, self.device, elastic=options.elastic)
        experiment = self.build(WatchedCommunicator(ranks, heartbeat))
        heartbeat.counter = experiment.counter
        use_fair_threads(small=_has_small_networks(experiment))
        with contextlib.closing(experiment):
            if snapshot is None:
                self._resume(experiment)
            else:
                experiment.load(snapshot)
                if communicator.rank == 0 and _refills(experiment):
                    _warn("replay was not saved (--checkpoint-replay) and starts empty: learning waits for new items")
            books.open(communicator, experiment.counter, again=snapshot is not None)
            with (
                StopRequest() if stop is None else contextlib.nullcontext(stop) as request,
                watched_rank(
                    rank_folder(self.path),
                    heartbeat,
                    communicator.rank,
                    timeout=options.watchdog,
                    in_job=self.in_job,
                ),
            ):
                if survival is None:
                    result = experiment.run(books.logger, books.checkpointer, request.asked)
                else:
                    assert isinstance(experiment, Experiment)
                    at_boundary = functools.partial(survival.at_boundary, experiment)
                    result = experiment.run(books.logger, books.checkpointer, request.asked, at_boundary)
                if books.checkpointer is not None:
                    books.checkpointer.close()
        return result

    def _resume(self, experiment: Trainable) -> None:
        root = self.communicator.rank == 0
        checkpoints = self.path / "checkpoints"
        # A run that was killed before its first checkpoint begins anew; one that lost its checkpoints does not.
        begins_anew = not list_checkpoints(checkpoints) and not (self.path / "summary.json").exists()
        if self.options.resume and not begins_anew:
            experiment.load(load_checkpoint(checkpoints, warn=_warn if root else _ignore))
            if root and _refills(experiment):
                print("replay was not saved (--checkpoint-replay) and starts empty: learning waits for new items")
        elif self.options.resume and root:
            print(f"{self.path} has no checkpoint yet; it begins anew")


def _report(run: RunDirectory, result: Result, communicator: Communicator, curve: str) -> None:
    counter = result.counter
    if result.stopped:
        print(f"stopped after {counter.env_steps:,} steps; go on with --resume --out {run.path}", flush=True)
        return
    summary: dict[str, Any] = {} if result.evaluation is None else dict(result.evaluation.summary())
    run.write_summary(
        {
            **{key: plain_number(value) for key, value in (summary | dict(result.measured)).items()},
            "env_steps": counter.env_steps,
            "env_steps_per_second": counter.env_steps / max(counter.wall_seconds, 1e-9),
            "wall_seconds": counter.wall_seconds,
            "updates": counter.updates,
            "episodes": counter.episodes,
            "ranks": communicator.size,
        }
    )
    from launchers.plot import plot_runs

    if counter.episodes:
        for key in (*result.measured, curve, "episode_return/mean"):
            # A league whose player only ever met itself has no scores.
            with contextlib.suppress(InputError):
                plot_runs([run.path], run.learning_curve, key=key)
                break
    if summary:
        print(f"evaluation: {describe_evaluation(summary)}", flush=True)
    if result.measured:
        print(", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result.measured.items()))
    print(f"saved in {run.path}: config.json, metrics.jsonl, checkpoints/, summary.json, learning_curve.png")


def _withdraw(run: RunDirectory) -> bool:
    """Removes a run that was refused before it had anything to show, so that --out can be used again."""
    if list_checkpoints(run.checkpoints) or (run.metrics.exists() and run.metrics.stat().st_size):
        return False
    shutil.rmtree(run.path, ignore_errors=True)
    return True


def _finish_writing(checkpointer: AsyncCheckpointer) -> None:
    """Waits for the checkpoint that is being written while the run fails; says so if that fails too."""
    try:
        checkpointer.close()
    except InputError as error:
        _warn(str(error))


def _say_how_to_go_on(run: RunDirectory, error: BaseException) -> None:
    if not list_checkpoints(run.checkpoints):
        raise InputError(f"{error}; there is no checkpoint yet, so --resume begins the run anew") from error


def _settings(options: Options[Any]) -> Settings[Any]:
    return Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})


def _check_directory(options: Options[Any], config: dict[str, Any]) -> str | None:
    """Refuses, before anything is started, what would be refused later; says so where there is nothing left to do."""
    if options.resume:
        assert options.out is not None, "options were checked"
        run = RunDirectory.open(options.out)
        refuse_other_config(run, config, ignore=(*_MAY_DIFFER_ON_RESUME, _SAVES_REPLAY))
        done = _steps_of_finished(run)
        if done >= options.steps:
            # What a process that was killed at the very end did not come to.
            with contextlib.suppress(InputError), run.locked(patience=0.0):
                shutil.rmtree(rank_folder(run.path), ignore_errors=True)
            return f"{run.path} is finished: {done:,} of {options.steps:,} steps; --steps with more lengthens it"
    elif options.out is not None and (options.out / "config.json").exists():
        raise InputError(f"{options.out} holds a run already; continue it with --resume or choose another --out")
    return None


def _steps_of_finished(run: RunDirectory) -> int:
    """Environment steps of a run that came to its end; -1 of one that did not."""
    try:
        summary = run.summary or {}
        return int(summary.get("env_steps", -1))
    except (InputError, TypeError, ValueError):  # a damaged summary is written anew
        return -1


def _on_root(communicator: Communicator, action: Callable[[], T]) -> T | None:
    """Does something on rank 0 only; where it is refused, all ranks end with exit code 2."""
    refused = torch.zeros(1, dtype=torch.int64)
    result: T | None = None
    problem: InputError | None = None
    if communicator.rank == 0:
        try:
            result = action()
        except InputError as error:
            problem = error
            refused += 1
    communicator.all_reduce(refused)
    if problem is not None:
        raise problem
    if int(refused):
        raise SystemExit(2)
    return result


def _any_rank(communicator: Communicator, flag: bool) -> bool:
    """Whether the flag is raised on any rank."""
    raised = torch.tensor([float(flag)])
    communicator.all_reduce(raised)
    return bool(raised > 0)


def _agreed(communicator: Communicator, path: Path) -> Path:
    """Rank 0's path, on all ranks: its name holds the time."""
    name = torch.zeros(4096, dtype=torch.uint8)
    encoded = torch.tensor(list(str(path).encode()), dtype=torch.uint8)
    name[: len(encoded)] = encoded
    communicator.broadcast(name)
    return Path(bytes(name.tolist()).rstrip(b"\0").decode())


def _peek(words: list[str], option: str) -> str | None:
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _explain(command: Command, words: list[str]) -> int:
    if words and words[0] not in ("-h", "--help"):
        raise InputError(f"marl {command.name} ALGORITHM ENV comes first, options follow")
    print(f"usage: marl {command.name} ALGORITHM ENV [OPTIONS]\n")
    print(f"ALGORITHM is one of {', '.join(ALGORITHMS)}.")
    print("ENV is package.module (mpe2.simple_spread_v3), a PettingZoo id (classic/connect_four-v3),")
    print("openspiel/GAME, lbf/ID, rware/ID, or package.module:callable.\n")
    print(f"`marl {command.name} ALGORITHM ENV --help` lists the options.")
    return 0


def _warn(line: str) -> None:
    print(f"marl: {line}", file=sys.stderr, flush=True)


def _ignore(line: str) -> None:
    """Other ranks have nothing to add."""
