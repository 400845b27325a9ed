"""The ground floor: what every layer needs of numbers, arrays, keys and files."""

from jaxdiff.arrays.checks import (
    along_batch,
    check_choice,
    check_event,
    check_instance,
    check_number,
    check_room,
    check_time,
    check_whole,
    expand_time,
    is_concrete,
    native,
)
from jaxdiff.arrays.files import atomic_write, is_leftover, own_folder, remove_folder
from jaxdiff.arrays.fingerprint import fingerprint
from jaxdiff.arrays.keys import check_key, example_keys
from jaxdiff.arrays.pytree import as_pytree, pytree

__all__ = [
    "along_batch",
    "as_pytree",
    "atomic_write",
    "check_choice",
    "check_event",
    "check_instance",
    "check_key",
    "check_number",
    "check_room",
    "check_time",
    "check_whole",
    "example_keys",
    "expand_time",
    "fingerprint",
    "is_concrete",
    "is_leftover",
    "native",
    "own_folder",
    "pytree",
    "remove_folder",
]
