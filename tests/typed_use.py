"""What users write with lists, NumPy arrays and words: it runs, and type checkers accept it (test_typing.py)."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

key, process = jax.random.key(0), jd.VP()
exact = jd.exact.Gaussian(process, [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
mixture = jd.exact.Mixture(process, [0.5, 0.5], np.zeros((2, 2)), np.stack([np.eye(2)] * 2))
jd.exact.Empirical(process, np.zeros((5, 2)))
jd.exact.Table(jd.Absorbing(3), np.full((3, 3), 1 / 9))
jd.exact.Markov(jd.Absorbing(3), np.full(3, 1 / 3), np.full((3, 3), 1 / 3))

x = jd.sample(key, exact, [4, 2], jd.samplers.Heun(), steps=2, grid=np.linspace(1.0, 0.01, 3))
found = jd.log_likelihood(key, exact, [[0.0, 0.0]], trace=jd.likelihood.Exact())
assert found.log_prob.shape == (1,)
jd.score(exact, [[0.0, 0.0]], 0.5)
jd.perturb(key, process, np.zeros((3, 2)), [0.1, 0.2, 0.3])
jd.from_betas([0.1, 0.2])
jd.from_transitions(np.full((2, 3, 3), 1 / 3))
jd.quantize(jd.dequantize(key, np.zeros((2, 2), np.uint8)))

jd.guidance.ClassifierFree(mixture, 2.0)
jd.guidance.ClassifierFree(mixture, jnp.ones(4))
jd.guidance.ClassifierFree(mixture, jd.guidance.Interval(2.0, 0.1, 10.0))
jd.guidance.Observed(exact, jd.guidance.operators.mask(np.array([True, False])), 0.1, jd.guidance.Isotropic(1.0))

jd.data.batches({"x": [[0.0, 1.0]] * 10}, batch_size=5, seed=0)
assert jd.metrics.wasserstein([[0.0], [1.0]], np.zeros((2, 1))) > 0
config = jd.runs.Config(data="two_moons", process=jd.EDM(sigma_max=160), loss="denoising", network="mlp((8,))")
assert config.steps + 1 == 4001
jd.Denoiser(lambda params, x, c_noise, cond: x, {}, jd.VP(), "v", data_std=np.float32(1.0))
