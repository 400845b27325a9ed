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
        ({"x": np.ma.masked_less(np.zeros(5), 1)}, 4, 0, TypeError, r"x is a masked array, whose mask is not read"),
        ({"x": np.zeros(5), "cond": {"y": np.zeros(5)}}, 4, 0, TypeError, r"cond is a dict; .* give its arrays names"),
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


class Examples:
    """A source of examples, one by one."""

    def __init__(self, arrays):
        self.arrays, self.asked = arrays, []

    def __len__(self):
        return len(self.arrays["label"])

    def __getitem__(self, index):
        assert type(index) is int
        self.asked.append(index)
        return {name: array[index] for name, array in self.arrays.items()}


class Batched(Examples):
    def __getitems__(self, indices):
        return [super(Batched, self).__getitem__(i) for i in indices]

    def __getitem__(self, index):
        assert index == 0, "read one by one"
        return super().__getitem__(index)


def the_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("kind", [dict, Examples, Batched])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_shards_of_any_number_of_processes_are_the_batch_in_order(kind, count):
    whole = batches(_arrays(20), 6, seed=3)
    parts = [batches(kind(_arrays(20)), 6, 3, grain.sharding.ShardOptions(i, count)) for i in range(count)]
    for step in (0, 2, 3, 1000):
        records = [part[step] for part in parts]
        assert {len(record["label"]) for record in records} == {6 // count}
        the_same({name: np.concatenate([record[name] for record in records]) for name in whole[step]}, whole[step])


def test_one_jax_process_reads_it_all():
    the_same(batches(_arrays(), 4, 0, grain.sharding.ShardByJaxProcess())[5], batches(_arrays(), 4, 0)[5])


def test_a_batch_that_does_not_divide_among_the_processes_is_refused():
    with pytest.raises(ValueError, match=r"batch_size = 10.* is not a multiple of 4; set it to one, such as 12"):
        batches(_arrays(), 10, 0, grain.sharding.ShardOptions(1, 4))


@pytest.mark.parametrize("kind", [Examples, Batched])
def test_a_source_is_read_row_by_row_and_only_where_this_process_needs_it(kind):
    source = kind(_arrays(20))
    data = batches(source, 6, 3, grain.sharding.ShardOptions(1, 3))
    source.asked.clear()
    assert data[7]["label"].tolist() == source.asked
    assert len(source.asked) == 2


@pytest.mark.parametrize(
    ("index", "example", "error", "message"),
    [
        (5, {"x": np.zeros(3)}, ValueError, r"example 5 is x float64\[3\]; expected x float64\[2\], as example 0 is"),
        (7, {"x": np.zeros(2, int)}, ValueError, r"example 7 is x int64\[2\]; expected x float64\[2\]"),
        (9, {"y": np.zeros(2)}, ValueError, r"example 9 is y float64\[2\]; expected x"),
        (3, {}, ValueError, r"example 3 is without arrays; expected x"),
        (8, {"x": np.array([0, np.nan])}, ValueError, r"x\[8\] holds a NaN or an infinity"),
        (0, {"x": np.array([0, np.inf])}, ValueError, r"x\[0\] holds a NaN or an infinity"),
        (0, {"x": "a word"}, TypeError, r"x has dtype <U6; expected numbers"),
        (0, {"x": [None]}, TypeError, r"x has dtype object"),
    ],
)
def test_an_example_that_cannot_be_in_a_batch_is_named(index, example, error, message):
    examples = [{"x": np.zeros(2)} for _ in range(10)]
    examples[index] = example
    with pytest.raises(error, match=message):
        [batches(examples, 5, 0)[step] for step in range(2)]


@pytest.mark.parametrize("call", [batches, fingerprint])
def test_a_source_without_enough_examples_is_refused(call):
    for n, message in ((0, "no examples"), (3, "3 examples do not fill a batch of 4")):
        with pytest.raises(ValueError, match=message):
            call(Examples(_arrays(n)), 4, 0)


def test_the_fingerprint_of_a_source_is_its_own_or_that_of_its_length_and_sixteen_examples():
    reference = fingerprint(Examples(_arrays(100)), 4, 0)
    assert reference == fingerprint(Batched(_arrays(100)), 4, 0)
    others = [fingerprint(Examples(_arrays(n)), *rest) for n, *rest in ((101, 4, 0), (100, 5, 0), (100, 4, 1))]
    for changed in (0, 33, 99):  # 100 examples in steps of 6.6
        arrays = _arrays(100)
        arrays["label"][changed] += 1
        others.append(fingerprint(Examples(arrays), 4, 0))
    source = Examples(_arrays(100))
    source.fingerprint = "what it is made of"
    others.append(fingerprint(source, 4, 0))
    assert len({reference, *others}) == 8
    again = Examples(_arrays(100))
    again.fingerprint = lambda: "what it is made of"
    assert fingerprint(again, 4, 0) == others[-1]
    assert again.asked == [0, 0]  # the first, whose layout is looked at


def test_records_of_a_source_may_be_read_by_many_threads():
    data, whole = batches(Examples(_arrays(50)), 8, 0), batches(_arrays(50), 8, 0)
    for step, record in zip(range(20), data.to_iter_dataset(grain.ReadOptions(num_threads=8, prefetch_buffer_size=8))):
        the_same(record, whole[step])
