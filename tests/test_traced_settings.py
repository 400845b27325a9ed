"""Numbers that only a running program knows: outside their range they give NaN, within it themselves.

All are tried in one program. A row is (name, function of the number, a number within its range, numbers outside it).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.arrays import check_number
from jaxdiff.likelihood import dequantization

S, G = jd.samplers, jd.guidance
T, W, C = jd.losses.times, jd.losses.weightings, jd.losses.couplings
INF = math.inf
X = np.array([[0.3, -0.8], [1.1, 0.2], [-0.4, 0.6]], np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)
FAST = {"rtol": 1e-1, "atol": 1e-1}


def network(params, x, c_noise, cond):
    return 0.3 * jnp.sin(x)


MODEL = jd.Denoiser(network, None, jd.VP())
WIDE = jd.Denoiser(lambda p, x, c, y: jnp.concatenate([x, x], -1), None, jd.VP(), learned_variance=True)


def curves(process):
    """What every number of a process moves at all times, both ends among them."""
    t = jnp.array([0.0, 0.4, 1.0])
    angles, sigma = process.time_at_angle(jnp.array([0.6, 0.9])), process.marginal(t)[1]
    return jnp.concatenate([process.log_snr(t)[1:2], sigma[1:], angles, jd.forward_sde(process, 0.4)[1][None]])


def sampled(sampler, denoiser=MODEL, **more):
    settings = {"steps": 3, "t_start": 0.9, "cond": None} | more
    return jd.sample(KEYS, denoiser, X.shape, sampler, **settings)


def called(denoiser):
    data, noise = denoiser(X, 0.4, 0)
    return jnp.stack([data, noise])


def loss(times=T.Uniform(), weighting=W.Simple(), denoiser=MODEL):
    return jd.losses.Denoising(weighting, times)(denoiser, KEYS[0], X)


def dropped(rate):
    """A loss under a condition that is X's own."""
    return jd.losses.ConditionDropout(jd.losses.Denoising(), np.zeros(2), rate)(MODEL, KEYS[0], X, X)


BRIDGE = lambda **numbers: jd.Bridge(lambda *_: (_[1], 0.3 * _[1]), None, **numbers)
weighed = lambda weights, covariances: jd.exact.Mixture(jd.VP(), weights, [[1.0, 0.0], [0.0, 1.0]], covariances)
Y = np.array([0.3, 1.0, -0.4], np.float32)
observed = lambda noise_std=0.5, spread=G.Point(), scale=1.0: jnp.stack(
    [*G.Observed(MODEL, jnp.mean, noise_std, spread, scale)(X, 0.4, Y)]
)
daps = lambda noise_std=0.5, **more: sampled(S.DAPS(jnp.mean, noise_std, 2, **more), cond=Y)
LETTERS, MASKED = jd.exact.Table(jd.Absorbing(2), np.array([0.6, 0.4])), np.full((3, 1), 2)
PAIR = jd.Product({"a": jd.VP(), "b": jd.Absorbing(2)})
STARTED = S.Switch(S.Ancestral(), S.DDIM())
likely = lambda x, *_: -jnp.sum(x**2, 1)

