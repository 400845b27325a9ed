import ast
import atexit
import dataclasses
import functools
import gc
import importlib.metadata
import itertools
import os
import pathlib
import shutil
import signal
import tempfile

# Tests compile far more than they compute: without XLA's optimisations and fusion emitters the suite takes half the
# time, and with AVX's rounding it keeps the bounds that it keeps with them. jax after 0.10 insists on its emitters.
# Code of one piece is compiled faster than code split for many cores, and takes fewer memory maps.
# With XLA_FLAGS set, be it to nothing, the tests are of what XLA makes otherwise: `make test-slow` does so.
if "XLA_FLAGS" not in os.environ and int(importlib.metadata.version("jax").split(".")[1]) < 11:
    quick = ("xla_cpu_use_fusion_emitters=false", "xla_backend_optimization_level=0", "xla_cpu_max_isa=AVX")
    quick += ("xla_cpu_parallel_codegen_split_count=1",)
    os.environ["XLA_FLAGS"] = " ".join(f"--{flag}" for flag in quick)

# What one worker, or one process of a test, has compiled the others read: in a folder that goes with the session.
# A file that is read while another process writes it is compiled again, with a warning (see pyproject.toml).
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxdiff-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)  # workers inherit it

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import pjit
from jax._src.interpreters import pxla

import jaxdiff as jd
from jaxdiff.denoisers import BridgeLike, TwoEnded

# A shell ignores Ctrl-C for what it starts in the background; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROCESSES = {
    "VP": jd.VP(),
    "SubVP": jd.SubVP(),
    "OU": jd.OU(),
    "VE": jd.VE(),
    "BrownianVE": jd.BrownianVE(),
    "EDM": jd.EDM(),
    "Cosine": jd.Cosine(),
    "Flow": jd.Flow(),
    "from_betas": jd.from_betas(np.linspace(1e-4, 0.02, 1000)),
}

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[1.0, -0.5], [-1.0, 0.5]])
COVARIANCES = np.array([[[0.1, 0.05], [0.05, 0.2]], [[0.3, -0.1], [-0.1, 0.1]]])


def few(table, *quick):
    """The rows of `table` as parameters, of which `make test` runs the `quick` ones and `make test-slow` all others."""
    assert {*quick} <= {*table}
    return [
        pytest.param(row, id=str(name), marks=[] if name in quick else pytest.mark.slow) for name, row in table.items()
    ]


def few_names(table, *quick):
    """The same of the names of its rows."""
    return few({name: name for name in table}, *quick)


# For long tests.
OF_FEW_PROCESSES = few(PROCESSES, "VP", "VE", "EDM", "Cosine", "Flow")
OF_THREE_PROCESSES = few(PROCESSES, "VP", "EDM", "Flow")
THREE_PROCESSES = {name: PROCESSES[name] for name in ("VP", "EDM", "Flow")}


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def process(request):
    return request.param


@pytest.fixture
def x64():
    """For tests in float64, which run in a process of their own: `JAX_ENABLE_X64=1 pytest`."""


LONG = ("test_mesh_evaluation.py", "test_mesh.py", "test_cli_hosts.py", "test_hosts.py", "test_notebooks.py")
LONG += ("test_gradients.py", "test_bridges.py")  # in float64


def pytest_ignore_collect(collection_path):
    """Of float64 only files that have such tests are imported."""
    named = collection_path.name.startswith("test_")
    return True if named and jax.config.jax_enable_x64 and "x64" not in collection_path.read_text() else None


def pytest_collection_modifyitems(config, items):
    wanted = [item for item in items if ("x64" in item.fixturenames) == jax.config.jax_enable_x64]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = sorted(wanted, key=lambda item: item.path.name not in LONG)  # a long one at the end occupies one worker


