"""Every public function of the core under JAX's transformations, mostly by tracing alone, which compiles nothing.

Derivatives are held to finite differences in `test_gradients.py`; values on eight devices in `eight_devices.py`.
"""

import contextlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names, products_on_a_gpu
from jax.sharding import AxisType, PartitionSpec
from tables import (
    COUPLINGS,
    GRIDS,
    GUIDANCE,
    KINDS,
    LOSSES,
    PROCESSES,
    TIMES,
    TOKEN_GUIDANCE,
    TOKEN_SAMPLERS,
    TRACES,
    WEIGHTINGS,
    given,
    kinds,
)

import jaxdiff as jd

D, N = 2, 4
X = np.random.default_rng(0).normal(0, 0.7, (N, D)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0])
KEYS = jd.samplers.example_keys(jax.random.key(3), N)
PARAMS = {"w": jnp.array([[0.4, -0.3], [0.2, 0.5]]), "scale": jnp.array(0.8)}
S, L, G = jd.samplers, jd.losses, jd.guidance
FAST = S.ProbabilityFlow(rtol=1e-2, atol=1e-2)


OWN = "high"  # what the networks' products say of their precision; the library's own are to say "highest"


def network(params, x, c_noise, cond):
    out = jnp.tanh(jnp.matmul(x, params["w"], precision=OWN) + c_noise[:, None]) * params["scale"]
    return out if cond is None else out + cond[:, None].astype(out.dtype)


def doubled(params, x, c_noise, cond):
    return jnp.concatenate([network(params, x, c_noise, cond)] * 2, -1)


def pair(params, x, c_noise, cond):
    return (network(params, x, c_noise, cond),) * 2


MODEL = jd.Denoiser(network, PARAMS, jd.VP())
WIDE = jd.Denoiser(doubled, PARAMS, jd.VP(), learned_variance=True)
ENERGY = jd.Denoiser(jd.denoisers.Gradient(jd.denoisers.InnerProduct(network)), PARAMS, jd.VP())
BRIDGE = jd.Bridge(pair, PARAMS)
VP = jd.VP()


def tokens(x):
    return jnp.where(x > 0, 1, 0)


def logits(params, x, c_noise, cond):
    return jnp.matmul(jax.nn.one_hot(x, 3)[..., :2], params["w"], precision=OWN)


def joint(params, x, c_noise, cond):
    return {"x": network(params, x["x"], c_noise["x"], None), "y": logits(params, x["y"], None, None)}


def headed(x):
    """Logits as a head, the last layer of a network."""
    return jd.Categorical(jd.Head(x[..., None], jnp.asarray(X[:, :1]), jnp.asarray(X[:, 1])))


TELLS = jd.NoisyClassifier(lambda w, x, c_noise: jnp.matmul(jnp.tanh(x), w, precision=OWN), jnp.ones((D, 3)), VP)
TOKENS = jd.Denoiser(logits, PARAMS, jd.Absorbing(2))
TABLE = jd.exact.Table(jd.Absorbing(2), [[0.4, 0.1], [0.3, 0.2]])
CHAIN = jd.exact.Markov(jd.Absorbing(2), [0.4, 0.6], [[0.9, 0.1], [0.3, 0.7]])
BOTH = jd.denoisers.WithProcess(jd.Denoiser(network, PARAMS, jd.LearnedVP()))
JOINT = jd.Denoiser(joint, PARAMS, jd.Product({"x": VP, "y": jd.Absorbing(2)}))
EACH = S.Each({"x": S.DPMSolverPP(), "y": S.Ancestral()})
MODELS = {"numbers": MODEL, "variance": WIDE, "bridge": BRIDGE, "process": BOTH}
DENOISERS = {
    "Denoiser": MODEL,
    "OnProcess": jd.OnProcess(MODEL, jd.VE()),
    "WithProcess": BOTH,
    "Gaussian": jd.exact.Gaussian(jd.VP(), np.zeros(D), np.eye(D)),
    "Mixture": jd.exact.Mixture(jd.VP(), [0.3, 0.7], [[1.0, 0.0], [-1.0, 0.5]], [0.2 * np.eye(D)] * 2),
    "Empirical": jd.exact.Empirical(jd.VP(), X),
    **{name: guide(denoiser=MODEL) for name, guide in GUIDANCE.items()},
}


