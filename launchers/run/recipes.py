"""Settings tuned for an algorithm on an environment: plain functions from the defaults to what works better.

``marl train`` and ``marl league`` take the recipe of their pair, say so in their first line, and write its name into
``config.json``. ``--recipe none`` keeps the defaults; single options override either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from marl.errors import InputError, nearest
from marl.launchers.run.settings import Settings, with_changes

Recipe = Callable[[Settings[Any]], Settings[Any]]

_AS_IN_THE_PAPER: Final[Mapping[str, Any]] = {"input_normalization": "layer"}
"""Recipes of PPO layer-normalise inputs, as MAPPO's authors and as the figures of docs/results.md were measured: all of
these observations are of one scale, which none of them is about."""


def ppo_mpe(settings: Settings[Any]) -> Settings[Any]:
    """MPE: what an agent does matters for a few steps only, so a short horizon learns faster; and more, smaller steps.

    Simple spread after 1 M steps, one seed, greedy return: -38.6 with one minibatch, -30.3 with four.
    """
    return with_changes(settings, algorithm={**_AS_IN_THE_PAPER, "discount": 0.9, "minibatches": 4})


def ppo_spread_batched(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread on the batched backend, where steps are cheap: three times as many, in ever smaller ones.

    Greedy return after 3 M steps -26.4, -26.5 and -27.4 (three seeds), where 1 M steps of one size end at -31.
    """
    return with_changes(ppo_mpe(settings), algorithm={"anneal_learning_rate": True}, steps=3_000_000)


def q_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread by Q-learning: a short horizon, rewards of unit deviation, and eight samples a step."""
    replay = replace(
        settings.algorithm.replay, capacity=500_000, batch_size=256, samples_per_insert=8.0, min_size=5_000
    )
    algorithm = {
        "discount": 0.9,
        "learning_rate": 1e-3,
        "standardize_rewards": True,
        "center_rewards": True,
        "epsilon_decay_steps": 100_000,
        "replay": replay,
    }
    return with_changes(settings, num_envs=16, algorithm=algorithm)


def iql_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread by independent learners: each its own reward, and twice as many samples a step."""
    settings = q_spread(settings)
    replay = replace(settings.algorithm.replay, batch_size=512, samples_per_insert=16.0)
    return with_changes(settings, algorithm={"team_reward": False, "replay": replay})


def qmix_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread by QMIX: what its mixing networks read is normalised, or values may run away late in a run."""
    return with_changes(q_spread(settings), algorithm={"input_normalization": "layer", "hidden_layer_norm": True})


def qplex_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread by QPLEX, which diverges at the others' step size."""
    return with_changes(q_spread(settings), algorithm={"learning_rate": 3e-4})