def pytest_collection_finish():
    """Modules and tests stay for good: the garbage collector leaves them out, and runs less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


TORN_DOWN = itertools.count(1)


def pytest_runtest_teardown():
    """Keep a long process as fast as a new one, and within the 65,530 memory maps that Linux gives a process.

    JAX keeps the MLIR module of every program that it has compiled, 1.3 MB each. Nothing reads it again, and with
    thousands of them lowering takes four times as long. A program that has run stays compiled without it.
    """
    if next(TORN_DOWN) % 25:
        return
    pjit._pjit_lower.cache_clear()
    pxla._cached_lowering_to_hlo.cache_clear()
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


def taken(code):
    """What code takes from the library, each `jd.…` that it names."""
    for node in ast.walk(ast.parse(code)):
        parts = []
        while isinstance(node, ast.Attribute):
            parts, node = [node.attr, *parts], node.value
        if parts and isinstance(node, ast.Name) and node.id == "jd":
            yield functools.reduce(getattr, parts, jd)


def an_h100():
    """Pallas asks for which GPU it lowers; one that is not there has to be described."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def mixture(process):
    return jd.exact.Mixture(process, WEIGHTS, MEANS, COVARIANCES)


def mixture_moments():
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + np.einsum("k,ki,kj->ij", WEIGHTS, MEANS, MEANS)
    return mean, second - np.outer(mean, mean)


def within(tolerance, **settings):
    """The probability flow, solved within this tolerance, relative and absolute."""
    return jd.samplers.ProbabilityFlow(rtol=tolerance, atol=tolerance, **settings)


def draw_mixture(seed, n):
    rng = np.random.default_rng(seed)
    component = rng.choice(2, size=n, p=WEIGHTS)
    roots = np.linalg.cholesky(COVARIANCES)
    return MEANS[component] + np.einsum("nij,nj->ni", roots[component], rng.standard_normal((n, 2)))


def products_on_a_gpu(traced):
    """The products of matrices and convolutions of a program as it is lowered for a GPU, each with its precision."""
    lines = traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()
    return [line for line in lines if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairsOfGaussians(BridgeLike):
    """The exact bridge of pairs (x_0, x_1) from Σ w_k N(m_k, C_k): means [k, 2d], covariances [k, 2d, 2d].

    By the regression of the pair and of z on x_t, all jointly Gaussian; with sigma 0 an exact flow between two ends.
    """

    sigma: float
    weights: jax.Array
    means: jax.Array
    covariances: jax.Array

    def predict(self, x, t, cond=None):
        eye = jnp.eye(x.shape[1])

        def one(x, t):
            mix = jnp.concatenate([(1 - t) * eye, t * eye], 1)
            gamma = self.sigma**2 * t * (1 - t)

            def component(mean, covariance):
                spread = mix @ covariance @ mix.T + gamma * eye
                away = jnp.linalg.solve(spread, x - mix @ mean)
                density = jax.scipy.stats.multivariate_normal.logpdf(x, mix @ mean, spread)
                return density, mean + covariance @ mix.T @ away, -away

            density, pair, score = jax.vmap(component)(self.means, self.covariances)
            share = jax.nn.softmax(density + jnp.log(self.weights))
            data, source = jnp.split(share @ pair, 2)
            return TwoEnded(source - data, share @ score)

        return jax.vmap(one)(x, jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1]))


def gaussian_pairs(sigma, covariance, shift=0.1, d=1):
    """N(-shift, I) to N(shift, I) in d dimensions with Cov(x_0, x_1) = covariance I, as a bridge of sigma."""
    mean = np.concatenate([-shift * np.ones(d), shift * np.ones(d)])
    joint = np.kron([[1.0, covariance], [covariance, 1.0]], np.eye(d))
    return PairsOfGaussians(sigma, np.ones(1), mean[None], joint[None])


def schrodinger_covariance(sigma):
    """Cov(x_0, x_1) of the Schrödinger bridge between Gaussians of unit variance (Bunne et al. 2023, table 1)."""
    return (np.sqrt(4 + sigma**4) - sigma**2) / 2
