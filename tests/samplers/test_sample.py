import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PROCESSES, draw_mixture, few, few_names, mixture, within
from tables import KINDS, SAMPLERS, TOKEN_SAMPLERS, given, kinds

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, EulerMaruyama, Heun, ProbabilityFlow, Sampler


def counting_denoiser(counter, process, params=1.0):
    return jd.Denoiser(counter, jnp.float32(params), process, "v")


class Counter:
    """A network that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, params, x, c_noise, cond):
        self.traces += 1
        return params * x


def test_every_public_sampler_stands_in_the_table_as_it_is():
    public = {name: getattr(jd.samplers, name) for name in jd.samplers.__all__ if name[0].isupper()}
    others = {name for name, kind in public.items() if isinstance(kind, type) and not issubclass(kind, Sampler)}
    assert {*KINDS, *kinds(TOKEN_SAMPLERS)} == {*public} - others - {"Sampler", "Each"}
    for row in SAMPLERS.values():
        assert row.sampler.reversible == row.reversible


def test_samplers_look_back_exactly_if_a_step_changes_their_state():
    """A state that a step hands on unchanged, as Heun's number of steps, is no history."""
    denoiser, keys, x = mixture(jd.VP()), jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 2))
    for name, row in SAMPLERS.items():
        sampler, changed = row.sampler, []
        state = sampler.init(denoiser.process, x, 4)
        if jax.tree.leaves(state) and not sampler.takes:
            step = lambda x, state: sampler.step(keys, denoiser, x, jnp.array(0.6), jnp.array(0.4), state, None)
            program = jax.make_jaxpr(step)(x, state).jaxpr
            pairs = zip(program.outvars[1:], program.invars[1:])
            changed = [new for new, old in pairs if new is not old and new.aval.size]
        assert sampler.looks_back == bool(changed), name


LONG = {"DAPS", "RePaint", "AnnealedLangevin", "ProbabilityFlow"}
LIKE_OTHERS = {
    "EulerMaruyama",
    "DDIM",
    "DDIM with noise",
    "DPMSolverPP",
    "Heun",
    "Heun with churn",
    "PredictorCorrector",
    "UniPC",
    "ReverseSDE",
    "Switch",
    "DPMSolverPP of order 1",
    "DPMSolverPP of order 3",
    "UniPC of order 3",
}


@pytest.mark.parametrize("name", few_names(SAMPLERS, *(SAMPLERS.keys() - LONG - LIKE_OTHERS)))
def test_a_trajectory_runs_from_its_start_to_samples_that_depend_on_their_key_and_index_alone(name):
    sampler = SAMPLERS[name].sampler
    denoiser, key = mixture(jd.VP()), jax.random.key(1)
    cond = {n: given(sampler, (n, 2)) for n in (7, 3)}
    path = jd.sample(key, denoiser, (7, 2), sampler, 5, cond[7], trajectory=True)
    assert path.shape == ((6 if not sampler.adaptive else 7), 7, 2)
    assert float(jnp.abs(path[-1, 0] - path[-1, 1]).max()) > 1e-3
    draw = lambda key, start: jd.sample(key, denoiser, (3, 2), sampler, 5, cond[3], x_start=start)
    few, keys = draw(key, path[0, :3]), jd.samplers.example_keys(key, 7)
    np.testing.assert_allclose(few, path[-1, :3], rtol=2e-5 if not sampler.adaptive else 1e-4, atol=1e-5)
    np.testing.assert_allclose(draw(keys[4:], path[0, 4:]), path[-1, 4:], rtol=1e-4, atol=1e-5)
    assert bool((draw(jax.random.key(2), path[0, :3]) != few).any()) == SAMPLERS[name].random
    settings = {"cond": cond[3], "x_start": path[0, :3], "t_end": 0.3, "trajectory": True}
    ended = jax.eval_shape(lambda key: jd.sample(key, denoiser, (3, 2), sampler, 5, **settings), key)
    assert ended.shape == (6, 3, 2)


def test_the_start_of_a_sample_depends_on_its_key_and_index_alone():
    start = lambda keys, n: jd.sample(keys, mixture(jd.VP()), (n, 2), DDIM(), 1, t_end=0.9, trajectory=True)[0]
    key = jax.random.key(0)
    many = start(key, 7)
    np.testing.assert_array_equal(start(key, 3), many[:3])
    np.testing.assert_array_equal(start(jd.samplers.example_keys(key, 7)[4:], 3), many[4:])


