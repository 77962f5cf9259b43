"""Commands that train, on this rank: options are read and checked, then training begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from marl.envs.suites import describe_names
from marl.errors import InputError
from marl.launchers.command_line.help import wants_help
from marl.launchers.command_line.options import find_options
from marl.launchers.command_line.reading import read_values
from marl.launchers.console import read_options, require_positive
from marl.launchers.environment_variables import world_size_from_environment
from marl.launchers.mpi.devices import find_device
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.run.catalog import ALGORITHMS, find_algorithm
from marl.launchers.run.recipes import NO_RECIPE, find_recipe
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.run.settings import resolve_compile
from marl.launchers.training.options import Command, TrainOptions
from marl.launchers.training.session import run_training

_RECIPE: Final = ("recipe",)


def run_command(command: Command, argv: list[str]) -> int:
    """Runs a command that trains on this rank; see ``main.main`` for the exit codes."""
    if not argv or argv[0].startswith("-"):
        return _explain(command, argv)
    if len(argv) < 2 or argv[1].startswith("-"):
        find_algorithm(argv[0])
        if wants_help(argv):
            _read(command, argv[0], "ENV", argv[1:])
        raise InputError(f"which environment? For instance: marl {command.name} {argv[0]} {command.example}")
    algorithm, env, *rest = argv
    return run_on_ranks(lambda communicator: run_training(command, *_read(command, algorithm, env, rest), communicator))


def _explain(command: Command, argv: list[str]) -> int:
    if argv and not wants_help(argv):
        raise InputError(f"marl {command.name} ALGORITHM ENV comes first, options follow")
    print(f"usage: marl {command.name} ALGORITHM ENV [OPTIONS]\n")
    print(f"ALGORITHM is one of {', '.join(ALGORITHMS)}.")
    print(f"{describe_names()}\n")
    print(f"`marl {command.name} {next(iter(ALGORITHMS))} --help` lists the options that are used most with an")
    print("algorithm, and --help-all all of them.")
    return 0


def _read(
    command: Command, algorithm: str, env: str, argv: list[str]
) -> tuple[str, str, TrainOptions[Any], str | None]:
    """Reads the options: defaults, changed by the recipe, then by the command line."""
    program = f"marl {command.name} {algorithm} {env}"
    plain: Any = command.options(algorithm=find_algorithm(algorithm).default_config())
    values = {} if wants_help(argv) else read_values(argv, find_options(command.options, plain), program)
    wanted = (values[_RECIPE] or NO_RECIPE) if _RECIPE in values else None
    recipe = find_recipe(algorithm, env, wanted, values.get(("backend",)))
    default = plain
    if recipe is not None:
        default = replace(recipe(plain), **command.more_recipes.get(recipe.__name__, {}))
    options: TrainOptions[Any] = read_options(command.options, argv, program=program, default=default)
    options = _checked(command, algorithm, options)
    command.check(algorithm, env, options)
    return algorithm, env, options, None if recipe is None else recipe.__name__


def _checked(command: Command, algorithm: str, options: TrainOptions[Any]) -> TrainOptions[Any]:
    """Options with all decisions taken; InputError where they do not fit each other, or the command."""
    options.check()
    require_positive(keep_checkpoints=options.keep_checkpoints)
    if options.device != "cpu":
        if not command.gpus:
            raise InputError(f"marl {command.name} computes on the CPU only; leave out --device {options.device}")
        find_device(options.device)
    if options.elastic and not command.elastic:
        raise InputError(f"marl {command.name} cannot go on with fewer ranks; leave out --elastic")
    if options.elastic and options.ranks is None and world_size_from_environment() is None:
        raise InputError("--elastic is for several ranks: --ranks N, or mpirun --with-ft ulfm")
    if options.elastic_deadline <= 0:
        raise InputError(f"--elastic-deadline must be positive, got {options.elastic_deadline:g}")
    if options.checkpoint_replay:
        options = replace(options, algorithm=_with_saved_replay(algorithm, options.algorithm))
    if options.compile == "yes" and not command.compiles:
        raise InputError(f"marl {command.name} does not go through torch's compiler; leave out --compile yes")
    saved = _saved_config(options)
    decided = saved.get("algorithm", {}).get("convolutions")
    if options.algorithm.convolutions == "auto" and decided in ("yes", "no"):
        options = replace(options, algorithm=replace(options.algorithm, convolutions=decided))
    before = "no" if not command.compiles else str(saved.get("compile", "no")) if saved else None
    return cast("TrainOptions[Any]", resolve_compile(algorithm, options, before))


def _saved_config(options: TrainOptions[Any]) -> Mapping[str, Any]:
    """The configuration of the run that is resumed; empty where there is none, or one that cannot be read."""
    if not options.resume or options.out is None:
        return {}
    try:
        return RunDirectory.open(options.out).config
    except InputError:
        return {}  # the error is reported where the run is opened


def _with_saved_replay(algorithm: str, config: Any) -> Any:
    if find_algorithm(algorithm).build(config).on_policy:
        raise InputError(f"--checkpoint-replay is for algorithms with replay, which {algorithm} has not; leave it out")
    return replace(config, replay=replace(config.replay, checkpoint=True))
