"""``marl league``: self-play and leagues, from a command line to a run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal

from marl.algorithms.nfsp import NFSP, NFSPConfig
from marl.core import Communicator
from marl.errors import InputError
from marl.games.sides import read_teams
from marl.launchers.command_line.options import TeamsText
from marl.launchers.console import require_not_negative, require_positive
from marl.launchers.run.recipes import LEAGUE_RECIPES
from marl.launchers.run.saved_league import META_STRATEGIES, SNAPSHOTS
from marl.launchers.run.settings import ConfigT, make_experiment_config
from marl.launchers.training.command import run_command
from marl.launchers.training.options import Command, Training, TrainOptions, image_reading
from marl.league.config import LeagueConfig
from marl.league.experiment import LeagueExperiment
from marl.league.league import Role
from marl.league.matchmaking import PFSP, Latest, Matchmaking, QualityScores, UniformPast, Window
from marl.league.roles import Exploiter, MainPlayer, Oracle, SelfPlayer

MatchmakingName = Literal[
    "latest",
    "uniform",
    "window",
    "pfsp",
    "pfsp-variance",
    "quality",
    "psro-nash",
    "psro-alpha-rank",
    "psro-uniform",
    "psro-replicator",
    "nfsp",
]


@dataclass(frozen=True, kw_only=True)
class LeagueOptions(TrainOptions[ConfigT], Generic[ConfigT]):
    """Options of ``marl league``."""

    matchmaking: MatchmakingName = "window"
    """Opponents of the main player: itself (latest), all its past (uniform), the last snapshots and itself (window),
    those it loses to (pfsp), those of its own strength (pfsp-variance), or by OpenAI Five's quality scores. With psro
    each snapshot is a best response to a mixture of those before, and the player then begins anew. With nfsp it plays
    itself, now its best response, now the average of all its best responses, which is what snapshots play."""
    save_steps: int = 20_000
    """Environment steps of a player between its snapshots."""
    first_snapshot_fraction: float = 0.0
    """Share of the main player's matches against its first snapshot, which acts almost at random."""
    measure_games: int | None = None
    """Games that each new snapshot plays against every earlier one; 100 with psro, else none, if not given."""
    swap_steps: int | None = None
    """An environment keeps its opponents for so many steps; new ones every episode if not given."""
    window: int = 10
    """Number of newest snapshots from which ``window`` draws."""
    play_against_latest_model_ratio: float = 0.5
    """Share of matches against itself, with ``window``; with ``quality`` too."""
    main_exploiters: int = 0
    """Players that learn to beat the main player, and begin anew once they do."""
    league_exploiters: int = 0
    """Players that learn to beat the past of all players, and begin anew once they do."""
    exploiter_win_rate: float = 0.7
    """Score at which an exploiter leaves a snapshot and begins anew."""
    exploiter_max_steps: int = 200_000
    """Environment steps after which it does so in any case."""
    teams: TeamsText | None = None
    """The team of every agent; those of one play together. By default agents whose names differ in a
    trailing number only, else those of equal spaces, else every agent is alone."""

    nfsp: NFSPConfig = field(default_factory=NFSPConfig)
    """Settings of the average policy, with ``nfsp``."""


_OWN = tuple(f.name for f in fields(LeagueOptions) if f.name not in {g.name for g in fields(TrainOptions)})


def league(argv: list[str]) -> int:
    """Trains one player by self-play, or a league of several; see ``main.main`` for the exit codes."""
    command = Command(
        name="league",
        example="classic/tictactoe-v3",
        options=LeagueOptions,
        build=_build,
        check=_config,
        more_config=lambda options: {"league": _plain({name: getattr(options, name) for name in _OWN})},
        more_recipes=LEAGUE_RECIPES,
        gpus=False,
        elastic=False,
        compiles=False,
        curve="main/score",
    )
    return run_command(command, argv)


def _plain(settings: Mapping[str, Any]) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings, default=asdict))


def _build(algorithm: str, env: str, options: LeagueOptions[Any], communicator: Communicator, path: Path) -> Training:
    league = LeagueExperiment(_config(algorithm, env, options, path / SNAPSHOTS), communicator)
    return Training(task=league, small_networks=True, reading=image_reading(options.algorithm, league.spec))


