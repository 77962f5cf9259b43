"""Mistakes that people make: each ends in one clear line and exit code 2, with nothing written."""

import pytest

SPREAD = "mpe2.simple_spread_v3"
CONNECT_FOUR = "classic/connect_four-v3"
TRAIN = f"train mappo {SPREAD}"
QMIX = f"train qmix {SPREAD}"
LEAGUE = "league ippo classic/tictactoe-v3"
TOURNAMENT = f"tournament {CONNECT_FOUR} --players a=random b=random"
COUNT = "a whole number, for instance 1000 or 1e6"

MISTAKES = [
    (f"train mapo {SPREAD}", "there is no algorithm 'mapo'; did you mean 'mappo'?"),
    (f"train MAPPO {SPREAD}", "there is no algorithm 'MAPPO'; did you mean 'mappo'?"),
    (f"train {SPREAD} mappo", f"there is no algorithm {SPREAD!r}"),
    ("train mappo", "which environment? For instance: marl train mappo"),
    ("train mappo simple_spread_v3", f"did you mean {SPREAD!r}?"),
    ("train mappo mpe2.simple_spread", f"did you mean {SPREAD!r}?"),
    (f"train --steps 5 mappo {SPREAD}", "marl train ALGORITHM ENV comes first, options follow"),
    (f"{TRAIN} extra", "has no use for 'extra'; its options begin with --"),
    (f"{TRAIN} steps=5", "has no use for 'steps=5'; its options begin with --"),
    (f"{TRAIN} --step 100", "there is no option --step; did you mean --steps?"),
    (f"{TRAIN} --help-al", "there is no option --help-al"),
    (f"{TRAIN} –steps 5", "there is no option –steps; did you mean --steps?"),
    (f"{TRAIN} --steps", f"--steps needs a value: {COUNT}"),
    (f"{TRAIN} --steps 0", "--steps must be at least 1, got 0"),
    (f"{TRAIN} --steps -5", "--steps must be at least 1, got -5"),
    (f"{TRAIN} --steps 2.5", f"--steps takes {COUNT}, not '2.5'"),
    (f"{TRAIN} --steps 1e-3", f"--steps takes {COUNT}, not '1e-3'"),
    (f"{TRAIN} --steps=many", f"--steps takes {COUNT}, not 'many'"),
    (f"{TRAIN} --seed 0 1 2", f"--seed takes one value, {COUNT}, not '0 1 2'"),
    (f"{TRAIN} -n 5", "there is no option -n"),
    (f"{TRAIN} --num-envs 0", "--num-envs must be at least 1, got 0"),
    (f"{TRAIN} --ranks two", f"--ranks takes {COUNT}, or none, not 'two'"),
    (f"{TRAIN} --ranks -2", "--ranks must be at least 1, got -2"),
    (f"{TRAIN} --lr 0", "there is no option --lr; did you mean --algorithm.learning-rate?"),
    (f"{QMIX} --algorithm.learning-rate 0", "--algorithm.learning-rate must be a number above 0, not 0"),
    (f"{TRAIN} --algorithm.learning-rate nan", "--algorithm.learning-rate takes a number, for instance 0.5 or 5e-4"),
    (f"{TRAIN} --algorithm.learning-rate inf", "--algorithm.learning-rate must be at least 0, not inf"),
    (f"{TRAIN} --algorithm.recurrent maybe", "--algorithm.recurrent takes true or false, or nothing for true, not"),
    (f"{TRAIN} --algorithm.hidden-sizes", "--algorithm.hidden-sizes needs a value: one or more whole numbers"),
    (f"{TRAIN} --algorithm.hidden-sizes []", "--algorithm.hidden-sizes needs at least one width"),
    (f"{TRAIN} --algorithm.activation Tanh", "--algorithm.activation takes tanh or relu, not 'Tanh'; did you mean"),
    (f"{TRAIN} --algorithm.sharing agents", "--algorithm.sharing takes spaces, none, all, or pairs or a JSON object"),
    (f"{TRAIN} --algorithm.sharing agent_0=a", "--algorithm.sharing leaves out agent_1, agent_2"),
    (f"{TRAIN} --out file", "file is a file; choose another folder with --out"),
    (f"{TRAIN} --device gpu", "--device is cpu, cuda or cuda:N, not gpu"),
    (f"{TRAIN} --recipe best", "there is no recipe 'best'"),
    (f"{TRAIN} --backend Batched", "--backend takes pettingzoo or batched, not 'Batched'; did you mean 'batched'?"),
    (f"{TRAIN} --resume", "--resume needs --out: which run?"),
    (f"{TRAIN} --wandb true", "--wandb takes disabled, offline or online, not 'true'"),
    (f"{TRAIN} --env-kwargs N", "--env-kwargs takes pairs or a JSON object, for instance N=5 name=abc"),
    (f"{TRAIN} --env-kwargs N=many", "cannot be made with {'N': 'many'}"),
    (f"{TRAIN} --preprocessing.frame-stack 0", "--preprocessing.frame-stack"),
    (f"{TRAIN} --watchdog nan", "--watchdog takes a number"),
    (f"{QMIX} --prioritized-replay", "there is no option --prioritized-replay; did you mean --algorithm.replay.prior"),
    (f"{QMIX} --algorithm.replay.priorities.alpha -1", "--algorithm.replay.priorities.alpha: priorities need"),
    (f"{QMIX} --algorithm.mixer vdn", "--algorithm.mixer is fixed by the algorithm's name"),
    (f"{LEAGUE} --matchmaking PFSP", "not 'PFSP'; did you mean 'pfsp'?"),
    (f"{LEAGUE} --window 0", "--window must be at least 1, got 0"),
    (f"{LEAGUE} --play-against-latest-model-ratio 2", "--play-against-latest-model-ratio lies between 0 and 1"),
    (f"{LEAGUE} --teams red", "--teams takes pairs or a JSON object, for instance agent_0=red agent_1=blue"),
    (f"{LEAGUE} --nfsp.reservoir 0", "--nfsp.reservoir: a reservoir holds at least 1 step"),
    (f"{LEAGUE} --nfsp.hidden-sizes []", "--nfsp.hidden-sizes: "),
    ("evaluate", "marl evaluate needs RUN"),
    ("evaluate nowhere", "nowhere is not a run: there is no such folder"),
    ("evaluate a b", "marl evaluate has no use for 'b'"),
    ("evaluate nowhere --episodes 0", "--episodes must be at least 1, got 0"),
    ("evaluate nowhere --seed -1", "--seed cannot be negative, got -1"),
    ("play", "marl play needs RUN"),
    ("play nowhere --fps 0", "--fps must be at least 1, got 0"),
    ("play nowhere --video", "--video needs a value: a path, for instance runs/a"),
    ("tournament", "which game?"),
    (f"tournament {CONNECT_FOUR} --players random", "a tournament needs two players or more"),
    (f"{TOURNAMENT} --games 0", "--games must be at least 1, got 0"),
    (f"{TOURNAMENT} --sprt 20", "--sprt takes two numbers, for instance 0.5 20 or [0.5, 20], or none, not '20'"),
    (f"{TOURNAMENT} --format league", "--format takes round-robin, gauntlet or swiss, not 'league'"),
    (f"{TOURNAMENT} --move-seconds -1", "--move-seconds cannot be negative"),
    ("plot", "which runs?"),
    ("plot nowhere --statistic median", "--statistic takes mean or iqm, not 'median'"),
    ("track nowhere --mode disabled", "--mode takes online or offline, not 'disabled'"),
    ("bench rolout", "there is no benchmark 'rolout'; did you mean 'rollout'?"),
    ("bench --rounds 5", "marl bench NAME comes first, options follow"),
    ("bench rollout --seconds -1", "--seconds must be above 0, got -1"),
    ("bench train --num-envs x", f"--num-envs takes {COUNT}, not 'x'"),
    ("doctor --jsn", "there is no option --jsn; did you mean --json?"),
    ("doctor a b", "marl doctor has no use for 'b'"),
    ("exploitability", "which run?"),
    ("exploitability nowhere --best-response many", f"--best-response takes {COUNT}, or none, not 'many'"),
    ("trian", "there is no command 'trian'; did you mean 'train'?"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_ends_in_one_line_and_writes_nothing(refused, tmp_path, monkeypatch, line, message):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert message in refused(*line.split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