def label(denoiser, x):
    return None if denoiser in FREE else LABELS[: len(x)]


def curves(process, x):
    t = jnp.array([0.2, 0.9])
    grids = [grid(process, 3) for grid in GRIDS.values()]
    ends = jd.transition(process, 0.1, t), jd.posterior(process, 0.1, t), jd.forward_sde(process, t)
    return grids, ends, process.velocity(t), process.time_at_angle(t), jd.perturb(KEYS[0], process, x, 0.5)


def solved(x):
    """A mixture whose covariances are traced."""
    return jd.exact.Mixture(VP, [0.3, 0.7], [[1.0, 0.0], [-1.0, 0.5]], x[:2, :, None] * x[:2, None] + np.eye(D)[None])


def gradient(density, x, t=0.5):
    return jax.grad(lambda x: density.log_prob(x, t).sum())(x)


def traced(trace, keys, x):
    one = lambda key, x: trace.estimates(lambda vector: vector * x, trace.vectors(key, D, x.dtype))
    return jax.vmap(one)(keys, x.astype(jnp.float32))


OF_TOKENS = L.Sum((L.AnyOrder(), 1.0), (L.Bound(L.times.Importance(0.1)), 0.5), (L.Steps(3), 1.0))
ROWS = {
    name: (lambda keys, x, s=s: jd.sample(keys, MODEL, x.shape, s, 3, given(s, x.shape), t_start=0.9))
    for name, s in KINDS.items()
}
ROWS |= {
    name: (lambda keys, x, d=d: d(x, 0.5, None if d in FREE else LABELS[: len(x)])) for name, d in DENOISERS.items()
}
ROWS |= {name: (lambda keys, x, p=p: curves(p, x)) for name, p in PROCESSES.items()}
ROWS |= {name: (lambda keys, x, trace=trace: traced(trace, keys, x)) for name, trace in TRACES.items()}
ROWS |= {f"loss {name}": (lambda keys, x, row=row: row(MODELS[row.of], keys[0], x)) for name, row in LOSSES.items()}
FREE = (DENOISERS["Empirical"], DENOISERS["Denoiser"], DENOISERS["OnProcess"], DENOISERS["Gaussian"], BOTH)
ROWS |= {
    "log_likelihood": lambda keys, x: jd.log_likelihood(keys, MODEL, x, None, FAST, jd.likelihood.XTrace()),
    "Mixture of traced covariances": lambda keys, x: (solved(x)(x, 0.5), gradient(solved(x), x)),
    "Mixture log_prob": lambda keys, x: gradient(DENOISERS["Mixture"], x),
    "Mixture log_responsibilities": lambda keys, x: DENOISERS["Mixture"].log_responsibilities(x, 0.5),
    "Empirical log_prob": lambda keys, x: gradient(DENOISERS["Empirical"], x),
    "bound": lambda keys, x: (VP.prior_kl(x, 1.0), VP.reconstruction(MODEL(x, 0.1), tokens(x), x, 0.1, 2)),
    "encode": lambda keys, x: jd.encode(MODEL, x, flow=FAST),
    "decode": lambda keys, x: jd.decode(MODEL, x, flow=FAST),
    "invert": lambda keys, x: jd.invert(MODEL, x, steps=3),
    "cross": lambda keys, x: jd.cross(keys, BRIDGE, x, steps=3),
    "Bridge": lambda keys, x: BRIDGE(x, 0.5),
    "NoisyClassifier": lambda keys, x: (TELLS(x, 0.5, LABELS[: len(x)]), TELLS.clean(x, LABELS[: len(x)])),
    "loss Classification": lambda keys, x: L.Classification()(TELLS, keys[0], x, LABELS[: len(x)]),
    "energy": lambda keys, x: jd.energy(ENERGY, x, 0.5),
    "score": lambda keys, x: jd.score(MODEL, x, 0.5),
    "Swapped": lambda keys, x: jd.denoisers.Swapped(BRIDGE)(x, 0.5),
    "ToData": lambda keys, x: jd.denoisers.ToData(BRIDGE)(x, 0.5),
    "step back": lambda keys, x: VP.step_back(WIDE(x, 0.5), x, 0.5, 0.3),
    "angular_velocity": lambda keys, x: jd.denoisers.angular_velocity(MODEL, x, 0.5, None),
    "kl": lambda keys, x: VP.kl(MODEL(x, 0.5), jd.Prediction(x, x), x, 0.5, 0.3),
    "Absorbing": lambda keys, x: jd.sample(keys, TOKENS, x.shape, S.Ancestral(), 3),
    "Absorbing noised": lambda keys, x: jd.perturb(KEYS[0], TOKENS.process, tokens(x), 0.5)[0],
    "Categorical": lambda keys, x: TOKENS(tokens(x), 0.5).log_probabilities(),
    **{name: (lambda keys, x, s=s: jd.sample(keys, TOKENS, x.shape, s, 3)) for name, s in TOKEN_SAMPLERS.items()},
    "Head": jax.default_matmul_precision(OWN)(
        lambda keys, x: (headed(x).log_prob(tokens(x)), headed(x).draw(keys, x > 0))
    ),
    **{
        name: (lambda keys, x, guide=guide: guide(denoiser=TOKENS)(tokens(x), 0.5).log_probabilities())
        for name, guide in TOKEN_GUIDANCE.items()
    },
    "Table": lambda keys, x: (TABLE(tokens(x), 0.5).logits, TABLE.log_prob(tokens(x))),
    "Markov": lambda keys, x: (CHAIN(tokens(x), 0.5).logits, CHAIN.log_prob(tokens(x))),
    "Empirical of tokens": lambda keys, x: jd.exact.Empirical(TOKENS.process, tokens(X))(tokens(x), 0.5).logits,
    "loss of tokens": lambda keys, x: L.Denoising(L.weightings.Likelihood())(TOKENS, keys[0], tokens(x)),
    "losses of tokens AnyOrder Bound Steps Sum": lambda keys, x: OF_TOKENS(TOKENS, keys[0], tokens(x), weight=0 * x),
    "Product": lambda keys, x: jd.sample(keys, JOINT, {"x": x.shape, "y": x.shape[:1]}, S.Ancestral(), 3),
    "Each": lambda keys, x: jd.sample(keys, JOINT, {"x": x.shape, "y": x.shape[:1]}, EACH, 3),
    "Given": lambda keys, x: jd.Given(JOINT, "y")(x, 0.5, tokens(x[:, 0])),
    "loss of a product": lambda keys, x: L.Denoising()(JOINT, keys[0], {"x": x, "y": tokens(x[:, 0])}),
    "langevin": lambda keys, x: S.langevin(keys, lambda x: -x, x, 0.1, 3),
    "forward_paths": lambda keys, x: S.forward_paths(keys, jd.VP(), x, 3),
}
# What is tried under another row's name, and what no transformation of JAX's takes.
ELSEWHERE = {
    "transition posterior forward_sde perturb Time Angle LogSNR Karras": "curves, in every process's row",
    "Independent": "the default of FlowMatching",
    "Multinomial DiscretizedGaussian from_transitions gaussian_transitions schedules Kept": "test_kernels.py",
    "SideBySide Subsets": "test_joint.py",
    "sample samplers guidance exact grids losses denoisers likelihood": "rooms, and the samplers' rows",
    "Prediction Likelihood Sampler Trace pytree Process Grid DenoiserLike BridgeLike TwoEnded": "parts of the others",
    "Discrete Certain Seen Wrapper Loss Weighting Times Coupling": "parts of the others",
    "as_pytree ends is_concrete expand_time no_label_of warn_uncovered innermost with_params": "for other rooms",
    "takes_key_of with_key": "test_dropout.py: keys of networks in training",
    "Isotropic Moment Point Prior Proximal RowSums Spread": "in the rows of Observed, and in test_observed.py",
    "extrapolated of_examples with_variance": "in the rows of guidance and of samplers",
    "arithmetic uncast": "test_precision.py: on the host",
    "ROWS row Gradient InnerProduct": "what denoisers and energies are made of",
    "weights": "what the losses are made of",
    "example_keys Solution": "for other rooms",
    "PosteriorDraw LinearDraw LangevinDraw": "in the row of DAPS, and in test_daps.py",
    "times weightings couplings guidance operators": "rooms",
    "assign assignment_cost": "test_couplings.py: SciPy on the host",
    "Paired OptimalTransport draw": "test_couplings.py: pairs, SciPy on the host, batches kept in files",
    "log_evidence Evidence": "of two log-likelihoods, and a scale that is looked at: test_evidence.py",
    "estimate_noise NoiseEstimate": "test_evidence.py: rounds on the host",
    "class_posterior ClassPosterior bits_per_dim variational_bound continuous_bound dequantize quantize": "host",
    "chain": "test_chain.py: host",
    "ErrorBudget BitsPerDim VariationalBound Chain": "results on the host",
    "Uniform Variational Argmax DequantizationLoss": "host",
    "networks data training metrics pretrained runs plotting": "other rooms",
}
ROOMS = jd, jd.processes, jd.denoisers, jd.likelihood, L, S, jd.grids, jd.exact, G, L.times, L.weightings, L.couplings


