"""Videos of episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from marl.core import EnvironmentRequest
from marl.envs.pettingzoo.vector import PettingZooVectorEnvironment
from marl.errors import InputError
from marl.files import reported_as_input_error
from marl.launchers.reports.pictures import Picture, draw, frames
from marl.launchers.run.settings import environment_of, read_env_kwargs
from marl.launchers.run.trained_run import TrainedRun, load_run


def record(run: Path, video: Path, *, seed: int, max_steps: int, fps: int) -> tuple[int, float]:
    """Plays one greedy episode and writes its pictures.

    Returns:
        Number of pictures, and the return summed over agents.

    Raises:
        InputError: the environment draws no pictures, or the file cannot be written in that format.
    """
    if video.suffix not in (".gif", ".mp4"):
        raise InputError(f"{video} is neither a .gif nor an .mp4")
    trained = load_run(run)
    envs = _drawing(trained, seed)
    actor = trained.actor(seed=seed)
    timestep = envs.reset()
    pictures = [draw(envs, trained.env)]
    total = 0.0
    for _ in range(max_steps):
        timestep = envs.step(actor.select_actions(timestep))
        total += sum(float(step.rewards.sum()) for step in timestep.groups.values())
        if timestep.final is not None:
            break
        pictures.append(draw(envs, trained.env))
    envs.close()
    with reported_as_input_error(f"write {video}"):
        _write(video, frames(pictures, even=video.suffix == ".mp4"), fps)
    return len(pictures), total


def _drawing(trained: TrainedRun, seed: int) -> PettingZooVectorEnvironment:
    """One copy of the run's own environment, asked for pictures where it can be asked."""
    request = EnvironmentRequest(num_envs=1, seed=seed, purpose="play", sharing=trained.settings.algorithm.sharing)
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
        from PIL import Image

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
