import json

import pytest
import torch

from marl.checkpoints.checkpoint import load_checkpoint
from marl.errors import InputError
from marl.launchers.environment_variables import local_rank
from marl.launchers.mpi import devices
from marl.launchers.mpi.devices import find_device

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
TRAIN = ("train", "ippo", "mpe2.simple_spread_v3", "--steps", 2000, "--num-envs", 8, "--evaluation-episodes", 2)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "mps", "", "cpu:1"])
def test_a_device_that_nobody_knows_is_refused(name):
    with pytest.raises(InputError, match="--device is cpu, cuda or cuda:N"):
        find_device(name)


def test_without_cuda_in_torch_the_way_out_is_another_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(InputError, match="was built without CUDA; install a build with it"):
        find_device("cuda")


def test_with_cuda_in_torch_but_no_gpu_the_machine_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="sees no GPU here: look at nvidia-smi, and CUDA_VISIBLE_DEVICES is ''"):
        find_device("cuda")


def test_ranks_of_a_machine_take_its_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken = []
    for rank in range(3):
        monkeypatch.setattr(devices, "local_rank", lambda rank=rank: rank)
        taken.append(str(find_device("cuda")))
    assert taken == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(find_device("cuda:1")) == "cuda:1"
    with pytest.raises(InputError, match="there are 2 GPUs, cuda:0 to cuda:1"):
        find_device("cuda:2")


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"])
def test_the_launcher_says_which_rank_of_its_machine_this_is(monkeypatch, name):
    for other in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        monkeypatch.delenv(other, raising=False)
    assert local_rank() == 0
    monkeypatch.setenv(name, "3")
    assert local_rank() == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("ranks", [(), ("--ranks", 2)])
def test_training_on_a_gpu_that_is_not_there_is_refused_in_one_line(marl, tmp_path, ranks):
    done = marl(*TRAIN, "--device", "cuda", "--out", tmp_path / "run", *ranks)
    assert done.code == 2
    assert done.stderr.count("\n") == 1
    assert "--device cuda: torch" in done.stderr
    assert not (tmp_path / "run").exists()


def test_leagues_say_that_they_compute_on_the_cpu(marl, tmp_path):
    done = marl("league", "ippo", "classic/tictactoe-v3", "--device", "cuda", "--out", tmp_path / "run")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "marl league computes on the CPU only; leave out --device cuda" in done.stderr


@GPU
@pytest.mark.parametrize("backend", ["pettingzoo", "batched"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_gpu_learns_what_the_cpu_learns(marl, tmp_path, backend, ranks):
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        assert marl(*TRAIN, "--backend", backend, "--ranks", ranks, "--device", device, "--out", out).code == 0
        assert json.loads((out / "config.json").read_text())["device"] == device
        found[device] = load_checkpoint(out / "checkpoints").tensors
    for name, tensor in found["cpu"].items():
        if name.startswith("learner"):
            assert (tensor.double() - found["cuda"][name].double()).abs().max() < 1e-3, name


@GPU
def test_a_run_on_a_gpu_is_resumed_exactly(marl, tmp_path):
    def run(out, steps, *more):
        words = [*TRAIN, "--backend", "batched", "--device", "cuda", "--out", out, *more]
        assert marl(*words, "--steps", steps).code == 0

    run(tmp_path / "whole", 4000)
    run(tmp_path / "parts", 2000)
    run(tmp_path / "parts", 4000, "--resume")
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