def public(room):
    """Its names: those it lists or, of a single file, the classes and functions that it defines."""
    own = [name for name, value in vars(room).items() if getattr(value, "__module__", None) == room.__name__]
    return {name for name in getattr(room, "__all__", own) if not name.startswith(("_", "check_"))}


def test_every_public_name_has_its_row():
    tried = {word for names in (*ROWS, *ELSEWHERE) for word in names.split()}
    assert not {f"{room.__name__}.{name}" for room in ROOMS for name in public(room) - tried}
    assert not {name for names in ELSEWHERE for name in names.split()} - set().union(*map(public, ROOMS))


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


LONG = {
    "encode",
    "log_likelihood",
    "ProbabilityFlow",
    "ReverseSDE",
    "BrownianVE",
    "LearnedVP",
    "Switch",
    "from_betas",
    "SubVP",
    "VE",
    "OU",
}
LONG |= {"Brownian", "Cosine", "DAPS", "decode", "Each", "EDM", "Flow", "UniPC"}  # of which others have the like
LONG |= {"AnnealedLangevin", "EulerMaruyama", "Heun", "PredictorCorrector", "Product", "RePaint", "TauLeaping"}
LONG |= {"Observed by Isotropic", "Observed by Proximal", "cross", "loss Denoising EDM LogNormal", "loss Hybrid"}
LONG |= {"loss Denoising Simple Importance", "loss FlowMatching Entropic", "loss LeastVariance", "loss ScoreMatching"}


