"""Off-policy learners through torch's compiler learn what they learn without it."""

import pytest
import torch

from marl.algorithms.maddpg import MADDPG, MADDPGConfig
from marl.algorithms.masac import MASAC, MASACConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.envs.factory import make_factory
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.learning.compilation import can_compile
from marl.replay import Priorities, ReplayConfig

SPREAD, SPEAKER = "mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4"
CONTINUOUS = {"continuous_actions": True}
pytestmark = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")

SMALL = {
    "hidden_sizes": (8,),
    "adam_epsilon": 1e-2,  # where gradients are almost zero, rounding must not decide a step
    "replay": ReplayConfig(capacity=200, batch_size=16, samples_per_insert=8.0, min_size=16),
}
Q = {**SMALL, "learning_rate": 1e-2, "epsilon_decay_steps": 100}
PRIORITIZED = {
    **Q,
    "replay": ReplayConfig(capacity=200, batch_size=16, samples_per_insert=8.0, min_size=16, priorities=Priorities()),
}


@pytest.mark.parametrize(
    ("builder", "env", "arguments"),
    [
        (MADDPG(config=MADDPGConfig(**SMALL)), SPEAKER, {}),
        (
            MADDPG(
                config=MADDPGConfig(
                    num_critics=2, policy_delay=2, target_noise=0.2, resample_other_actions=True, **SMALL
                )
            ),
            SPREAD,
            CONTINUOUS,
        ),
        (MASAC(config=MASACConfig(**SMALL)), SPREAD, CONTINUOUS),
        (MASAC(config=MASACConfig(centralized_critic=False, **SMALL)), SPREAD, {}),
        (QMIX(config=QMIXConfig(mixer="qmix", **Q)), SPREAD, {}),
        (QMIX(config=QMIXConfig(mixer="qplex", **Q)), SPEAKER, {}),
        (QMIX(config=QMIXConfig(mixer="vdn", n_step=3, dueling=True, **PRIORITIZED)), SPEAKER, {}),
        (QMIX(config=QMIXConfig(mixer="none", team_reward=False, **PRIORITIZED)), "openspiel/kuhn_poker", {}),
    ],
    ids=["maddpg", "matd3", "masac", "isac", "qmix", "qplex", "vdn", "iql"],
)
def test_compiled_updates_agree_with_plain_ones(builder, env, arguments):
    results = []
    for chosen in (builder, builder.compiled()):
        environment = make_factory(env, backend="batched", env_kwargs=arguments)
        experiment = Experiment(ExperimentConfig(builder=chosen, environment=environment, num_envs=2))
        experiment.loop.begin()
        updates = 0
        while updates < 4:
            experiment.loop.step()
            while experiment.dataset.ready():
                metrics = experiment.learner.step()
                updates += 1
        results.append((experiment.learner.state_dict(), metrics))
        experiment.close()
    (plain, plain_metrics), (compiled, compiled_metrics) = results
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)
    assert compiled_metrics == pytest.approx(plain_metrics, rel=1e-3, abs=1e-4)


def test_what_reads_sequences_or_running_moments_is_not_compiled():
    for settings in ({"recurrent": True}, {"standardize_rewards": True}):
        assert QMIX(config=QMIXConfig(**settings)).compiled() is None
