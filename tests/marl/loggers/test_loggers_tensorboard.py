import sys

import pytest
from metric_rows import row

from marl.errors import InputError
from marl.loggers import TensorBoardLogger


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_figure_over_environment_steps(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    # Files of one process and second are told apart, and sorted as text, by a count of those that it has made: the
    # tenth would come before the ninth. A resumed run is another process, and later.
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid._value", 0)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    for updates in (1, 2, 3):
        logger.write(row(updates))
    logger.close()
    resumed = TensorBoardLogger(tmp_path, resume_at=200)
    resumed.write({**row(3), "episode_return/mean": -1.0})
    resumed.write({"evaluation/return_mean": -2.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("episode_return/mean")]
    assert points == [(100, -41.0), (200, -42.0), (300, -1.0)]
    assert [event.step for event in events.Scalars("evaluation/return_mean")] == [300]


def test_without_tensorboard_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install"):
        TensorBoardLogger(tmp_path)