@pytest.mark.parametrize("name", few_names(ROWS, *(ROWS.keys() - LONG)))
def test_it_composes(name):
    """Under jit and strict promotion; vmap; scan; shard_map with its default check; in bfloat16; by keys of rbg.

    Of the program for a GPU, whose products in float32 are of 10 bits unless told, all but the networks' say "highest".
    """
    call, keys = ROWS[name], KEYS
    x = jnp.asarray(X)
    with strict():
        program = jax.jit(call).trace(keys, x)
    plain, products = program.out_info, products_on_a_gpu(program)
    assert all("HIGH" in product for product in products) or name in TRACES  # these are in the row of log_likelihood
    assert products or name not in DENOISERS
    keys_of_three, three = jnp.stack([keys] * 3), jnp.stack([x] * 3)
    of_three = lambda carry, _: (carry, jax.vmap(call)(keys_of_three, carry))
    batched = jax.eval_shape(lambda three: jax.lax.scan(of_three, three, length=2)[1], three)
    assert shapes(batched) == jax.tree.map(lambda leaf: ((2, 3, *leaf.shape), leaf.dtype), plain)
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(
        lambda keys, x: jax.tree.map(lambda leaf: jnp.sum(leaf)[None], call(keys, x)),
        mesh=mesh,
        in_specs=PartitionSpec("d"),
        out_specs=PartitionSpec("d"),
    )
    jax.eval_shape(local, keys, x)
    rbg = jax.random.split(jax.random.key(0, impl="rbg"), N)
    half = jax.eval_shape(call, rbg, x.astype(jnp.bfloat16))
    if name in ("encode", "decode", "invert", "langevin", "forward_paths"):
        assert half.dtype == jnp.bfloat16
    assert jax.tree.map(jnp.shape, half) == jax.tree.map(jnp.shape, plain)


