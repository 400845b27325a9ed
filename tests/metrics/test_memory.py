"""What metrics keep of 50,000 x 2,048 features, 0.38 GiB in float32: never a matrix of 50,000 x 50,000, 9 GiB."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff.metrics import kernel, neighbours

N, D = 50_000, 2_048
FEATURES, CENTRE = jax.ShapeDtypeStruct((N, D), np.float32), jax.ShapeDtypeStruct((D,), np.float64)
INDEX, RADII = jax.ShapeDtypeStruct((N,), np.int64), jax.ShapeDtypeStruct((N,), np.float64)
PROGRAMS = {
    "kernels": (kernel._sums, (FEATURES, FEATURES, INDEX), {}),
    "radii": (neighbours._radii, (FEATURES, CENTRE), {"k": 5}),
    "counts": (neighbours._counts, (FEATURES, FEATURES, CENTRE, RADII, RADII), {}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_over_all_pairs_keep_two_sets_in_float64_and_some_rows(name):
    """By XLA's own count, with the features themselves: 256 rows of 50,000 are 0.1 GiB, a set in float64 0.76."""
    function, arguments, static = PROGRAMS[name]
    with jax.enable_x64(True):
        program = jax.jit(function.__wrapped__, static_argnames=tuple(static)).lower(*arguments, **static).compile()
    used = program.memory_analysis()
    assert used.argument_size_in_bytes + used.temp_size_in_bytes < 3 * 2**30


MEASURED = """
import json, resource
import numpy as np
from jaxdiff.metrics import frechet_distance
rng = np.random.default_rng(0)
x, y = (rng.standard_normal((50_000, 2_048), np.float32) for _ in range(2))
found = frechet_distance(x, y, blocks=2)
print(json.dumps([found.value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
def test_the_frechet_distance_takes_less_than_4_gib_in_all():
    """Of one law N(0, I) both: |C_x - C_y|²/4 to first order, d²/(2n) in expectation, and 2d/n for the means."""
    done = subprocess.run([sys.executable, "-c", MEASURED], check=True, capture_output=True, text=True)
    value, peak = json.loads(done.stdout)
    assert peak < 4 * 2**30
    assert value == pytest.approx(D**2 / (2 * N) + 2 * D / N, rel=0.1)  # the next order is d/n = 0.04 of it
