"""What a denoiser, a process or a sampler looks like on a screen."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import fingerprint, in_full, pytree, said


@pytree
@dataclasses.dataclass(frozen=True)
class Thing:
    value: Any
    static: Any = dataclasses.field(default=None, metadata={"static": True})


@pytree
@dataclasses.dataclass(frozen=True)
class Named(Thing):
    def __repr__(self):
        return "Named"


def mlp():
    network, params = jd.networks.initialize(jax.random.key(0), lambda rngs: jd.networks.MLP(2, rngs=rngs))
    return jd.Denoiser(network, params, jd.VP())


def test_a_denoiser_of_an_mlp_fits_in_25_lines_of_80_characters():
    text = repr(mlp())
    lines = text.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80
    assert "network=Network(MLP)" in text
    assert "'kernel': f32[128,128]" in text
    assert "process=VP(beta_min=0.1, beta_max=20.0)" in text


def test_what_fits_in_a_line_is_as_dataclasses_write_it():
    assert repr(jd.VP()) == "VP(beta_min=0.1, beta_max=20.0)"
    assert repr(Thing([1, "a", None], (2.5, {}))) == "Thing(value=[1, 'a', None], static=(2.5, {}))"


def test_more_arrays_than_fit_are_counted():
    params = {f"layer_{i}": {"kernel": jnp.zeros((2, 3))} for i in range(50)}
    assert repr(Thing(params)) == "Thing(value=<50 arrays, 300 values>)"


def test_arrays_are_shown_by_type_and_shape_and_scalars_by_value():
    arrays = [jnp.zeros((2, 3)), np.zeros(4, np.int32), jnp.zeros(1, jnp.bfloat16), jnp.float32(0.1), jax.random.key(0)]
    assert repr(Thing(arrays)) == "Thing(value=[f32[2,3], i32[4], bf16[1], 0.1, key<fry>[]])"


def test_traced_and_donated_arrays_are_shown_without_their_values():
    shown = []

    @jax.jit
    def traced(thing):
        shown.append(repr(thing))
        return thing.value

    traced(Thing(jnp.float32(0.5)))
    jax.vmap(lambda thing: shown.append(repr(thing)))(Thing(jnp.ones(3)))
    donated = Thing(jnp.float32(0.5))
    donated.value.delete()
    assert [*shown, repr(donated)] == ["Thing(value=f32[])"] * 3


def test_there_is_no_address():
    class Plain: ...

    def function(x): ...

    for value in (Plain(), function, jax.jit(function), lambda x: x, Thing(Plain()).__eq__):
        assert "0x" not in repr(Thing(value))


def test_a_repr_of_a_class_stays():
    assert repr(Named(1)) == "Named"


def test_a_message_has_it_in_one_line():
    thing = Thing({f"a_long_name_{i}": i for i in range(5)})
    assert "\n" in repr(thing)
    assert "\n" not in said(thing)
    assert said([thing]).startswith("[Thing(value={'a_long_name_0': 0, 'a_long_name_1': 1,")


def test_in_full_it_is_what_dataclasses_generate():
    thing = Thing({f"a_long_name_{i}": jnp.arange(3) for i in range(5)}, Thing(1))
    with in_full():
        text = repr(thing)
    expected = repr(thing.value), "static=Thing(value=1, static=None)"
    assert text == f"Thing(value={expected[0]}, {expected[1]})"


def test_a_fingerprint_tells_sets_by_the_values_of_their_arrays():
    frozen = lambda value: frozenset({Thing(jnp.full(3, value))})
    assert fingerprint(frozen(1.0)) == fingerprint(frozen(1.0)) != fingerprint(frozen(2.0))
