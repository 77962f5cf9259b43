"""The smaller subcommands: what happens to a run after training, and what helps before it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from launchers.text import describe_evaluation, read_options, require_positive
from marl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What ``marl evaluate`` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory, or one checkpoint in it."""
    episodes: int = 100
    """Episodes to play."""
    seed: int = 1
    """From which the episodes follow; training evaluates with its own seed."""
    num_envs: int = 32
    """Copies played at once."""
    max_steps: int = 10_000
    """Where an episode is cut, if it has not ended by then."""
    env_kwargs: str | None = None
    """Arguments for the environment other than the run's, as a JSON object."""
    json: bool = False
    """Print one JSON object instead of a line."""


def evaluate(words: list[str]) -> int:
    """Plays greedy episodes on the unmodified environment."""
    options: EvaluateOptions = read_options(EvaluateOptions, words, program="marl evaluate")
    require_positive(episodes=options.episodes, num_envs=options.num_envs, max_steps=options.max_steps)
    from launchers.launch import use_fair_threads
    from launchers.mpi import run_on_ranks
    from launchers.policies import load_run
    from marl.core import Communicator
    from marl.evaluation import evaluate as play_episodes
    from marl.loggers.journal import plain_number

    def run(communicator: Communicator) -> int:
        use_fair_threads()
        trained = load_run(options.run, env_kwargs=options.env_kwargs)
        result = play_episodes(
            trained.policies,
            trained.spec,
            trained.environment,
            episodes=options.episodes,
            num_envs=options.num_envs,
            seed=options.seed,
            communicator=communicator,
            sharing=trained.settings.algorithm.sharing,
            max_steps=options.max_steps,
        )
        if communicator.rank == 0:
            summary = {**result.summary(), "env_steps": trained.env_steps}
            if options.json:
                print(json.dumps({key: plain_number(value) for key, value in summary.items()}))
            else:
                print(describe_evaluation(summary))
        return 0

    return run_on_ranks(run)


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """What ``marl play`` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory, or one checkpoint in it; to play against, also a league's snapshot, LEAGUE@NAME."""
    human: bool = False
    """Play a board game against the run, in the terminal, instead of recording an episode."""
    seat: str | None = None
    """The agent that you play first; then seats are exchanged."""
    video: Path = Path("episode.gif")
    """Where the pictures go: .gif, or .mp4 where imageio-ffmpeg is installed."""
    seed: int = 0
    """From which the episode follows."""
    max_steps: int = 1000
    """Stop there if the episode has not ended."""
    fps: int = 10
    """Pictures a second."""


def play(words: list[str]) -> int:
    """Records one greedy episode, or lets a person play."""
    options: PlayOptions = read_options(PlayOptions, words, program="marl play")
    require_positive(max_steps=options.max_steps, fps=options.fps)
    if options.human:
        from launchers.play_human import play_in_terminal

        play_in_terminal(options.run, seat=options.seat, seed=options.seed, max_steps=options.max_steps)
        return 0
    if options.seat is not None:
        raise InputError("--seat is for --human")
    from launchers.video import record

    frames, returned = record(
        options.run, options.video, seed=options.seed, max_steps=options.max_steps, fps=options.fps
    )
    print(f"{options.video}: {frames} pictures, return {returned:.2f}")
    return 0


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """What ``marl plot`` can be told."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories; those that differ in the seed only are one curve."""
    out: Path = Path("learning_curves.png")
    """Where the picture goes: .png, .svg or .pdf."""
    key: str = "episode_return/mean"
    """Which figure of metrics.jsonl."""
    statistic: Literal["mean", "iqm"] = "mean"
    """Mean or interquartile mean over seeds."""
    title: str | None = None
    """Above the picture."""


def plot(words: list[str]) -> int:
    """Draws learning curves."""
    options: PlotOptions = read_options(PlotOptions, words, program="marl plot")
    if not options.runs:
        raise InputError("which runs? For instance: marl plot runs/a runs/b --out curves.png")
    from launchers.plot import plot_runs

    plot_runs(options.runs, options.out, key=options.key, statistic=options.statistic, title=options.title)
    print(options.out)
    return 0


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """What ``marl track`` can be told."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run directory."""
    mode: Literal["online", "offline"] = "online"
    """Whether to send it, or to write it for ``wandb sync``."""
    project: str = "marl"
    """The W&B project."""


def track(words: list[str]) -> int:
    """Replays a journal into one W&B run."""
    options: TrackOptions = read_options(TrackOptions, words, program="marl track")
    from launchers.track import track as replay

    print(replay(options.run, options.mode, options.project))
    return 0


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What ``marl doctor`` can be told."""

    env: Annotated[str | None, tyro.conf.Positional] = None
    """The environment to check; this installation if not given."""
    env_kwargs: str = "{}"
    """Arguments of the environment, as a JSON object."""
    json: bool = False
    """Print one JSON object a finding."""


def doctor(words: list[str]) -> int:
    """Checks this installation, or an environment; 1 where something keeps it from training."""
    options: DoctorOptions = read_options(DoctorOptions, words, program="marl doctor")
    from launchers.doctor import examine_environment, examine_installation

    findings = examine_installation() if options.env is None else examine_environment(options.env, options.env_kwargs)
    broken = False
    for finding in findings:
        broken |= finding.fatal and not finding.ok
        if options.json:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            verdict = "ok" if finding.ok else "FAIL" if finding.fatal else "note"
            print(f"{verdict:<4}  {finding.rule}: {finding.message}", flush=True)
    return int(broken)
