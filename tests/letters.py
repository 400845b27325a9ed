"""Pairs of letters of the King James Bible as a Markov chain, whose law and entropy are known.

kjv_bigrams.csv counts a to z and space, each with what follows it, the last character with the first: the shares of the
letters are then those that the chain keeps. 187 of the 729 pairs never occur.
"""

from pathlib import Path

import numpy as np

PAIRS = np.loadtxt(Path(__file__).parent / "kjv_bigrams.csv", delimiter=",")
LETTERS = PAIRS.sum(1) / PAIRS.sum()
TRANSITION = PAIRS / PAIRS.sum(1, keepdims=True)


def _entropy(law):
    return -np.sum(law * np.log2(law, where=law > 0, out=np.zeros_like(law)))


def entropy(length):
    """Bits of `length` letters: those of the first, and for each other those of a pair less those of a letter."""
    return _entropy(LETTERS) + (length - 1) * (_entropy(PAIRS / PAIRS.sum()) - _entropy(LETTERS))


def drawn(n, length, initial=LETTERS, transition=TRANSITION, seed=0):
    """(chains [n, length], -log2 p of each)."""
    rng = np.random.default_rng(seed)
    x = [rng.choice(len(initial), n, p=initial)]
    for _ in range(length - 1):
        x.append((transition[x[-1]].cumsum(1) < rng.random((n, 1))).sum(1).clip(max=len(initial) - 1))
    x = np.stack(x, 1)
    return x, -np.log2(initial[x[:, 0]]) - np.log2(transition[x[:, :-1], x[:, 1:]]).sum(1)
