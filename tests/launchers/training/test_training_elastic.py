"""Where ranks cannot outlive each other, --elastic is refused in one line."""

import pytest
from command_line import SPREAD

from marl.errors import InputError
from marl.launchers.jobs.mpirun import mpirun_command
from marl.launchers.mpi.elastic_communicator import check_fault_tolerance


def test_one_process_alone_has_nobody_to_go_on(refused):
    assert refused("train", "mappo", SPREAD, "--elastic") == (
        "--elastic is for several ranks: --ranks N, or mpirun --with-ft ulfm"
    )


def test_leagues_do_not_go_on_with_fewer_ranks(refused):
    argv = ("league", "mappo", "classic/tictactoe-v3", "--elastic")
    assert refused(*argv) == "marl league cannot go on with fewer ranks; leave out --elastic"


def test_srun_is_refused(monkeypatch):
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(InputError, match="srun and other launchers cannot"):
        check_fault_tolerance()


def test_an_mpirun_without_ulfm_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.delenv("OMPI_MCA_mpi_ft_enable", raising=False)
    with pytest.raises(InputError, match="this mpirun was started without"):
        check_fault_tolerance()


def test_another_mpi_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("marl.launchers.jobs.mpirun.find_mpirun", lambda: tmp_path / "mpirun")
    with pytest.raises(InputError, match="needs Open MPI 5"):
        mpirun_command(["true"], 2, elastic=True)
