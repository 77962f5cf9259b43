"""Random streams: known answers, and independence of how copies are spread over ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marl.random_streams import Stream, derive, derive_int, philox

# Salmon et al.'s Random123 1.14, tests/kat_vectors, rows "philox4x32 10": counter, key, expected words.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word) for word in philox(counter, key)) == expected


def test_philox_of_tensors_is_philox_of_each_element():
    counters = torch.tensor([answer[0] for answer in KNOWN_ANSWERS[:2]])
    words = torch.stack(philox(tuple(counters.unbind(dim=1)), KNOWN_ANSWERS[2][1]), dim=1)
    for row in range(2):
        single = philox(KNOWN_ANSWERS[row][0], KNOWN_ANSWERS[2][1])
        assert words[row].tolist() == [int(word) for word in single]


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**62), st.integers(1, 3), st.data())
def test_ranks_together_draw_what_one_rank_draws(envs, count, step, rows, data):
    split = data.draw(st.integers(0, envs))
    whole = Stream(3, "actor", num_envs=envs)
    left = Stream(3, "actor", num_envs=split)
    right = Stream(3, "actor", first_env=split, num_envs=envs - split)
    for draw in ("words", "uniforms", "normals"):
        together = torch.cat([getattr(part, draw)(step, count, rows=rows) for part in (left, right)], dim=1)
        assert torch.equal(getattr(whole, draw)(step, count, rows=rows), together)


def test_rows_are_consecutive_steps():
    stream = Stream(0, "noise", num_envs=3)
    together = stream.words(2**32 - 2, 5, rows=4)
    assert torch.equal(together, torch.cat([stream.words(2**32 - 2 + row, 5) for row in range(4)]))


def test_numbers_do_not_depend_on_how_many_more_are_drawn():
    stream = Stream(0, "noise", num_envs=3)
    assert torch.equal(stream.uniforms(7, 11)[..., :3], stream.uniforms(7, 3))


def test_no_number_is_shared_between_seeds_purposes_copies_and_steps():
    draws = [
        Stream(seed, purpose, num_envs=8).words(step, 8, rows=8)
        for seed in (0, 1)
        for purpose in ("actor", "environment")
        for step in (0, 8, 2**32, 2**40)
    ]
    words = torch.cat([draw.flatten() for draw in draws])
    # 16 · 512 words out of 2³²: 0.008 coincidences are expected.
    assert words.unique().numel() >= words.numel() - 1


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 2, 2**32 - 1])
def test_uniform_numbers_are_never_zero_nor_one(monkeypatch, word):
    stream = Stream(0, "noise")
    monkeypatch.setattr(stream, "words", lambda step, count, *, rows=1: torch.full((rows, 1, count), word))
    uniforms = stream.uniforms(0, 1)
    assert uniforms.dtype == torch.float32
    assert 0.0 < uniforms.item() < 1.0
    assert torch.isfinite(torch.erfinv(2.0 * uniforms - 1.0)).all()
    assert torch.isfinite(stream.normals(0, 3)).all()


def test_uniform_numbers_are_uniform():
    numbers = Stream(5, "noise", num_envs=100).uniforms(0, 10, rows=100).double().flatten()
    counts = torch.histc(numbers, bins=64, min=0.0, max=1.0)
    expected = numbers.numel() / 64
    # The 0.9999 quantile of chi-square with 63 degrees of freedom is 113.
    assert ((counts - expected) ** 2 / expected).sum() < 113
    pairs = torch.corrcoef(torch.stack((numbers[:-1], numbers[1:])))
    assert abs(pairs[0, 1]) < 4 / numbers.numel() ** 0.5


def test_normal_numbers_have_the_normal_moments():
    numbers = Stream(5, "noise", num_envs=100).normals(0, 10, rows=100).double()
    samples = numbers.numel()
    assert abs(numbers.mean()) < 4 / samples**0.5
    assert abs(numbers.var() - 1) < 4 * (2 / samples) ** 0.5
    assert abs((numbers**4).mean() - 3) < 4 * (96 / samples) ** 0.5
    # The halves that Box-Muller makes of one pair are independent.
    assert abs((numbers[..., :5] * numbers[..., 5:]).mean()) < 4 / (samples / 2) ** 0.5


def test_a_rank_without_copies_draws_nothing():
    stream = Stream(0, "noise", first_env=4, num_envs=0)
    assert stream.uniforms(0, 5, rows=2).shape == (2, 0, 5)
    assert stream.normals(0, 5).shape == (1, 0, 5)


def test_derived_seeds_differ_by_purpose_and_index_and_fit_31_bits():
    seeds = {derive_int(seed, purpose, *indices) for seed in (0, 1) for purpose in "ab" for indices in ((), (0,), (1,))}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_derivation_is_numpy_seed_sequence_with_a_spawn_key():
    expected = np.random.SeedSequence(7, spawn_key=(0x352441C2, 2))  # zlib.crc32(b"abc")
    assert derive(7, "abc", 2).generate_state(4).tolist() == expected.generate_state(4).tolist()
