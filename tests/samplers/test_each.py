import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names
from pairs import assert_moments, joint
from tables import KINDS

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, Each

KEY = jax.random.key(0)


def draw(sampler, n=5, steps=3, **settings):
    return jd.sample(KEY, joint(), {"number": (n, 2), "label": (n,)}, sampler, steps, **settings)


def test_parts_by_unlike_samplers_have_the_moments_of_the_pair():
    assert_moments(draw(Each({"number": DPMSolverPP(), "label": Ancestral()}), 4000, 100))


@pytest.mark.slow
def test_a_part_that_is_masked_again_has_the_law_of_the_pair_and_keeps_what_was_seen_at_the_start():
    sampler = Each({"number": DPMSolverPP(), "label": Ancestral(remask=0.5)})
    assert_moments(draw(sampler, 4000, 100))
    seen = np.array([0, 3, 2, 3, 1])  # 3 is the mask
    x = draw(sampler, steps=8, x_start={"number": np.zeros((5, 2), np.float32), "label": seen})
    np.testing.assert_array_equal(x["label"][seen < 3], seen[seen < 3])


@pytest.mark.slow
def test_each_by_the_same_is_the_one():
    """Keys, steps and answers are those of the sampler of the whole product."""
    whole, each = draw(Ancestral()), draw(Each({"number": Ancestral(), "label": Ancestral()}))
    jax.tree.map(np.testing.assert_array_equal, each, whole)


@pytest.mark.slow
def test_the_model_is_asked_once_a_step():
    asked = []

    class Counting(type(joint())):
        def __call__(self, x, t, cond=None):
            jax.debug.callback(lambda: asked.append(1))
            return super().__call__(x, t, cond)

    model = jd.pytree(Counting)(joint().mixture)
    sampler = Each({"number": DPMSolverPP(), "label": Ancestral()})
    jax.block_until_ready(jd.sample(KEY, model, {"number": (2, 2), "label": (2,)}, sampler, 4))
    jax.effects_barrier()
    assert len(asked) == 4


@pytest.mark.parametrize("name", few_names(KINDS, "Heun", "PredictorCorrector", "ProbabilityFlow"))
def test_samplers_that_ask_the_model_themselves_are_refused(name):
    """Those that write `step` are; all others move by one answer."""
    by_answer = {"Ancestral", "DDIM", "DPMSolverPP", "UniPC", "EulerMaruyama"}
    if name in by_answer:
        x = draw(Each({"number": KINDS[name], "label": Ancestral()}))
        assert jnp.isfinite(x["number"]).all()
    else:
        with pytest.raises(
            TypeError, match=f"{type(KINDS[name]).__name__} evaluates the denoiser itself; expected.*Ancestral"
        ):
            Each({"number": KINDS[name], "label": Ancestral()})


BOTH = Each({"number": DDIM(), "label": Ancestral()})
WORDS = {
    "no sampler": (lambda: Each({"number": DDIM(), "label": None}), TypeError, "a part's sampler = None"),
    "class": (lambda: Each({"number": DDIM, "label": Ancestral()}), TypeError, "a part's sampler = .*DDIM"),
    "form": (lambda: draw(Each({"number": DDIM()})), ValueError, "samplers has another form than the product"),
    "part": (
        lambda: draw(Each({"number": Ancestral(), "label": DDIM()})),
        TypeError,
        "DDIM.*not Absorbing; take Ancestral",
    ),
    "no product": (
        lambda: jd.sample(KEY, joint().mixture, (4, 2), BOTH, 3),
        TypeError,
        "expected a Product, for samplers.Each",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), WORDS.values(), ids=WORDS.keys())
def test_what_does_not_fit_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()
