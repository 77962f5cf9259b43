"""The check of a tournament's options, before anything is played."""

from __future__ import annotations

from marl.errors import InputError
from marl.games.game import GameRules
from marl.games.sides import read_teams
from marl.launchers.console import require_not_negative, require_positive
from marl.launchers.run.settings import read_env_kwargs
from marl.launchers.tournament.contestants import Entry, read_entries
from marl.launchers.tournament.options import TournamentOptions
from marl.ratings.sprt import SPRTConfig


def check_options(options: TournamentOptions) -> list[Entry]:
    """Checks the options that need no environment, and returns the players; raises InputError."""
    require_positive(games=options.games, rounds=options.rounds, boards=options.boards, ranks=options.ranks)
    require_positive(max_steps=options.max_steps)
    require_not_negative(
        seed=options.seed, move_seconds=options.move_seconds, random_opening_moves=options.random_opening_moves
    )
    if options.rounds is not None and options.format != "swiss":
        raise InputError("--rounds is for --format swiss")
    if options.env_kwargs is not None:
        read_env_kwargs(options.env_kwargs)
    if options.sprt is not None:
        SPRTConfig(elo0=options.sprt[0], elo1=options.sprt[1])
        if options.format == "swiss":
            raise InputError("--sprt ends matchups early, which a Swiss tournament cannot do; leave out one of them")
    game_rules(options)
    read_teams(options.teams)
    entries = read_entries(options.players)
    if len(entries) < 2:
        raise InputError("a tournament needs two players or more: --players a=RUN b=RUN random")
    if options.anchor is not None and options.anchor not in [entry.name for entry in entries]:
        raise InputError(f"--anchor {options.anchor} is no player; there are {', '.join(e.name for e in entries)}")
    if options.resume and options.out is None:
        raise InputError("--resume needs --out: which tournament?")
    return entries


def game_rules(options: TournamentOptions) -> GameRules:
    """The rules of all games."""
    return GameRules(
        seed=options.seed,
        max_steps=options.max_steps,
        move_seconds=options.move_seconds,
        random_opening_moves=options.random_opening_moves,
    )
