"""``marl play``: one episode of a run as a video, or a game against it in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marl.acting.modes import Mode
from marl.errors import InputError
from marl.launchers.command_line.options import Positional
from marl.launchers.console import read_options, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Options of ``marl play``."""

    run: Positional[Path]
    """A run directory, or one checkpoint in it; a league's snapshot LEAGUE@NAME, or its mixture LEAGUE@mixture."""
    human: bool = False
    """Play a board game against the run, in the terminal, instead of recording an episode."""
    seat: str | None = None
    """The agent that you play first; then seats are exchanged."""
    video: Path = Path("episode.gif")
    """The file of the pictures: .gif, or .mp4 where imageio-ffmpeg is installed."""
    evaluation_policy: Mode = "greedy"
    """Play the best actions (greedy), or draw them as they were trained to be drawn (sampled)."""
    seed: int = 0
    """The seed of the episode."""
    max_steps: int = 1000
    """Stop there if the episode has not ended."""
    fps: int = 10
    """Pictures a second."""


def play(argv: list[str]) -> int:
    """Records one episode, or lets a person play."""
    options: PlayOptions = read_options(PlayOptions, argv, program="marl play")
    require_positive(max_steps=options.max_steps, fps=options.fps)
    require_not_negative(seed=options.seed)
    if options.human:
        from marl.launchers.commands.play_human import play_in_terminal

        play_in_terminal(
            options.run,
            seat=options.seat,
            seed=options.seed,
            max_steps=options.max_steps,
            mode=options.evaluation_policy,
        )
        return 0
    if options.seat is not None:
        raise InputError("--seat is for --human")
    from marl.launchers.reports.video import record

    frames, returned = record(
        options.run,
        options.video,
        seed=options.seed,
        max_steps=options.max_steps,
        fps=options.fps,
        mode=options.evaluation_policy,
    )
    print(f"{options.video}: {frames} pictures, return {returned:.2f}")
    return 0
