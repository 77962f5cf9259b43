"""The ``marl`` command: finds the subcommand and hands over. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from marl.errors import InputError, OrderlyExit, nearest
from marl.launchers.stopping import explain_exit
from marl.resources.streams import accept_any_character, write_error

COMMANDS: Final = {
    "train": ("marl.launchers.training.start:train", "train an algorithm on an environment, on one or many ranks"),
    "league": ("marl.launchers.training.start:league", "train by self-play, one player or a league of them"),
    "evaluate": ("marl.launchers.commands.evaluate:evaluate", "play episodes of a run and print their returns"),
    "play": ("marl.launchers.commands.play:play", "record an episode of a run as a video, or play against it"),
    "plot": ("marl.launchers.commands.plot:plot", "draw learning curves of one or more runs"),
    "track": ("marl.launchers.commands.track:track", "replay a run's journal into W&B"),
    "tournament": ("marl.launchers.tournament.start:tournament", "let players meet, and rate them with error bars"),
    "exploitability": (
        "marl.launchers.commands.exploitability:exploitability",
        "how much a best response wins, exactly or at least",
    ),
    "doctor": ("marl.launchers.commands.doctor:doctor", "check this installation, or an environment"),
    "bench": ("marl.launchers.bench.command:bench", "measure speed against a reference taken in the same run"),
}
"""Each is a function from the arguments after the command's name to an exit code."""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: the command line without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        0 done, 2 wrong input, 75 stopped on request and resumable, 130 interrupted, 1 anything else.
    """
    interactive = argv is None
    if interactive:
        accept_any_character()
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from marl import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        write_error(f"marl: there is no command {argv[0]!r}{nearest(argv[0], COMMANDS)}\n")
        return 2
    if not {"", os.getcwd()} & set(sys.path):
        # A user's modules are found in the current folder, behind all that is installed; in this very one, even where
        # an environment changes to another.
        sys.path.append(os.getcwd())
    module, function = COMMANDS[argv[0]][0].split(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    try:
        return command(argv[1:])
    except InputError as error:
        write_error(f"marl: {error}\n")
        return 2
    except KeyboardInterrupt:
        write_error("marl: interrupted\n")
        return 130
    except OrderlyExit:
        raise
    except SystemExit as error:
        code, text = explain_exit(error)
        write_error(f"marl: {text}\n")
        return code
    finally:
        if interactive:
            # A request to stop that comes while Python ends must not change the exit code.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: marl COMMAND ...",
            "",
            "Multi-agent reinforcement learning on PettingZoo, PyTorch and MPI.",
            "",
            *lines,
            "",
            "For instance: marl train mappo mpe2.simple_spread_v3 --ranks 2",
            "`marl COMMAND --help` tells more.",
        ]
    )


if __name__ == "__main__":
    # `python -m`, which starts ranks, puts the current folder first, where it would hide installed packages.
    if sys.path[0] == os.getcwd():
        del sys.path[0]
    sys.exit(main())
