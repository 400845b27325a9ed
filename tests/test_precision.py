"""What a model is computed in: whether that is what was asked for, what it changes, and whether the report says so.

That closed forms ask for full precision stands in `test_transformations.py`, over every public name.
"""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import products_on_a_gpu, within
from scipy.stats import norm
from test_cli import jaxdiff

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.arrays import reduced
from jaxdiff.denoisers import arithmetic, uncast
from jaxdiff.likelihood import Hutchinson
from jaxdiff.networks import Cast

WIDTH = 11  # no other axis is as long
S = jd.samplers


def network(params, x, c_noise, cond):
    return jnp.tanh(x @ params) @ params.T


@pytest.mark.parametrize(
    ("precision", "said", "call"),
    [
        (None, "DEFAULT", lambda key, model, p: jd.sample(key, model, (3, 2), S.ReverseSDE(), 3, precision=p)),
        ("highest", "HIGHEST", lambda key, model, p: jd.sample(key, model, (3, 2), precision=p)),
        ("high", "HIGH", lambda key, model, p: jd.log_likelihood(key, model, jnp.ones((3, 2)), precision=p)),
    ],
    ids=["ReverseSDE", "DPMSolverPP at highest", "log_likelihood at high"],
)
def test_a_network_has_the_precision_of_its_caller_and_all_around_it_the_highest(precision, said, call):
    model = lambda params: jd.Denoiser(network, params, jd.VP())
    program = jax.jit(lambda key, params: call(key, model(params), precision))
    found = {True: set(), False: set()}
    for product in products_on_a_gpu(program.trace(jax.random.key(0), jnp.ones((2, WIDTH)))):
        own = f"{WIDTH}x" in product
        found[own].add(product.partition("precision = [")[2].partition("]")[0])
    assert found[True] == {f"{said}, {said}"}
    assert found[False] <= {"HIGHEST, HIGHEST"}


def test_products_on_a_cpu_are_in_float32_whatever_is_asked_for():
    a, b = np.random.default_rng(0).standard_normal((2, 200, 200)).astype(np.float32)
    full, low = (np.asarray(jax.jit(lambda a, b, p=p: jnp.matmul(a, b, precision=p))(a, b)) for p in ("highest", None))
    np.testing.assert_array_equal(full, low)
    assert np.abs(low - a.astype(np.float64) @ b).max() < 200 * np.finfo(np.float32).eps * np.abs(a).max() ** 2
    assert reduced("default") is None


def test_what_falls_short_of_float32_is_named():
    gpu = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="gpu")]))
    assert reduced(None, gpu) == "default precision on gpu"
    assert reduced("high", gpu) == "high precision on gpu"
    assert reduced("highest", gpu) is None
    with jax.default_matmul_precision("highest"):
        assert reduced(None, gpu) is None
    cast = jd.Denoiser(Cast(network, jnp.bfloat16), jnp.ones((2, 3)), jd.VP())
    energy = jd.Denoiser(jd.denoisers.Gradient(jd.denoisers.InnerProduct(Cast(network, jnp.float16))), 0.5, jd.VP())
    guided = jd.guidance.Auto(cast, jd.guidance.DynamicThreshold(energy), 2.0)
    whole, dtypes = uncast(guided)
    assert dtypes == ["bfloat16", "float16"]
    assert whole.denoiser == jd.Denoiser(network, cast.params, jd.VP())
    assert whole.weak.denoiser.network == jd.denoisers.Gradient(jd.denoisers.InnerProduct(network))
    assert uncast(whole) == (whole, [])
    assert arithmetic(guided, jnp.float32, None, gpu) == (
        "network in bfloat16 and float16, float32 products at default precision on gpu"
    )
    assert arithmetic(cast, jnp.float32) == "network in bfloat16"
    assert arithmetic(Cast(network, jnp.float64), jnp.float32) == "float32"
    assert arithmetic(whole, jnp.float32) == "float32"
    assert arithmetic(whole, jnp.float64, None, gpu) == "float64"