OBJECTS = {
    **PROCESSES,
    **KINDS,
    **TOKEN_SAMPLERS,
    **TRACES,
    **GRIDS,
    **{f"loss {name}": row.loss for name, row in kinds(LOSSES).items()},
    **{f"weighting {name}": weighting for name, weighting in WEIGHTINGS.items()},
    **{f"times {name}": law for name, law in TIMES.items()},
    **COUPLINGS,
    **DENOISERS,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_a_value(name):
    """Its zeros are of its kind, it equals what is rebuilt or pickled from it, and its like with another number not."""
    thing = OBJECTS[name]
    leaves, structure = jax.tree.flatten(thing)
    assert structure.unflatten(leaves) == thing
    assert structure.unflatten([jnp.asarray(leaf) + 0 for leaf in map(np.asarray, leaves)]).__class__ is type(thing)
    assert pickle.loads(pickle.dumps(thing)) == thing
    assert hash(structure.unflatten(leaves)) == hash(thing)
    zeros = jax.tree.map(jnp.zeros_like, thing)
    assert jax.tree.structure(zeros) == structure
    for rebuilt in (object(), None, False, "axis"):
        assert type(structure.unflatten([rebuilt] * len(leaves))) is type(thing)
    if leaves:
        assert thing != structure.unflatten([np.asarray(leaf) + 1 for leaf in leaves])


def test_rbg_keys_draw_the_same_for_every_batch():
    """JAX's own draws with them under vmap depend on the batch."""
    key = jax.random.key(0, impl="rbg")
    model = DENOISERS["Gaussian"]
    many, few = (jd.sample(key, model, (n, D), S.Ancestral(), 3) for n in (5, 2))
    np.testing.assert_array_equal(many[:2], few)


def test_a_denoiser_is_a_function_that_jit_takes():
    np.testing.assert_allclose(jax.jit(MODEL)(X, 0.5).data, MODEL(X, 0.5).data, rtol=1e-6)


@pytest.mark.slow
def test_processes_and_denoisers_make_ensembles():
    """A LearnedVP stacked, a gradient one a member, its zeros, and axes as a tree."""
    logits = np.stack([np.zeros(3), [0.3, -0.2, 0.1]])
    ends = jnp.array([13.3, 10.0]), jnp.array([-5.0, -4.0])
    stacked = jax.vmap(jd.LearnedVP)(*ends, jnp.asarray(logits))
    slope = jax.vmap(jax.grad(lambda process: process.log_snr(0.3)))(stacked)
    for i in range(2):
        alone = jax.grad(lambda process: process.log_snr(0.3))(jax.tree.map(lambda leaf: leaf[i], stacked))
        np.testing.assert_allclose(slope.logits[i], alone.logits, rtol=1e-5, atol=1e-6)
    axes = jax.tree.structure(jd.VP()).unflatten([None, 0])
    alphas = jax.vmap(lambda process: process.marginal(0.5)[0], in_axes=(axes,))(jd.VP(0.1, jnp.array([10.0, 20.0])))
    np.testing.assert_allclose(alphas, [jd.VP(0.1, b).marginal(0.5)[0] for b in (10.0, 20.0)], rtol=1e-6)


@pytest.mark.slow
def test_sampling_from_the_data_gives_it_back():
    for sampler in (S.DDIM(), S.DPMSolverPP(3), S.UniPC(), S.ReverseSDE(), S.Heun(1.0)):
        x = jd.sample(KEYS, MODEL, (N, D), sampler, 3, t_start=0.0, x_start=X)
        np.testing.assert_allclose(x, X, rtol=1e-6)


def test_log_snr_grids_below_their_last_time_stay_in_order():
    for t_start in (1e-3, 5e-4, 1e-6):
        times = np.asarray(jd.grids.LogSNR()(jd.VP(), 5, t_start))
        assert times[0] == np.float32(t_start)
        assert (np.diff(times) < 0).all()
        assert (times >= 0).all()


@pytest.mark.slow
def test_nans_that_are_meant_are_no_error_where_jax_looks_for_them():
    with jax.debug_nans(True):
        found = jd.log_likelihood(KEYS, MODEL, X, flow=FAST)
    assert np.isnan(found.standard_error).all()
