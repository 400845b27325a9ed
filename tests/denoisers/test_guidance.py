import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COVARIANCES, MEANS, THREE_PROCESSES, draw_mixture, few, few_names, mixture, within
from scipy.stats import multivariate_normal, norm
from tables import GUIDANCE

import jaxdiff as jd
from jaxdiff.denoisers.guidance import Auto, Classifier, ClassifierFree, ClassifierFreePP, DynamicThreshold, Interval
from jaxdiff.denoisers.guidance import TweedieClassifier as Tweedie

predict = jax.jit(lambda denoiser, x, t, cond=None: denoiser(x, t, cond))
THREE = pytest.mark.parametrize("process", few(THREE_PROCESSES, "VP"))


def log_posterior(model, x, t, cond):
    """log p(cond | x_t) of a mixture's components."""
    return jnp.take_along_axis(model.log_responsibilities(x, t), jnp.reshape(cond, (-1, 1)), 1)[:, 0]


def classifier(model, scale=1.0, conditional=False):
    return Classifier(model, jax.tree_util.Partial(log_posterior, model), scale, conditional)


def two_classes(process):
    return jd.exact.Mixture(process, [0.5, 0.5], [[-2.0], [2.0]], [[[0.25]], [[0.25]]])


GUIDED, CONDITIONAL = 2.57361495992524, 2.14343073633487  # w = 2 and w = 0


def test_the_guided_flow_ends_where_it_is_known_to(x64):
    """Classes N(±2, .5²) under VP(0.1, 20) and w = 2, from x = .3 at t = 1 to t = 0, computed elsewhere."""
    model = two_classes(jd.VP())
    for guided, end in (
        (ClassifierFree(model, 1.0), CONDITIONAL),
        (ClassifierFree(model, 3.0), GUIDED),
        (classifier(model, 3.0), GUIDED),
    ):
        x = jd.decode(guided, jnp.array([[0.3]]), cond=1, t_min=0.0, flow=within(1e-11))
        assert abs(float(x[0, 0]) - end) < 1e-9


@THREE
def test_scale_zero_and_one_are_the_two_models(process):
    model, other = mixture(process), jd.exact.Gaussian(process, np.zeros(2), np.eye(2))
    x, labels = jnp.asarray(draw_mixture(0, 6), jnp.float32), jnp.arange(6) % 2
    for t in (0.0, 0.3, 1.0):
        free, conditional = model(x, t), model(x, t, labels)
        chex.assert_trees_all_equal(ClassifierFree(model, 0.0)(x, t, labels), free)
        chex.assert_trees_all_equal(ClassifierFree(model, 1.0)(x, t, labels), conditional)
        chex.assert_trees_all_equal(Auto(model, other, 0.0)(x, t, 0 * labels), other(x, t))
        chex.assert_trees_all_equal(Auto(model, other, 1.0)(x, t, 0 * labels), model(x, t, 0 * labels))


