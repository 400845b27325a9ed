"""Malformed inputs, a table by public function: each meets jaxdiff's own words, in milliseconds, before any long work.

A row is (label, function, good arguments, malformed values by argument). The label begins with the public name, so that
a new function without a row fails a test. A value stands for a ValueError whose message names the argument; in `T` it
stands for a TypeError, and `says` gives other words.
"""

import dataclasses
import functools
import operator
import traceback
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdiff as jd
from jaxdiff import networks, plotting, pretrained, runs, training
from jaxdiff.denoisers import exact, guidance
from jaxdiff.losses import couplings, times, weightings

PACKAGE = str(Path(jd.__file__).parent)


@dataclasses.dataclass
class T:
    """A value of a wrong type."""

    value: object


@dataclasses.dataclass
class Says:
    value: object
    words: str


def says(words, *values):
    return [dataclasses.replace(v, value=Says(v.value, words)) if isinstance(v, T) else Says(v, words) for v in values]


KEY = jax.random.key(0)
X = np.zeros((3, 2), np.float32)
HOLES = np.array([[0, 0], [np.nan, 0], [0, 0]], np.float32)
NAN, INF = float("nan"), float("inf")
NETWORK = lambda params, x, c_noise, cond: x
VP = jd.VP()
DENOISER = jd.Denoiser(NETWORK, {"w": np.ones(2)}, VP)
EXACT = exact.Gaussian(VP, np.zeros(2), np.eye(2))
BRIDGE = jd.Bridge(lambda params, x, c_noise, cond: (x, x), None)
PREDICTION = jd.Prediction(jnp.zeros((3, 2)), jnp.zeros((3, 2)))
IMAGES = np.zeros((3, 2), np.uint8)
RNGS = nnx.Rngs(0)

# fmt: off


@jd.pytree
@dataclasses.dataclass(frozen=True)
class OWN:
    answer: object = dataclasses.field(metadata={"static": True})
    process = VP

    def __call__(self, x, t, cond=None):
        return self.answer


NO_NUMBER = [T("0.5"), T(None), T(True), T(1j), T([0.5]), T(np.array(["1"])), T(np.ones(2, ">f4"))]
NUMBER = [NAN, INF, -INF, np.array([1.0, np.nan]), jnp.float32(np.nan), 10**400, np.ones(0), *NO_NUMBER]
POSITIVE = [0.0, -1.0, 0, np.float32(0), jnp.zeros(()), 1e-300, *NUMBER]
NOT_NEGATIVE = [-1.0, -1e-3, np.int64(-1), *NUMBER]
ONE = [np.ones(3), jnp.ones(3)]  # several, where there is one for all
COUNT = [0, -1, np.int64(0), T(2.5), T(2.0), T("3"), T(None), T(True), T(NAN), T(np.ones(2))]
FLAG = [T("yes"), T(1), T(None), T(jnp.ones(2))]
FUNCTION = [T(None), T("f"), T(3.0), T(jd.VP), T(X)]
PROCESS = [T(None), T("vp"), T(jd.VP), T(DENOISER), T(lambda t: t)]
A_DENOISER = [T(None), T("vp"), T(jd.Denoiser), T(NETWORK), T(VP), T({})]
SAMPLER = [T(None), T("ddim"), T(jd.samplers.DDIM), T(EXACT), T(lambda x: x)]
ONE_KEY = [T(0), T(None), T("0"), T(jax.random.PRNGKey(0)), jax.random.split(KEY, 2)]
KEYS = [T(0), T(None), T(np.zeros(2, np.uint32)), T(jax.random.PRNGKey(0)), jax.random.split(KEY, 2)]
NO_BATCH = [T(None), T("x"), T(IMAGES), T(X + 0j), T(X > 0), np.zeros(3), 1.0, np.zeros((0, 2)), np.zeros((3, 0)),
    T([[0.0], [1.0, 2.0]])]
BATCH = [HOLES, np.full((3, 2), INF), *NO_BATCH]
TIME = [1.5, -0.1, NAN, INF, 500, np.array([0.1, 2.0, 0.3]), T("0.5"), T(None), T(True), T(1j)]
TIME_OF_X = [*TIME, np.full(2, 0.5), np.full((3, 1), 0.5)]
ONE_TIME = [*TIME, np.full(3, 0.5)]
RATIO = [1.0, 1.5, -0.1, NAN, T("0.5"), T(None), T(True)]
COND = [np.zeros(2, int), T("cat"), T(np.array(["cat", "dog", "cat"])), T(["cat"] * 3), np.array([0.0, NAN, 0.0])]
CHOICE = ["other", "", None, 3, ["small"], True]
PRECISION = ["float32", "tf32", "", 3, np.ones(2)]
GRID = [np.array([0.1, 0.9]), np.array([0.9, 0.9]), np.array([0.9]), np.array([1.5, 0.5]), np.ones((2, 2)),
    np.array([1.0, NAN]), T("karras"), T(jd.grids.Time), T(lambda process, steps: None)]
TOLERANCE = [-1.0, NAN, INF, *ONE, *NO_NUMBER]
SOLVER = [T("dopri5"), T(diffrax.Dopri5), T(5), T(diffrax.EulerHeun()), diffrax.Euler()]
FLOW = [T("dopri5"), T(None), T({"rtol": 1e-3}), T(jd.samplers.ProbabilityFlow), T(jd.samplers.DDIM())]
TRACE = [T("exact"), T(None), T(2), T(jd.likelihood.Exact)]
HUGE = 10**15
MESH = [T("mesh"), T(2), T(jax.devices())]

ROWS = []


def row(label, function, good=None, /, **wrong):
    ROWS.append((label, function, good or {}, wrong))


# processes
row("jd.VP", jd.VP, beta_min=POSITIVE, beta_max=POSITIVE)
row("jd.SubVP", jd.SubVP, beta_min=POSITIVE, beta_max=POSITIVE)
row("jd.OU", jd.OU, beta=POSITIVE)
row("jd.VE", jd.VE, sigma_min=[100.0, *POSITIVE], sigma_max=[0.001, 0.01, *POSITIVE])
row("jd.EDM", jd.EDM, sigma_min=[100.0, *POSITIVE], sigma_max=[0.001, 0.002, *POSITIVE], rho=POSITIVE)
row("jd.Brownian", jd.Brownian, std=POSITIVE)
row("jd.BrownianVE", jd.BrownianVE, base=[1.0, 0.5, *POSITIVE])
row("jd.Cosine", jd.Cosine, s=NOT_NEGATIVE)
row("jd.Flow", jd.Flow, sigma_min=[1.0, 2.0, *NOT_NEGATIVE])
row("jd.LearnedVP", jd.LearnedVP, log_snr_max=[-5.0, -9.0, *NUMBER], log_snr_min=[13.3, 20.0, *NUMBER],
    logits=[np.zeros(1), np.zeros((2, 2)), np.zeros(0), 0.0, np.array([0.0, NAN]), T("zeros"), T(None), T(np.zeros(3,
    ">f4"))])
BETAS = [[], [0.0, 0.5], [0.1, 1.0], [0.1, 1.5], [0.1, NAN], np.ones((2, 2)) / 2, 0.5, T("linear"), T(None), T([0.1,
    "a"]), T(np.ones(3, bool))]
row("jd.from_betas", jd.from_betas, betas=BETAS)
MASKS = jd.Absorbing(4)
TOKENS = np.zeros((3, 2), int)
NO_TOKENS = [TOKENS - 1, TOKENS + 4, np.zeros((0, 2), int), T(X), T("a"), T(None), T(TOKENS > 0), T(["a"])]
SCHEDULE = [T("linear"), T(None), T(jd.schedules.Linear), T(0.5), T(VP)]
for name in ("Absorbing", "Multinomial", "DiscretizedGaussian"):
    row(f"jd.{name}", getattr(jd, name), {"categories": 3}, categories=[1, 0, -1, T(2.5), T("2"), T(None), T(True)],
        schedule=SCHEDULE)
row("jd.schedules.CosineHoogeboom", jd.schedules.CosineHoogeboom, s=NOT_NEGATIVE)
MATRICES = np.full((2, 3, 3), 1 / 3)
row("jd.from_transitions", jd.from_transitions, matrices=[MATRICES[0], MATRICES[:0], MATRICES[..., :2], MATRICES * 1.01,
    MATRICES - np.eye(3), MATRICES * NAN, np.ones((1, 1, 1)), np.full((1, 257, 257), 1 / 257), T("gaussian"), T(None)])
row("jd.processes.gaussian_transitions", jd.processes.gaussian_transitions, {"betas": [0.1], "categories": 3},
    betas=[0.0, -1.0, NAN, INF, T("linear"), T(None)], categories=[1, T(2.5)])
row("jd.schedules.Polynomial", jd.schedules.Polynomial, power=POSITIVE)
row("jd.schedules.Geometric", jd.schedules.Geometric, sigma_min=[100.0, *POSITIVE], sigma_max=[1e-5, 1e-4, *POSITIVE])
row("jd.Head", jd.Head, {"features": X, "table": np.zeros((5, 2))}, features=[np.zeros(2), *says("features", X[:, :1])],
    table=[np.zeros(2), np.zeros((5, 3))], bias=[np.zeros(2)])
OF_TOKENS = jd.Denoiser(lambda params, x, c_noise, cond: jnp.zeros((*x.shape, 4)), None, MASKS)
row("jd.Product", jd.Product, parts=[{}, (), *says("part", T({"a": 3}), T([None]), T("ab"), T([jd.VP]))])
row("jd.perturb of tokens", jd.perturb, {"key": KEY, "process": MASKS, "x0": TOKENS, "t": 0.5}, x0=NO_TOKENS, t=TIME)
JOINT_PROCESS = jd.Product({"x": VP, "y": MASKS})
JOINT_X = {"x": X, "y": TOKENS}
row("jd.perturb of a product", jd.perturb, {"key": KEY, "process": JOINT_PROCESS, "x0": JOINT_X, "t": 0.5},
    x0=[X, {"x": X}, {"x": X, "z": TOKENS}, {"x": X, "y": TOKENS + 4}, {"x": HOLES, "y": TOKENS}, {"x": X[:2],
    "y": TOKENS}, T({"x": X, "y": X}), T({"x": TOKENS, "y": TOKENS})], t=TIME)
JOINT = jd.Denoiser(lambda params, x, c_noise, cond: {"x": x["x"], "y": jnp.zeros((*x["y"].shape, 4))}, None,
    JOINT_PROCESS)
row("jd.Given", jd.Given, {"denoiser": JOINT, "names": "y"}, denoiser=A_DENOISER + [T(EXACT)], names=["z", (), ("x",
    "y"), T(3), T(None)])
BESIDE = jd.Denoiser(lambda params, x, c_noise, cond: x, None, jd.Product({"a": VP, "b": VP}))
row("jd.denoisers.SideBySide", jd.denoisers.SideBySide, {"denoiser": BESIDE, "sizes": {"a": 1, "b": 2}},
    denoiser=A_DENOISER + [T(EXACT)], sizes=[{"a": 1}, {"a": 0, "b": 1}, T(3), T(None), T({"a": 1.5, "b": 1})])
row("jd.forward_sde", jd.forward_sde, {"process": VP, "t": 0.5}, process=PROCESS, t=TIME)
row("jd.VP marginal", VP.marginal, t=TIME)
row("jd.VP time_at_log_snr", VP.time_at_log_snr, log_snr=[NAN, T("0"), T(None), T(True)])
row("jd.VP time_at_angle", VP.time_at_angle, angle=[NAN, INF, T("0"), T(None)])
row("jd.perturb", jd.perturb, {"key": KEY, "process": VP, "x0": X, "t": 0.5}, key=ONE_KEY, process=PROCESS, x0=BATCH,
    t=TIME_OF_X)
ENDS = {"process": VP, "s": 0.2, "t": 0.8}
row("jd.transition", jd.transition, ENDS, process=PROCESS, s=[0.9, np.array([0.1, 0.9]), *TIME], t=[0.1, *TIME])
row("jd.posterior", jd.posterior, ENDS, process=PROCESS, s=[0.9, np.array([0.1, 0.9]), *TIME], t=[0.1, *TIME])
row("jd.pytree", jd.pytree, {}, cls=[T(None), T(VP), T("VP"), T(int)])

