"""Games between players of known strength, drawn from Davidson's model."""

import numpy as np

from marl.ratings.payoffs import Games

TRUTH = np.array([-250.0, -100.0, -50.0, 0.0, 50.0, 100.0, 250.0])
NAMES = tuple("abcdefg")


def outcome_probabilities(ratings, seat, nu):
    """Davidson's model, written as in the paper: pi_i gamma : nu sqrt(pi_i pi_j gamma) : pi_j."""
    strength = 10 ** (np.asarray(ratings) / 400)
    win = np.broadcast_to(strength[:, None] * 10 ** (seat / 400), (len(strength),) * 2)
    loss = np.broadcast_to(strength[None, :], win.shape)
    weights = np.stack((loss, nu * np.sqrt(win * loss), win), axis=-1)
    return weights / weights.sum(-1, keepdims=True)


def simulate(generator, ratings, *, seat=30.0, nu=0.8, games=10, tournaments=1):
    p = outcome_probabilities(ratings, seat, nu)
    counts = generator.multinomial(games, p, size=(tournaments, *p.shape[:2]))
    counts[:, np.arange(len(p)), np.arange(len(p))] = 0
    return counts


def games_of(counts, names, generator=None):
    """One game a row, each in a pair of its own, shuffled if a generator is given."""
    i, j, o = (np.repeat(index, counts[counts > 0]) for index in np.nonzero(counts))
    order = generator.permutation(len(i)) if generator is not None else np.arange(len(i))
    return Games(players=names, first=i[order], second=j[order], outcome=o[order], pair=order.astype(np.int64))
