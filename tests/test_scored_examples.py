"""Which examples a likelihood scores: a random sample, also of a set in an order."""

import math

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import data, runs

N, LABELS = 200, 10
LABEL = np.arange(N, dtype=np.int32) // (N // LABELS)  # in order, as in a folder of classes
LETTERS = "".join(map(chr, range(192, 192 + N)))


class Reached(Exception):
    """What a likelihood was asked for: x and cond."""


def pictures(folder):
    pixels = np.broadcast_to(np.arange(N, dtype=np.uint8).reshape(-1, 1, 1, 1), (N, 2, 2, 1))
    return data.Images(pixels, LABEL, 256, LABELS)


def maps(folder):
    tokens = np.broadcast_to(np.arange(N, dtype=np.int32).reshape(-1, 1, 1), (N, 2, 2))
    return data.Maps(tokens, LABEL, LABELS, [(i, i, i) for i in range(N)])


def texts(folder):
    tokens = np.broadcast_to(np.arange(N, dtype=np.int32)[:, None], (N, 2))
    return data.Texts(tokens, np.ones((N, 2), bool), np.ones(N, np.int64), data.Symbols(LETTERS))


def rows(folder):
    data.write_rows(folder / "rows.csv", ("x",), np.arange(float(N))[:, None])
    return data.Table(folder / "rows.csv")


def mixed(folder):
    columns = {"x": np.arange(float(N)), "word": np.array(["a", "b"])[np.arange(N) % 2]}
    data.write_columns(folder / "mixed.csv", columns)
    return data.MixedTable(folder / "mixed.csv", categories=("word",))


@pytest.mark.parametrize("make", [pictures, maps, texts, rows, mixed])
def test_a_likelihood_is_of_random_examples_and_a_smaller_number_is_among_a_larger(make, tmp_path, monkeypatch):
    def reached(key, denoiser, x, *rest, cond=None, **settings):
        raise Reached(np.asarray(x), cond)

    for name in ("bits_per_dim", "continuous_bound", "log_likelihood"):
        monkeypatch.setattr(jd, name, reached)
    source = make(tmp_path)
    labelled = make in (pictures, maps)
    given = {"process": "absorbing"} if make in (maps, texts) else {}
    given |= {"network": "joint(width=4, depth=1, heads=1)"} if make is mixed else {}
    config = runs.Config(data=None, condition=("label",) if labelled else (), **given)
    known = runs.learned(config, source)
    model = runs.build(config, known) if make is mixed else None
    lasting = {"record": None, "progress": False, "mesh": None, "precision": None}
    without_chain = {"chain": 0} if make in (maps, texts) else {}

    def scored(limit):
        """The places in the set of the examples that are scored."""
        with pytest.raises(Reached) as found:
            known.score(None, model, source, limit, labelled, lasting, **without_chain)
        x, cond = found.value.args
        x = x.reshape(len(x), -1)[:, 0]
        places = np.round(x * np.std(range(N)) + np.mean(range(N))).astype(int) if x.dtype.kind == "f" else x
        if labelled:
            np.testing.assert_array_equal(cond, LABEL[places])
        return places.tolist()

    everything, many, few = scored(None), scored(N // 2), scored(10)
    assert sorted(everything) == list(range(N))
    if make is pictures:  # in their order, as the record of single pictures has them
        assert everything == list(range(N))
    assert few == many[:10]
    assert len(set(many)) == N // 2
    error = np.std(range(N)) / math.sqrt(N / 2) * math.sqrt(1 / 2)  # of a half, drawn without replacement
    assert abs(np.mean(many) - np.mean(range(N))) < 4 * error
