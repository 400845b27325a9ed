"""The lowest layer: checks of arguments, and helpers for arrays, random keys, pytrees, meshes and files."""

from jaxdiff.arrays.checks import (
    along_batch,
    as_array,
    check_above,
    check_array,
    check_batch,
    check_choice,
    check_event,
    check_field,
    check_field_above,
    check_flag,
    check_function,
    check_instance,
    check_labels,
    check_number,
    check_output,
    check_real,
    check_scalar,
    check_shape,
    check_shared,
    check_time,
    check_tolerances,
    check_whole,
    count,
    expand_time,
    is_concrete,
    nan_unless,
    native,
    said,
    with_dtype,
)
from jaxdiff.arrays.extras import require
from jaxdiff.arrays.files import (
    NOFOLLOW,
    atomic_write,
    check_file,
    check_path,
    is_leftover,
    own_folder,
    read_json,
    remove_folder,
    sweep,
)
from jaxdiff.arrays.fingerprint import digest, fingerprint, sha256
from jaxdiff.arrays.integers import check_integers, noise_dtype
from jaxdiff.arrays.keys import check_key, example_keys, folded, normal, split_keys, uniform
from jaxdiff.arrays.precision import (
    Precision,
    as_called,
    at_precision,
    check_precision,
    chosen_precision,
    exactly,
    in_float64,
    reduced,
)
from jaxdiff.arrays.pytree import as_argument, as_pytree, check_pytree, pytree, rebuilt, replaced
from jaxdiff.arrays.room import check_room
from jaxdiff.arrays.shown import in_full, readable
