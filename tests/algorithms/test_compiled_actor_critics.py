"""Off-policy actor-critics through torch's compiler learn what they learn without it."""

import pytest
import torch

from algorithms.maddpg import MADDPG, MADDPGConfig
from algorithms.masac import MASAC, MASACConfig
from envs.factory import make_factory
from marl.compilation import can_compile
from marl.experiment import Experiment, ExperimentConfig
from marl.replay import ReplayConfig

pytestmark = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")

SMALL = {
    "hidden_sizes": (8,),
    "adam_epsilon": 1e-2,  # where gradients are almost zero, rounding must not decide a step
    "replay": ReplayConfig(capacity=200, batch_size=16, samples_per_insert=8.0, min_size=16),
}


@pytest.mark.parametrize(
    ("builder", "env", "arguments"),
    [
        (MADDPG(config=MADDPGConfig(**SMALL)), "mpe2.simple_speaker_listener_v4", {}),
        (
            MADDPG(config=MADDPGConfig(critics=2, policy_delay=2, target_noise=0.2, current_others=True, **SMALL)),
            "mpe2.simple_spread_v3",
            {"continuous_actions": True},
        ),
        (MASAC(config=MASACConfig(**SMALL)), "mpe2.simple_spread_v3", {"continuous_actions": True}),
        (MASAC(config=MASACConfig(centralized_critic=False, **SMALL)), "mpe2.simple_spread_v3", {}),
    ],
    ids=["maddpg", "matd3", "masac", "isac"],
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
