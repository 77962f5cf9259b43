"""``marl tournament``: its options, read without loading torch."""

from __future__ import annotations

from marl.errors import InputError
from marl.launchers.command_line.help import wants_help
from marl.launchers.console import read_options
from marl.launchers.tournament.options import TournamentOptions


def tournament(argv: list[str]) -> int:
    """``marl tournament``; see ``main.main`` for the exit codes."""
    if not argv or (argv[0].startswith("-") and not wants_help(argv)):
        raise InputError("which game? For instance: marl tournament classic/connect_four-v3 --players a=RUN random")
    options: TournamentOptions = read_options(TournamentOptions, argv, program="marl tournament")
    from marl.launchers.tournament.command import play_tournament

    return play_tournament(options, argv)
