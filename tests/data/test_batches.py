import time

import grain
import numpy as np
import pytest

from jaxdiff.data import batches, fingerprint


def _arrays(n=10):
    return {"image": np.arange(n * 4, dtype=np.float32).reshape(n, 2, 2), "label": np.arange(n)}


def test_a_record_is_a_whole_batch_and_its_arrays_belong_together():
    batch = batches(_arrays(), 4, seed=0)[3]
    assert {name: array.shape for name, array in batch.items()} == {"image": (4, 2, 2), "label": (4,)}
    np.testing.assert_array_equal(batch["image"][:, 0, 0], 4 * batch["label"])


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10])
def test_an_example_is_seen_at_most_once_an_epoch_and_none_is_left_out_for_good(batch_size):
    data = batches(_arrays(), batch_size, seed=1)
    per_epoch = 10 // batch_size
    epochs = [np.concatenate([data[epoch * per_epoch + i]["label"] for i in range(per_epoch)]) for epoch in range(40)]
    for seen in epochs:
        assert len(np.unique(seen)) == len(seen) == per_epoch * batch_size
    assert len({tuple(seen) for seen in epochs}) > 30  # each epoch has an order of its own
    np.testing.assert_array_equal(np.unique(epochs), np.arange(10))


def test_every_order_of_an_epoch_is_equally_likely():
    firsts = [batches(_arrays(4), 4, seed)[epoch]["label"][0] for seed in range(40) for epoch in range(50)]
    counts = np.bincount(firsts, minlength=4)
    assert np.abs(counts - 500).max() < 4 * np.sqrt(2000 * 1 / 4 * 3 / 4)


def test_a_batch_depends_on_seed_and_step_alone():
    data, again = batches(_arrays(1000), 32, seed=7), batches(_arrays(1000), 32, seed=7)
    steps = [0, 31, 10**6, 2]
    there = [data[step]["label"] for step in steps]
    back = [again[step]["label"] for step in reversed(steps)]
    np.testing.assert_array_equal(there, back[::-1])
    other = [batches(_arrays(1000), 32, seed=8)[step]["label"] for step in steps]
    assert all((a != b).any() for a, b in zip(there, other))


def test_it_is_a_grain_data_set_and_its_iterator_resumes_at_a_step():
    data = batches(_arrays(), 4, seed=0)
    assert isinstance(data, grain.MapDataset)
    shifted = iter(data.map(lambda batch: batch["label"] + 100).to_iter_dataset())
    shifted.set_state({"next_index": 5})
    np.testing.assert_array_equal(next(shifted), data[5]["label"] + 100)


def test_a_batch_of_digits_costs_little():
    data = batches({"image": np.zeros((1000, 8, 8, 1), np.uint8), "label": np.zeros(1000)}, 128, seed=0)
    seconds = []
    for step in range(2000):
        began = time.perf_counter()
        data[step]
        seconds.append(time.perf_counter() - began)
    assert np.median(seconds) < 2e-4


@pytest.mark.parametrize(
    ("arrays", "batch_size", "seed", "error", "message"),
    [
        (_arrays(), 0, 0, ValueError, r"batch_size = 0; expected at least 1"),
        (_arrays(), 4, -1, ValueError, r"seed = -1; expected a whole number of 0 or more"),
        (
            _arrays(),
            11,
            0,
            ValueError,
            r"10 examples do not fill a batch of 11; set batch_size to 10 or less",
        ),
        (_arrays(0), 4, 0, ValueError, r"no examples"),
        ({}, 4, 0, ValueError, r"no examples"),
        (
            {"x": np.zeros((5, 2)), "label": np.zeros(4)},
            4,
            0,
            ValueError,
            r"x \(5, 2\), label \(4,\); .* same n",
        ),
        ({"x": np.zeros(5), "seed": 3}, 4, 0, ValueError, r"x \(5,\), seed \(\); "),
        (
            {"x": np.array([0.0, 1.0, np.nan, np.inf])},
            4,
            0,
            ValueError,
            r"x\[2\] holds a NaN .* 2 of 4 examples do",
        ),
        ({"x": np.array([[0.0], None, 1, 2], object)}, 4, 0, TypeError, r"x has dtype object"),
        (_arrays(), 2.5, 0, TypeError, r"float"),
    ],
)
@pytest.mark.parametrize("call", [batches, fingerprint])
def test_data_or_settings_that_cannot_work_are_refused_at_once(call, arrays, batch_size, seed, error, message):
    with pytest.raises(error, match=message):
        call(arrays, batch_size, seed)


def test_the_fingerprint_is_that_of_everything_the_batches_depend_on():
    reference = fingerprint(_arrays(), 4, 0)
    assert reference == fingerprint(dict(reversed(_arrays().items())), 4, 0)
    assert len(bytes.fromhex(reference)) == 32

    changed = _arrays()
    changed["image"][9, 1, 1] += 1
    renamed = {"x": _arrays()["image"], "label": _arrays()["label"]}
    reshaped = {"image": _arrays()["image"].reshape(10, 4), "label": _arrays()["label"]}
    retyped = {"image": _arrays()["image"].view(np.int32), "label": _arrays()["label"]}
    others = [fingerprint(arrays, 4, 0) for arrays in (changed, renamed, reshaped, retyped)]
    others += [fingerprint(_arrays(), 5, 0), fingerprint(_arrays(), 4, 1)]
    assert len({reference, *others}) == 7


def test_the_fingerprint_sees_values_and_not_memory_layout():
    arrays = {"x": np.arange(12.0).reshape(4, 3)}
    assert fingerprint(arrays, 2, 0) == fingerprint({"x": np.asfortranarray(arrays["x"])}, 2, 0)
