import jax
import numpy as np
import pytest

import jaxdiff as jd

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


@pytest.fixture
def x64():
    """For tests in float64, which run in a process of their own: `JAX_ENABLE_X64=1 pytest`."""


def pytest_collection_modifyitems(config, items):
    wanted = [item for item in items if ("x64" in item.fixturenames) == jax.config.jax_enable_x64]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


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
