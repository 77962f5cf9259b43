"""Command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from marl.envs.suites import describe_names
from marl.errors import InputError
from marl.launchers.console import read_options, require_positive
from marl.launchers.environment import world_size_from_environment
from marl.launchers.mpi.devices import find_device
from marl.launchers.mpi.ranks import run_on_ranks
from marl.launchers.run.catalog import ALGORITHMS, find_algorithm
from marl.launchers.run.recipes import find_recipe
from marl.launchers.run.run_directory import RunDirectory
from marl.launchers.run.settings import resolve_compile
from marl.launchers.training.options import Command, Options
from marl.launchers.training.session import run_training


def run_command(command: Command, words: list[str]) -> int:
    """Runs a command that trains on this rank; see ``main.main`` for the exit codes."""
    if not words or words[0].startswith("-"):
        return _explain(command, words)
    if len(words) < 2 or words[1].startswith("-"):
        find_algorithm(words[0])
        raise InputError(f"which environment? For instance: marl {command.name} {words[0]} {command.example}")
    algorithm, env, rest = words[0], words[1], words[2:]
    return run_on_ranks(lambda communicator: run_training(command, *_read(command, algorithm, env, rest), communicator))


def _explain(command: Command, words: list[str]) -> int:
    if words and words[0] not in ("-h", "--help"):
        raise InputError(f"marl {command.name} ALGORITHM ENV comes first, options follow")
    print(f"usage: marl {command.name} ALGORITHM ENV [OPTIONS]\n")
    print(f"ALGORITHM is one of {', '.join(ALGORITHMS)}.")
    print(f"{describe_names()}\n")
    print(f"`marl {command.name} ALGORITHM ENV --help` lists the options.")
    return 0


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
    options = cast("Options[Any]", resolve_compile(algorithm, options, before))
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


def _peek(words: list[str], option: str) -> str | None:
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
