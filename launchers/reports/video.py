"""Videos of episodes."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marl.acting.modes import Mode, modes_to_play
from marl.core import EnvironmentRequest
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.envs.suites import OPENSPIEL, split_name
from marl.errors import InputError
from marl.files import reported_as_input_error
from marl.launchers.reports.drawing import is_drawn
from marl.launchers.reports.pictures import Picture, draw, frames
from marl.launchers.run.policy_sources import load_source
from marl.launchers.run.settings import environment_of, read_env_kwargs
from marl.launchers.run.trained_run import TrainedRun


def record(run: Path, video: Path, *, seed: int, max_steps: int, fps: int, mode: Mode = "greedy") -> tuple[int, float]:
    """Plays one episode and writes its pictures.

    Returns:
        Number of pictures, and the return summed over agents.

    Raises:
        InputError: the environment draws no pictures, or the file cannot be written in that format.
    """
    if video.suffix not in (".gif", ".mp4"):
        raise InputError(f"{video} is neither a .gif nor an .mp4")
    trained = load_source(run)
    modes_to_play(mode, stochastic="sampled" in trained.modes)
    found = split_name(trained.env)
    if found is not None and found[0] is OPENSPIEL:
        raise InputError(f"{trained.env} draws no pictures; games of two are played by marl play {run} --human")
    envs = _drawing(trained, seed)
    actor = trained.actor(seed=seed, mode=mode)
    pictures: list[NDArray[Any]] = []

    def look(copy: int) -> None:
        pictures.append(draw(envs, trained.env, copy))

    with contextlib.closing(envs):
        timestep = envs.reset()
        look(0)
        # The environment begins its next episode by itself, after which the end can be seen no more.
        envs.look_at_endings(lambda copy: is_drawn("the last position", lambda: look(copy)))
        total = 0.0
        for _ in range(max_steps):
            timestep = envs.step(actor.select_actions(timestep))
            total += sum(float(step.rewards.sum()) for step in timestep.groups.values())
            if timestep.final is not None:
                break
            look(0)
    with reported_as_input_error(f"write {video}"):
        _write(video, frames(pictures, even=video.suffix == ".mp4"), fps)
    return len(pictures), total


def _drawing(trained: TrainedRun, seed: int) -> PettingZooVectorEnvironment:
    """One copy of the run's own environment, asked for pictures where it can be asked."""
    request = EnvironmentRequest(num_envs=1, seed=seed, purpose="play", sharing=trained.settings.algorithm.sharing)
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        # Pictures need no window, but pygame opens one all the same in some environments.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    asked = {**read_env_kwargs(trained.settings.env_kwargs), "render_mode": "rgb_array"}
    try:
        drawing = replace(trained.settings, env_kwargs=json.dumps(asked))
        envs = environment_of(trained.env, drawing)(request)
    except InputError as error:
        if "render_mode" not in str(error):
            raise
        # Its callable does not take that; it may draw all the same.
        envs = environment_of(trained.env, trained.settings)(request)
    if not isinstance(envs, PettingZooVectorEnvironment):
        raise InputError(f"{trained.env} draws no pictures")
    return envs


def _write(video: Path, pictures: list[Picture], fps: int) -> None:
    video.parent.mkdir(parents=True, exist_ok=True)
    if video.suffix == ".gif":
        try:
            from PIL import Image
        except ImportError as error:
            raise InputError(f"{video} needs pillow: pip install pillow ({error})") from error
        first, *others = [Image.fromarray(picture) for picture in pictures]
        first.save(video, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        return
    try:
        import imageio.v3 as imageio

        imageio.imwrite(video, np.stack(pictures), fps=fps, macro_block_size=2)
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{video} needs an encoder: pip install imageio imageio-ffmpeg, or write a .gif ({reason})"
        ) from error