@THREE
def test_the_exact_noisy_classifier_is_bayes_rule(process, x64):
    """p(x) p(y | x_t) is p(x | y): at scale 1 the guided mixture is its component, at s ClassifierFree with s."""
    model, labels = mixture(process), jnp.arange(8) % 2
    x0, noise = jnp.asarray(draw_mixture(1, 8)), jnp.asarray(draw_mixture(2, 8))
    for t in (1e-3, 0.2, 0.7, 0.99):
        alpha, sigma = process.marginal(t)
        x = alpha * x0 + sigma * noise
        free = predict(ClassifierFree(model, 2.5), x, t, labels)
        for guided, expected in (
            (classifier(model), predict(model, x, t, labels)),
            (classifier(model, 2.5), free),
            (classifier(model, 1.5, conditional=True), free),
        ):
            got = predict(guided, x, t, labels)
            np.testing.assert_allclose(got.data, expected.data, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(got.noise, expected.noise, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(alpha * got.data + sigma * got.noise, x, rtol=1e-12, atol=1e-12)


def test_where_alpha_is_zero_a_classifier_leaves_the_prediction():
    process = jd.Flow()
    model, x = mixture(process), jnp.asarray(draw_mixture(1, 4), jnp.float32)
    steep = Classifier(model, lambda x, t, cond: 5 * x.sum(1), 2.0)  # which reads even pure noise, as a learned one may
    chex.assert_trees_all_equal(steep(x, 1.0), model(x, 1.0))
    assert float(jnp.abs(steep(x, 0.9).data - model(x, 0.9).data).min()) > 1


@pytest.mark.slow
def test_the_exact_noisy_classifier_draws_conditional_samples():
    n = 4000
    guided, labels = classifier(mixture(jd.VP())), np.arange(n) % 2
    x = np.asarray(jd.sample(jax.random.key(0), guided, (n, 2), jd.samplers.DDIM(eta=1.0), 400, cond=labels), float)
    for k in range(2):
        centred = x[labels == k] - MEANS[k]
        products = np.einsum("ni,nj->nij", centred, centred).reshape(-1, 4)
        for values, truth in ((centred, 0.0), (products, COVARIANCES[k].ravel())):
            standard_error = values.std(0) / np.sqrt(len(values))
            assert (np.abs(values.mean(0) - truth) < 4 * standard_error).all()


@pytest.mark.slow
def test_the_exact_noisy_classifier_gives_conditional_likelihoods(x64):
    """log p(x | y); the model starts from the prior where p_1 is N(α m, S_1), and the flow to x_1 is affine."""
    process, x, labels = jd.VP(), jnp.asarray(draw_mixture(3, 6)), np.arange(6) % 2
    alpha, sigma = (float(c) for c in process.marginal(1.0))
    truth = []
    for point, k in zip(np.asarray(x), labels):
        values, basis = np.linalg.eigh(COVARIANCES[k])
        spread = np.sqrt((alpha**2 * values + sigma**2) / values)
        x_1 = alpha * MEANS[k] + basis @ (spread * (basis.T @ (point - MEANS[k])))
        start = multivariate_normal(alpha * MEANS[k], alpha**2 * COVARIANCES[k] + sigma**2 * np.eye(2))
        clean = multivariate_normal(MEANS[k], COVARIANCES[k])
        truth.append(clean.logpdf(point) + norm.logpdf(x_1).sum() - start.logpdf(x_1))
    guided = classifier(mixture(process))
    got = jd.log_likelihood(
        jax.random.key(0), guided, x, trace=jd.likelihood.Exact(), flow=within(1e-10), t_min=0.0, cond=labels
    )
    assert got.converged.all()
    np.testing.assert_allclose(got.log_prob, truth, atol=1e-7)


@pytest.mark.parametrize("of", few_names(["samples", "likelihoods"], "samples"))
def test_samplers_and_likelihoods_accept_all_of_it_and_new_numbers_compile_nothing(of):
    """A tower of every wrapper over one network."""
    traces, x = [], np.ones((2, 2), np.float32)

    def network(params, x, c_noise, cond):
        traces.append(0)
        return params * jnp.tanh(x + (0.0 if cond is None else 0.3 * cond[:, None]))

    linear = lambda w, x, t, cond: w * x.sum(1) + 0.0 * cond
    square = lambda w, x0, cond: -w * ((x0 - cond[:, None]) ** 2).sum(1)

    def tower(k):
        model = jd.Denoiser(network, k, jd.VP(), "v")
        guided = ClassifierFree(model, Interval(1 + k, k / 10, 3 + k))
        guided = Auto(guided, ClassifierFreePP(model, k), 1 + k)
        guided = Classifier(guided, jax.tree_util.Partial(linear, k), k, conditional=True)
        guided = Tweedie(guided, jax.tree_util.Partial(square, k), k / 10, conditional=True)
        return DynamicThreshold(guided, 0.9 + k / 20, 1 + k)

    seen = []
    for k in (0.5, 0.25):
        if of == "samples":
            x = jd.sample(jax.random.key(0), tower(k), (2, 2), jd.samplers.DDIM(), 3, cond=jnp.arange(2))
            assert jnp.isfinite(x).all()
        else:
            got = jd.log_likelihood(jax.random.key(1), tower(k), x, flow=within(k / 50), cond=jnp.arange(2))
            assert got.converged.all()
        seen.append(len(traces))
    assert seen[0] == seen[1] > 0


def test_an_example_is_guided_alone():
    """In its batch or in one of its own, its label beside it, as an adaptive solver asks."""
    model, labels = mixture(jd.VP()), jnp.array([0, 1, 0])
    x = jnp.asarray(draw_mixture(0, 3), jnp.float32)
    guided = DynamicThreshold(classifier(model, Interval(2.0, 0.1, 10.0)), 0.5, 0.7)
    together, alone = predict(guided, x, 0.4, labels), predict(guided, x[1:2], 0.4, labels[1:2])
    for a, b in zip(alone, together):
        np.testing.assert_allclose(a[0], b[1], rtol=2e-5, atol=1e-6)


@THREE
def test_a_clean_classifier_is_exact_for_a_linear_log_likelihood_of_a_gaussian(process, x64):
    """N(m, C) tilted by exp(b·x_0) is N(m + C b, C)."""
    mean, covariance, b = np.array([0.5, -1.0]), np.array([[0.5, 0.2], [0.2, 0.3]]), np.array([0.7, -0.4])
    guided = Tweedie(jd.exact.Gaussian(process, mean, covariance), lambda x0, cond: x0 @ b)
    truth = jd.exact.Gaussian(process, mean + covariance @ b, covariance)
    x = jnp.asarray(draw_mixture(4, 5))
    for t in (1e-3, 0.3, 0.8, 0.99):
        got, expected = predict(guided, x, t), predict(truth, x, t)
        np.testing.assert_allclose(got.data, expected.data, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(got.noise, expected.noise, rtol=1e-9, atol=1e-9)


@THREE
def test_a_clean_classifier_pulls_too_hard_otherwise(process, x64):
    """x_0 ~ N(m, s²) seen as y = x_0 + N(0, r): the pull is that of p(x_0 | y) times 1 + Var[x_0 | x_t]/r."""
    m, s, r, y = 0.4, 0.8, 0.2, jnp.array([1.5, -0.5, 0.9])
    prior = jd.exact.Gaussian(process, np.array([m]), np.array([[s**2]]))
    guided = Tweedie(prior, lambda x0, cond: -((cond - x0[:, 0]) ** 2) / (2 * r))
    x = jnp.array([[0.3], [-0.2], [1.0]])
    for t in (0.05, 0.4, 0.8):
        alpha, sigma = process.marginal(t)
        variance = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)  # of x_0 given x_t
        gain = s**2 / (s**2 + r)
        posterior = [jd.exact.Gaussian(process, np.array([m + gain * (v - m)]), np.array([[gain * r]])) for v in y]
        truth = jnp.concatenate([predict(p, x[i : i + 1], t).noise for i, p in enumerate(posterior)])
        free = predict(prior, x, t).noise
        pull = (predict(guided, x, t, y).noise - free) / (truth - free)
        np.testing.assert_allclose(pull, jnp.full((3, 1), 1 + variance / r), rtol=1e-7)


def test_an_interval_guides_inside_and_nowhere_else():
    process = jd.VP()
    call = lambda guided: predict(guided, x, t, labels)
    model, labels = mixture(process), jnp.array([0, 1, 0])
    x = jnp.asarray(draw_mixture(5, 3), jnp.float32)
    t = process.time_at_log_snr(-2 * jnp.log(jnp.array([0.1, 0.5, 2.0])))  # σ/α
    for make, none in ((lambda s: ClassifierFree(model, s), 1.0), (lambda s: classifier(model, s), 0.0)):
        limited = call(make(Interval(3.0, 0.3, 1.0)))
        inside, outside = call(make(3.0)), call(make(none))
        for got, full, off in zip(limited, inside, outside):
            np.testing.assert_allclose(got[1], full[1], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(got[::2], off[::2], rtol=1e-6, atol=1e-6)
            assert float(jnp.abs(full - off).max()) > 1e-3
        edge = call(make(Interval(3.0, 0.1 * (1 + 1e-3), 2.0 * (1 + 1e-3))))
        np.testing.assert_allclose(edge.data, jnp.stack([outside.data[0], *inside.data[1:]]), rtol=1e-6, atol=1e-6)


@THREE
def test_autoguidance_of_gaussians(process, x64):
    """The guided score is that of p^s / q^{s-1}: for Gaussian p and weaker q a Gaussian again."""
    good = jd.exact.Gaussian(process, np.array([1.0]), np.array([[0.2]]))
    weak = jd.exact.Gaussian(process, np.array([0.7]), np.array([[0.5]]))
    x, scale = jnp.linspace(-1, 2, 5)[:, None], 2.2
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = process.marginal(t)
        p, q = (1 / (alpha**2 * variance + sigma**2) for variance in (0.2, 0.5))
        precision = scale * p - (scale - 1) * q
        mean = alpha * (scale * p * 1.0 - (scale - 1) * q * 0.7) / precision
        predicted = predict(Auto(good, weak, scale), x, t)
        np.testing.assert_allclose(-predicted.noise / sigma, -precision * (x - mean), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(alpha * predicted.data + sigma * predicted.noise, x, rtol=1e-9, atol=1e-9)


@THREE
def test_dynamic_thresholding(process):
    def network(params, x, c_noise, cond):
        return params

    rng = np.random.default_rng(0)
    data = (rng.standard_normal((5, 4, 3)) * np.array([0.2, 0.8, 1.5, 3.0, 10.0])[:, None, None]).astype(np.float32)
    x = jnp.asarray(rng.standard_normal((5, 4, 3)), jnp.float32)
    for bound in (1.0, 2.0):
        for t in (0.2, 0.8):
            alpha, sigma = process.marginal(t)
            inner = jd.Denoiser(network, jnp.asarray(data), process, "data")
            got = predict(DynamicThreshold(inner, 0.9, bound), x, t)
            for i in range(5):
                size = max(np.quantile(np.abs(data[i]), 0.9), bound)
                expected = np.clip(data[i], -size, size) / size * bound
                np.testing.assert_allclose(got.data[i], expected, rtol=1e-5)
                assert np.abs(got.data[i]).max() <= bound * (1 + 1e-6)
            left = np.abs(data).max((1, 2)) <= bound
            assert left[0]
            assert not left[-1]
            np.testing.assert_array_equal(got.noise[left], predict(inner, x, t).noise[left])
            recombined = alpha * got.data + sigma * got.noise
            np.testing.assert_allclose(recombined, x, rtol=1e-4, atol=2e-5 * (1 + float(sigma) + 10 * float(alpha)))
    clean = DynamicThreshold(mixture(jd.VP()), 0.5)(10 * jnp.ones((2, 2)), 0.0)  # σ = 0
    assert jnp.isfinite(clean.noise).all()
    np.testing.assert_allclose(clean.data, 1.0)


def test_cfgpp_is_the_papers_algorithm(x64):
    """Algorithm 2 written out on a DDPM table: guided noise for x_0, unconditional noise to go on with."""
    table, scale = np.linspace(1e-4, 0.02, 100), 0.7
    process, bar = jd.from_betas(table), np.append(1.0, np.cumprod(1 - table))
    model, labels = mixture(process), jnp.array([0, 1, 1])
    steps = np.arange(100, -1, -10)
    start = np.asarray(jax.random.normal(jax.random.key(0), (3, 2)))
    x = start
    for now, then in zip(steps[:-1], steps[1:]):
        free = np.asarray(predict(model, x, now / 100).noise)
        noise = free + scale * (np.asarray(predict(model, x, now / 100, labels).noise) - free)
        x0 = (x - np.sqrt(1 - bar[now]) * noise) / np.sqrt(bar[now])
        x = np.sqrt(bar[then]) * x0 + np.sqrt(1 - bar[then]) * free
    guided = ClassifierFreePP(model, scale)
    got = jd.sample(jax.random.key(0), guided, (3, 2), jd.samplers.DDIM(), grid=steps / 100, x_start=start, cond=labels)
    np.testing.assert_allclose(got, x, rtol=1e-8, atol=1e-9)


@THREE
def test_cfgpp_is_classifier_free_with_a_scale_of_the_step(process, x64):
    model, labels, scale = mixture(process), jnp.array([0, 1, 1]), 0.6
    x = jnp.asarray(draw_mixture(6, 3))
    for t, s in ((0.99, 0.9), (0.6, 0.3), (0.3, 0.29)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.marginal(t), process.marginal(s)
        phi = process.angle(t)
        of_step = scale / (1 - float(sigma_s / alpha_s / (sigma_t / alpha_t)))
        of_flow = scale * float(jnp.sin(phi)) ** 2
        got = predict(ClassifierFreePP(model, scale), x, t, labels)
        for same, a, b in ((of_step, alpha_s, sigma_s), (of_flow, -jnp.sin(phi), jnp.cos(phi))):
            plain = predict(ClassifierFree(model, same), x, t, labels)
            np.testing.assert_allclose(a * got.data + b * got.noise, a * plain.data + b * plain.noise, rtol=1e-8)


def test_a_learned_variance_is_kept():
    """DDPM steps of a guided model take the variance of the model that is guided (Dhariwal and Nichol 2021, alg. 1)."""

    def network(params, x, c_noise, cond):
        return jnp.concatenate([x, params * x if cond is None else params * x + cond[:, None]], -1)

    model = jd.Denoiser(network, 0.5, jd.VP(), learned_variance=True)
    plain = jd.Denoiser(lambda params, x, c_noise, cond: 0.9 * x, None, jd.VP())
    x, labels = jnp.asarray(draw_mixture(0, 3), jnp.float32), jnp.arange(3)
    free, conditional = predict(model, x, 0.5).share, predict(model, x, 0.5, labels).share
    guides = {**GUIDANCE, "Auto away from a model without": lambda denoiser: Auto(denoiser, plain, 2.0)}
    shares = jax.jit(lambda x: {name: guide(denoiser=model)(x, 0.5, labels).share for name, guide in guides.items()})(x)
    for name, share in shares.items():
        np.testing.assert_array_equal(
            share, free if name in ("Classifier", "StepClassifier") else conditional, err_msg=name
        )


def test_starts_are_refused_through_every_wrapper():
    echo = lambda name: jd.Denoiser(lambda params, x, c, cond: x, None, jd.Flow(), name)
    guides = [guide(denoiser=echo(name)) for guide in GUIDANCE.values() for name in ("noise", "score")]
    guides += [Auto(echo("noise"), echo("v")), Auto(echo("v"), echo("noise"))]
    for guided in (*guides, DynamicThreshold(guides[0])):
        with pytest.raises(ValueError, match=r"alpha\(1.0\) = 0 for Flow"):
            jd.sample(jax.random.key(0), guided, (2, 2))
        jd.denoisers.check_start(guided, 0.999)
    jd.denoisers.check_start(Auto(echo("v"), echo("v")), 1.0)


def test_intervals_scales_and_models_that_guide_nothing_are_refused():
    model = mixture(jd.VP())
    logits = Classifier(model, lambda x, t, cond: model.log_responsibilities(x, t))
    for wrong, message in (
        (lambda: Interval(2.0, 1.0, 0.5), r"low = 1.0, high = 0.5; expected noise levels"),
        (lambda: Interval(2.0, -1.0), r"low = -1.0"),
        (lambda: ClassifierFreePP(model, 1.5), r"scale = 1.5; expected the λ of CFG\+\+ in \[0, 1\]"),
        (lambda: DynamicThreshold(model, 99.5), r"quantile = 99.5; expected a fraction in \[0, 1\]"),
        (lambda: DynamicThreshold(model, 0.9, 0.0), "bound = 0.0"),
        (lambda: Auto(model, mixture(jd.EDM())), "weak has the process EDM.*wrap weak in OnProcess"),
        (lambda: Auto(model, mixture(jd.SubVP())), "weak has the process SubVP"),
        (lambda: Auto(model, mixture(jd.VP(0.2, 20.0))), "weak has the process VP"),
        (lambda: logits(jnp.zeros((3, 2)), 0.5), r"log_likelihood returned shape \(3, 2\).*expected \(3,\)"),
        (lambda: Tweedie(model, lambda x0, cond: x0.sum())(jnp.zeros((3, 2)), 0.5), r"returned shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_processes_that_must_agree_are_compared_by_all_their_numbers():
    betas = np.linspace(1e-4, 0.02, 10)
    model = lambda process: jd.Denoiser(lambda params, x, c, cond: x, None, process)
    for one, other in (
        (jd.from_betas(betas), jd.from_betas(2 * betas)),
        (jd.from_betas(betas), jd.from_betas(betas[:5])),
        (jd.VP(jnp.float32(0.1)), jd.VP(jnp.float32(0.2))),
        (jd.LearnedVP(logits=np.zeros(4)), jd.LearnedVP(logits=np.arange(4.0))),
    ):
        with pytest.raises(ValueError, match="weak has the process .*; wrap weak in OnProcess"):
            Auto(model(one), model(other))
    Auto(model(jd.from_betas(betas)), model(jd.from_betas(betas.copy())))
    Auto(model(jd.VP(0.1)), model(jd.VP(jnp.float32(0.1))))  # the same number, as it is computed
    jax.jit(lambda beta: Auto(model(jd.VP(beta)), model(jd.VP(0.2)))(jnp.ones((1, 2)), 0.5).data)(0.1)
