"""Batches one after another, read ahead where Grain reads them."""

import itertools
from collections.abc import Iterator

AHEAD = 8  # batches


def process_shard():
    """The rows of a batch that this process of a `jax.distributed` run reads: what `batches` takes as `shard`."""
    import grain

    return grain.sharding.ShardByJaxProcess()


def read_from(batches, step: int) -> Iterator[dict]:
    """batches[step], batches[step + 1], ...: read ahead where `batches` is a `grain.MapDataset`.

    Raises ValueError where `batches` ends.
    """
    if hasattr(batches, "to_iter_dataset"):
        import grain

        iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)))
        iterator.set_state({"next_index": step})
        yield from iterator
    for index in itertools.count(step):
        try:
            yield batches[index]
        except IndexError as error:
            raise ValueError(f"batches[{index}] does not exist; give a batch for every step >= 0") from error
