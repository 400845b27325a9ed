"""The model, the loss and `prepare` are arguments of the compiled step, and what can be trained says so."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.losses import Denoising, weightings
from jaxdiff.training import TrainState, labels, make_step, train

KEY = jax.random.key(0)
SIDE = 48
WEIGHTS = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32) / SIDE
BATCH = {"x": np.random.default_rng(1).standard_normal((8, SIDE)).astype(np.float32) / 2}


def linear(params, x, c_noise, cond):
    return x @ params["w"]


def student():
    return jd.Denoiser(linear, {"w": np.zeros((SIDE, SIDE), np.float32)}, jd.VP())


TEACHER = jd.Denoiser(linear, {"w": WEIGHTS}, jd.VP())


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Distillation:
    """The squared distance of a model's answer from that of a teacher at t = 1/2."""

    teacher: Any

    def __call__(self, model, key, x0, cond=None):
        return jnp.square(model(x0, 0.5).data - self.teacher(x0, 0.5).data).mean(1)


@dataclasses.dataclass(frozen=True)
class Unregistered:
    weight: float = 1.0

    def __call__(self, model, key, x0, cond=None):
        return self.weight * jnp.square(model(x0, 0.5).data - x0).mean(1)


def encode(weights, key, batch):
    return batch["x"] @ weights, None


def step_and_state(loss, **settings):
    optimizer = optax.sgd(0.1)
    step = make_step(student(), loss, optimizer, **settings)
    return step, TrainState.create(KEY, student().params, optimizer)


def largest_constant(step, state):
    """The number of values of the largest array that is written into the program."""
    arrays = re.findall(r'constant dense<(?:"0x|\[).*?> : tensor<([\dx]+)x\w+>', step.lower(state, BATCH).as_text())
    return max((int(np.prod([int(n) for n in shape.split("x")])) for shape in arrays), default=0)


def test_what_loss_and_prepare_hold_is_no_part_of_the_program():
    by_partial = jax.tree_util.Partial(encode, WEIGHTS)
    for loss, settings in ((Distillation(TEACHER), {}), (Distillation(TEACHER), {"prepare": by_partial})):
        assert largest_constant(*step_and_state(loss, **settings)) < SIDE
    inside = lambda model, key, x0, cond: Distillation(TEACHER)(model, key, x0)  # a plain function is the program
    assert largest_constant(*step_and_state(inside)) == SIDE**2
    step, _ = step_and_state(Distillation(TEACHER))
    assert all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(step.denoiser))  # the weights are the state's alone


def test_new_numbers_in_loss_and_model_compile_nothing_and_count():
    step, state = step_and_state(Denoising(weightings.MinSNR(5.0)))
    loss_key = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    found = []
    for gamma, beta_max in ((5.0, 20.0), (0.5, 20.0), (0.5, 10.0)):
        loss = Denoising(weightings.MinSNR(gamma))
        model = dataclasses.replace(step.denoiser, process=jd.VP(0.1, beta_max))
        _, metrics = dataclasses.replace(step, loss=loss, denoiser=model)(jax.tree.map(jnp.copy, state), BATCH)
        whole = dataclasses.replace(student(), process=model.process)
        np.testing.assert_allclose(metrics["loss"], loss(whole, loss_key, BATCH["x"]).mean(), rtol=1e-5)
        found.append(float(metrics["loss"]))
    assert len(set(found)) == 3
    assert step._cache_size() == 1


def test_objects_that_are_no_pytrees_are_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Own:
        params: Any

    held_by_partial = functools.partial(encode, WEIGHTS)
    for changes, message in (
        ({"loss": Unregistered()}, "loss = Unregistered is no pytree; make Unregistered a frozen dataclass"),
        ({"loss": Distillation(Unregistered())}, r"loss\.teacher = Unregistered.*Put @jaxdiff\.pytree above"),
        ({"denoiser": Own({"w": jnp.ones(2)})}, "denoiser = Own is no pytree"),
        ({"prepare": held_by_partial}, r"prepare holds arrays in a functools\.partial.*jax\.tree_util\.Partial"),
    ):
        given = {"denoiser": student(), "loss": Denoising(), "optimizer": optax.sgd(0.1)} | changes
        with pytest.raises(TypeError, match=message):
            make_step(**given)
        with pytest.raises(TypeError, match=message):
            train(KEY, tmp_path / "run", batches=[BATCH], steps=1, **given)
    assert not (tmp_path / "run").exists()