FIELDS = {  # by class and field: what reads the number, a number within its range, some outside
    "VP.beta_min": (lambda b: curves(jd.VP(b)), 0.2, [0.0, -1.0, INF]),
    "VP.beta_max": (lambda b: curves(jd.VP(0.1, b)), 15.0, [0.0, -1.0]),
    "SubVP.beta_min": (lambda b: curves(jd.SubVP(b)), 0.2, [0.0]),
    "SubVP.beta_max": (lambda b: curves(jd.SubVP(0.1, b)), 15.0, [0.0]),
    "VE.sigma_min": (lambda s: curves(jd.VE(s)), 0.1, [-0.1, 0.0, 60.0]),
    "VE.sigma_max": (lambda s: curves(jd.VE(0.01, s)), 10.0, [0.001, -1.0]),
    "Brownian.std": (lambda s: curves(jd.Brownian(s)), 2.0, [0.0, -2.0]),
    "BrownianVE.base": (lambda s: curves(jd.BrownianVE(s)), 20.0, [1.0, 0.5]),
    "EDM.sigma_min": (lambda s: curves(jd.EDM(s)), 0.1, [0.0, 100.0]),
    "EDM.sigma_max": (lambda s: curves(jd.EDM(0.002, s)), 10.0, [0.001, -3.0]),
    "EDM.rho": (lambda r: curves(jd.EDM(rho=r)), 5.0, [0.0, -7.0]),
    "Cosine.s": (lambda s: curves(jd.Cosine(s)), 0.01, [-0.01]),
    "Flow.sigma_min": (lambda s: curves(jd.Flow(s)), 0.1, [-0.1, 1.0, 3.0]),
    "LearnedVP.log_snr_max": (lambda m: curves(jd.LearnedVP(m)), 10.0, [-5.0, -9.0]),
    "LearnedVP.log_snr_min": (lambda m: curves(jd.LearnedVP(13.0, m)), -4.0, [13.0, 20.0]),
    "Karras.rho": (lambda r: jd.grids.Karras(r)(jd.VP(), 4)[1:], 5.0, [0.0, -7.0]),
    "Denoiser.data_std": (lambda s: called(jd.Denoiser(network, None, jd.VP(), data_std=s)), 0.7, [0.0, -0.5]),
    "NoisyClassifier.data_std": (
        lambda s: jd.NoisyClassifier(lambda p, x, c: x, None, jd.VP(), s)(X, 0.4, 0),
        0.7,
        [0.0, -0.5],
    ),
    "Bridge.sigma": (lambda s: called(BRIDGE(sigma=s)), 0.7, [-0.7]),
    "Bridge.data_std": (lambda s: BRIDGE(data_std=s).predict(X, 0.4).score, 0.7, [0.0, -0.7]),
    "Interval.scale": (lambda s: called(G.ClassifierFree(MODEL, G.Interval(s))), 2.0, [INF, -INF]),
    "Interval.low": (lambda s: called(G.Auto(MODEL, MODEL, G.Interval(2.0, s))), 0.1, [-0.1, INF]),
    "Interval.high": (lambda s: called(G.Auto(MODEL, MODEL, G.Interval(2.0, 0.2, s))), 9.0, [0.1, 0.2, -1.0]),
    "ClassifierFree.scale": (lambda s: called(G.ClassifierFree(MODEL, s)), 2.0, [INF]),
    "ClassifierFree.rescale": (lambda r: called(G.ClassifierFree(MODEL, 2.0, rescale=r)), 0.4, [1.5, -0.5]),
    "ClassifierFreePP.scale": (lambda s: called(G.ClassifierFreePP(MODEL, s))[0], 0.5, [1.5, -0.5]),
    "Auto.scale": (lambda s: called(G.Auto(MODEL, MODEL, s)), 2.0, [INF]),
    "Classifier.scale": (lambda s: called(G.Classifier(MODEL, likely, s, False)), 2.0, [INF]),
    "StepClassifier.scale": (lambda s: G.StepClassifier(MODEL, likely, s)(X, 0.4, 0).tilt, 2.0, [INF]),
    "TweedieClassifier.scale": (lambda s: called(G.TweedieClassifier(MODEL, likely, s, False)), 2.0, [INF]),
    "Observed.noise_std": (lambda s: observed(s), 0.7, [0.0, -0.5]),
    "Observed.scale": (lambda s: observed(scale=s), 2.0, [INF]),
    "Isotropic.data_std": (lambda s: observed(spread=G.Isotropic(s)), 0.7, [0.0, -0.5]),
    "Proximal.weight": (lambda w: observed(spread=G.Proximal(w)), 0.7, [0.0, -0.5]),
    "DynamicThreshold.quantile": (lambda q: called(G.DynamicThreshold(MODEL, q)), 0.5, [1.5, -0.1]),
    "DynamicThreshold.bound": (lambda b: called(G.DynamicThreshold(MODEL, 0.5, b)), 0.5, [0.0, -1.0]),
    "Temperature.tau": (lambda tau: G.Temperature(LETTERS, tau)(MASKED, 0.4).log_probabilities(), 0.7, [0.0, -0.5]),
    "Nucleus.p": (lambda p: G.Nucleus(LETTERS, p)(MASKED, 0.4).log_prob(0 * MASKED), 0.7, [0.0, 1.5]),
    "Subsets.hidden": (lambda h: sum(T.Subsets(hidden=h)(KEYS[0], PAIR, 9)[1].values()).sum(), 0.5, [1.5, -0.1]),
    "DDIM.eta": (lambda eta: sampled(S.DDIM(eta)), 0.5, [1.5, -0.1]),
    "EulerMaruyama.noise": (lambda n: sampled(S.EulerMaruyama(n)), 0.5, [-0.5]),
    "ReverseSDE.noise": (lambda n: sampled(S.ReverseSDE(noise=n)), 0.5, [-0.5]),
    "Heun.churn": (lambda c: sampled(S.Heun(c)), 0.5, [-0.5]),
    "Heun.s_min": (lambda s: sampled(S.Heun(1.0, s, 2.0)), 0.1, [-0.1, 3.0]),
    "Heun.s_max": (lambda s: sampled(S.Heun(1.0, 0.1, s)), 2.0, [0.01, -1.0]),
    "Heun.s_noise": (lambda s: sampled(S.Heun(1.0, s_noise=s)), 1.1, [-0.1]),
    "PredictorCorrector.snr": (lambda r: sampled(S.PredictorCorrector(snr=r)), 0.1, [1.0, -0.1]),
    "DAPS.noise_std": (lambda s: daps(s), 0.7, [-0.5]),
    "DAPS.data_std": (lambda s: daps(data_std=s), 0.7, [0.0, -0.5]),
    "LangevinDraw.size": (lambda s: daps(inner=S.LangevinDraw(2, s)), 0.5, [0.0, 4.0, -0.5]),
    "Switch.t": (lambda t: sampled(dataclasses.replace(STARTED, t=t)), 0.5, [-0.5, 1.5]),
    "Uniform.t_min": (lambda t: loss(T.Uniform(t)), 0.1, [1.0, -0.1]),
    "Stratified.t_min": (lambda t: loss(T.Stratified(t)), 0.1, [1.0, -0.1]),
    "Importance.t_min": (lambda t: loss(T.Importance(t)), 0.1, [1.0, -0.1]),
    "Fixed.t": (lambda t: loss(T.Fixed(t)), 0.1, [1.1, -0.1]),
    "LogNormal.mean": (lambda m: loss(T.LogNormal(m)), 0.1, [INF]),
    "LogNormal.std": (lambda s: loss(T.LogNormal(0.0, s)), 0.1, [-0.1]),
    "LogitNormal.mean": (lambda m: loss(T.LogitNormal(m)), 0.1, [INF, -INF]),
    "LogitNormal.std": (lambda s: loss(T.LogitNormal(0.0, s)), 0.1, [-0.1]),
    "MinSNR.gamma": (lambda g: loss(weighting=W.MinSNR(g)), 4.0, [0.0, -1.0]),
    "Sigmoid.bias": (lambda b: loss(weighting=W.Sigmoid(b)), 1.0, [INF, -INF]),
    "Hybrid.weight": (lambda w: jd.losses.Hybrid(w, 4)(WIDE, KEYS[0], X), 0.1, [-0.1]),
    "ConditionDropout.rate": (lambda r: dropped(r), 0.5, [-0.1, 1.5]),
    "FlowMatching.sigma": (lambda s: jd.losses.FlowMatching(sigma=s)(MODEL, KEYS[0], X), 0.1, [-0.1]),
    "Entropic.sigma": (lambda s: C.Entropic(s)(KEYS[0], X)[1], 1.0, [0.0, -1.0]),
}
ARGUMENTS = {
    "OU beta": (lambda b: curves(jd.OU(b)), 5.0, [0.0, -5.0]),
    "AnnealedLangevin epsilon": (lambda e: sampled(S.AnnealedLangevin(1, e)), 0.2, [-0.2, 4.0]),
    "sample t_start": (lambda t: sampled(S.DDIM(), t_start=t), 0.8, [1.2, -0.1]),
    "sample t_start and x_start": (lambda t: sampled(S.DDIM(), t_start=t, t_end=0.1, x_start=X), 0.8, [0.1, 0.05, 2.0]),
    "sample t_end": (lambda t: sampled(S.DDIM(), t_end=t, x_start=X), 0.1, [0.9, 0.95, -0.1]),
    "sample grid": (
        lambda t: sampled(S.DDIM(), grid=jnp.stack([0.9, t, 0.1]), t_start=1.0, x_start=X), 0.5, [0.05, 0.95],
    ),
    "invert t_min": (lambda t: jd.invert(MODEL, X, steps=3, t_min=t), 0.1, [1.0, -0.1]),
    "invert t_max": (lambda t: jd.invert(MODEL, X, steps=3, t_min=0.3, t_max=t), 0.9, [0.3, 0.2, 1.1]),
    "invert grid": (lambda t: jd.invert(MODEL, X, grid=jnp.stack([0.9, t, 0.1])), 0.5, [0.05, 0.95]),
    "grid t_start": (lambda t: jd.grids.Angle()(jd.VP(), 4, t), 0.8, [1.1, -0.1]),
    "grid t_end": (lambda t: jd.grids.Time()(jd.VP(), 4, 0.8, t)[:-1], 0.1, [0.8, 0.9]),
    "langevin step_size": (lambda s: S.langevin(KEYS, lambda x: -x, X, s, 2), 0.1, [0.0, -0.1]),
    "forward_paths t_start": (lambda t: S.forward_paths(KEYS, jd.VP(), X, 2, t, 0.5)[1:], 0.1, [0.5, 0.6, -0.1]),
    "forward_paths t_end": (lambda t: S.forward_paths(KEYS, jd.VP(), X, 2, 0.1, t)[1:], 0.5, [0.1, 0.05, 1.1]),
    "transition s": (lambda s: jnp.stack(jd.transition(jd.VP(), s, 0.5)), 0.1, [0.6, -0.1]),
    "posterior t": (lambda t: jnp.stack(jd.posterior(jd.VP(), 0.5, t)), 0.9, [0.4, 1.1]),
    "Mixture weights": (
        lambda w: weighed(jnp.stack([w, jnp.float32(1)]), [np.eye(2)] * 2)(X, 0.4).data, 0.5, [0.0, -0.5],
    ),
    "Mixture covariances": (lambda c: called(weighed([1, 1], c * jnp.eye(2)[None].repeat(2, 0))), 0.5, [-0.1, -0.5]),
    "Gaussian covariance": (lambda c: called(jd.exact.Gaussian(jd.VP(), np.zeros(2), c * jnp.eye(2))), 0.5, [-0.5]),
    "from_betas": (lambda b: curves(jd.from_betas(jnp.stack([b, 0.4])))[:1], 0.1, [0.0, 1.0, -0.1]),
    "two_moons noise": (lambda s: jd.data.two_moons(KEYS[0], 3, s), 0.1, [-0.1]),
}  # fmt: skip
ROWS = FIELDS | ARGUMENTS


