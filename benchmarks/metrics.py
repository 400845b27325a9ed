"""Time and memory of metrics: solvers of the exact Wasserstein distance, and metrics of features.

    python benchmarks/metrics.py                                    ten minutes on two cores
    python benchmarks/metrics.py --points 10000:2 --features        one size of points, no features
    python benchmarks/metrics.py --points --features 50000:2048 --metrics frechet_distance

Each call is the first of its own process, so that compilation is included. Both sets are normal, with different means
and variances. Printed are seconds, and the peak memory that the call adds, divided by that of n² float64 numbers for
solvers, or of both sets for metrics of features.

    products          SciPy's assignment on the costs -x·y alone
    assign            SciPy's assignment on `couplings.assignment_cost`, as `wasserstein` calls it
    network_simplex   POT's, on the same costs
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time

import jax
import numpy as np
import tyro

import jaxdiff as jd
from jaxdiff.losses import couplings


def products(x, y) -> np.ndarray:
    """The assignment that minimises -Σ x_i·y_π(i), without the squares |x|² and |y|²."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-x @ y.T)[1]


SOLVERS = {"products": products, "assign": couplings.assign, "network_simplex": jd.metrics.network_simplex}
METRICS = {
    "frechet_distance": jd.metrics.frechet_distance,
    "kernel_distance": jd.metrics.kernel_distance,
    "precision_recall": jd.metrics.precision_recall,
    "density_coverage": jd.metrics.density_coverage,
    "sliced_wasserstein": lambda x, y: jd.metrics.sliced_wasserstein(jax.random.key(0), x, y),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured."""

    points: tuple[str, ...] = ("2000:2", "2000:64", "5000:2", "5000:64")
    """Sizes n:d of sets of points, for the solvers."""
    features: tuple[str, ...] = ("5000:64", "5000:512")
    """Sizes n:d of sets of features, for the metrics."""
    solvers: tuple[str, ...] = tuple(SOLVERS)
    """The solvers to measure."""
    metrics: tuple[str, ...] = tuple(METRICS)
    """The metrics of features to measure."""
    json: bool = False
    """Print one line of JSON."""


def cost(name: str, size: str) -> dict[str, float]:
    """Seconds and memory of one call, in this process."""
    n, d = map(int, size.split(":"))
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, d), np.float32) * scale + shift for scale, shift in ((1.0, 0.0), (1.3, 0.3)))
    jax.block_until_ready(jax.numpy.zeros(()))
    if name == "network_simplex":
        import ot  # noqa: F401  it looks for PyTorch and others, which takes seconds
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before, began = peak(), time.perf_counter()
    if name in SOLVERS:
        x, y = x.astype(float), y.astype(float)
        SOLVERS[name](x, y)
        unit = 8 * n**2
    else:
        METRICS[name](x, y)
        unit = x.nbytes + y.nbytes
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory": (peak() - before) / unit, "peak MiB": peak() / 2**20}


def measure(settings: Settings) -> dict[str, dict[str, dict[str, float]]]:
    """{size: {name: cost}}, of a process for each."""
    found = {}
    for sizes, names in ((settings.points, settings.solvers), (settings.features, settings.metrics)):
        for size in sizes:
            for name in names:
                words = [sys.executable, __file__, "--cost", name, size]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                found.setdefault(size, {})[name] = row = json.loads(done.stdout.splitlines()[-1])
                if not settings.json:
                    beside = row["seconds"] / next(iter(found[size].values()))["seconds"]
                    print(
                        f"{size:>12s} {name:18s} {row['seconds']:8.2f} s ({beside:5.2f})   memory {row['memory']:5.2f} "
                        f"(peak {row['peak MiB']:,.0f} MiB)",
                        flush=True,
                    )
    return found


if __name__ == "__main__":
    if "--cost" in sys.argv:
        print(json.dumps(cost(*sys.argv[-2:])))
    else:
        settings = tyro.cli(Settings, description=__doc__)
        found = measure(settings)
        if settings.json:
            print(json.dumps(found))
