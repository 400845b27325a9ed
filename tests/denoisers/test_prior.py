import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES

import jaxdiff as jd
from jaxdiff.denoisers import warn_uncovered

zero = lambda params, x, c_noise, cond: jnp.zeros_like(x)
model = lambda process, data_std: jd.Denoiser(zero, None, process, data_std=data_std)


def test_data_that_the_noise_does_not_cover_are_warned_of_before_sampling():
    """x_1 = α x_0 + σ ε has the variance α² s² + 1 - α²: at s = 100 1.44 times that of the prior."""
    alpha = np.exp(-(0.1 + 19.9 / 2) / 2)
    with pytest.warns(UserWarning, match=rf"VP does not cover .* = 100: .* = {100 * alpha:.3g} .*Divide the data"):
        jd.sample(jax.random.key(0), model(jd.VP(), 100.0), (2, 2), jd.samplers.DDIM(), 1)
    with pytest.warns(UserWarning, match="VE"):
        warn_uncovered(jd.guidance.ClassifierFree(jd.OnProcess(model(jd.VP(), 20.0), jd.VE()), 2.0))


def test_what_is_covered_or_starts_elsewhere_or_is_not_known_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for process in (*PROCESSES.values(), jd.LearnedVP()):
            for data_std in (0.5, 1.0):
                warn_uncovered(model(process, data_std))
        x = jnp.ones((2, 2))
        jd.sample(jax.random.key(0), model(jd.VP(), 100.0), (2, 2), jd.samplers.DDIM(), 1, x_start=x)
        warn_uncovered(jd.exact.Gaussian(jd.VP(), np.zeros(2), 1e4 * np.eye(2)))
        jax.jit(lambda s: jd.sample(jax.random.key(0), model(jd.VP(), s), (2, 2), jd.samplers.DDIM(), 1))(100.0)
