import jax
import numpy as np
import pytest

import jaxdiff as jd

# On a loaded machine a program was seen, twice in some 3,000, to run with another's number in place of one of its own
# (jaxlib 0.10.2, CPU): VE's sigma_min read as 25. Without asynchronous dispatch a number is there before it is read.
jax.config.update("jax_cpu_enable_async_dispatch", False)

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


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def process(request):
    return request.param


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """A module's programs are of no use to the next one; a worker that keeps them all grows to gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mixture(process):
    return jd.exact.Mixture(process, WEIGHTS, MEANS, COVARIANCES)


def mixture_moments():
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + np.einsum("k,ki,kj->ij", WEIGHTS, MEANS, MEANS)
    return mean, second - np.outer(mean, mean)


def draw_mixture(seed, n):
    rng = np.random.default_rng(seed)
    component = rng.choice(2, size=n, p=WEIGHTS)
    roots = np.linalg.cholesky(COVARIANCES)
    return MEANS[component] + np.einsum("nij,nj->ni", roots[component], rng.standard_normal((n, 2)))
