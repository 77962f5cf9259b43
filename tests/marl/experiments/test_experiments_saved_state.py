"""All ranks go on from one checkpoint, whatever each of them finds on its own disk."""

import pytest
import torch

from marl.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from marl.errors import InputError
from marl.experiments.saved_state import load_on_ranks
from marl.testing.threads import run_on_threads


def test_ranks_whose_folders_differ_go_on_from_the_checkpoint_of_rank_0(tmp_path):
    for rank, step in enumerate((300, 200)):
        save_checkpoint(tmp_path / str(rank), step, {"weights": torch.full((3,), float(rank))}, {"rank": rank})
    loaded = run_on_threads(3, lambda ranks: load_on_ranks(ranks, lambda: load_checkpoint(tmp_path / str(ranks.rank))))
    for checkpoint in loaded:
        assert (checkpoint.step, checkpoint.metadata) == (300, {"rank": 0})
        assert checkpoint.tensors["weights"].tolist() == [0, 0, 0]
        assert checkpoint.path == tmp_path / "0" / "000000000300"


def test_where_rank_0_finds_none_all_ranks_end(tmp_path):
    with pytest.raises((InputError, SystemExit)):
        run_on_threads(2, lambda ranks: load_on_ranks(ranks, lambda: load_checkpoint(tmp_path / str(ranks.rank))))