@pytest.mark.slow
def test_new_numbers_compile_nothing():
    """Parameters, guidance scale, η, churn, tolerances, processes' numbers and grids' numbers are traced once."""
    for make in (lambda k: DDIM(eta=k), lambda k: Heun(churn=k), lambda k: ProbabilityFlow(rtol=k * 1e-3)):
        counter = Counter()
        seen = []
        for k in (0.5, 0.25):
            process = jd.VP(beta_min=k)
            denoiser = jd.guidance.ClassifierFree(counting_denoiser(counter, process, k), 1 + k)
            grid = jd.grids.Karras(rho=5.0 + k)
            jd.sample(jax.random.key(int(4 * k)), denoiser, (2, 3), make(k), 4, 0, grid=grid, t_start=0.9 + k / 10)
            seen.append(counter.traces)
        assert seen[0] == seen[1] > 0


def test_new_tolerances_and_t_min_compile_nothing_in_encode_and_decode():
    counter, x = Counter(), np.ones((2, 3), np.float32)
    for carry in (jd.encode, jd.decode):
        seen = []
        for k in (0.01, 0.02):
            call = functools.partial(carry, flow=ProbabilityFlow(rtol=k, atol=k / 2), t_min=k)
            jax.eval_shape(call, counting_denoiser(counter, jd.VP()), x)
            seen.append(counter.traces)
        assert seen[0] == seen[1] > 0


@pytest.mark.parametrize("sampler", [DPMSolverPP(), Ancestral()])
def test_a_program_has_the_network_once(sampler):
    """Its answer is a step of the scan. Only the network takes cube roots."""

    def draw(key):
        denoiser = jd.Denoiser(lambda params, x, c_noise, cond: jnp.cbrt(params * x), jnp.float32(1), jd.VP(), "v")
        return jd.sample(key, denoiser, (2, 3), sampler, steps=4)

    assert jax.jit(draw).lower(jax.random.key(0)).as_text().count("stablehlo.cbrt ") == 1


def test_new_numbers_are_traced_once_under_jit():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(key, denoiser, sampler):
        return jd.sample(key, denoiser, (2, 2), sampler, 3, cond=0)

    for k in (0.1, 0.7):
        run(jax.random.key(0), jd.guidance.ClassifierFree(mixture(jd.VP(k)), k), DDIM(eta=k))


def test_array_grids_are_taken_as_they_stand():
    process, key = jd.VP(), jax.random.key(2)
    grid = jd.grids.Angle()(process, 8, 0.8, 0.1)
    by_grid = jd.sample(key, mixture(process), (3, 2), DDIM(), 8, grid=jd.grids.Angle(), t_start=0.8, t_end=0.1)
    by_array = jd.sample(key, mixture(process), (3, 2), DDIM(), grid=grid)
    np.testing.assert_allclose(by_grid, by_array, rtol=1e-6)


@pytest.mark.parametrize("process", few(PROCESSES, "EDM", "from_betas"))
def test_the_prior_is_the_processes(process):
    x = jd.sample(jax.random.key(3), mixture(process), (4000, 2), DDIM(), 1, t_end=0.999, trajectory=True)[0]
    assert abs(float(x.std()) / float(process.prior_std) - 1) < 4 / np.sqrt(2 * 8000)


@pytest.mark.parametrize("process", few(PROCESSES, "Flow"))
def test_clean_data_is_the_denoisers_answer(process):
    """One step from pure noise is E[x_0 | x_1] for every sampler."""
    start = process.prior_std * jax.random.normal(jax.random.key(4), (3, 2))
    for sampler in (DDIM(), Heun(), DPMSolverPP(), Ancestral()):
        x = jd.sample(jax.random.key(0), mixture(process), (3, 2), sampler, 1, x_start=start)
        np.testing.assert_allclose(x, mixture(process)(start, 1.0).data, rtol=1e-5, atol=1e-6)


ENDING = {"DDIM": DDIM(), "Heun": Heun(), "DPMSolverPP": DPMSolverPP(), "DPMSolverPP of order 3": DPMSolverPP(3)}


@pytest.mark.parametrize("sampler", few(ENDING, "DPMSolverPP of order 3"))
def test_ending_at_zero_is_ending_at_clean_data(sampler):
    """Where t = 0 is clean data, t_end=0 and t_end=None are the same place."""
    start = jax.random.normal(jax.random.key(0), (3, 2))
    for process in (jd.VP(), jd.Flow()):
        ends = [
            jd.sample(jax.random.key(0), mixture(process), (3, 2), sampler, 200, x_start=start, t_end=t_end)
            for t_end in (0.0, None)
        ]
        np.testing.assert_allclose(*ends, atol=0.02)


@pytest.mark.parametrize("sampler", few({"DDIM": DDIM(), "Heun": Heun(), "DPMSolverPP": DPMSolverPP()}, "DPMSolverPP"))
def test_gradients_flow_through_samplers(sampler):
    value = lambda x: jd.sample(jax.random.key(0), mixture(jd.Flow()), (2, 2), sampler, 4, x_start=x).sum()
    assert jnp.isfinite(jax.jit(jax.grad(value))(jnp.ones((2, 2)))).all()