def test_a_loss_may_check_its_own_batches(tmp_path):
    @jd.pytree
    @dataclasses.dataclass(frozen=True)
    class Even:
        def check(self, model, x0, cond):
            if not jnp.issubdtype(x0.dtype, jnp.integer):
                raise TypeError(f"x0 has dtype {x0.dtype}; expected integers")

        def __call__(self, model, key, x0, cond=None):
            return jnp.square(model.params["w"][0, 0] - x0[:, 0])

    go = lambda x, name: train(
        KEY, tmp_path / name, student(), Even(), [{"x": x}] * 200, steps=200, optimizer=optax.sgd(0.1), progress=False
    )
    assert abs(go(np.full((8, 1), 3, np.int32), "a").params["w"][0, 0] - 3) < 1e-3
    with pytest.raises(TypeError, match="x0 has dtype float32; expected integers"):
        go(np.ones((8, 1), np.float32), "b")


# Dequantisers


def affine(params, noise, x):
    return noise * jnp.exp(params["s"]) + params["b"], jnp.full(len(x), params["s"] * x.shape[1])


def test_a_dequantiser_learns_from_integers_by_its_own_gradient(tmp_path):
    start = jd.likelihood.Variational(affine, {"s": jnp.array(0.5), "b": jnp.array(0.0)})
    denoiser = jd.exact.Gaussian(jd.VP(), np.zeros(1), 0.09 * np.eye(1))
    loss, images = jd.likelihood.DequantizationLoss(denoiser, 4), np.tile(np.arange(4), 16)[:, None]
    settings = {"optimizer": optax.sgd(0.05), "ema_decay": 0.0, "progress": False}
    trained = train(KEY, tmp_path / "a", start, loss, [{"x": images}] * 3, steps=3, **settings)
    gradient = jax.jit(jax.grad(lambda params, key: loss(start.with_params(params), key, images).mean()))
    params = start.params
    for k in range(3):
        change = gradient(params, jax.random.split(jax.random.fold_in(KEY, k))[1])
        params = jax.tree.map(lambda leaf, by: leaf - 0.05 * by, params, change)
    for name in params:
        np.testing.assert_allclose(trained.params[name], params[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="images hold values"):
        train(KEY, tmp_path / "b", start, loss, [{"x": images + 1}], steps=1, **settings)


# A process that learns

HIGH, LOW, PARTS = 6.0, -3.0, 16
STEEP = np.linspace(1.5, -1.5, PARTS + 1, dtype=np.float32)  # at the wrong end
PATH_LOSS = Denoising(weightings.Likelihood(), jd.losses.times.Stratified(t_min=0.0))


def normal_data():
    """Of data N(0, 1) under a variance-preserving process v = cos φ ε - sin φ x_0 is independent of x_t: w = 0."""
    network = lambda params, x, c_noise, cond: params["w"] * x
    return jd.Denoiser(network, {"w": np.float32(0.3)}, jd.LearnedVP(HIGH, LOW, STEEP), data_std=1.0)


class Normal:
    def __getitem__(self, step):
        return {"x": np.random.default_rng(step).standard_normal((1024, 1)).astype(np.float32)}


def second_moment(process):
    """Of the loss -λ' h χ²/2, h = S/(1 + S), at w = 0: 3/4 ∫ (λ' h)² dt by the trapezoidal rule."""
    t = np.linspace(0.0, 1.0, 32 * PARTS + 1, dtype=np.float32)
    log_snr = np.asarray(process.log_snr(t), np.float64)
    middle = (log_snr[1:] + log_snr[:-1]) / 2
    return 3 / 4 * np.sum((np.diff(log_snr) / (1 + np.exp(-middle))) ** 2) * (len(t) - 1)


@pytest.mark.slow
def test_a_process_learns_beside_its_network_to_the_least_variance(tmp_path):
    """The second moment is least, 3 times the squared mean, where log(1 + S) falls on a straight line; its mean, the
    fall of log(1 + S) over two, knows only the ends, which stay."""
    least = 3 * ((np.logaddexp(0, HIGH) - np.logaddexp(0, LOW)) / 2) ** 2
    start = jd.denoisers.WithProcess(normal_data())
    go = lambda steps, model=start: train(
        KEY,
        tmp_path,
        model,
        jd.losses.LeastVariance(PATH_LOSS),
        Normal(),
        steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 300)),
        ema_decay=0.9,
        log_every=150,
        checkpoint_every=150,
        progress=False,
    )
    go(150)
    trained = go(300)
    process = trained.process
    assert second_moment(start.process) > 2 * least
    assert second_moment(process) < 1.02 * least
    assert (process.log_snr_max, process.log_snr_min) == (HIGH, LOW)
    assert abs(trained.params["network"]["w"]) < 0.05
    assert trained.denoiser.process is process  # a denoiser as any other, which samples
    again = go(300, trained)  # what it returned is the same run
    np.testing.assert_array_equal(again.process.logits, process.logits)


