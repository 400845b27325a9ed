"""What has a batch for every step, and what has not; a batch is a dict of arrays, all alike."""

import itertools

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data.reading import by_step, check_length, first_batch, read_from

X = np.arange(44, dtype=np.float32).reshape(22, 2)


def examples(drop=True, n=22):
    return grain.MapDataset.source([{"x": x} for x in X[:n]]).shuffle(seed=3).batch(4, drop_remainder=drop)


def taken(batches, step, n):
    batches = by_step(batches)
    return [batch["x"] for batch in itertools.islice(read_from(batches, step, first_batch(batches)), n)]


def test_epochs_of_a_grain_data_set_are_those_of_its_own_repeat():
    wanted = [batch["x"] for batch in itertools.islice(examples().repeat().to_iter_dataset(), 17)]  # 5 an epoch
    for step in (0, 3, 5, 12):  # inside of an epoch and at its end
        np.testing.assert_array_equal(taken(examples(), step, 5), wanted[step : step + 5])
        np.testing.assert_array_equal(by_step(examples())[step]["x"], wanted[step])
    assert not np.array_equal(wanted[0:5], wanted[5:10])
    np.testing.assert_array_equal(taken(examples().repeat(2), 8, 5), wanted[8:13])


def test_the_smaller_batch_at_an_epochs_end_is_named():
    with pytest.raises(
        ValueError, match=r"batches\[5\] is x float32\[2, 2\]; expected x float32\[4, 2\].*drop_remainder=True"
    ):
        taken(examples(drop=False), 0, 8)


def test_a_gap_that_a_filter_left_is_named():
    gaps = examples().filter(lambda batch: batch["x"][0, 0] > 12)
    missing = next(i for i in range(5) if gaps[i] is None)
    first = next(batch for batch in (gaps[i] for i in range(5)) if batch is not None)
    with pytest.raises(TypeError, match=rf"batches\[{missing}\] is None, such as a gap that a filter leaves"):
        list(itertools.islice(read_from(by_step(gaps), 0, first), 6))


def generator():
    while True:
        yield {"x": X}


class Loader:  # as a DataLoader of torch: a length and an iterator
    def __len__(self):
        return 5

    def __iter__(self):
        return generator()


ONE_WAY = {
    "a generator": generator(),
    "an iterator": iter([{"x": X}]),
    "a loader": Loader(),
    "a data set of Grain's iterators": examples().to_iter_dataset(),
    "a set": {1, 2},
    "None": None,
    "a number": 3,
}


@pytest.mark.parametrize("batches", ONE_WAY.values(), ids=ONE_WAY)
def test_what_can_only_be_read_forwards_is_refused(batches):
    with pytest.raises(TypeError, match=r"has no random access.*jaxdiff\.data\.batches"):
        by_step(batches)


def test_arrays_in_place_of_batches_are_refused():
    with pytest.raises(TypeError, match=r"a dict of \['label', 'x'\]; expected one batch for each step"):
        by_step({"x": X, "label": X[:, 0]})
    assert by_step(mapped := {0: {"x": X}}) is mapped
    with pytest.raises(ValueError, match="Grain data set without batches"):
        by_step(examples(n=3))


class Tensor:
    def numpy(self):
        return X


NO_BATCH = [
    ((X, X), TypeError, r"batches\[0\] is a tuple; expected a dict of arrays"),
    ([X], TypeError, r"batches\[0\] is a list; expected a dict of arrays"),
    (X, TypeError, r"batches\[0\] is a ndarray; expected a dict of arrays.*jaxdiff\.data\.batches\(arrays"),
    ("x", TypeError, r"batches\[0\] is a str; expected a dict"),
    ({"x": X.tolist()}, TypeError, r"batches\[0\]\['x'\] is a builtins.list; expected a NumPy array: .*asarray"),
    ({"x": Tensor()}, TypeError, r"batches\[0\]\['x'\] is a .*Tensor; expected a NumPy array: give its .numpy\(\)"),
    ({"x": np.ma.masked_greater(X, 9)}, TypeError, r"\['x'\] is a masked array, whose mask is not read"),
    ({"x": X, 3: X}, TypeError, r"batches\[0\] has the name 3; expected strings"),
    ({"x": {"y": X}}, TypeError, r"is a builtins.dict; expected a NumPy array"),
    ({"x": np.array(["a"])}, TypeError, "has dtype <U1; expected numbers"),
    ({"x": np.array([None])}, TypeError, "has dtype object; expected numbers"),
    ({"x": np.float32(1.0)}, ValueError, r"has shape \(\); expected \[batch, ...\]"),
]


@pytest.mark.parametrize(("batch", "error", "message"), NO_BATCH)
def test_what_is_no_batch_is_named(batch, error, message):
    with pytest.raises(error, match=message):
        first_batch([batch])


def test_a_tensor_of_torch_is_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"is a torch.Tensor; expected a NumPy array: give its .numpy\(\)"):
        first_batch([{"x": torch.zeros(4, 2)}])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(8, 2)), batch_size=4)
    with pytest.raises(TypeError, match=r"torch\.utils\.data.*DataLoader, which has no random access"):
        by_step(loader)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"x": X[:7]}, r"batches\[1\] is x float32\[7, 2\]; expected x float32\[22, 2\]"),
        ({"x": X.astype(np.float64)}, r"is x float64\[22, 2\]; expected x float32"),
        ({"x": X, "label": X}, r"is x float32\[22, 2\], label .*; expected x float32\[22, 2\], as"),
        ({}, "is empty; expected x float32"),
    ],
)
def test_a_batch_unlike_the_first_is_named(second, message):
    with pytest.raises(ValueError, match=message):
        list(itertools.islice(read_from([{"x": X}, second], 0, {"x": X}), 2))


def test_bytes_in_the_other_order_are_put_right():
    swapped = {"x": X.astype(">f4")}
    for found in (first_batch([swapped]), next(read_from([swapped], 0, {"x": X}))):
        assert found["x"].dtype == np.dtype("=f4")
        np.testing.assert_array_equal(found["x"], X)
    next(read_from([{"x": jnp.asarray(X)}], 0, {"x": X}))


class Wrapping:
    """As many as an epoch has, and the same again after it."""

    def __len__(self):
        return 5

    def __getitem__(self, step):
        return {"x": X + step % 5}


def test_what_ends_before_the_last_step_is_refused_before_the_first():
    check_length([{"x": X}] * 20, 20)
    check_length(Wrapping(), 20)
    with pytest.raises(ValueError, match=r"batches\[19\] does not exist; .* has 15 batches for steps = 20"):
        check_length([{"x": X}] * 15, 20)
    with pytest.raises(ValueError, match=r"batches\[1\] does not exist"):
        list(itertools.islice(read_from([{"x": X}], 0, {"x": X}), 2))