def ddpg_speaker(settings: Settings[Any]) -> Settings[Any]:
    """Speaker and listener: smaller steps than the paper's 1e-2, with which a policy once found stays."""
    return with_changes(settings, algorithm={"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3})


def _actor_critic_spread(settings: Settings[Any]) -> Settings[Any]:
    replay = replace(settings.algorithm.replay, batch_size=256, samples_per_insert=16.0)
    algorithm = {
        "discount": 0.9,
        "actor_learning_rate": 3e-3,
        "critic_learning_rate": 3e-3,
        "resample_other_actions": True,
        "replay": replay,
    }
    return with_changes(settings, num_envs=32, algorithm=algorithm)


def ddpg_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread by deterministic policies: loud noise at first, or all agents stay in the middle; larger steps.

    With continuous actions, seed 0: -57 after 200,000 steps at the defaults' noise of 0.1 and step size 1e-3, and
    hardly rising; -39.8 after 800,000 with these.
    """
    noise = {"exploration_noise": 1.0, "final_exploration_noise": 0.2, "noise_steps": 400_000}
    return with_changes(_actor_critic_spread(settings), algorithm=noise)


def td3_spread(settings: Settings[Any]) -> Settings[Any]:
    """The same by MATD3, whose targets follow every second update only, and so in steps of twice the size."""
    return with_changes(ddpg_spread(settings), algorithm={"tau": 0.02, "target_noise": 0.1})


def sac_spread(settings: Settings[Any]) -> Settings[Any]:
    """The same by MASAC, which explores by itself: larger steps, and targets that follow faster."""
    return with_changes(_actor_critic_spread(settings), algorithm={"tau": 0.02})


def ppo_tictactoe(settings: Settings[Any]) -> Settings[Any]:
    """Tic-tac-toe by self-play that never stops trying every move: only so does it learn to answer bad ones too.

    Final boards that the greedy policy loses to an opponent who looks for them: three to five with an entropy bonus of
    0.01; none with 0.15 (1.6 M steps) for three seeds of four, two for the other. With this one and 2.4 M steps none
    for five seeds on one rank, but one for seed 1 on two ranks, whose sums are rounded otherwise.
    """
    algorithm = {
        **_AS_IN_THE_PAPER,
        "discount": 1.0,
        "epochs": 4,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "anneal_learning_rate": True,
        "entropy_coef": 0.25,
        "hidden_sizes": (128, 128),
    }
    return with_changes(settings, algorithm=algorithm, steps=3_400_000)


def ppo_connect_four(settings: Settings[Any]) -> Settings[Any]:
    """Connect four by self-play that keeps trying every move, read by plain layers.

    Games won against random moves, greedy, in the worse seat: 96.2 % with an entropy bonus of 0.1 (5 M steps, one
    seed); with this one 98.95 % to 99.3 % after 5 M (three seeds), 99.5 % after 8 M (the worst of these seeds).
    """
    algorithm = {
        **_AS_IN_THE_PAPER,
        "discount": 1.0,
        "epochs": 3,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "anneal_learning_rate": True,
        "entropy_coef": 0.25,
        "hidden_sizes": (128, 128),
        "convolutions": "no",
    }
    return with_changes(settings, algorithm=algorithm, steps=8_000_000)


def kuhn(settings: Settings[Any]) -> Settings[Any]:
    """Kuhn poker by self-play on the game's table, held by a magnet; the newest player plays itself in both seats.

    Seed 0, 2 M steps, exploitability: 0.16 with an entropy bonus of 0.02 in the end, 0.06 with one of 0.3, 0.01 to
    0.03 with a magnet.
    """
    algorithm = {
        **_AS_IN_THE_PAPER,
        "discount": 1.0,
        "rollout_length": 8,
        "epochs": 4,
        "minibatches": 4,
        "learning_rate": 1e-3,
        "anneal_learning_rate": True,
        "entropy_coef": 0.5,
        "magnet_updates": 8,
    }
    return with_changes(
        settings,
        algorithm=algorithm,
        backend="batched",
        num_envs=1024,
        steps=2_500_000,
        row_every=50_000,
        checkpoint_every=1_000_000,
        exploitability_every=100_000,
    )


def leduc(settings: Settings[Any]) -> Settings[Any]:
    """Leduc poker as Kuhn poker, with longer rollouts and a slower magnet that holds on to all actions.

    Exploitability falls while step sizes do: 0.20 after 12 M steps, where runs planned for 5 M stay at 0.3 to 0.4.
    """
    return with_changes(
        kuhn(settings),
        algorithm={"rollout_length": 16, "magnet_updates": 25, "magnet_uniform_share": 0.05},
        steps=12_000_000,
        exploitability_every=200_000,
    )


_NEWEST_IN_BOTH_SEATS: Final[Mapping[str, Any]] = {"matchmaking": "latest", "save_steps": 200_000}
LEAGUE_RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    kuhn.__name__: _NEWEST_IN_BOTH_SEATS,
    leduc.__name__: _NEWEST_IN_BOTH_SEATS,
}
"""Options of ``marl league`` that recipes set besides Settings, by the recipe's name."""

RECIPES: Final[Mapping[tuple[str, str], Recipe]] = {
    ("mappo", "mpe2.simple_spread_v3"): ppo_mpe,
    ("ippo", "mpe2.simple_spread_v3"): ppo_mpe,
    ("mappo", "mpe2.simple_speaker_listener_v4"): ppo_mpe,
    ("ippo", "mpe2.simple_speaker_listener_v4"): ppo_mpe,
    ("ippo", "classic/tictactoe-v3"): ppo_tictactoe,
    ("ippo", "classic/connect_four-v3"): ppo_connect_four,
    ("ippo", "openspiel/kuhn_poker"): kuhn,
    ("ippo", "openspiel/leduc_poker"): leduc,
    ("maddpg", "mpe2.simple_spread_v3"): ddpg_spread,
    ("iddpg", "mpe2.simple_spread_v3"): ddpg_spread,
    ("matd3", "mpe2.simple_spread_v3"): td3_spread,
    ("masac", "mpe2.simple_spread_v3"): sac_spread,
    ("maddpg", "mpe2.simple_speaker_listener_v4"): ddpg_speaker,
    ("iddpg", "mpe2.simple_speaker_listener_v4"): ddpg_speaker,
    ("iql", "mpe2.simple_spread_v3"): iql_spread,
    ("vdn", "mpe2.simple_spread_v3"): q_spread,
    ("qmix", "mpe2.simple_spread_v3"): qmix_spread,
    ("qplex", "mpe2.simple_spread_v3"): qplex_spread,
}

BATCHED_RECIPES: Final[Mapping[tuple[str, str], Recipe]] = {
    ("mappo", "mpe2.simple_spread_v3"): ppo_spread_batched,
    ("ippo", "mpe2.simple_spread_v3"): ppo_spread_batched,
}
"""Of pairs whose own recipe is another one with ``--backend batched``."""


NO_RECIPE: Final = "none"
"""What is typed for plain defaults."""


def find_recipe(algorithm: str, env: str, wanted: str | None, backend: str | None = None) -> Recipe | None:
    """The recipe called ``wanted``, or by default the pair's own; None for plain defaults."""
    pair = (algorithm, env)
    if wanted == NO_RECIPE:
        return None
    if wanted is None:
        return BATCHED_RECIPES[pair] if backend == "batched" and pair in BATCHED_RECIPES else RECIPES.get(pair)
    named = {recipe.__name__: recipe for recipe in (*RECIPES.values(), *BATCHED_RECIPES.values())}
    if wanted not in named:
        raise InputError(f"there is no recipe {wanted!r}{nearest(wanted, named)}; or {NO_RECIPE} for plain defaults")
    return named[wanted]
