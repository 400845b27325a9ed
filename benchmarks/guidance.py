"""What classifier-free guidance costs as one batch of 2 n and as two calls, beside one call without guidance.

    python benchmarks/guidance.py        two minutes on two cores: the demo's U-Net, with labels

`null=10` makes both halves one batch, None asks the network twice. Milliseconds an evaluation of n examples, and how
much more time one takes than the other, turn by turn: the median and the quartiles.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from against import in_turns, overhead

import jaxdiff as jd
from jaxdiff.networks import UNet, initialize

SIZES, TURNS, CLASSES = (16, 64, 256), 31, 10


def models() -> dict:
    """The conditional model, and guidance of it both ways, by name."""
    make = lambda rngs: UNet(1, (16, 32), 1, (1,), classes=CLASSES, rngs=rngs)
    network, params = initialize(jax.random.key(0), make)
    denoiser = jd.Denoiser(network, params, jd.VP())
    guided = lambda null: jd.guidance.ClassifierFree(denoiser, 2.0, null)
    return {"one": denoiser, "two calls": guided(None), "one batch": guided(CLASSES)}


def measure(n: int, turns: int) -> dict[str, np.ndarray]:
    """Seconds of each turn, by name."""
    x, label = jnp.ones((n, 8, 8, 1)), jnp.arange(n) % CLASSES
    ask = jax.jit(lambda denoiser: denoiser(x, 0.5, label))
    calls = max(1, 512 // n)

    def side(denoiser):
        def run() -> float:
            began = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(ask(denoiser))
            return (time.perf_counter() - began) / calls

        run()
        return run

    asked = models()
    return dict(zip(asked, in_turns([side(denoiser) for denoiser in asked.values()], turns).T))


def main() -> None:
    """Print a line for each size."""
    for n in SIZES:
        found = measure(n, TURNS)
        median, (low, high) = overhead(found["one batch"], found["two calls"])
        times = "   ".join(f"{name} {1e3 * np.median(seconds):7.2f} ms" for name, seconds in found.items())
        print(f"n = {n:3d}   {times}   one batch takes {median:+.1f} % [{low:+.1f}, {high:+.1f}]", flush=True)


if __name__ == "__main__":
    main()
