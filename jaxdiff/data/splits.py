"""Assigns examples to splits by a hash of their identity, so that adding examples does not move others."""

from typing import Literal, get_args

from jaxdiff.arrays import digest

Split = Literal["train", "validation", "test"]
SHARES: dict[Split, range] = {"train": range(0, 90), "validation": range(90, 95), "test": range(95, 100)}


def check_split(split) -> None:
    """Raise ValueError if `split` is neither None, for all examples, nor the name of a split."""
    if split not in (None, *SHARES):
        raise ValueError(f"split = {split!r}; expected None or one of {', '.join(map(repr, get_args(Split)))}")


def split_of(identity: bytes) -> Split:
    """The split of an example by the SHA-256 of its identity: train, validation or test for about 90, 5 or 5 %."""
    percentile = int(digest([identity])[:16], 16) % 100
    return next(split for split, share in SHARES.items() if percentile in share)