@jax.jit
def tried(numbers):
    return {name: ROWS[name][0](number) for name, number in numbers.items()}


def test_every_number_of_a_class_has_its_row():
    rooms = jd, S, G, jd.grids, T, W, C, jd.losses, jd.denoisers, jd.likelihood, dequantization
    kinds = {kind for room in rooms for kind in vars(room).values() if dataclasses.is_dataclass(kind)}
    fields = {(kind, field.name) for kind in kinds for field in dataclasses.fields(kind) if "float" in str(field.type)}
    fields.add((jd.Denoiser, "data_std"))  # a number, or a tree of them
    static = {"Denoiser.condition_dropout", *SOLVED}
    static |= {"Ancestral.remask"}  # it draws categories, which no NaN can mark
    plain = {f"{kind.__name__}.{name}" for kind, name in fields if hasattr(kind, "__post_init__")}
    assert {name for name in plain if not name.startswith("_")} - static == set(FIELDS)


@pytest.mark.slow
def test_a_traced_number_outside_its_range_gives_nan_and_within_it_the_value_of_the_known_one():
    within = tried({name: jnp.float32(good) for name, (_, good, _) in ROWS.items()})
    for name, value in within.items():
        assert np.isfinite(value).all(), name
    wrong = []
    for i in range(max(len(outside) for *_, outside in ROWS.values())):
        numbers = {name: outside[min(i, len(outside) - 1)] for name, (*_, outside) in ROWS.items()}
        found = tried({name: jnp.float32(number) for name, number in numbers.items()})
        wrong += [(name, numbers[name]) for name, value in found.items() if not np.isnan(value).all()]
    assert not wrong
    assert tried._cache_size() == 1