@pytest.mark.slow
def test_the_budget_says_what_full_precision_changes():
    """v = a x makes x_1 = x exp(a Δφ) under VP with data_std 1; bfloat16 rounds a, and x by a share of 2^-9 at most."""
    seen = set()

    def linear(params, x, c_noise, cond):
        seen.add((jax.config.jax_default_matmul_precision, jnp.dtype(x.dtype).name))
        return params * x

    a, process, n, levels = np.float32(0.5019), jd.VP(), 64, 64
    images = np.random.default_rng(0).integers(28, 36, (n, 4))
    denoiser = jd.Denoiser(Cast(linear, jnp.bfloat16), a, process, data_std=1.0)
    report = jd.bits_per_dim(
        jax.random.key(0),
        denoiser,
        images,
        levels=levels,
        batch_size=n,
        flow=within(1e-5),
        trace=Hutchinson(2),
        precision="high",
    )
    assert seen == {("high", "bfloat16"), ("highest", "float32")}, "and no evaluation was at another precision"

    turn = float(process.angle(1.0) - process.angle(1e-5))
    x = np.asarray(jd.dequantize(jax.random.key(1), images, levels), np.float64)  # a draw of its own: x is small
    log_p = lambda a: norm.logpdf(x * np.exp(a * turn)).mean() + a * turn
    truth = (log_p(float(jnp.bfloat16(a))) - log_p(float(a))) / np.log(2)
    found = report.budget.arithmetic
    assert abs(found.mean - truth) < 0.05 * abs(truth)
    assert found.standard_error < 0.05 * abs(truth) < 1e-3
    assert report.precision == "network in bfloat16"
    assert "; network in bfloat16; 64 examples" in str(report)
    assert "what full precision changes" in str(report)


def test_a_run_trained_in_bfloat16_draws_in_it_and_is_scored_in_float32_unless_asked(tmp_path, monkeypatch, capsys):
    made = {}
    for dtype in ("float32", "bfloat16"):
        config = runs.Config(data="two_moons", network="mlp(hidden=(8,))", dtype=dtype)
        known = runs.learned(config, runs.read(config.data, "train"))
        made[dtype] = runs.Run(config, known, runs.build(config, known))
    monkeypatch.setattr(runs, "load", lambda folder: made[folder.name])
    used = []

    def draw(key, denoiser, shape, *rest, precision, **more):
        used.append((denoiser, precision))
        return np.zeros(shape)

    def log_likelihood(key, denoiser, x, precision, **more):
        used.append((denoiser, precision))
        return jd.likelihood.Likelihood(np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x)), np.ones(len(x), bool))

    monkeypatch.setattr(jd.samplers, "draw", draw)
    monkeypatch.setattr(jd, "log_likelihood", log_likelihood)
    for command, trained, asked, dtype, products in (
        ("sample", "bfloat16", [], "bfloat16", None),
        ("sample", "bfloat16", ["--precision", "high"], "float32", "high"),
        ("sample", "float32", [], "float32", None),
        ("sample", "float32", ["--precision", "bfloat16"], "bfloat16", None),
        ("likelihood", "bfloat16", [], "float32", None),
        ("likelihood", "bfloat16", ["--precision", "bfloat16"], "bfloat16", None),
        ("likelihood", "float32", ["--precision", "bfloat16"], "bfloat16", None),
        ("likelihood", "float32", ["--precision", "highest"], "float32", "highest"),
    ):
        code, out, err = jaxdiff(monkeypatch, capsys, command, tmp_path / trained, *asked, "--json")
        assert code == 0, err
        assert used.pop() == (made[dtype].denoiser, products)
        if command == "likelihood":
            words = "float32" if dtype == "float32" else "network in bfloat16"
            assert json.loads(out)["precision"] == words
            assert f"nats a row ({words})" in err
    code, _, err = jaxdiff(monkeypatch, capsys, "sample", tmp_path / "float32", "--precision", "float16")
    assert (code, used) == (2, [])
