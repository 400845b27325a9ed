"""Which split an example is in: by the hash of what identifies it, so that adding others moves none."""

from typing import Literal, get_args

from jaxdiff.arrays import digest

Split = Literal["train", "validation", "test"]
SHARES: dict[Split, range] = {"train": range(0, 90), "validation": range(90, 95), "test": range(95, 100)}


def check_split(split) -> None:
    """Raise ValueError where `split` is neither None, for all examples, nor the name of one."""
    if split not in (None, *SHARES):
        raise ValueError(f"split = {split!r}; expected None or one of {', '.join(map(repr, get_args(Split)))}")


def split_of(identity: bytes) -> Split:
    """The split of the example that `identity` stands for: by the SHA-256 of it, in about 90, 5 and 5 % of cases."""
    place = int(digest([identity])[:16], 16) % 100
    return next(split for split, share in SHARES.items() if place in share)
