"""A classifier of noised data against Bayes' own: log p(component | x_t) of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Classifier, ClassifierFree, TweedieClassifier
from jaxdiff.losses import Classification, times

KEY, PROCESS, STD = jax.random.key(0), jd.VP(), 0.9
WEIGHTS, MEANS = np.array([0.5, 0.2, 0.3]), np.array([[1.0, 0.3], [-0.7, 0.8], [-0.4, -1.0]])
COVARIANCES = np.stack([0.1 * np.eye(2), 0.05 * np.eye(2), np.array([[0.2, 0.05], [0.05, 0.1]])])
EXACT = jd.exact.Mixture(PROCESS, WEIGHTS, MEANS, COVARIANCES)


def drawn(seed, n):
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=WEIGHTS)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(COVARIANCES)[label], rng.standard_normal((n, 2)))
    return (MEANS[label] + noise).astype(np.float32), label.astype(np.int32)


def bayes(params, x, c_noise):
    """Bayes' logits, from what a network is shown, times params[0], and params[1] more of the first class."""
    t = jax.vmap(PROCESS.time_at_log_snr)(-8 * c_noise)
    alpha, sigma = PROCESS.marginal(t)
    exact = EXACT.log_responsibilities(x * jnp.hypot(alpha * STD, sigma)[:, None], t)
    return params[0] * exact + params[1] * jnp.eye(3)[0]


AS_BAYES = jd.NoisyClassifier(bayes, jnp.array([1.0, 0.0]), PROCESS, STD)


def test_bayes_own_classifier_minimises_the_loss():
    """The loss is convex in a multiple of its logits and in an offset; its slope is 0 within four standard errors."""
    x0, label = drawn(0, 4000)
    loss = Classification(times.Uniform(0.01))

    @jax.jit
    def slopes(params):
        return jax.jacfwd(lambda params: loss(AS_BAYES.with_params(params), KEY, x0, label))(params)

    for params, flat in ((jnp.array([1.0, 0.0]), True), (jnp.array([0.8, 0.0]), False), (jnp.array([1.0, 0.3]), False)):
        each = np.asarray(slopes(params), np.float64)
        error = each.std(0) / np.sqrt(len(each))
        assert (np.abs(each.mean(0)) < 4 * error).all() == flat


def test_it_reads_log_p_of_the_label_at_every_noise_level_and_of_clean_data():
    x, label = drawn(1, 6)
    of_label = lambda log_p: np.take_along_axis(np.asarray(log_p), label[:, None], 1)[:, 0]
    for t in (0.01, 0.3, 0.9):
        np.testing.assert_allclose(AS_BAYES(x, t, label), of_label(EXACT.log_responsibilities(x, t)), atol=2e-4)
    rows = jd.NoisyClassifier(lambda params, x, c: jnp.log(jnp.tile(params, (len(x), 1))), WEIGHTS, PROCESS)
    np.testing.assert_allclose(rows.clean(x, label), np.log(WEIGHTS)[label], rtol=1e-5)
    outside = jax.jit(rows.clean)(x, np.array([0, 1, 2, 3, -1, 0]))
    assert np.isnan(outside).tolist() == [False] * 3 + [True] * 2 + [False]


@pytest.mark.slow
def test_it_guides_to_the_conditional_model():
    x, label = drawn(2, 6)
    for t in (0.1, 0.6):
        got = jax.jit(Classifier(EXACT, AS_BAYES))(x, t, label)
        np.testing.assert_allclose(got.data, EXACT(x, t, label).data, atol=1e-3)
        guided = TweedieClassifier(EXACT, AS_BAYES.clean, 1.0)(x, t, label)
        clean = lambda x0, cond: EXACT.log_responsibilities(x0, 0.0)[jnp.arange(len(x0)), cond]
        expected = TweedieClassifier(EXACT, clean)(x, t, label)
        np.testing.assert_allclose(guided.data, expected.data, atol=1e-3)


def perceptron(params, x, c_noise, cond=None):
    (a, b, c), (d, e) = params
    h = jax.nn.silu(x @ a + jnp.stack([jnp.sin(k * c_noise) for k in (1.0, 2.0, 4.0, 8.0)], 1) @ b + c)
    return h @ d + e


def initial(width=64):
    keys = jax.random.split(KEY, 3)
    draw = lambda key, *shape: jax.random.normal(key, shape) / np.sqrt(shape[0])
    first = draw(keys[0], 2, width), draw(keys[1], 4, width), jnp.zeros(width)
    return first, (draw(keys[2], width, 3), jnp.zeros(3))


@pytest.mark.slow
def test_a_trained_one_is_near_bayes_own_and_guides_as_it_does(tmp_path):
    """Its loss is a hundredth of a nat above the least, and so is that of its samples' classes from the exact ones."""
    x0, label = drawn(3, 40_000)
    classifier = jd.NoisyClassifier(perceptron, initial(), PROCESS, STD)
    batches = jd.data.batches({"x": x0, "label": label}, 1024, seed=0)
    train = lambda: jd.training.train(
        KEY, tmp_path, classifier, Classification(), batches, steps=1500, ema_decay=0.99, progress=False,
        optimizer=lambda ends: jd.training.clipped_adam(ends, 1e-2),
    )  # fmt: skip
    trained = train()
    jax.tree.map(np.testing.assert_array_equal, train().params, trained.params)  # which goes on from its checkpoint
    held, held_label = drawn(4, 20_000)
    loss = jax.jit(lambda classifier: Classification()(classifier, KEY, held, held_label))
    above = np.asarray(loss(trained) - loss(AS_BAYES), np.float64)
    assert -4 * above.std() / np.sqrt(len(above)) < above.mean() < 0.01

    n = 600
    cond = np.arange(n) % 3
    draw = lambda denoiser: np.asarray(jd.sample(KEY, denoiser, (n, 2), steps=30, cond=cond), np.float64)
    ours, exact = draw(Classifier(EXACT, trained, 1.5)), draw(ClassifierFree(EXACT, 1.5))
    for k in range(3):
        spread = exact[cond == k].std(0)
        assert (np.abs(ours[cond == k].mean(0) - exact[cond == k].mean(0)) < 0.25 * spread).all()


def test_labels_that_none_has_are_refused_before_training(tmp_path):
    x0, label = drawn(5, 64)
    classifier = jd.NoisyClassifier(perceptron, initial(4), PROCESS, STD)
    for labels, message in ((label + 1, "label 3 is out of range; expected 0 to 2"), (None, "cond = None")):
        arrays = {"x": x0} | ({} if labels is None else {"label": labels})
        with pytest.raises(ValueError, match=message):
            jd.training.train(KEY, tmp_path, classifier, Classification(), [arrays], steps=1, progress=False)