# grids
for name in ("Time", "Angle", "LogSNR", "Kept", "Karras"):
    good = {"process": VP, "steps": 4}
    ends = {"t_start": [*ONE_TIME[:-1], np.full(3, 0.5)], "t_end": [1.0, 2.0, NAN, T("0"), np.zeros(3)]}
    row(f"jd.grids.{name} called", getattr(jd.grids, name)(), good, process=PROCESS, steps=[*COUNT, HUGE], **ends)
row("jd.grids.Karras", jd.grids.Karras, rho=POSITIVE)

# denoisers
GOOD = {"network": NETWORK, "params": None, "process": VP}
row("jd.Denoiser", jd.Denoiser, GOOD, network=FUNCTION, process=PROCESS, parameterization=["eps", 1, ["v"]],
    data_std=[v for v in POSITIVE if not (isinstance(v, T) and v.value is None)], learned_variance=FLAG,
    params=[T({"w": "a"}), T([np.array(["a"])]), T({"w": np.array([None])})])
row("jd.Denoiser called", DENOISER, {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
WRONG_NETWORK = {"shape": lambda p, x, c, y: x[:, :1], "tuple": lambda p, x, c, y: (x, x), "none": lambda *_: None,
    "whole": lambda p, x, c, y: x.astype(int), "complex": lambda p, x, c, y: x + 0j}
row("jd.Denoiser of a network that returns something else", lambda kind: jd.Denoiser(WRONG_NETWORK[kind], None, VP)(X,
    0.5), kind=says("the network returned", "shape", T("tuple"), T("none"), T("whole"), T("complex")))
row("jd.Denoiser data_std", lambda data_std: jd.Denoiser(NETWORK, None, VP, data_std=data_std)(X, 0.5),
    data_std=[np.ones(2), np.ones((3, 1))])
row("jd.Bridge", jd.Bridge, {"network": NETWORK, "params": None}, network=FUNCTION, params=[T({"w": "a"})],
    sigma=NOT_NEGATIVE, data_std=POSITIVE)
row("jd.Bridge called", BRIDGE, {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
row("jd.Bridge of a network that returns something else", lambda out: jd.Bridge(lambda *_: out, None)(X, 0.5),
    out=says("the network returned", T(None), X, (X, X[:2]), (X, None)))
row("jd.OnProcess", jd.OnProcess, {"denoiser": EXACT, "process": VP}, denoiser=A_DENOISER, process=PROCESS)
row("jd.OnProcess called", jd.OnProcess(EXACT, jd.VE()), {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
BOTH = jd.denoisers.WithProcess(jd.Denoiser(NETWORK, jnp.ones(1), jd.LearnedVP()))
row("jd.denoisers.WithProcess", jd.denoisers.WithProcess, denoiser=[*A_DENOISER, *says("nothing to learn", T(DENOISER)),
    *says("with `params` to train", T(EXACT))])
row("jd.denoisers.WithProcess called", BOTH, {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
row("jd.score", jd.score, {"denoiser": EXACT, "x": X, "t": 0.5}, denoiser=A_DENOISER, x=NO_BATCH, t=TIME_OF_X)
ENERGY = jd.Denoiser(jd.denoisers.Gradient(jd.denoisers.InnerProduct(NETWORK)), None, VP)
row("jd.energy", jd.energy, {"denoiser": ENERGY, "x": X, "t": 0.5}, denoiser=[T(DENOISER), *A_DENOISER], x=NO_BATCH,
    t=TIME_OF_X)
row("jd.denoisers.Gradient", jd.denoisers.Gradient, potential=FUNCTION)
row("jd.denoisers.Gradient of a potential that returns something else",
    lambda value: jd.denoisers.Gradient(lambda *_: value)(None, jnp.asarray(X), 0.0),
    value=says("the potential returned", jnp.zeros(()), jnp.zeros((3, 2)), T(None), T(0.0)))
row("jd.denoisers.InnerProduct", jd.denoisers.InnerProduct, network=FUNCTION)
row("jd.denoisers.Swapped", jd.denoisers.Swapped, bridge=[T(None), T("b"), T(jd.Bridge), T(EXACT)])
row("jd.denoisers.ToData", jd.denoisers.ToData, bridge=[T(None), T("b"), T(jd.Bridge), T(EXACT)])
row("jd.denoisers.ToData called", jd.denoisers.ToData(BRIDGE), {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
row("jd.denoisers.angular_velocity", jd.denoisers.angular_velocity, {"denoiser": EXACT, "x": X, "t": 0.5},
    denoiser=A_DENOISER, x=NO_BATCH, t=TIME)
row("jd.processes.row", jd.processes.row, {"name": "v", "process": VP, "t": 0.5}, name=says("parameterization", "eps",
    None, 3), process=PROCESS, t=TIME)
row("jd.Prediction.with_variance", PREDICTION.with_variance, variance=CHOICE)

GAUSSIAN = {"process": VP, "mean": np.zeros(2), "covariance": np.eye(2)}
row("jd.exact.Gaussian", exact.Gaussian, GAUSSIAN, process=PROCESS, mean=[0.0, np.zeros((1, 2)), np.array([0, NAN]),
    T("0"), T(None), T(np.ones(2, bool))], covariance=[-np.eye(2), np.eye(3), np.ones(2), np.array([[1.0, 2.0], [0.0,
    1.0]]), np.full((2, 2), NAN), T("eye"), T(None)])
MIXTURE = {"process": VP, "weights": np.ones(2), "means": np.zeros((2, 2)), "covariances": np.stack([np.eye(2)] * 2)}
row("jd.exact.Mixture", exact.Mixture, MIXTURE, process=PROCESS, weights=[np.array([1.0, -1.0]), np.zeros(2),
    np.ones(3), np.array([1, NAN]), T("1"), T(None)], means=[np.zeros(2), np.zeros((3, 2)), np.full((2, 2), INF),
    T("0"), T(None)], covariances=[np.eye(2), np.full((2, 2, 2), NAN), T(None)])
row("jd.exact.Mixture called", exact.Mixture(**MIXTURE), {"x": X, "t": 0.5}, x=[np.zeros((3, 4)), *NO_BATCH],
    t=TIME_OF_X, cond=says("", 2, -1, np.array([0, 1, 5]), np.zeros(2, int), T(0.5), T(np.zeros(3))))
row("jd.exact.Mixture log_prob", EXACT.log_prob, {"x": X}, x=[np.zeros((3, 4)), *NO_BATCH], t=TIME_OF_X)
row("jd.exact.Empirical", exact.Empirical, {"process": VP, "data": X}, process=PROCESS, data=BATCH)
EXACT_TABLE = exact.Table(MASKS, np.full((4, 4), 1 / 16))
CHAIN = exact.Markov(MASKS, np.full(4, 0.25), np.full((4, 4), 0.25))
NO_LAW = [np.full((4, 4), 0.25) - np.eye(4), np.full((4, 4), 0.24), np.ones(3), np.full((4, 4), NAN), T("a"), T(None)]
OF_NUMBERS = [T(VP), *PROCESS]
row("jd.exact.Table", exact.Table, {"process": MASKS, "table": np.full(4, 0.25)}, process=OF_NUMBERS,
    table=[np.float64(1.0), *NO_LAW])
row("jd.exact.Table called", EXACT_TABLE, {"x": TOKENS, "t": 0.5}, x=[TOKENS[:, :1], TOKENS - 1, TOKENS + 5, T(X),
    T(None)], t=TIME_OF_X, cond=[0])
row("jd.exact.Table log_prob", EXACT_TABLE.log_prob, {"x0": TOKENS}, x0=[*says("x has events", TOKENS[:, :1]),
    *NO_TOKENS])
row("jd.exact.Table draw", EXACT_TABLE.draw, {"key": KEY, "count": 3}, key=KEYS, count=COUNT)
row("jd.exact.Markov", exact.Markov, {"process": MASKS, "initial": np.full(4, 0.25), "transition": np.full((4, 4),
    0.25)}, process=OF_NUMBERS, initial=[np.full(4, 0.2), np.array([1.5, -0.5, 0, 0]), np.ones((4, 4)), T("a")],
    transition=NO_LAW)
row("jd.exact.Markov called", CHAIN, {"x": TOKENS, "t": 0.5}, x=[TOKENS - 1, TOKENS + 5, T(X), T(None)], t=TIME_OF_X,
    cond=[0])
row("jd.exact.Markov log_prob", CHAIN.log_prob, {"x0": TOKENS}, x0=NO_TOKENS)
row("jd.exact.Markov entropy", CHAIN.entropy, {"length": 3}, length=COUNT)
row("jd.exact.Markov draw", CHAIN.draw, {"key": KEY, "count": 3, "length": 2}, key=KEYS, count=COUNT, length=COUNT)
row("jd.exact.Empirical of tokens", exact.Empirical, {"process": MASKS, "data": TOKENS}, data=NO_TOKENS)
row("jd.exact.Empirical of tokens called", exact.Empirical(MASKS, TOKENS), {"x": TOKENS, "t": 0.5}, x=[TOKENS[:, :1],
    T(X)], t=TIME_OF_X, cond=[0])
row("jd.exact.Empirical called", exact.Empirical(VP, X), {"x": X, "t": 0.5}, x=[np.zeros((3, 4)), *NO_BATCH],
    t=TIME_OF_X)

OF_THREE = jd.NoisyClassifier(lambda params, x, c_noise: x @ params, np.ones((2, 3), np.float32), VP)
NO_LABELS = [3, -1, np.array([0, 1, 3]), T(0.5), T(np.zeros(3))]
row("jd.NoisyClassifier", jd.NoisyClassifier, GOOD | {"network": lambda params, x, c_noise: x}, network=[T(NETWORK),
    *FUNCTION], process=PROCESS, params=[T({"w": "a"})],
    data_std=[v for v in POSITIVE if not (isinstance(v, T) and v.value is None)])
row("jd.NoisyClassifier called", OF_THREE, {"x": X, "t": 0.5, "cond": 0}, x=NO_BATCH, t=TIME_OF_X,
    cond=says("", *NO_LABELS))
row("jd.NoisyClassifier clean", OF_THREE.clean, {"x0": X}, cond=says("", *NO_LABELS))
row("jd.NoisyClassifier of a network that returns something else", lambda out: jd.NoisyClassifier(lambda *_: out, None,
    VP).logits(X, 0.5), out=says("the network returned", X[:2], X[:, 0], X.astype(int), None))

# guidance
row("jd.guidance.Interval", guidance.Interval, {"scale": 2.0}, scale=NUMBER, low=[-1.0, NAN, *NO_NUMBER], high=[0.0,
    -1.0, NAN, *NO_NUMBER])
row("jd.guidance.Interval empty", guidance.Interval, {"scale": 2.0, "high": 0.5}, low=[0.5, 1.0])
row("jd.guidance.ClassifierFree", guidance.ClassifierFree, {"denoiser": EXACT}, denoiser=A_DENOISER, scale=NUMBER)
row("jd.guidance.ClassifierFree more", guidance.ClassifierFree, {"denoiser": EXACT, "null": {"a": 0, "b": np.ones(2)}},
    null=[T("none"), T({"a": "none"})], free=[exact.Gaussian(jd.VE(), np.zeros(2), np.eye(2)),
    *(v for v in A_DENOISER if v.value is not None)], rescale=[1.5, -0.1, *NUMBER],
    scale=[{}, {3: 1.0}, {"tokens": 1.0, "token_mask": 1.0}, *says("scale['a']", {"a": NAN}, {"a": np.ones(3)},
    {"a": guidance.Interval(np.ones(3))}, T({"a": None}))])
row("jd.guidance.ClassifierFree by parts without a null", guidance.ClassifierFree, {"denoiser": EXACT},
    scale=says("null = None, but scale names a", {"a": 1.0}))
row("jd.guidance.ClassifierFree rescale of tokens", lambda rescale: guidance.ClassifierFree(jd.Denoiser(NETWORK, None,
    MASKS), 2.0, rescale=rescale), rescale=[T(0.5)])
PAIRED = {"a": np.zeros(3, int), "b": np.zeros((3, 2), np.float32)}
GUIDE = lambda null, cond=PAIRED, scale=2.0: guidance.ClassifierFree(DENOISER, scale, null).check_cond(cond)
row("jd.guidance.ClassifierFree null", GUIDE, {"null": {"a": 1, "b": np.zeros(2)}}, null=[0, {"a": 0}, {"a": 0,
    "b": np.zeros((3, 2))}, {"a": np.zeros(3, int), "b": np.zeros(2)}, T({"a": 0.5, "b": np.zeros(2)}), T({"a": True,
    "b": np.zeros(2)})], cond=[None, *says("null = {'a'", np.zeros(3, int), PAIRED | {"c": np.zeros(3)})])
row("jd.guidance.ClassifierFree null of parts", functools.partial(GUIDE, scale={"a": 1.0}), {"null": {"a": 1}},
    null=[0, {"b": np.zeros(2)}, {"a": 0, "c": 0}, {"a": np.zeros(2, int)}], cond=[None, *says("scale names a",
    np.zeros(3, int), {"b": np.zeros(3)})])
row("jd.guidance.ClassifierFree called", guidance.ClassifierFree(EXACT, 2.0), {"x": X, "t": 0.5, "cond": np.zeros(3,
    int)}, x=NO_BATCH, t=TIME_OF_X, cond=[None])
row("jd.guidance.ClassifierFree scale", lambda scale: guidance.ClassifierFree(EXACT, scale)(X, 0.5, 0),
    scale=[np.ones(2), np.ones((3, 1)), guidance.Interval(np.ones(2))])
row("jd.guidance.Auto", guidance.Auto, {"denoiser": EXACT, "weak": EXACT}, denoiser=A_DENOISER,
    weak=[exact.Gaussian(jd.VE(), np.zeros(2), np.eye(2)), *A_DENOISER], scale=NUMBER)
row("jd.guidance.Auto called", guidance.Auto(EXACT, EXACT), {"x": X, "t": 0.5}, x=NO_BATCH, t=TIME_OF_X)
row("jd.guidance.ClassifierFreePP", guidance.ClassifierFreePP, {"denoiser": EXACT}, denoiser=A_DENOISER, scale=[1.5,
    -0.1, *NUMBER], null=[T("none")], free=[exact.Gaussian(jd.VE(), np.zeros(2), np.eye(2)), T(VP)])
row("jd.guidance.ClassifierFreePP scale", lambda scale: guidance.ClassifierFreePP(EXACT, scale)(X, 0.5, 0),
    scale=[np.ones(2), np.ones((3, 1))])
LIKELIHOOD = lambda x, t, cond: x.sum(1)
CLASSIFIER = {"denoiser": EXACT, "log_likelihood": LIKELIHOOD}
for kind in (guidance.Classifier, guidance.TweedieClassifier):
    good = CLASSIFIER if kind is guidance.Classifier else CLASSIFIER | {"log_likelihood": OF_THREE.clean}
    takes = [T(OF_THREE.clean)] if kind is guidance.Classifier else [T(OF_THREE), T(LIKELIHOOD)]
    row(f"jd.guidance.{kind.__name__}", kind, good, denoiser=A_DENOISER, log_likelihood=[*FUNCTION, *takes],
        scale=NUMBER, conditional=FLAG)
    row(f"jd.guidance.{kind.__name__} of a function that returns something else", lambda out, kind=kind: kind(EXACT,
        lambda *_: out)(X, 0.5), out=says("log_likelihood returned", jnp.zeros(()), jnp.zeros((3, 2)), T(None),
        T(0.0)))
row("jd.guidance.StepClassifier", guidance.StepClassifier, CLASSIFIER, denoiser=A_DENOISER, log_likelihood=[*FUNCTION,
    T(OF_THREE.clean)], scale=NUMBER, conditional=FLAG)
row("jd.guidance.StepClassifier called", guidance.StepClassifier(EXACT, LIKELIHOOD), {"x": X, "t": 0.5}, x=NO_BATCH,
    t=TIME_OF_X)
row("jd.guidance.Classifier of another process", lambda log_likelihood: guidance.Classifier(exact.Gaussian(jd.VE(),
    np.zeros(2), np.eye(2)), log_likelihood), log_likelihood=[OF_THREE])
row("jd.guidance.Classifier cond", guidance.Classifier(EXACT, OF_THREE).check_cond, cond=[None, *says("label", -1),
    T(0.5)])
row("jd.guidance.Classifier called", guidance.Classifier(EXACT, LIKELIHOOD), {"x": X, "t": 0.5}, x=NO_BATCH,
    t=TIME_OF_X)
OF_TABLE = {"denoiser": EXACT_TABLE}
row("jd.guidance.Temperature", guidance.Temperature, OF_TABLE, denoiser=[T(EXACT), *A_DENOISER], tau=POSITIVE)
row("jd.guidance.TopK", guidance.TopK, OF_TABLE, denoiser=[T(EXACT), *A_DENOISER], k=[0, -1, 2.5, *NUMBER])
row("jd.guidance.Nucleus", guidance.Nucleus, OF_TABLE, denoiser=[T(EXACT), *A_DENOISER], p=[1.5, *POSITIVE])
row("jd.guidance.Temperature called", guidance.Temperature(EXACT_TABLE), {"x": TOKENS, "t": 0.5}, x=[TOKENS - 1, T(X),
    T(None)], t=TIME_OF_X)
row("jd.guidance.DynamicThreshold", guidance.DynamicThreshold, {"denoiser": EXACT}, denoiser=A_DENOISER, quantile=[1.5,
    99.5, -0.1, *NUMBER], bound=POSITIVE)
row("jd.guidance.DynamicThreshold called", guidance.DynamicThreshold(EXACT), {"x": X, "t": 0.5}, x=NO_BATCH,
    t=TIME_OF_X)
row("jd.guidance.DynamicThreshold bound", lambda bound: guidance.DynamicThreshold(EXACT, bound=bound)(X, 0.5),
    bound=[np.ones(2), np.ones((3, 1))])
SEEN = {"denoiser": EXACT, "operator": jnp.mean, "noise_std": 0.1}
row("jd.guidance.Observed", guidance.Observed, SEEN, denoiser=[T(BRIDGE), T(jd.denoisers.ToData(BRIDGE)),
    T(jd.denoisers.Swapped(BRIDGE)), *says("Observed takes processes of numbers", T(JOINT)), *A_DENOISER],
    operator=[T(lambda: 0), T(lambda x, a, b: x), *FUNCTION], noise_std=NOT_NEGATIVE, spread=[T(None), T("moment"),
    T(guidance.Moment), T(0.5)], scale=NUMBER)
row("jd.guidance.Observed by Point", guidance.Observed, SEEN | {"spread": guidance.Point()}, noise_std=POSITIVE)
row("jd.guidance.Observed called", guidance.Observed(EXACT, lambda x0: x0, 0.1), {"x": X, "t": 0.5, "cond": X},
    x=NO_BATCH, t=TIME_OF_X, cond=[*says("y has shape", X[:, :1], X[..., None], X[:, 0]), *says("cond has no y", None,
    {}, {"cond": 0}), *says("cond has the part", T({"y": X, "mask": X})), *says("y ", T(IMAGES), T("y"), T([[0.0],
    [1.0, 2.0]]), T(X + 0j)), *says("takes x0 alone", T({"y": X, "operator": X}))])
row("jd.guidance.Observed by parameters", guidance.Observed(EXACT, lambda x0, a: a * x0, 0.1), {"x": X, "t": 0.5,
    "cond": {"y": X, "operator": X}}, cond=says("takes its parameters too", T(X), T({"y": X})))
row("jd.guidance.Observed by what is no measurement", lambda out: guidance.Observed(EXACT, lambda x0: out, 0.1)(X, 0.5,
    X), out=says("operator returned", T(None), T((X, X)), T(X.astype(int)), T(X > 0)))
row("jd.guidance.Observed cond", guidance.Observed(EXACT, lambda x0: x0, 0.1).check_cond, cond=says("y", HOLES,
    np.full((3, 2), INF), {"y": HOLES}, {"cond": 0}, None, T(IMAGES), T({"y": "a"})))
row("jd.guidance.Observed numbers", lambda noise_std=0.1, scale=1.0: guidance.Observed(EXACT, lambda x0: x0, noise_std,
    scale=scale)(X, 0.5, X), noise_std=[np.ones(2), np.ones((3, 1))], scale=[np.ones(2), np.ones((3, 1))])
BY = lambda spread: guidance.Observed(EXACT, lambda x0: x0, 0.1, spread)(X, 0.5, X)
row("jd.guidance.Isotropic", guidance.Isotropic, data_std=POSITIVE)
row("jd.guidance.Isotropic called", lambda data_std: BY(guidance.Isotropic(data_std)), data_std=[np.ones(2)])
row("jd.guidance.Proximal", guidance.Proximal, weight=POSITIVE)
row("jd.guidance.Moment", guidance.Moment, iterations=COUNT)
row("jd.guidance.Prior", guidance.Prior, covariance=[np.ones(2), np.ones((2, 3)), -np.eye(2), np.array([[1, 0.5],
    [0, 1]]), np.array([[1, NAN], [NAN, 1]]), 1.0, T("diagonal"), T(None)])
row("jd.guidance.Prior called", lambda covariance: BY(guidance.Prior(covariance)), covariance=[np.eye(3)])
OPERATORS = guidance.operators
PICTURE = np.zeros((4, 6, 2), np.float32)
NO_PICTURE = [np.zeros(3, np.float32), np.zeros((4, 5, 2), np.float32)]
NO_MASK = [T(np.ones((4, 6, 1))), T("mask"), T(None), T([[True], [True, False]])]
row("jd.guidance.operators.mask", OPERATORS.mask, mask=NO_MASK)
row("jd.guidance.operators.mask called", lambda mask: OPERATORS.mask(mask)(PICTURE), mask=[np.ones((4, 6), bool),
    np.ones((1, 4, 6, 2), bool)])
row("jd.guidance.operators.masked", OPERATORS.masked, {"x0": PICTURE}, mask=[np.ones((2, 1), bool), *NO_MASK])
row("jd.guidance.operators.average", OPERATORS.average, factor=COUNT)
row("jd.guidance.operators.average called", OPERATORS.average(2), x0=NO_PICTURE)
KERNELS = [np.ones(3), np.ones((3, 3, 1)), np.ones((2, 3)), np.ones((5, 3))]
row("jd.guidance.operators.blur", OPERATORS.blur, kernel=[HOLES, T("blur"), T(None)])
row("jd.guidance.operators.blur called", lambda kernel: OPERATORS.blur(kernel)(PICTURE), kernel=KERNELS)
row("jd.guidance.operators.blurred", OPERATORS.blurred, {"x0": PICTURE, "kernel": np.ones((3, 3))}, kernel=KERNELS,
    x0=NO_PICTURE[:1])
row("jd.guidance.operators.quantise", OPERATORS.quantise, {"step": 0.1}, step=[np.ones((4, 4)), np.zeros((8, 8)), 0.0,
    -1.0, NAN, T("fine"), T(None)], block=COUNT)
row("jd.guidance.operators.quantise called", OPERATORS.quantise(0.1, 2), x0=NO_PICTURE)
row("jd.guidance.operators.quantise table", lambda step: OPERATORS.quantise(step, 2)(PICTURE), step=[np.ones(2)])
row("jd.guidance.operators.phase_retrieval", OPERATORS.phase_retrieval, oversampling=COUNT)
row("jd.guidance.operators.phase_retrieval called", OPERATORS.phase_retrieval(), x0=NO_PICTURE[:1])

# losses
row("jd.losses.times.Uniform", times.Uniform, t_min=[*RATIO, INF])
row("jd.losses.times.Stratified", times.Stratified, t_min=[*RATIO, INF])
row("jd.losses.times.Importance", times.Importance, t_min=[*RATIO, INF])
row("jd.losses.times.Importance called", times.Importance(0.0), {"key": KEY, "process": VP, "n": 4},
    process=says("t_min = 0.0", VP, jd.Flow()))
row("jd.losses.times.Fixed", times.Fixed, t=TIME)
row("jd.losses.times.LogNormal", times.LogNormal, mean=NUMBER, std=NOT_NEGATIVE)
row("jd.losses.times.LogitNormal", times.LogitNormal, mean=NUMBER, std=NOT_NEGATIVE)
row("jd.losses.times.Subsets", times.Subsets, times=[T(None), T("uniform")], hidden=[-0.1, 1.5, NAN, *NO_NUMBER])
row("jd.losses.times.Subsets called", times.Subsets(), {"key": KEY, "process": jd.Product([VP, VP]), "n": 4},
    process=says("parts of a product", VP), n=COUNT)
row("jd.losses.weightings.MinSNR", weightings.MinSNR, gamma=[0.0, -1, -1.0, NAN, *NO_NUMBER])
row("jd.losses.weightings.Sigmoid", weightings.Sigmoid, bias=NUMBER)
for weighting in (weightings.Simple(), weightings.EDM()):
    name = type(weighting).__name__
    row(f"jd.losses.weightings.{name} called", weighting, {"t": jnp.full(3, 0.5)}, denoiser=says("reads the", T(EXACT)))
row("jd.losses.weightings.Likelihood called", weightings.Likelihood(), {"denoiser": EXACT, "t": jnp.full(3, 0.5)},
    t=TIME)
row("jd.losses.couplings.Independent", couplings.Independent, source=[v for v in FUNCTION if v.value is not None])
row("jd.losses.couplings.Independent called", couplings.Independent(), {"key": KEY}, x0=NO_BATCH)
row("jd.losses.couplings.Independent source", lambda source: couplings.Independent(lambda key, n: source)(KEY, X),
    source=[np.zeros((3, 3)), np.zeros(3), X[:2]])
row("jd.losses.couplings.Paired called", couplings.Paired(), {"key": KEY}, pairs=[X, np.zeros((3, 3, 2)), np.zeros(2),
    T(None), T(np.zeros((3, 2, 2), int))])
row("jd.losses.couplings.OptimalTransport", couplings.OptimalTransport, pairs=FUNCTION)
row("jd.losses.couplings.Entropic", couplings.Entropic, sigma=[*POSITIVE, *ONE], pairs=FUNCTION, sweeps=COUNT)
BATCH_OF_LOSS = {"key": ONE_KEY, "x0": BATCH, "cond": COND}
LOSS = {"key": KEY, "x0": X}
row("jd.losses.Denoising", jd.losses.Denoising, weighting=FUNCTION, times=FUNCTION)
row("jd.losses.Denoising called", jd.losses.Denoising(), LOSS | {"denoiser": DENOISER}, denoiser=A_DENOISER,
    **BATCH_OF_LOSS)
row("jd.losses.Denoising times", lambda times: jd.losses.Denoising(times=lambda *_: times)(DENOISER, KEY, X),
    times=[(jnp.zeros(2), jnp.ones(3)), (0.5, 1.0)])
row("jd.losses.Denoising weighting", lambda weighting: jd.losses.Denoising(lambda *_: weighting)(DENOISER, KEY, X),
    weighting=[jnp.ones(2), jnp.ones((3, 1)), T(1.0)])
WEIGHT = [X[:, 0], np.full((3, 2), 0.5), np.full((3, 2), NAN), np.zeros((3, 2)) - 1, T("a"), T(np.full((3, 2), "a"))]
row("jd.losses.Denoising weight", jd.losses.Denoising(), LOSS | {"denoiser": DENOISER}, weight=WEIGHT)
row("jd.losses.Bound", jd.losses.Bound, times=FUNCTION)
row("jd.losses.Steps", jd.losses.Steps, steps=COUNT, grid=[*GRID, T(None)])
row("jd.losses.Steps called", jd.losses.Steps(3), LOSS | {"denoiser": DENOISER}, denoiser=A_DENOISER,
    **BATCH_OF_LOSS | {"weight": WEIGHT})
row("jd.losses.Sum", lambda term: jd.losses.Sum((jd.losses.Bound(), 1.0), term), term=[T(jd.losses.Bound()), T(None),
    T(()), T((jd.losses.Bound(),)), T(("bound", 1.0)), T((jd.losses.Bound(), "one")), T((jd.losses.Bound(), None)),
    (jd.losses.Bound(), NAN), *says("drops conditions", (jd.losses.ConditionDropout(jd.losses.Bound()), 1.0)),
    *says("the terms train", (jd.losses.BridgeMatching(), 1.0))])
row("jd.losses.AnyOrder called", jd.losses.AnyOrder(), {"key": KEY, "denoiser": OF_TOKENS, "x0": TOKENS}, denoiser=[
    *A_DENOISER, *says("takes masks", T(DENOISER))], key=ONE_KEY, x0=NO_TOKENS, cond=COND, weight=WEIGHT)
row("jd.losses.ConditionDropout", jd.losses.ConditionDropout, {"loss": jd.losses.Denoising()}, loss=[*FUNCTION, *says(
    "drops conditions itself", jd.losses.ConditionDropout(jd.losses.Denoising()))], rate=[1.5, -0.1, {}, {"label": 1.1},
    {"token_mask": 0.1}, *NUMBER, *ONE], null=[NAN, {"tokens": HOLES}, T("none"), T({"label": "none"})])
row("jd.losses.ConditionDropout called", jd.losses.ConditionDropout(jd.losses.Denoising(), 3), LOSS | {"denoiser":
    DENOISER, "cond": np.arange(3) % 2}, denoiser=A_DENOISER, **BATCH_OF_LOSS | {"cond": [None, *COND]})
row("jd.losses.ScoreMatching", jd.losses.ScoreMatching, times=FUNCTION)
row("jd.losses.ScoreMatching called", jd.losses.ScoreMatching(), LOSS | {"denoiser": EXACT}, denoiser=A_DENOISER,
    **BATCH_OF_LOSS)
row("jd.losses.SlicedScoreMatching", jd.losses.SlicedScoreMatching, times=FUNCTION, projections=COUNT,
    directions=CHOICE, variance_reduced=FLAG)
row("jd.losses.Hybrid", jd.losses.Hybrid, weight=NOT_NEGATIVE, steps=[1, *COUNT], grid=[*GRID, T(None)],
    weighting=FUNCTION)
row("jd.losses.Hybrid called", jd.losses.Hybrid(steps=4), LOSS | {"denoiser": EXACT}, denoiser=[*says("predicts none",
    EXACT), *A_DENOISER], **BATCH_OF_LOSS)
row("jd.losses.Classification", jd.losses.Classification, times=[*FUNCTION, T("uniform")])
row("jd.losses.Classification called", jd.losses.Classification(), LOSS | {"denoiser": OF_THREE, "cond": 0},
    denoiser=[*says("classifier", T(DENOISER)), *A_DENOISER], key=ONE_KEY, x0=BATCH, cond=[*says("label", 3, -1), *says(
    "cond = None", None), *COND])
row("jd.losses.LeastVariance", jd.losses.LeastVariance, loss=FUNCTION)
row("jd.losses.LeastVariance called", jd.losses.LeastVariance(jd.losses.Denoising()), LOSS | {"denoiser": BOTH},
    denoiser=[T(DENOISER), *A_DENOISER], **BATCH_OF_LOSS)
row("jd.losses.FlowMatching", jd.losses.FlowMatching, coupling=FUNCTION, sigma=NOT_NEGATIVE, times=FUNCTION)
row("jd.losses.FlowMatching called", jd.losses.FlowMatching(), LOSS | {"denoiser": DENOISER}, denoiser=A_DENOISER,
    **BATCH_OF_LOSS)
row("jd.losses.FlowMatching sigma", lambda sigma: jd.losses.FlowMatching(sigma=sigma)(DENOISER, KEY, X),
    sigma=[np.ones(2), np.ones((3, 1))])
row("jd.losses.FlowMatching coupling", lambda coupling: jd.losses.FlowMatching(lambda *_: coupling)(DENOISER, KEY, X),
    coupling=[X, (X, X[:2]), None])
row("jd.losses.BridgeMatching", jd.losses.BridgeMatching, coupling=[T("ot"), T(jd.VP), T(3)], times=FUNCTION)
row("jd.losses.BridgeMatching called", jd.losses.BridgeMatching(), LOSS | {"bridge": BRIDGE}, bridge=[T(EXACT),
    *A_DENOISER], **BATCH_OF_LOSS)

# samplers
ORDER = [0, 4, -1, T(2.5), T("2"), T(None), T(True)]
row("jd.samplers.Each", jd.samplers.Each, samplers=says("", T({"a": jd.samplers.Heun()}), T({"a": 3}), T(None),
    T([])))
row("jd.samplers.DDIM", jd.samplers.DDIM, eta=[1.5, -0.1, *NUMBER])
row("jd.samplers.Ancestral", jd.samplers.Ancestral, variance=CHOICE, remask=[1.5, -0.1, *(v for v in NUMBER if not (
    isinstance(v, T) and v.value is None))])
row("jd.samplers.Ancestral remask of no masks", jd.samplers.Ancestral(remask=0.5).check_process,
    process=says("remask takes masks", T(VP), T(jd.Multinomial(4))))
row("jd.samplers.TauLeaping", jd.samplers.TauLeaping, correct=[v for v in COUNT if isinstance(v, T)] + [-1])
row("jd.samplers.TauLeaping of numbers", jd.samplers.TauLeaping().check_process, process=[T(VP), T(JOINT_PROCESS)])
row("jd.samplers.Unmask", jd.samplers.Unmask, order=CHOICE, block=[v for v in COUNT if not (isinstance(v, T) and v.value
    is None)])
row("jd.samplers.Unmask of no masks", jd.samplers.Unmask().check_process,
    process=says("Unmask takes masks", T(VP), T(jd.Multinomial(4)), T(JOINT_PROCESS)))
row("jd.samplers.EulerMaruyama", jd.samplers.EulerMaruyama, noise=NOT_NEGATIVE)
row("jd.samplers.ReverseSDE", jd.samplers.ReverseSDE, noise=NOT_NEGATIVE, solver=[T("sra1"), T(diffrax.SRA1),
    T(diffrax.Dopri5())])
row("jd.samplers.Heun", jd.samplers.Heun, churn=NOT_NEGATIVE, s_min=NOT_NEGATIVE, s_max=[-1.0, NAN, *NO_NUMBER],
    s_noise=NOT_NEGATIVE)
row("jd.samplers.Heun without levels", jd.samplers.Heun, {"s_max": 0.5}, s_min=[1.0])
row("jd.samplers.DPMSolverPP", jd.samplers.DPMSolverPP, order=ORDER, sde=FLAG)
row("jd.samplers.UniPC", jd.samplers.UniPC, order=ORDER)
row("jd.samplers.PredictorCorrector", jd.samplers.PredictorCorrector, predictor=SAMPLER,
    corrector_steps=[v for v in COUNT if isinstance(v, T)] + [-1], snr=[1.0, 2.0, *NOT_NEGATIVE])
row("jd.samplers.AnnealedLangevin", jd.samplers.AnnealedLangevin, epsilon=[4.0, *NOT_NEGATIVE],
    steps_per_level=[v for v in COUNT if isinstance(v, T)] + says("corrector_steps", -1))
row("jd.samplers.ProbabilityFlow", jd.samplers.ProbabilityFlow, solver=SOLVER, rtol=TOLERANCE,
    atol=TOLERANCE, adjoint=[T("forward"), T(diffrax.ForwardMode), T(3)])
row("jd.samplers.ProbabilityFlow without tolerances", jd.samplers.ProbabilityFlow, {"rtol": 0.0}, atol=[0.0, 0, 1e-300])
row("jd.samplers.Switch", jd.samplers.Switch, {"first": jd.samplers.DDIM(), "second": jd.samplers.DDIM()},
    first=SAMPLER, second=SAMPLER, t=TIME)
row("jd.samplers.RePaint", jd.samplers.RePaint, repeats=COUNT, jump=COUNT, sampler=[*SAMPLER,
    *says("is adaptive", T(jd.samplers.ProbabilityFlow())), *says("looks back", T(jd.samplers.DPMSolverPP()),
    T(jd.samplers.UniPC(1)), T(jd.samplers.Switch(jd.samplers.DDIM(), jd.samplers.DPMSolverPP()))),
    *says("known and mask", T(jd.samplers.RePaint()))])
row("jd.samplers.LinearDraw", jd.samplers.LinearDraw, iterations=COUNT)
row("jd.samplers.LangevinDraw", jd.samplers.LangevinDraw, steps=COUNT, size=[4.0, *POSITIVE])
row("jd.samplers.DAPS", jd.samplers.DAPS, {"operator": lambda x0: x0, "noise_std": 0.1}, noise_std=NOT_NEGATIVE,
    operator=[T(None), T("mask"), T(lambda: 0), T(lambda x0, a, b: x0)], steps=COUNT, data_std=[0.0, -1.0, NAN,
    *NO_NUMBER], inner=[T("langevin"), T(None), T(jd.samplers.LinearDraw)])
row("jd.samplers.DAPS by Langevin steps", jd.samplers.DAPS, {"operator": lambda x0: x0, "inner":
    jd.samplers.LangevinDraw()}, noise_std=POSITIVE)
row("jd.sample by DAPS", lambda cond=X, denoiser=EXACT: jd.sample(KEY, denoiser, (3, 2),
    jd.samplers.DAPS(lambda x0: x0, 0.1), 2, cond), cond=says("y", np.zeros((3, 3), np.float32),
    T(IMAGES), None, {"cond": X}) + says("z", T({"y": X, "z": X})) + says("operator", T({"y": X, "operator": X})) +
    says("cond", X[:2], HOLES), denoiser=says("bridge", T(BRIDGE)))
row("jd.sample by DAPS of pure noise", lambda process: jd.sample(KEY, jd.exact.Gaussian(process, np.zeros(2),
    np.eye(2)), (3, 2), jd.samplers.DAPS(lambda x0: x0, 0.1), 2, X), process=says("alpha(1.0) = 0",
    jd.Flow(), jd.Cosine()))
SEEN_BY = guidance.Observed(EXACT, lambda x0: x0, 0.1)
NO_OBSERVED = [T(EXACT), T(None), T(guidance.Observed)]
row("jd.samplers.estimate_noise", jd.samplers.estimate_noise, {"key": KEY, "observed": SEEN_BY, "shape": (3, 2),
    "cond": X}, key=KEYS, rounds=COUNT, observed=says("noise_std", dataclasses.replace(SEEN_BY, noise_std=0.0),
    dataclasses.replace(SEEN_BY, noise_std=np.ones(3))) + NO_OBSERVED, sampler=SAMPLER, steps=COUNT, cond=says("cond",
    HOLES, X[:2]))
row("jd.likelihood.log_evidence", jd.likelihood.log_evidence, {"key": KEY, "observed": SEEN_BY, "x0": X, "cond": X},
    key=KEYS, x0=BATCH, observed=says("scale", dataclasses.replace(SEEN_BY, scale=0.5), dataclasses.replace(SEEN_BY,
    scale=guidance.Interval(1.0))) + NO_OBSERVED, flow=FLOW, trace=TRACE, t_min=ONE_TIME, precision=PRECISION,
    cond=says("cond", HOLES, X[:2]))
row("jd.likelihood.log_evidence without noise", jd.likelihood.log_evidence, {"key": KEY, "x0": X, "cond": X},
    observed=says("noise_std", dataclasses.replace(SEEN_BY, noise_std=0.0)))
row("jd.sample by RePaint", lambda denoiser=EXACT, **cond: jd.sample(KEY, denoiser, (3, 2), jd.samplers.RePaint(), 2,
    cond.get("cond", {"known": X, "mask": X == 0, **cond})), known=[*BATCH, np.zeros((3, 3))],
    mask=[T(X), T(None), T([[1, 0]]), np.ones((2, 2), bool), np.ones((3, 2, 1), bool)], other=says("cond", T(X)),
    cond=says("cond", T(None), T(X), T({"known": X}), T({"mask": X > 0})), denoiser=says("bridge", T(BRIDGE)))
row("jd.samplers.Switch of samplers of other conditions", jd.samplers.Switch, {"first": jd.samplers.DDIM()},
    second=says("first reads no part of cond itself, second known and mask", jd.samplers.RePaint()))
row("jd.sample", jd.sample, {"key": KEY, "denoiser": EXACT, "shape": (3, 2)}, key=KEYS, denoiser=A_DENOISER,
    sampler=SAMPLER, steps=[*COUNT, HUGE], shape=[(0, 2), (3,), (), (3, -2), (HUGE, 2), T(3), T((3.0, 2)), T("3, 2"),
    T(None), T((3, "2")), T(np.ones((2, 2)))], cond=COND, grid=GRID, t_start=ONE_TIME, t_end=[1.0,
    *(v for v in ONE_TIME if not (isinstance(v, T) and v.value is None))], x_start=[np.zeros((2, 2)),
    *(v for v in BATCH if not (isinstance(v, T) and v.value is None))], trajectory=FLAG, precision=PRECISION)
row("jd.sample of more than memory holds", jd.sample, {"key": KEY, "denoiser": EXACT, "trajectory": True,
    "steps": 10**12}, shape=says("GiB", (3, 2)))
ARRAYS = [jd.samplers.DDIM(np.ones(3)), jd.samplers.EulerMaruyama(np.ones(3)),
    jd.samplers.ReverseSDE(noise=np.ones(3)), jd.samplers.Heun(np.ones(3)),
    jd.samplers.PredictorCorrector(snr=np.ones(3) / 2), jd.samplers.AnnealedLangevin(2, np.ones(3)),
    jd.samplers.Heun(s_noise=np.ones(3)), jd.samplers.Switch(jd.samplers.DDIM(), jd.samplers.DDIM(), np.ones(3) / 2),
    jd.samplers.PredictorCorrector(jd.samplers.DDIM(np.ones(2)))]
row("jd.sample of numbers one an example", jd.sample, {"key": KEY, "denoiser": EXACT, "shape": (3, 2), "t_start": 0.9},
    sampler=ARRAYS)
row("jd.sample of a process of numbers one an example", jd.sample, {"key": KEY, "shape": (3, 2)},
    denoiser=says("process.beta_max", jd.Denoiser(NETWORK, None, jd.VP(0.1, np.full(3, 20.0)))))
ANSWERS = [*says("the denoiser's answer", T("x"), T((X, X)), T(None)),
    *says("the denoiser (data) returned", jd.Prediction(X[:, :1], X)),
    *says("the denoiser (noise) returned", jd.Prediction(X, X[:1]))]
WRAPPERS = {"": lambda own: own, " under guidance": jd.guidance.ClassifierFree, " as weak": lambda own:
    jd.guidance.Auto(EXACT, own), " under a classifier": lambda own: jd.guidance.Classifier(own, lambda x, *_: x[:, 0]),
    " on another process": lambda own: jd.guidance.DynamicThreshold(jd.OnProcess(own, jd.Flow()))}
ENTRIES = {"jd.sample": lambda model: jd.sample(KEY, model, (3, 2), cond=0), "jd.log_likelihood": lambda model:
    jd.log_likelihood(KEY, model, X, cond=0), "jd.continuous_bound": lambda model: jd.continuous_bound(KEY, model,
    IMAGES, 1, cond=0), "jd.invert": lambda model: jd.invert(model, X, cond=0)}
for entry, run in ENTRIES.items():
    for wrapper, wrap in WRAPPERS.items():
        row(f"{entry} of own denoisers{wrapper}", functools.partial(lambda run, wrap, answer: run(wrap(OWN(answer))),
            run, wrap), answer=ANSWERS)
PLAIN = type("Plain", (), {"process": VP, "__call__": lambda self, x, t, cond=None: PREDICTION})()
row("jd.sample of a denoiser that is no pytree", jd.sample, {"key": KEY, "shape": (3, 2)},
    denoiser=says("Plain is no pytree", T(PLAIN)))
row("jd.samplers.draw", jd.samplers.draw, {"key": KEY, "denoiser": EXACT, "shape": (3, 2)}, key=KEYS,
    denoiser=A_DENOISER, batch_size=COUNT, shape=[(0, 2), (3,), T(3), T((3.0, 2)), T(None)], cond=COND, mesh=MESH,
    progress=FLAG, steps=[0], sampler=SAMPLER)
row("jd.invert", jd.invert, {"denoiser": EXACT, "x0": X}, denoiser=A_DENOISER, x0=BATCH,
    sampler=[jd.samplers.Ancestral(), *SAMPLER], steps=[*COUNT, HUGE], cond=COND, grid=GRID, t_min=[1.0, *ONE_TIME],
    t_max=[1e-5, *ONE_TIME])
row("jd.encode", jd.encode, {"denoiser": EXACT, "x0": X}, denoiser=A_DENOISER, x0=BATCH, cond=COND, t_min=ONE_TIME,
    flow=FLOW)
row("jd.decode", jd.decode, {"denoiser": EXACT, "z": X}, denoiser=A_DENOISER, z=BATCH, cond=COND, t_min=ONE_TIME,
    flow=FLOW)
row("jd.cross", jd.cross, {"key": KEY, "bridge": BRIDGE, "x": X}, key=KEYS, bridge=[T(EXACT), *A_DENOISER], x=BATCH,
    to=CHOICE, steps=COUNT, cond=COND, grid=GRID, trajectory=FLAG)
row("jd.cross of a bridge of numbers one an example", jd.cross, {"key": KEY, "x": X}, bridge=says("sigma",
    jd.Bridge(BRIDGE.network, None, np.ones(3))))
row("jd.samplers.forward_paths", jd.samplers.forward_paths, {"key": KEY, "process": VP, "x0": X, "steps": 4}, key=KEYS,
    process=[*says("process.beta_max", jd.VP(0.1, np.full(3, 20.0))), *PROCESS], x0=BATCH, steps=[*COUNT, *says("GiB",
    HUGE)], t_start=[1.0, *ONE_TIME], t_end=[0.0, *ONE_TIME])
row("jd.samplers.langevin", jd.samplers.langevin, {"key": KEY, "score": lambda x: -x, "x_start": X, "step_size": 0.1,
    "steps": 4}, key=KEYS, score=FUNCTION, x_start=BATCH, step_size=[np.ones(2), np.ones((3, 1)), *POSITIVE],
    steps=COUNT, trajectory=FLAG)
row("jd.samplers.langevin of a score that returns something else", lambda out: jd.samplers.langevin(KEY, lambda x: out,
    X, 0.1, 2), out=says("score returned", X[:, 0], T(None), T(0.0)))

# likelihood
row("jd.log_likelihood", jd.log_likelihood, {"key": KEY, "denoiser": EXACT, "x0": X}, key=KEYS,
    denoiser=[*says("process.beta_max", jd.Denoiser(NETWORK, None, jd.VP(0.1, np.full(3, 20.0)))), *A_DENOISER],
    x0=BATCH, cond=COND, flow=FLOW, trace=[jd.likelihood.HutchPP(2), jd.likelihood.XTrace(2), *TRACE], t_min=ONE_TIME,
    source=[v for v in FUNCTION if v.value is not None], precision=PRECISION)
POSTERIOR = {"key": KEY, "denoiser": exact.Mixture(**MIXTURE), "x": X, "classes": 2}
row("jd.likelihood.class_posterior", jd.likelihood.class_posterior, POSTERIOR, key=KEYS, denoiser=A_DENOISER, x=BATCH,
    classes=[1, 0, [0], [0, np.zeros(2)], {"a": np.zeros(2), "b": np.zeros(3)}, T(2.0), T("two"), T(None), T(["a",
    "b"]), *says("label 2", 3, [0, 2])], prior=[np.ones(3), np.zeros(2), np.array([0.5, -0.5]), np.array([NAN, 1]), 1.0,
    T("uniform"), T([None, 1])], flow=FLOW, trace=TRACE, t_min=ONE_TIME, batch_size=COUNT, progress=FLAG, mesh=MESH,
    precision=PRECISION)
for kind in (jd.likelihood.Hutchinson, jd.likelihood.HutchPP, jd.likelihood.XTrace):
    row(f"jd.likelihood.{kind.__name__}", kind, probes=[T(1.5), *COUNT])
row("jd.log_likelihood source", lambda source: jd.log_likelihood(KEY, EXACT, X, source=lambda x: source),
    source=[jnp.zeros(()), jnp.zeros((1, 2))])
row("jd.log_likelihood of a scale one an example", jd.log_likelihood, {"key": KEY, "x0": X, "cond": 0},
    denoiser=says("scale has shape", guidance.ClassifierFree(EXACT, np.ones(3))))
row("jd.dequantize", jd.dequantize, {"key": KEY, "images": IMAGES}, key=KEYS, images=[T(X), T(None), T("a"),
    IMAGES.astype(int) - 1, IMAGES.astype(int) + 256], levels=[1, *COUNT])
row("jd.quantize", jd.quantize, {"x": X}, x=[HOLES, T(None), T("a"), T(IMAGES), T(X + 0j)], levels=[1, *COUNT])
BITS = {"key": KEY, "denoiser": EXACT, "images_uint8": IMAGES}
NO_IMAGES = says("images", T(X), T(None), T("a"), IMAGES.astype(int) - 1, IMAGES.astype(int) + 256, IMAGES[:0],
    IMAGES[:, 0], T(IMAGES > 0))
row("jd.bits_per_dim", jd.bits_per_dim, BITS, key=KEYS, denoiser=A_DENOISER, images_uint8=NO_IMAGES,
    dequantization_samples=COUNT, levels=[1, *COUNT], batch_size=COUNT, cond=COND, progress=FLAG, target_error=[0.0,
    -1.0, NAN, T("small"), T(True)], budget=[-1, T(1.5), T("all"), T(None)], dequantizer=FUNCTION, mesh=MESH,
    flow=FLOW, trace=TRACE, t_min=ONE_TIME, precision=PRECISION)
BOUND = {"key": KEY, "denoiser": EXACT, "data": IMAGES}
SOME = [v for v in COUNT if not (isinstance(v, T) and v.value is None)]
row("jd.variational_bound", jd.variational_bound, BOUND, key=KEYS, denoiser=A_DENOISER, data=says("images", *NO_IMAGES),
    steps=[1, *COUNT], levels=[1, *SOME], variance=CHOICE, grid=GRID, t_min=[0.0,
    *(v for v in ONE_TIME if not (isinstance(v, T) and v.value is None))], batch_size=COUNT, cond=COND, progress=FLAG,
    mesh=MESH, precision=PRECISION)
row("jd.continuous_bound", jd.continuous_bound, BOUND, key=KEYS, denoiser=A_DENOISER, data=says("images", *NO_IMAGES),
    draws=COUNT, levels=[1, *SOME], t_min=[0.0, *(v for v in ONE_TIME if not (isinstance(v, T) and v.value is None))],
    batch_size=COUNT, cond=COND, progress=FLAG, mesh=MESH, precision=PRECISION, weight=WEIGHT)
row("jd.likelihood.chain", jd.likelihood.chain, {"key": KEY, "denoiser": OF_TOKENS, "data": TOKENS}, key=KEYS,
    denoiser=[*A_DENOISER, *says("takes masks", T(EXACT))], data=NO_TOKENS, order=CHOICE, orders=[2, *COUNT],
    batch_size=COUNT, cond=COND, progress=FLAG, mesh=MESH, precision=PRECISION, weight=[TOKENS, *WEIGHT])
row("jd.likelihood.Variational", jd.likelihood.Variational, {"network": NETWORK, "params": None}, network=FUNCTION,
    params=[T({"w": "a"})])
row("jd.likelihood.Argmax", jd.likelihood.Argmax, {"network": NETWORK, "params": None}, network=[
    v for v in FUNCTION if v.value is not None], params=[T({"w": "a"})])
row("jd.likelihood.DequantizationLoss", jd.likelihood.DequantizationLoss, {"denoiser": EXACT}, denoiser=A_DENOISER,
    levels=[1, *COUNT])

# networks
row("jd.networks.Sinusoidal", networks.Sinusoidal, waves=[*COUNT, HUGE], lowest=[*says("highest", 20.0), *POSITIVE],
    highest=[0.1, *POSITIVE])
row("jd.networks.Fourier", networks.Fourier, waves=[*COUNT, HUGE], scale=POSITIVE)
WIDTHS = [0, -1, T(2.5), T("3"), T(None), T(True)]
TAKES = [-1, T(1.5), T("10"), T(None)]
row("jd.networks.MLP", networks.MLP, {"event": 2, "rngs": RNGS}, event=[0, (2, 0), -1, (), T(2.5), T("2"), T(None)],
    hidden=[(), (0,), (8, -1), *says("GiB", (10**8, 10**8)), T(8), T((8.5,)), T("8"), T(None)], classes=[-1, T(1.5),
    T("10"), T(None), T(True)], waves=FUNCTION, outputs=WIDTHS, vector=[-1, T(1.5), T("10"), T(None)], rngs=[T(None),
    T(KEY), T(0)])
row("jd.networks.UNet", networks.UNet, {"channels_in": 1, "channels": (8,), "rngs": RNGS}, channels_in=WIDTHS,
    channels=[(), (0,), (8, -1), *says("GiB", (10**7, 10**7)), T(8), T((8.5,)), T("8"), T(None)], blocks=WIDTHS,
    attention=[(1,), (-1,), T(1), T((0.5,)), T(("0",)), T(None)], heads=WIDTHS, classes=[-1, T(1.5), T("10"), T(None)],
    waves=FUNCTION, outputs=WIDTHS, remat=FLAG, vector=TAKES, image=TAKES, level=FLAG, tokens=TAKES,
    cross_attention=[(0,), (1,), (-1,), T(1), T((0.5,))], space=[4, *WIDTHS], dropout=[1.0, *NOT_NEGATIVE],
    modulation=CHOICE, rngs=[T(None), T(KEY), T(0)])
row("jd.networks.UNet keys", lambda key: networks.UNet(1, (8,), 1, dropout=0.1, rngs=RNGS)(jnp.zeros((3, 4, 4, 1)), 0.0,
    None, key), key=[T(KEY), T(jax.random.split(KEY, 2)), T(np.zeros(3))])
row("jd.networks.UNet without dropout", lambda key: networks.UNet(1, (8,), 1, rngs=RNGS)(jnp.zeros((3, 4, 4, 1)), 0.0,
    None, key), key=[KEY])
DIT = {"channels_in": 1, "width": 8, "depth": 1, "heads": 2, "rngs": RNGS}
row("jd.networks.DiT", networks.DiT, DIT, channels_in=WIDTHS, patch=WIDTHS, width=[7, *says("GiB", 10**6), *WIDTHS],
    depth=WIDTHS, heads=[3, *WIDTHS], classes=TAKES, vector=TAKES, image=TAKES, level=FLAG, tokens=TAKES, joint=[True,
    *FLAG], skips=FLAG, qk_norm=FLAG, waves=FUNCTION, outputs=WIDTHS, remat=FLAG, rngs=[T(None), T(KEY), T(0)])
row("jd.networks.DiT called", networks.DiT(**DIT), {"x": jnp.zeros((3, 4, 4, 1)), "c_noise": jnp.zeros(3)},
    x=[np.zeros((3, 4, 4, 2), np.float32), np.zeros((3, 4, 1), np.float32), *says("cannot be cut", np.zeros((3, 4, 5,
    1), np.float32)), T(IMAGES)], c_noise=[np.zeros((3, 1)), np.zeros(2)])
row("jd.networks.Patches", networks.Patches, {"channels": 1}, channels=WIDTHS, patch=[*says("GiB", 10**8), *WIDTHS])
row("jd.networks.Numbers", networks.Numbers, size=WIDTHS)
row("jd.networks.Categories", networks.Categories, {"categories": 3}, categories=[1, *WIDTHS], noise=FLAG)
PARTS = {"a": networks.Numbers(2), "b": networks.Categories(3)}
row("jd.networks.Joint", networks.Joint, {"ends": PARTS, "width": 8, "depth": 1, "heads": 2, "rngs": RNGS}, ends=[{},
    T(None), T(networks.Numbers(2)), T({"a": 3}), T({0: networks.Numbers(2)})], width=[7, *says("GiB", 10**6), *WIDTHS],
    depth=WIDTHS, heads=[3, *WIDTHS], qk_norm=FLAG, remat=FLAG, waves=FUNCTION, rngs=[T(None), T(KEY), T(0)])
TEXT = {"vocabulary": 5, "width": 4, "depth": 1, "heads": 2, "length": 3, "rngs": RNGS}
row("jd.networks.TextEncoder", networks.TextEncoder, TEXT, vocabulary=[*says("GiB", 10**12), *WIDTHS], width=WIDTHS,
    depth=WIDTHS, heads=[3, *WIDTHS], length=WIDTHS, rngs=[T(None), T(KEY)])
row("jd.networks.TextEncoder called", networks.TextEncoder(**TEXT), {"ids": np.zeros((2, 3), int)}, ids=[np.zeros((2,
    4), int), np.zeros(3, int), *says("label 5", np.full((2, 3), 5)), T(np.zeros((2, 3))), T("text"), T(None)],
    mask=[T(np.ones((2, 3))), T(np.ones((2, 2), bool)), T("all")])
row("jd.networks.Encoded", networks.Encoded, {"encoder": networks.TextEncoder(**TEXT), "network": networks.DiT(**DIT)},
    encoder=[T(None), T("text"), T(networks.TextEncoder)], network=[T(None), T(NETWORK), T(networks.DiT)])
TRANSFORMER = {"categories": 3, "length": 4, "width": 8, "depth": 1, "heads": 2, "rngs": RNGS}
row("jd.networks.Transformer", networks.Transformer, TRANSFORMER, categories=[1, *says("GiB", 10**12), *WIDTHS],
    length=WIDTHS, width=[7, *says("GiB", 10**6), *WIDTHS], depth=WIDTHS, heads=[3, 8, *WIDTHS],
    noise=[T("yes"), T(1), T(jnp.ones(2))], classes=TAKES, tied=FLAG, qk_norm=FLAG, waves=FUNCTION, remat=FLAG,
    rngs=[T(None), T(KEY), T(0)])
row("jd.networks.Transformer called", networks.Transformer(**TRANSFORMER), {"x": jnp.zeros((3, 4), int),
    "c_noise": jnp.zeros(3)}, x=[jnp.zeros((3, 5), int), jnp.zeros(3, int), T(X)], c_noise=[np.zeros((3, 1)),
    np.zeros(2)])
WITH_TOKENS = {"network": networks.MLP((2, 4), rngs=RNGS), "categories": 3, "features": 4, "rngs": RNGS}
row("jd.networks.Tokens", networks.Tokens, WITH_TOKENS, network=[T(None), T(NETWORK), T(networks.MLP)], categories=[1,
    *WIDTHS], features=[*says("GiB", 10**12), *WIDTHS], head=CHOICE, rngs=[T(None), T(KEY), T(0)])
row("jd.networks.Classifier", networks.Classifier, {"channels_in": 1, "classes": 3, "channels": (8,), "rngs": RNGS},
    channels_in=WIDTHS, classes=[1, *WIDTHS], channels=[(), (0,), (8, -1), *says("GiB", (10**7, 10**7)), T(8),
    T((8.5,)), T("8"), T(None)], blocks=WIDTHS, attention=[(1,), (-1,), T(1), T((0.5,)), T(None)], heads=[3, *WIDTHS],
    waves=FUNCTION, space=[4, *WIDTHS], remat=FLAG, rngs=[T(None), T(KEY), T(0)])
row("jd.networks.Coupling", networks.Coupling, {"channels": 1, "rngs": RNGS}, channels=WIDTHS, hidden=[*WIDTHS,
    *says("GiB", 10**8)], layers=WIDTHS, rngs=[T(None), T(KEY), T(0)])
row("jd.networks.LabelEmbedding", networks.LabelEmbedding, {"classes": 3, "features": 4, "rngs": RNGS}, classes=WIDTHS,
    features=WIDTHS, rngs=[T(None), T(KEY)])
row("jd.networks.LabelEmbedding called", networks.LabelEmbedding(3, 4, rngs=RNGS), {"batch": 3}, cond=says("", 4, -1,
    np.array([0, 9, 0]), np.zeros(2, int), T(0.5), T("cat")))
row("jd.networks.NoiseEmbedding", networks.NoiseEmbedding, {"features": 4, "waves": networks.Sinusoidal(),
    "classes": 0, "rngs": RNGS}, features=WIDTHS, waves=[*says("waves returned", lambda c: c), *FUNCTION], classes=[-1,
    T(1.5), T("10"), T(None)], vector=[-1, T(1.5), T("10"), T(None)], image=[-1, T(None)], level=FLAG, tokens=[-1,
    T(1.5)], rngs=[T(None), T(KEY)])
row("jd.networks.VectorEmbedding", networks.VectorEmbedding, {"size": 3, "features": 4, "rngs": RNGS}, size=WIDTHS,
    features=WIDTHS, rngs=[T(None), T(KEY)])
row("jd.networks.VectorEmbedding called", networks.VectorEmbedding(2, 4, rngs=RNGS), {"batch": 3}, cond=[np.zeros(2),
    np.zeros((2, 2)), np.zeros((3, 3)), 0.5, T(None), T("cat"), T(IMAGES), T((X, X)), T({"y": X})])
row("jd.networks.Conditions", networks.Conditions, classes=TAKES, vector=TAKES, image=TAKES, level=FLAG, tokens=TAKES)
HEADS = np.zeros((2, 3, 1, 4), np.float32)
row("jd.networks.dot_product_attention", networks.dot_product_attention, {"q": HEADS, "k": HEADS, "v": HEADS},
    q=[HEADS[0], HEADS[:1], HEADS[..., :2], HEADS[:, :0], T(IMAGES), T("q"), T(None)],
    k=[HEADS[:, :2], T("k"), T(None)],
    v=[HEADS[:, :2], T(HEADS.astype(np.float16)), T(None)], mask=[np.ones(3, bool), np.ones((2, 2), bool),
    T(np.ones((2, 3))), T("all")])
row("jd.networks.Network", networks.Network, graphdef=[T(None), T("mlp"), T(networks.MLP)])
row("jd.networks.Cast", networks.Cast, {"network": NETWORK, "dtype": jnp.bfloat16}, network=FUNCTION, dtype=[T(None),
    T("half of it"), T(int), T(jnp.uint8), T(16)])
row("jd.networks.initialize", networks.initialize, {"key": KEY, "make": lambda rngs: networks.MLP(2, rngs=rngs)},
    key=ONE_KEY, make=[T(None), T("mlp"), T(networks.MLP), T(lambda rngs: None)])

# data, metrics
for toy in (jd.data.two_moons, jd.data.swiss_roll, jd.data.s_curve, jd.data.circles, jd.data.cat):
    row(f"jd.data.{toy.__name__}", toy, {"key": KEY, "n": 3}, key=ONE_KEY, n=[*COUNT, *says("GiB", HUGE)],
        noise=[*NOT_NEGATIVE, *ONE])
for toy in (jd.data.eight_gaussians, jd.data.checkerboard, jd.data.pinwheel):
    row(f"jd.data.{toy.__name__}", toy, {"key": KEY, "n": 3}, key=ONE_KEY, n=[*COUNT, *says("GiB", HUGE)])
POINTS = np.random.default_rng(0).standard_normal((5, 2))
NO_POINTS = [HOLES, X[:0], 1.0, T("x"), T(None), T(X + 0j)]
row("jd.metrics.wasserstein", jd.metrics.wasserstein, {"x": X, "y": X}, x=[*NO_POINTS, *says("", X[:2], X[:, :1])],
    y=[*NO_POINTS, *says("", X[:2])], solver=[lambda x, y: np.zeros(3, int), lambda x, y: np.arange(2), T("emd"),
    T(None), T(lambda cost: cost)])
row("jd.metrics.network_simplex", jd.metrics.network_simplex, {"x": X, "y": X}, x=[*NO_POINTS, *says("", X[:2], X[:,
    :1])], y=NO_POINTS)
row("jd.metrics.sliced_wasserstein", jd.metrics.sliced_wasserstein, {"key": KEY, "x": X, "y": X}, key=ONE_KEY,
    x=[*NO_POINTS, *says("", X[:, :1])], y=NO_POINTS, projections=[1, *COUNT])
NO_FEATURES = [POINTS * NAN, POINTS * INF, POINTS[:1], POINTS[:, 0], POINTS[:, :1], POINTS[:0], POINTS[:, None],
    T(IMAGES), T("x"), T(None), T(POINTS + 0j)]
row("jd.metrics.frechet_distance", jd.metrics.frechet_distance, {"x": POINTS, "y": POINTS, "blocks": 2}, x=NO_FEATURES,
    y=NO_FEATURES, blocks=[1, *COUNT, *says("x holds 5 examples; expected at least 6", 6)])
row("jd.metrics.kernel_distance", jd.metrics.kernel_distance, {"x": POINTS, "y": POINTS}, x=[POINTS[:3], *NO_FEATURES],
    y=[POINTS[:3], *NO_FEATURES])
for name in ("precision_recall", "density_coverage"):
    row(f"jd.metrics.{name}", getattr(jd.metrics, name), {"real": POINTS, "fake": POINTS, "k": 2}, real=NO_FEATURES,
        fake=NO_FEATURES, k=[*COUNT, *says("real holds 5 examples; expected at least 6, more than k = 5", 5)])
row("jd.metrics.retrieval", jd.metrics.retrieval, {"queries": POINTS, "keys": POINTS}, queries=[POINTS[:4], POINTS * 0,
    *NO_FEATURES], keys=[POINTS[:4], POINTS * 0, *NO_FEATURES], first=[6, *COUNT])
SPLIT = ["valid", None, 3, "", ["train"]]

# what lies in files; only what is wrong before a file is looked for
PATH = [T(3), T(None), "", "a\0b"]
NO_PATH = [T(3), "", "a\0b"]
row("jd.data.ImageFolder", jd.data.ImageFolder, {"folder": "nowhere", "size": 8}, folder=PATH, size=COUNT, channels=[2,
    0, T(1.5), T("3"), T(None)], split=[v for v in SPLIT if v is not None], on_corrupt=["ignore", None, 3])
row("jd.data.pixel_moments", jd.data.pixel_moments, {"images": [{"image": IMAGES}]}, images=[[], T(None), T(3),
    T([{"image": X}]), T([{"x": IMAGES}]), T([3])], n=COUNT, seed=[-1, T(0.5), T("0"), T(None)])
row("jd.data.read_rows", jd.data.read_rows, path=[*PATH, *says("ends in", "table.txt", "t")])
row("jd.data.write_rows", jd.data.write_rows, {"path": "nowhere.csv", "names": ("a", "b"), "values": X}, path=[*PATH,
    *says("ends in", "table.txt")], names=says("values", (), ("a",)), values=[X[0], X[:, :1], 1.0])
row("jd.data.Table", jd.data.Table, {"path": "nowhere.csv"}, path=[*PATH, *says("ends in", "table.txt")],
    split=[v for v in SPLIT if v is not None], condition=[("a", "a"), T("a"), T(None), T((1,)), T({"a"})])
row("jd.data.Columns", jd.data.Columns, {"names": ("a", "b"), "mean": (0, 1), "scale": (1, 2)}, names=[("a", "a"),
    *says("mean", ("a",), ()), T("ab"), T(None), T((1, 2))], mean=[(0,), 1.0, (0, NAN), T("ab"), T(None)], scale=[(1,),
    1.0, (0, 1), (1, -1), (1, NAN), T("ab"), T(None)], condition=[("c",), ("a", "b"), ("a", "a"), T("a"), T(None)])
row("jd.data.text", jd.data.text, {"path": "nowhere.txt", "length": 8}, path=PATH, length=COUNT,
    split=[v for v in SPLIT if v is not None], alphabet=["a", "aba", "", T(3)], tokenizer=[T(3), "", "a\0b"],
    cut=["words", None, 3])
row("jd.data.Symbols", jd.data.Symbols, alphabet=["a", "aba", "", T(3), T(None)], tokenizer=["{}", T(3), T(None)],
    ended=FLAG)
row("jd.data.maps", jd.data.maps, {"name": "emoji", "folder": "nowhere"}, name=["faces", None, 3],
    split=SPLIT, folder=[T(3), "", "a\0b"], data_dir=["prepared"])
row("jd.data.read_columns", jd.data.read_columns, path=[*PATH, *says("ends in", "table.txt", "t")])
row("jd.data.write_columns", jd.data.write_columns, {"path": "nowhere.csv", "columns": {}}, path=[*PATH,
    *says("ends in", "table.txt")])
row("jd.data.MixedTable", jd.data.MixedTable, {"path": "nowhere.csv"}, path=[*PATH, *says("ends in", "table.txt")],
    split=[v for v in SPLIT if v is not None], categories=[("a", "a"), T("a"), T(None), T((1,)), T({"a"})])
row("jd.data.MixedColumns", jd.data.MixedColumns, {"names": ("a", "b"), "numbers": jd.data.Columns(("a",), (0,), (1,)),
    "words": (("x", "y"),)}, names=[("a",), ("a", "a"), T("ab"), T(None)], numbers=[T(3), *says("names", None)],
    words=[*says("names", ()), *says("column 'b'", (("x",),)), (("x", "x"),), T(None), T("xy")])
for load in (jd.data.load_digits, jd.data.load_fashion_mnist, jd.data.load_cifar10, jd.data.load_imagenet64):
    row(f"jd.data.{load.__name__}", load, split=SPLIT, data_dir=NO_PATH)
ARRAYS_OF_DATA = {"x": X}
DATA = [{}, {"x": X[:0]}, {"x": X, "y": X[:2]}, {"x": HOLES}, []]
for function in (jd.data.batches, jd.data.fingerprint):
    row(f"jd.data.{function.__name__}", function, {"data": ARRAYS_OF_DATA, "batch_size": 2, "seed": 0}, data=says("",
        *DATA), batch_size=COUNT, seed=[-1, T(1.5), T("0"), T(None), T(True)])

# training
row("jd.training.Checkpoints", training.Checkpoints, {"folder": "nowhere"}, folder=PATH, keep=COUNT)
row("jd.training.saved_steps", training.saved_steps, folder=PATH)
row("jd.training.load_params", training.load_params, {"folder": "nowhere", "like": {"w": X}}, folder=PATH)
row("jd.training.read_metrics", training.read_metrics, {"path": "nowhere"}, path=PATH)
row("jd.training.MetricsLog", training.MetricsLog, {"path": "nowhere", "step": 0}, path=NO_PATH)
row("jd.training.make_mesh", training.make_mesh, model=[0, -1, 3, T(1.5), T("2"), T(None)], devices=[T("cpu"), T([1,
    2]), T(3)])
row("jd.training.batch_sharding", training.batch_sharding, mesh=[T(None), T("mesh"), T(2)])
row("jd.training.clipped_adam", training.clipped_adam, {"steps": 10}, steps=[[], [5, 5], [5, 3], *COUNT],
    learning_rate=[*POSITIVE, *ONE], warmup=[1.0, 1.5, *NOT_NEGATIVE], clip=[0.0, -1.0, NAN, *NO_NUMBER])
ADAM = training.clipped_adam(10)
STEP_OF = {"denoiser": DENOISER, "loss": jd.losses.Denoising(), "optimizer": ADAM}
OF_STEP = {"denoiser": [T(EXACT), *A_DENOISER], "loss": FUNCTION, "ema_decay": RATIO, "prepare": FUNCTION,
    "mesh": MESH, "accumulate": COUNT}
row("jd.training.make_step", training.make_step, STEP_OF, optimizer=[T(None), T("adam"), T(1e-3)], **OF_STEP)
NO_COUNT = [value.value if isinstance(value, T) else value for value in COUNT]  # ValueError for each here
TRAIN = {"key": KEY, "folder": "nowhere", "denoiser": DENOISER, "loss": jd.losses.Denoising(), "batches": None,
    "steps": 2}
row("jd.training.train", training.train, TRAIN, key=ONE_KEY, folder=PATH, steps=NO_COUNT, log_every=NO_COUNT,
    checkpoint_every=NO_COUNT, optimizer=[T("adam"), T(1e-3)], on_log=[T("print"), T(3)],
    allow=[T("loss")], **OF_STEP | {"accumulate": NO_COUNT})
row("jd.training.TrainState", training.TrainState.create, {"key": KEY, "params": {"w": X}, "optimizer": ADAM,
    "mesh": None}, key=ONE_KEY)
row("jd.training.failing_together", lambda folder: training.failing_together(folder).__enter__(), folder=PATH)
row("jd.training.tensorboard", lambda folder: training.tensorboard(folder).__enter__(), folder=PATH)

# pretrained, runs
row("jd.pretrained.from_diffusers", pretrained.from_diffusers, folder=PATH)
row("jd.pretrained.from_sentence_transformers", pretrained.from_sentence_transformers, folder=PATH)
row("jd.pretrained.inception", pretrained.inception, folder=PATH)
row("jd.pretrained.write_params", pretrained.write_params, {"path": "nowhere", "params": {"w": X}}, path=PATH,
    params=says("w", T({"w": "a"}), T({"w": object()})) + says("", {"w": HOLES}))
row("jd.pretrained.read_params", pretrained.read_params, {"path": "nowhere", "like": {"w": X}}, path=PATH,
    like=says("w", T({"w": 1.0}), T({"w": "a"})))
TABLE = {"_class_name": "DDPMScheduler"}
row("jd.pretrained.betas_of", lambda **config: pretrained.betas_of(TABLE | config), {}, beta_schedule=CHOICE,
    beta_start=[0.0, 1.0, NAN, T("0"), T(None), T(True)], beta_end=[0.0, 1.5, NAN, T("0"), T(None)],
    num_train_timesteps=[*COUNT, 10**9], trained_betas=[[0.1, 2.0], [0.0], T([]), T("linear"), T(3)])
row("jd.runs.load", runs.load, folder=PATH)
row("jd.runs.read_config", runs.read_config, folder=PATH)
CONFIG = [T(None), T("config"), T({"data": "moons"}), T(runs.Config)]
KNOWN = runs.Pictures((4, 4, 1), 0.5, 256, 3)
RUN = runs.Run(runs.Config(), KNOWN, DENOISER)
NO_RUN = [T(None), T("run"), T(DENOISER), T(runs.Run)]
row("jd.runs.Config", runs.Config, steps=COUNT, batch_size=COUNT, learning_rate=[*POSITIVE, *ONE],
    seed=[-1, 2**32, T(0.5)], ema_decay=RATIO, flip=[T(1), T("yes")], process=["edn", "vp(", T(3), T(jd.VP)],
    condition=[T([3]), T(3)], network=["vp", T(4)], loss=["denoising(heun)"], data=["nothing", T(3)],
    dropout=[0.1, T("a")])
row("jd.runs.Pictures", runs.Pictures, {"event": (4, 4, 1), "data_std": 0.5, "levels": 256, "classes": 3},
    event=[(4, 4), (4, 4, 0), T(4), T("abc")], data_std=POSITIVE, levels=[*COUNT, 1], classes=COUNT,
    names=[("a",), T("abc"), T((1, 2, 3))])
row("jd.runs.Texts", runs.Texts, {"event": (8,), "data_std": 1.0, "symbols": jd.data.Symbols(), "repeated": (0, 0, 0)},
    event=[(4, 4), (0,), T(4)], repeated=[(0, 0), T("abc")], symbols=[T(3), T("abc")])
row("jd.runs.Maps", runs.Maps, {"event": (4, 4), "data_std": 1.0, "palette": ((0, 0, 0), (9, 9, 9)), "classes": 3},
    event=[(4,), (4, 0), T(4)], palette=[((0, 0, 0),), ((0, 0), (1, 1)), T("abc")], classes=COUNT)
row("jd.runs.build", runs.build, {"known": KNOWN}, config=CONFIG)
row("jd.runs.draw", runs.draw, {"n": 3}, run=NO_RUN)
row("jd.runs.draw in a precision", runs.draw, {"run": RUN, "n": 3}, precision=PRECISION)
row("jd.runs.export", runs.export, {"run": RUN}, folder=PATH)
row("jd.runs.likelihood", runs.likelihood, {"run": RUN, "folder": "nowhere"}, run=NO_RUN, limit=COUNT[:3],
    split=["all", 3], seed=[-1, T(0.5)], unconditional=[True, T(3)], precision=PRECISION)
row("jd.runs.evaluate", runs.evaluate, {"run": RUN, "folder": "nowhere"}, run=NO_RUN, seed=[-1, T(0.5)],
    samples=[9, *COUNT[:3]], steps=COUNT[:3], batch_size=COUNT[:3], features=["colours", 3], split=["train", 3],
    guidance=[T("classifier_free"), T(3)], progress=[T(1)])
row("jd.runs.train", runs.train, {"folder": "nowhere"}, config=CONFIG)

# plotting
PICTURES = np.zeros((3, 4, 4, 1), np.float32)
NO_PICTURES = [PICTURES[0], PICTURES[:0], PICTURES * NAN, np.zeros((3, 4, 4, 2)), T(np.zeros((3, 4, 4, 1), int)),
    T(None), T("a")]
PICTURE_PATH = [T(3), "", "picture.txt", "picture"]
row("jd.plotting.sample_grid", plotting.sample_grid, {"images": PICTURES}, images=NO_PICTURES,
    columns=[v for v in COUNT if not (isinstance(v, T) and v.value is None)], path=PICTURE_PATH)
row("jd.plotting.strip", plotting.strip, {"trajectory": PICTURES}, trajectory=NO_PICTURES, times=[X, np.zeros(2),
    np.array([0, NAN, 1]), T("a"), T(["a", "b", "c"])], names=[["a", "b"], T("a"), T(3)])
row("jd.plotting.training_curve", plotting.training_curve, metrics=[*says("", [], [{"step": 1}], [{"step": 1,
    "loss": NAN}]), T(None), T("loss"), T([1, 2]), T({"step": 1})])
row("jd.plotting.Density", plotting.Density, {"log_prob": lambda x: x[:, 0]}, log_prob=[T(None), T("p"), T(X > 0)],
    resolution=COUNT)
row("jd.plotting.Points", plotting.Points, points=[HOLES, np.zeros(2), np.zeros((3, 3)), X[:0], T(None), T("x")])
row("jd.plotting.Paths", plotting.Paths, paths=[X, np.zeros((2, 3, 3)), np.full((2, 3, 2), NAN), T(None), T("x")])
row("jd.plotting.Field", plotting.Field, {"field": lambda x: x}, field=FUNCTION, arrows=COUNT)
row("jd.plotting.plane", plotting.plane, {"extent": 2.0, "resolution": 8}, extent=[*POSITIVE, *ONE],
    resolution=[*COUNT, *says("GiB", 10**8)])
row("jd.plotting.panels", plotting.panels, {"panels": {"x": plotting.Points(X)}}, panels=[{}, *says("panel 'x'",
    T({"x": X}), T({"x": [None]})), T(None), T("x"), T([plotting.Points(X)])], extent=POSITIVE,
    columns=[v for v in COUNT if not (isinstance(v, T) and v.value is None)], path=PICTURE_PATH)
row("jd.plotting.pairs", plotting.pairs, {"sets": {"x": X}, "columns": ("a", "b")}, path=PICTURE_PATH, sets=[{},
    *says("x", {"x": HOLES}, {"x": X[:0]}, {"x": np.zeros(2)}, {"x": np.zeros((3, 3))}), T(None), T(X)],
    words=[{"c": ("u", "v")}, *says("x has a", {"a": ()}), T("x")])
CURVES = {"panel": {"curve": ([1, 2], [1, 2])}}
row("jd.plotting.lines", plotting.lines, {"panels": CURVES}, panels=[{}, {"panel": {}}, *says("",
    {"panel": {"curve": ([1, 2], [1])}}, {"panel": {"curve": ([1], [-1])}}), T(None), T("x"), T({"panel": 3})],
    floors=[{"other": 1.0}, {"panel": -1.0}, T({"panel": "a"}), T(3)], columns=COUNT)
ESTIMATES = {"panel": {"curve": ([1, 2], [-1, 2], [0, 1])}}
row("jd.plotting.estimates", plotting.estimates, {"panels": ESTIMATES}, panels=[{}, {"panel": {}}, *says("",
    {"panel": {"curve": ([1, 2], [1], [1, 1])}}, {"panel": {"curve": ([0], [1], [1])}},
    {"panel": {"curve": ([1], [1], [-1])}}, {"panel": {"curve": ([1], [NAN], [1])}}), T(None), T("x"),
    T({"panel": 3})], columns=COUNT)
row("jd.plotting.Picture", plotting.Picture, {"width": 4, "height": 3}, width=POSITIVE, height=POSITIVE)
# fmt: on

# public names without a row, by why they have none
WITHOUT = {
    "constants": "DEPTHS Computed",
    "results": "Evidence NoiseEstimate "
    "BitsPerDim ClassPosterior Likelihood VariationalBound Chain ErrorBudget Prediction Categorical Seen TwoEnded "
    "Solution Images ImageSource Texts Maps "
    "Config Run SentenceEncoder InceptionFeatures Distance PrecisionRecall DensityCoverage "
    "Retrieval",
    "for subclasses": "Sampler Trace Grid BridgeLike DenoiserLike Layer Source Process Gaussian Discrete Schedule "
    "Wrapper Known Spread PosteriorDraw End",
    "protocols": "Loss Weighting Times Coupling Waves",
    "errors, and what hears a signal": "Diverged Preempted Preemption",
    "nothing is given": "Cosine Paired Simple EDM Likelihood Time Angle LogSNR Kept Linear Uniform Exact "
    "eight_gaussians_mixture process_shard every_device Point RowSums",
    "called by those that have rows": "example_keys innermost with_params with_key takes_key_of "
    "weights assign assignment_cost draw arithmetic uncast prepare_as_given warn_uncovered no_label_of connect wandb "
    "recorded_identity learned read read_summary Rows Mixed",
}


def malformed(wrong):
    """(argument, value, error, words) of every malformed value of a row."""
    for argument, values in wrong.items():
        for value in values:
            error, words = ValueError, argument
            while isinstance(value, T | Says):
                error = TypeError if isinstance(value, T) else error
                words = value.words if isinstance(value, Says) else words
                value = value.value
            yield argument, value, error, words


def fault(function, arguments, error, words):
    """What is wrong with how `function` meets malformed arguments; None where it is met as it should."""
    try:
        function(**arguments)
    except Exception as met:
        where = traceback.extract_tb(met.__traceback__)[-1].filename
        if type(met) is not error or words not in str(met) or not where.startswith(PACKAGE):
            return f"{type(met).__name__} of {where}: {str(met)[:200]}; expected {error.__name__} with {words!r}"
    else:
        return "accepted"


@pytest.mark.parametrize(("function", "good", "wrong"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_malformed_inputs_meet_our_own_words(function, good, wrong):
    faults = [
        f"{argument} = {value!r:.100}: {found}"
        for argument, value, error, words in malformed(wrong)
        if (found := fault(function, {**good, argument: value}, error, words))
    ]
    assert not faults, "\n".join(faults)


MODULES = [
    jd,
    jd.samplers,
    jd.losses,
    weightings,
    times,
    couplings,
    jd.grids,
    jd.schedules,
    guidance,
    guidance.operators,
    exact,
    jd.denoisers,
    jd.likelihood,
    networks,
    jd.data,
    jd.metrics,
    training,
    pretrained,
    plotting,
    runs,
]


def public(module):
    """(name, object) of the functions and classes that users may call; checks are what rows are about."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        if callable(value) and not name.startswith(("_", "check_")):
            yield name, value


def test_every_public_function_has_its_row():
    """Who adds a function adds its row, or says above why it has none."""
    paths = {label.split()[0].removeprefix("jd.") for label, *_ in ROWS}
    known = {id(operator.attrgetter(path)(jd)) for path in paths}
    excused = set(" ".join(WITHOUT.values()).split())
    names = [(module.__name__, name, id(value)) for module in MODULES for name, value in public(module)]
    missing = [f"{module}.{name}" for module, name, value in names if value not in known and name not in excused]
    assert not missing
    assert excused <= {name for _, name, _ in names}