def test_what_is_recorded_of_labels_is_that_of_the_denoiser_inside():
    both = jd.denoisers.WithProcess(normal_data())
    assert labels.recorded(both, 0.1).denoiser.condition_dropout == 0.1
    assert labels.recorded(normal_data(), 0.1).condition_dropout == 0.1
    assert both.denoiser.condition_dropout is None


@pytest.mark.slow
def test_the_network_follows_the_loss_and_the_process_its_square():
    model, key, x0 = jd.denoisers.WithProcess(normal_data()), jax.random.key(1), Normal()[0]["x"]

    @jax.jit
    def gradients(params):
        loss = lambda params: PATH_LOSS(model.with_params(params), key, x0)
        whole = lambda params: jd.losses.LeastVariance(PATH_LOSS)(model.with_params(params), key, x0)
        of = lambda function: jax.value_and_grad(lambda params: function(params).mean())(params)
        return of(whole), of(loss), of(lambda params: loss(params) ** 2)

    (value, found), (mean, own), (_, square) = gradients(model.params)
    np.testing.assert_allclose(value, mean, rtol=1e-6)
    np.testing.assert_allclose(found["network"]["w"], own["network"]["w"], rtol=1e-5)
    size = np.abs(square["process"]).max()
    np.testing.assert_allclose(found["process"], square["process"], atol=1e-5 * size)


@pytest.mark.slow
def test_a_part_of_a_product_learns():
    network = lambda params, x, c_noise, cond: {"a": params * x["a"], "b": jnp.zeros((*x["b"].shape, 3))}
    parts = {"a": jd.LearnedVP(HIGH, LOW, STEEP), "b": jd.Absorbing(3)}
    model = jd.denoisers.WithProcess(jd.Denoiser(network, jnp.array(0.3), jd.Product(parts)))
    x0 = {"a": Normal()[0]["x"], "b": np.zeros((1024, 2), np.int32)}
    loss = lambda params: Denoising()(model.with_params(params), KEY, x0).mean()
    gradient = jax.jit(jax.grad(loss))(model.params)
    assert len(jax.tree.leaves(gradient["process"])) == 1
    assert np.abs(gradient["process"][0]).max() > 0


def test_a_process_that_cannot_learn_is_refused():
    for wrong, message in (
        (student(), r"VP\(.*\) has nothing to learn; expected a process with `params`"),
        (jd.exact.Gaussian(jd.LearnedVP(), np.zeros(1), np.eye(1)), "expected one with `params` to train"),
    ):
        with pytest.raises(TypeError, match=message):
            jd.denoisers.WithProcess(wrong)
    with pytest.raises(TypeError, match=r"expected jaxdiff\.denoisers\.WithProcess\(denoiser\)"):
        jd.losses.LeastVariance(Denoising())(student(), KEY, BATCH["x"])
