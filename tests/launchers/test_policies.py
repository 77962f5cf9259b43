import json
import shutil

import numpy as np
import pettingzoo
import pytest
import torch
from mpe2 import simple_spread_v3

from marl.checkpoints.checkpoint import list_checkpoints, save_checkpoint
from marl.errors import InputError
from marl.launchers.policies import load_policy
from marl.launchers.run.trained_run import load_run
from marl.random_streams import derive_int


def test_three_lines_act_in_ones_own_environment_with_the_evaluated_return(marl, spread_run):
    told = json.loads(marl("evaluate", spread_run, "--episodes", 3, "--num-envs", 3, "--seed", 7, "--json").stdout)
    returns = []
    for copy in range(3):
        environment = simple_spread_v3.parallel_env()
        player = load_policy(spread_run)
        observations, _ = environment.reset(seed=derive_int(7, "evaluate/environment", copy, 0))
        total = 0.0
        while environment.agents:
            observations, rewards, *_ = environment.step(player.act(observations))
            total += sum(rewards.values())
        returns.append(total)
        environment.close()
    assert told["evaluation/return_mean"] == pytest.approx(np.mean(returns), rel=1e-6)
    assert told["evaluation/return_ci95"] == pytest.approx(1.96 * np.std(returns, ddof=1) / 3**0.5, rel=1e-6)
    assert told["evaluation/episodes"] == 3


def test_turn_based_player_moves_legally_and_remembers_until_it_is_reset(tictactoe_run):
    environment = pettingzoo.make("aec", "classic/tictactoe-v3")
    player = load_policy(tictactoe_run)
    games = []
    for _ in range(2):
        player.reset()
        environment.reset(seed=0)
        moves = []
        for agent in environment.agent_iter():
            observation, _, terminated, truncated, info = environment.last()
            move = None
            if not (terminated or truncated):
                move = player.act({agent: observation}, {agent: info})[agent]
                assert observation["action_mask"][move]
                moves.append(int(move))
            environment.step(move)
        games.append(moves)
    assert games[0] == games[1]
    assert len(games[0]) >= 5


def test_a_run_of_a_gpu_acts_where_there_is_none(spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "device": "cuda"}))
    observations, _ = simple_spread_v3.parallel_env().reset(seed=0)
    assert load_policy(run).act(observations) == load_policy(spread_run).act(observations)


def test_player_knows_its_agents(spread_run):
    with pytest.raises(InputError, match="knows no agent agent_9; agent_0, agent_1, agent_2"):
        load_policy(spread_run).act({"agent_9": np.zeros(18)})


def test_one_of_several_checkpoints_can_be_named(spread_run):
    newest = list_checkpoints(spread_run / "checkpoints")[-1]
    assert load_run(newest).env_steps == load_run(spread_run).env_steps == 300
    assert load_run(newest).path == spread_run


def test_networks_that_do_not_fit_other_arguments_are_refused_by_them(spread_run):
    with pytest.raises(InputError, match=r"does not fit the environment with \{.*7\}: it was trained") as caught:
        load_run(spread_run, env_kwargs='{"N": 7}')
    assert len(str(caught.value)) < 300


def test_truncated_and_foreign_checkpoints_are_refused(spread_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    *earlier, checkpoint = list_checkpoints(run / "checkpoints")
    for path in earlier:  # they would be gone back to
        shutil.rmtree(path)
    tensors = checkpoint / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"tensors\.safetensors is truncated"):
        load_run(run)
    shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match="no checkpoint in"):
        load_run(run)
    save_checkpoint(run / "checkpoints", 300, {"learner.nothing": torch.zeros(1)}, {})
    with pytest.raises(InputError, match=r"does not fit .*config\.json") as refusal:
        load_run(run)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("damage", ["{", "[]", '{"name": "mappo"}', '{"name": "mapo", "env": "x"}'])
def test_damaged_configurations_are_refused(spread_run, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(spread_run, run)
    (run / "config.json").write_text(damage)
    with pytest.raises(InputError):
        load_run(run)