@pytest.mark.parametrize("process", few(PROCESSES, "Flow"))
def test_encode_and_decode_are_inverse(process, x64):
    x = jnp.asarray(draw_mixture(7, 5))
    z = jd.encode(mixture(process), x, flow=within(1e-10))
    np.testing.assert_allclose(jd.decode(mixture(process), z, flow=within(1e-10)), x, rtol=1e-7, atol=1e-7)
    assert float(jnp.abs(z - x).max()) > 0.1


@pytest.mark.parametrize("process", few(PROCESSES, "VP"))
def test_probability_flow_of_a_gaussian_is_known(process, x64):
    """x_t = α m + √(α² s² + σ²) u with u constant along the flow (Song et al. 2021, eq. 13, solved)."""
    m, s = 0.5, 0.3
    denoiser = jd.exact.Gaussian(process, np.array([m]), np.array([[s**2]]))
    (a0, s0), (a1, s1) = process.marginal(0.1), process.marginal(1.0)
    u = jnp.array([[-2.0], [0.0], [1.5]])
    start = a1 * m + jnp.sqrt(a1**2 * s**2 + s1**2) * u
    tight = ProbabilityFlow(rtol=1e-10, atol=1e-10)
    x = jd.sample(jax.random.key(0), denoiser, (3, 1), tight, x_start=start, t_end=0.1)
    np.testing.assert_allclose(x, a0 * m + jnp.sqrt(a0**2 * s**2 + s0**2) * u, rtol=1e-7)


def test_a_failed_solve_is_nan_and_no_other():
    def network(params, x, c_noise, cond):
        return jnp.where(cond[:, None] > 0, jnp.nan, 0.0) * x

    denoiser = jd.Denoiser(network, None, jd.VP(), "v")
    x = jd.sample(jax.random.key(0), denoiser, (3, 2), ProbabilityFlow(), cond=jnp.array([0, 1, 0]), t_end=0.1)
    np.testing.assert_array_equal(np.isnan(x).any(1), [False, True, False])


def test_under_jit_and_float64(x64):
    draw = jax.jit(lambda key: jd.sample(key, mixture(jd.VP()), (3, 2), steps=4))
    assert draw(jax.random.key(0)).dtype == jnp.float64
    start = jnp.ones((3, 2), jnp.float32)
    for sampler in (Heun(churn=1.0), DPMSolverPP(), ProbabilityFlow()):  # float32 data beside float64 weights
        x = jd.sample(jax.random.key(0), mixture(jd.VP()), (3, 2), sampler, 4, x_start=start, t_end=0.1)
        assert x.dtype == jnp.float32