SOLVED = "ProbabilityFlow.rtol", "ProbabilityFlow.atol"
SOLVES = {
    "ProbabilityFlow": lambda r, a, t: sampled(S.ProbabilityFlow(rtol=r, atol=a), t_end=t),
    "encode": lambda r, a, t: jd.encode(MODEL, X, flow=S.ProbabilityFlow(rtol=r, atol=a), t_min=t),
    "log_likelihood": lambda r, a, t: (
        jd.log_likelihood(KEYS, MODEL, X, flow=S.ProbabilityFlow(rtol=r, atol=a), t_min=t).log_prob
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVES)
def test_tolerances_and_times_of_a_solve_under_vmap_are_a_loop_over_them_and_nan_outside_their_range(name):
    good = [(1e-2, 1e-3, 0.1), (1e-4, 1e-4, 0.01), (0.0, 1e-2, 0.2)]
    outside = [(-1e-2, 1e-2, 0.1), (1e-2, -1e-2, 0.1), (INF, 1e-2, 0.1), (1e-2, INF, 0.1), (math.nan, 1e-2, 0.1)]
    outside += [(0.0, 0.0, 0.1), (1e-2, 1e-2, -0.1), (1e-2, 1e-2, 1.2), (1e-2, 1e-2, math.nan)]
    found = jax.vmap(SOLVES[name])(*jnp.asarray([*good, *outside], jnp.float32).T)
    for i, numbers in enumerate(good):
        np.testing.assert_allclose(found[i], SOLVES[name](*numbers), rtol=1e-5, atol=1e-6)
    for value, numbers in zip(found[len(good) :], outside):
        assert np.isnan(value).all(), numbers


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_traced_number_within_its_range_is_itself_and_its_derivative_is_one(dtype):
    check = lambda value: check_number("value", value, least=-1, most=2)
    for number in (-1.0, -0.0, 0.0, 1 / 3, 2.0):
        value, slope = jax.jit(jax.value_and_grad(check))(jnp.asarray(number, dtype))
        assert value.dtype == slope.dtype == dtype
        assert np.asarray(value).tobytes() == np.asarray(number, dtype).tobytes()
        assert slope == 1
    assert jax.eval_shape(check, 0.5).weak_type  # a Python number stays one, and moves no array to another type
