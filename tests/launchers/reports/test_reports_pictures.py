import numpy as np
import pytest

from marl.errors import InputError
from marl.launchers.reports.pictures import frames, read_picture

H, W = 21, 33


def made(picture):
    (frame,) = frames([read_picture(picture, "toy")])
    assert frame.dtype == np.uint8
    assert frame.shape == (H, W, 3)
    return set(np.unique(frame))


@pytest.mark.parametrize(
    ("picture", "value"),
    [
        (np.full((H, W, 3), 40, np.uint8), 40),
        (np.full((H, W, 4), 40, np.uint8), 40),
        (np.full((H, W), 40, np.uint8), 40),
        (np.full((H, W, 1), 40, np.uint8), 40),
        (np.full((3, H, W), 40, np.uint8), 40),
        (np.full((H, W, 3), 40, np.int64), 40),
        (np.full((H, W, 3), 300, np.int64), 255),
        (np.full((H, W, 3), 0.4), 102),
        (np.full((H, W, 3), 40.0, np.float32), 40),
        (np.full((H, W), True), 255),
        ([np.zeros((H, W, 3), np.uint8), np.full((H, W, 3), 40, np.uint8)], 40),
    ],
)
def test_every_kind_of_picture_is_drawn_as_it_looks(picture, value):
    assert made(picture) == {value}


def test_real_numbers_are_scaled_alike_in_all_frames_of_an_episode():
    dark, bright = np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 200.0)
    assert [int(frame[0, 0, 0]) for frame in frames([dark, bright])] == [0, 200]
    assert [int(frame[0, 0, 0]) for frame in frames([dark, dark])] == [128, 128]


def test_frames_have_one_size_and_for_encoders_even_sides():
    small, large = np.zeros((3, 5, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    assert {frame.shape for frame in frames([small, large])} == {(4, 5, 3)}
    assert {frame.shape for frame in frames([small, large], even=True)} == {(4, 6, 3)}
    assert (frames([small, large], even=True)[1] == 9).all()


@pytest.mark.parametrize(
    ("rendered", "reason"),
    [
        (None, "returned nothing"),
        ("a board", "returned a str"),
        ([], "array of shape"),
        (np.zeros(3), r"shape \(3,\)"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(rendered, reason):
    with pytest.raises(InputError, match=f"toy draws no pictures: .*{reason}.*render_mode"):
        read_picture(rendered, "toy")