def _config(algorithm: str, env: str, options: LeagueOptions[Any], directory: Path | None = None) -> LeagueConfig:
    """The league that the options describe; InputError where they make no sense."""
    require_positive(
        save_steps=options.save_steps,
        swap_steps=options.swap_steps,
        window=options.window,
        exploiter_max_steps=options.exploiter_max_steps,
    )
    require_not_negative(main_exploiters=options.main_exploiters, league_exploiters=options.league_exploiters)
    if not 0.0 < options.exploiter_win_rate <= 1.0:
        raise InputError(f"--exploiter-win-rate lies between 0 and 1, unlike {options.exploiter_win_rate}")
    if not 0.0 <= options.first_snapshot_fraction <= 1.0:
        raise InputError(f"--first-snapshot-fraction lies between 0 and 1, unlike {options.first_snapshot_fraction}")
    if not 0.0 <= options.play_against_latest_model_ratio <= 1.0:
        ratio = options.play_against_latest_model_ratio
        raise InputError(f"--play-against-latest-model-ratio lies between 0 and 1, unlike {ratio}")
    psro = options.matchmaking in META_STRATEGIES
    if psro and (options.main_exploiters or options.league_exploiters):
        raise InputError("psro is a league of one player; leave out exploiters, or choose another --matchmaking")
    if options.measure_games is not None and options.measure_games < int(psro):
        raise InputError(f"--measure-games must be at least {int(psro)}, got {options.measure_games}")
    nfsp = options.matchmaking == "nfsp"
    if nfsp and (options.main_exploiters or options.league_exploiters):
        raise InputError("nfsp is a league of one player; leave out exploiters, or choose another --matchmaking")
    refuse_unread(options)
    experiment = make_experiment_config(algorithm, env, options)
    if nfsp:
        experiment = replace(experiment, builder=NFSP(best_response=experiment.builder, config=options.nfsp))
    return LeagueConfig(
        experiment=experiment,
        learners=_learners(options),
        teams=read_teams(options.teams),
        swap_steps=options.swap_steps,
        measure_games=(100 if psro else 0) if options.measure_games is None else options.measure_games,
        directory=directory,
    )


def refuse_unread(options: LeagueOptions[Any]) -> None:
    """InputError where an option was given that this league does not read."""
    chosen = options.matchmaking
    psro, exploiters = chosen in META_STRATEGIES, options.main_exploiters + options.league_exploiters > 0
    always_itself = chosen in ("latest", "nfsp") and not exploiters and not options.first_snapshot_fraction
    unread = {
        "window": (chosen != "window", "--matchmaking window"),
        "play_against_latest_model_ratio": (chosen not in ("window", "quality"), "--matchmaking window or quality"),
        "first_snapshot_fraction": (psro or exploiters, "leagues without exploiters, and not for psro"),
        "swap_steps": (always_itself, f"opponents that change, and with {chosen} a player meets itself alone"),
        "exploiter_win_rate": (not exploiters, "--main-exploiters and --league-exploiters"),
        "exploiter_max_steps": (not exploiters, "--main-exploiters and --league-exploiters"),
        "nfsp": (chosen != "nfsp", "--matchmaking nfsp"),
    }
    defaults = LeagueOptions[Any](algorithm=options.algorithm)
    for name, (is_unread, purpose) in unread.items():
        if is_unread and getattr(options, name) != getattr(defaults, name):
            option = f"nfsp.{_first_change(options.nfsp, defaults.nfsp)}" if name == "nfsp" else name
            raise InputError(f"--{option.replace('_', '-')} is for {purpose}; leave it out")


def _first_change(config: Any, default: Any) -> str:
    """The first field of two configurations in which they differ."""
    return next(entry.name for entry in fields(config) if getattr(config, entry.name) != getattr(default, entry.name))


def _matchmaking(options: LeagueOptions[Any]) -> Matchmaking:
    if options.matchmaking in ("latest", "nfsp"):
        return Latest()
    if options.matchmaking == "uniform":
        return UniformPast()
    if options.matchmaking == "pfsp":
        return PFSP()
    if options.matchmaking == "pfsp-variance":
        return PFSP(weighting="variance")
    if options.matchmaking == "quality":
        return QualityScores(latest_ratio=options.play_against_latest_model_ratio)
    return Window(
        window=options.window,
        play_against_latest_model_ratio=options.play_against_latest_model_ratio,
    )


def _learners(options: LeagueOptions[Any]) -> dict[str, Role]:
    if options.matchmaking in META_STRATEGIES:
        return {"main": Oracle(meta_strategy=META_STRATEGIES[options.matchmaking], save_steps=options.save_steps)}
    rule = _matchmaking(options)
    exploiters: dict[str, Role] = {}
    for kind, target, count in (
        ("main-exploiter", "main", options.main_exploiters),
        ("league-exploiter", None, options.league_exploiters),
    ):
        for number in range(count):
            exploiters[f"{kind}-{number}"] = Exploiter(
                target=target,
                win_rate=options.exploiter_win_rate,
                min_steps=options.save_steps,
                max_steps=options.exploiter_max_steps,
            )
    main: Role = SelfPlayer(
        matchmaking=rule, save_steps=options.save_steps, first_snapshot_fraction=options.first_snapshot_fraction
    )
    if exploiters:
        main = MainPlayer(matchmaking=rule, save_steps=options.save_steps)
    return {"main": main, **exploiters}
