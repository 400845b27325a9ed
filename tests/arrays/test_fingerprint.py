"""One hash of what a run is made of: equal for what makes the same numbers, another for what does not."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxdiff as jd
from jaxdiff.arrays import digest, fingerprint
from jaxdiff.networks import initialize


def made(source: str, name: str = "made"):
    """What a notebook's cell leaves under `name`."""
    scope = {"__name__": "__main__", "dataclasses": dataclasses, "jnp": jnp, "np": np}
    exec(source, scope)
    return scope[name]


SCALED = "SCALE = {0}\ndef made(key, batch):\n    return SCALE * batch['x'], None"
THROUGH = "def scaled(x):\n    return {0} * x\ndef made(key, batch):\n    return [scaled(x) for x in batch]"
ARRAY = "WEIGHTS = np.array([1.0, {0}])\nmade = lambda x: (lambda y: WEIGHTS * y)(x)"
METHOD = "@dataclasses.dataclass\nclass Loss:\n    a: float = 1.0\n    def __call__(self, x):\n        return {0} * x"
INHERITED = "class Base:\n    def f(self):\n        return {0}\nclass Loss(Base):\n    pass"
PLAIN = "class Loss:\n    def __init__(self):\n        self.width = {0}"
CASES = {
    "a global number": SCALED,
    "a global function": THROUGH,
    "a global array, read by an inner function": ARRAY,
    "a method": METHOD + "\nmade = Loss()",
    "an inherited method": INHERITED + "\nmade = Loss()",
    "an attribute": PLAIN + "\nmade = Loss()",
    "a bound method": PLAIN + "\n    def f(self):\n        return self.width\nmade = Loss().f",
    "a class": METHOD + "\nmade = Loss",
}


@pytest.mark.parametrize("source", CASES.values(), ids=CASES)
def test_what_a_cell_defines_counts_by_what_it_does(source):
    assert fingerprint(made(source.format(3.0))) == fingerprint(made(source.format(3.0)))
    assert fingerprint(made(source.format(3.0))) != fingerprint(made(source.format(4.0)))


def network(activation):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.act, self.dense = activation, nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x):
            return self.act(self.dense(x))

    return initialize(jax.random.key(0), lambda rngs: Net(rngs))[0]


def test_a_networks_activation_counts_and_its_address_does_not():
    assert fingerprint(network(nnx.relu)) != fingerprint(network(nnx.relu6))  # both custom_jvp, alike in their repr
    assert fingerprint(network(lambda x: x * 2)) == fingerprint(network(lambda x: x * 2))


def test_an_optimizers_numbers_count_wherever_they_are():
    table = np.linspace(0, 1, 2000, dtype=np.float32)
    other = table.copy()
    other[1000] += 1e-3
    rising, falling = [1e-4, 1e-3], [1e-3, 1e-4]
    optimizers = [
        optax.adam(1e-3),
        optax.adam(2e-3),
        optax.adam(1e-3, b1=0.8),
        optax.sgd(1e-3),
        optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
        optax.adam(optax.cosine_decay_schedule(1e-3, 200)),
        optax.inject_hyperparams(optax.adam)(1e-3),
        optax.inject_hyperparams(optax.adam)(2e-3),
        optax.add_noise(0.1, 0.5, jax.random.key(0)),
        optax.add_noise(0.1, 0.5, jax.random.key(1)),
        optax.adam(lambda step: jnp.asarray(table)[step]),
        optax.adam(lambda step: jnp.asarray(other)[step]),
        optax.adam(lambda step: jnp.interp(step, jnp.arange(2), jnp.asarray(rising))),
        optax.adam(lambda step: jnp.interp(step, jnp.arange(2), jnp.asarray(falling))),
        jd.training.clipped_adam(100),
        jd.training.clipped_adam(200),
    ]
    assert len({fingerprint(optimizer) for optimizer in optimizers}) == len(optimizers)
    assert fingerprint(optax.adam(1e-3)) == fingerprint(optax.adam(1e-3))


PROGRAM = """
import jax, optax, jaxdiff as jd
from jaxdiff.arrays import digest, fingerprint
from jaxdiff.networks import UNet, initialize
network, _ = initialize(jax.random.key(0), lambda rngs: UNet(1, (4,), 1, (0,), classes=2, rngs=rngs))
of = lambda key, batch: ({b for b in batch} | {"a", "b", "c"}, jd.VP())
print(fingerprint(network, optax.adamw(1e-3), jd.losses.Denoising(), of, jd.training.clipped_adam(10)))
"""


@pytest.mark.slow
def test_it_is_the_same_in_every_process():
    seeded = lambda seed: (
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert seeded("1") == seeded("2")


def test_what_a_function_noted_in_a_list_does_not_count():
    notes = []

    def noting(x):
        notes.append(x)
        return x

    before = fingerprint(noting)
    noting(1)
    assert fingerprint(noting) == before


def test_a_digest_is_that_of_the_standard_whatever_holds_the_bytes(tmp_path):
    """The examples of FIPS 180-2, B.1 and B.2, in pieces and in files."""
    path = tmp_path / "c"
    path.write_bytes(b"c")
    assert digest([b"a", b"b", path]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    assert digest([long]) == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