def test_what_cannot_be_sampled_is_refused_with_the_value_and_the_fix():
    key, denoiser = jax.random.key(0), mixture(jd.VP())
    echo = jd.Denoiser(lambda params, x, c, cond: x, None, jd.Flow(), "noise")
    for call, message in (
        (lambda: jd.sample(key, denoiser, (2, 2), steps=0), "steps = 0; expected at least one"),
        (lambda: jd.sample(key, denoiser, (0, 2)), r"shape = \(0, 2\)"),
        (lambda: jd.sample(key, denoiser, (4,)), r"expected \(n, \*event\)"),
        (lambda: jd.sample(key, denoiser, (2, 2), t_start=1.2), r"t_start = 1.2.* outside \[0, 1\]"),
        (lambda: jd.sample(key, denoiser, (2, 2), t_start=0.2, t_end=0.5), "decrease"),
        (lambda: jd.sample(key, denoiser, (2, 2), grid=np.array([0.1, 0.9])), "decrease strictly"),
        (lambda: jd.sample(key, denoiser, (2, 2), grid=np.array([0.9])), "at least two times"),
        (lambda: jd.sample(key, denoiser, (2, 2), grid=[80.0, 5.0]), r"grid = 80.0 is outside.*time_at_log_snr"),
        (lambda: jd.sample(key, denoiser, (2, 2), grid=np.array([0.9, 0.1]), t_end=0.1), "leave t_end out"),
        (lambda: jd.sample(key, denoiser, (2, 2), x_start=jnp.zeros((3, 2))), r"x_start has shape \(3, 2\)"),
        (lambda: jd.sample(key, denoiser, (2, 2), x_start=jnp.full((2, 2), jnp.nan)), "NaN"),
        (lambda: jd.sample(jax.random.split(key, 3), denoiser, (2, 2)), "2 keys for 2 examples"),
        (lambda: jd.sample(key, denoiser, (2, 3)), "events of 3 values"),
        (
            lambda: jd.sample(key, mixture(jd.Flow()), (2, 2), EulerMaruyama()),
            "SDE of Flow is singular at t = 1",
        ),
        (lambda: jd.sample(key, echo, (2, 2)), r"alpha\(1.0\) = 0 for Flow"),
        (lambda: DDIM(eta=2.0), r"eta = 2.0; expected a share of the noise in \[0, 1\]"),
        (lambda: Heun(churn=-1.0), "churn = -1.0"),
        (lambda: jd.sample(key, denoiser, (2, 2), cond=np.zeros(3)), r"cond has shape \(3,\).* 2 examples"),
        (lambda: jd.encode(denoiser, jnp.zeros((2, 2)), cond=np.zeros(3)), r"cond has shape \(3,\)"),
        (lambda: jd.encode(echo, jnp.zeros((2, 2))), r"alpha\(1.0\) = 0 for Flow"),
        (lambda: Ancestral("medium"), 'expected "small" or "large"'),
        (lambda: DPMSolverPP(order=4), "expected order 1, 2 or 3"),
        (lambda: DPMSolverPP(order=3, sde=True), "expected order 1, 2 or 3"),
        (lambda: jd.encode(denoiser, jnp.zeros((2, 2)), t_min=-1.0), r"outside \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"not a typed key; make one with jax.random.key"):
        jd.sample(jax.random.PRNGKey(0), denoiser, (2, 2))
    with pytest.raises(TypeError, match=r"expected an instance such as jaxdiff.samplers.DDIM\(\)"):
        jd.sample(key, denoiser, (2, 2), DDIM)
    with pytest.raises(TypeError, match="uint8"):
        jd.encode(denoiser, np.zeros((2, 2), np.uint8))


def test_a_step_that_returns_no_x_and_state_like_those_it_is_given_is_refused():
    """Each would otherwise be broadcast, or fail within JAX."""

    @jd.pytree
    @dataclasses.dataclass(frozen=True)
    class Returns(Sampler):
        moved: jax.tree_util.Partial

        def move(self, keys, process, prediction, x, t, s, state):
            return self.moved(x, state)

    given = r"x = float32\[2, 1\]; it must return \(x, state\), with x like the x it is given, float32\[2, 2\]"
    for moved, error, message in (
        (lambda x, state: (x[:, :1], state), ValueError, given),
        (lambda x, state: (x, x), ValueError, r"state = float32\[2, 2\]; .* with state like init's, \(\)"),
        (lambda x, state: (x, None), ValueError, r"state = None; .* with state like init's, \(\)"),
        (lambda x, state: x, TypeError, r"returned float32\[2, 2\]; it must return \(x, state\), with a state like"),
        (lambda x, state: None, TypeError, r"a step of Returns returned None; it must return \(x, state\)"),
    ):
        returns = Returns(jax.tree_util.Partial(moved))
        for sampler in (returns, jd.samplers.Switch(returns, DDIM(), 0.5)):
            with pytest.raises(error, match=message):
                jd.sample(jax.random.key(0), mixture(jd.VP()), (2, 2), sampler)


def test_noise_of_unit_size_at_the_start_of_edm_is_warned_of():
    unit = np.linspace(-1.5, 1.5, 8, dtype=np.float32)[:, None]
    of = lambda x_start, grid: jd.sample(
        jax.random.key(0), jd.exact.Gaussian(jd.EDM(), [0.0], [[1.0]]), (8, 1), DDIM(), grid=grid, x_start=x_start
    )
    with pytest.warns(UserWarning, match=r"x_start .* 0.982, but .* of EDM has 80; give process.prior_std times"):
        of(unit, [1.0, 0.5])
    of(80 * unit, [1.0, 0.5])
    of(unit, [0.5, 0.2])  # data with some noise, as for infilling
    bridge = jd.Bridge(lambda params, x, c_noise, cond: (x, x), None, sigma=80.0)  # its x at t = 1 is no noise
    jd.sample(jax.random.key(0), jd.denoisers.ToData(bridge), (8, 1), DDIM(), grid=[1.0, 0.5], x_start=unit)


def test_a_sampler_or_grid_that_is_no_pytree_is_refused_with_what_makes_it_one():
    class Still(Sampler):
        def move(self, keys, process, prediction, x, t, s, state):
            return x, state

    class Even(jd.grids.Time):
        pass

    of = lambda *given, **more: jd.sample(jax.random.key(0), mixture(jd.VP()), (2, 2), *given, **more)
    for call, name in (
        (lambda: of(Still()), "sampler = Still"),
        (lambda: of(jd.samplers.Switch(Still(), DDIM(), 0.5)), "first = Still"),
        (lambda: of(grid=Even()), "grid = Even"),
    ):
        with pytest.raises(TypeError, match=f"{name} is no pytree; make .* a frozen dataclass and put @jaxdiff.pytree"):
            call()
