"""A transformer and a U-Net on Fashion-MNIST, with the same loss, number of steps and FLOPs an image.

    python experiments/dit.py                     20 minutes of CPU time
    python experiments/dit.py --setting gpu       not measured yet

FLOPs are XLA's count of the compiled training step, divided by its images. Both networks are scored by the loss of
held-out images, with the same noise, and by the FMNIST-FID of `fashion_mnist.py` with its floor. Run again to resume.
Expect, after 1,000 steps of 64 images,

              parameters   MFLOP   loss               FMNIST-FID (floor 7.9)
    U-Net           265k     127   0.2221 ± 0.0030      96.9
    DiT             592k     132   0.2504 ± 0.0030     242.0

So few steps, and the patches of 4 x 4 that this budget requires of the DiT, favour the U-Net, whose locality is built
in. Learning rates were not tuned for either.

The GPU setting, by XLA's count: a forward pass is 1.51 GFLOP an image for the U-Net (5.2M parameters), and 1.45 for the
DiT (4.8M, patches of 2 x 2); 3 x 256 x 25,000 of them are 29 and 28 PFLOP of training, 45 minutes in all at 21 TFLOP/s.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import fashion_mnist_classifier
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from fashion_mnist import distances

import jaxdiff as jd
from jaxdiff.losses import Denoising
from jaxdiff.networks import DiT, UNet, initialize
from jaxdiff.training import TrainState, clipped_adam, make_step, read_metrics, train

ROWS, SHOWN = 3, 14


@dataclasses.dataclass(frozen=True)
class Setting:
    """The networks by name, with their learning rates; their training; and the numbers of samples and test images."""

    networks: dict[str, tuple[Callable, float]]
    steps: int
    batch_size: int
    ema_decay: float
    samples: int
    sampler_steps: int
    scored: int


SETTINGS = {
    "cpu": Setting(
        {
            "U-Net": (lambda rngs: UNet(1, channels=(8, 24, 48), blocks=1, attention=(2,), rngs=rngs), 3e-3),
            "DiT": (lambda rngs: DiT(1, patch=4, width=88, depth=4, heads=4, rngs=rngs), 1e-3),
        },
        steps=1_000,
        batch_size=64,
        ema_decay=0.998,
        samples=1_000,
        sampler_steps=20,
        scored=2_000,
    ),
    "gpu": Setting(
        {
            "U-Net": (lambda rngs: UNet(1, channels=(64, 128, 128), blocks=2, attention=(2,), rngs=rngs), 1e-3),
            "DiT": (lambda rngs: DiT(1, patch=2, width=192, depth=7, heads=6, rngs=rngs), 3e-4),
        },
        steps=25_000,
        batch_size=256,
        ema_decay=0.9995,
        samples=10_000,
        sampler_steps=50,
        scored=10_000,
    ),
}


def prepare(key, batch: dict) -> tuple[jax.Array, None]:
    return jd.dequantize(key, batch["image"]), None


def flops(denoiser: jd.Denoiser, batch_size: int) -> float:
    """FLOPs of a training step for each image, by XLA's count of the compiled program."""
    optimizer = clipped_adam(1)
    step = make_step(denoiser, Denoising(), optimizer, prepare=prepare)
    state = TrainState.create(jax.random.key(0), denoiser.params, optimizer)
    batch = {"image": jnp.zeros((batch_size, 28, 28, 1), jnp.uint8)}
    return step.lower(state, batch).compile().cost_analysis()["flops"] / batch_size


def loss_of(denoiser: jd.Denoiser, images: np.ndarray) -> tuple[float, float]:
    """The loss of held-out images, and its standard error, with the same noise for every denoiser."""
    loss = jax.jit(lambda denoiser, key, images: Denoising()(denoiser, key, *prepare(key, {"image": images})))
    parts = [images[start : start + 500] for start in range(0, len(images), 500)]
    losses = np.concatenate([loss(denoiser, jax.random.key(i), part) for i, part in enumerate(parts)])
    return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(len(losses)))


def scored(name: str, setting: Setting, folder: Path, data: jd.data.Images, test: jd.data.Images, judge) -> np.ndarray:
    """Train a network, print its cost and its scores, and return its samples, uint8."""
    make, learning_rate = setting.networks[name]
    network, params = initialize(jax.random.key(0), make)
    denoiser = jd.Denoiser(network, params, jd.VP(), data_std=2 / 256 * jd.data.pixel_moments(data)[1])
    cost = flops(denoiser, setting.batch_size)
    denoiser = train(
        jax.random.key(1),
        folder,
        denoiser,
        Denoising(),
        jd.data.batches({"image": data.image}, setting.batch_size, 0),
        steps=setting.steps,
        optimizer=functools.partial(clipped_adam, learning_rate=learning_rate),
        ema_decay=setting.ema_decay,
        prepare=prepare,
    )
    seconds = read_metrics(folder / "metrics.jsonl")[-1]["seconds"]
    shape = (setting.samples, 28, 28, 1)
    x = jd.samplers.draw(jax.random.key(2), denoiser, shape, 250, steps=setting.sampler_steps)
    drawn = np.asarray(jd.quantize(x)).astype(np.uint8)
    fid, floor = distances(judge, drawn, data.image, test.image)
    loss, error = loss_of(denoiser, test.image[: setting.scored])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{name:6s} {count:,} parameters, {cost / 1e6:.0f} MFLOP an image and step, {seconds:.0f} s of training, "
        f"loss {loss:.4f} +- {error:.4f}, FMNIST-FID {fid:.1f} (floor {floor:.1f})"
    )
    return drawn


def main(setting: Literal["cpu", "gpu"] = "cpu") -> None:
    """Count FLOPs, train, sample and score both networks.

    Args:
        setting: For two CPU cores, or for one GPU.
    """
    chosen, folder = SETTINGS[setting], Path(f"runs/dit_{setting}")
    judge = fashion_mnist_classifier.load()
    data, test = (jd.data.load_fashion_mnist(split) for split in ("train", "test"))
    pictures = {"data": data.image} | {
        name: scored(name, chosen, folder / name, data, test, judge) for name in chosen.networks
    }
    rows = np.stack([images[: ROWS * SHOWN].reshape(ROWS, SHOWN, 28, 28, 1) for images in pictures.values()])
    names = [name if row == 0 else "" for name in pictures for row in range(ROWS)]
    shades = rows.reshape(-1, *rows.shape[2:]).astype(np.float32) / 127.5 - 1
    jd.plotting.strip(shades, folder / "dit.png", names=names)
    print(f"on {jax.devices()[0]}; picture in {folder}/dit.png")


if __name__ == "__main__":
    tyro.cli(main)
