"""Maps of categories: silhouettes of clothes and emoji, by masks and by uniform noise, beside a causal model of counts.

    python experiments/maps.py --maps fashion       16 minutes of CPU time for masks, 20 for uniform noise
    python experiments/maps.py --maps emoji         16 minutes of CPU time for masks, 24 for uniform noise
    python experiments/maps.py --setting gpu        not measured yet

Silhouettes of Fashion-MNIST, 28 x 28 in 11 categories, and emoji, 32 x 32 in 8 colours (`jaxdiff.data.maps`). The model
of counts goes through a map row by row: a pixel given its neighbours W, N, NW, NE, WW and NN, what lies outside being a
category of its own, counted in at most 20,000 training maps and mixed as Witten and Bell (1991) do, one neighbour
after another. The models are U-Nets with categories at both ends; their bound on 200 random test maps is printed with
its standard error. Expect, bits a pixel of the test maps (of masks, of the first 200),

               counts    masks              uniform noise
    fashion    0.193     0.164 ± 0.010      0.168 ± 0.007
    emoji      0.552     0.519 ± 0.018      0.569 ± 0.015

Masks stay under the counts on both, uniform noise on silhouettes only: samples of emoji by uniform noise are speckled.
The counts of emoji depend on the eight colours: four other starts of k-means, with 90 % of the emoji counted in place
of 85 %, gave 0.508 to 0.542. Pictures: samples.png and denoising.png in each run's folder, and real.png.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import jaxdiff as jd
from jaxdiff import runs

NEIGHBOURS = {"W": (0, -1), "N": (-1, 0), "NW": (-1, -1), "NE": (-1, 1), "WW": (0, -2), "NN": (-2, 0)}  # down, right
COUNTED = 20_000
SETTINGS = {
    "cpu": {
        "network": "unet(channels=(32, 64, 64), blocks=1, attention=(2,))",
        "steps": 1500,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "ema_decay": 0.995,
    },
    "gpu": {
        "network": "unet(channels=(64, 128, 256), blocks=2, attention=(2,))",
        "steps": 20_000,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "ema_decay": 0.999,
    },
}


def neighbours(maps: np.ndarray, outside: int) -> list[np.ndarray]:
    """The neighbours of each pixel of maps [n, height, width], each of that shape; `outside` where there is none."""
    padded = np.pad(maps, ((0, 0), (2, 2), (2, 2)), constant_values=outside)
    height, width = maps.shape[1:]
    return [
        padded[:, 2 + down : 2 + down + height, 2 + right : 2 + right + width] for down, right in NEIGHBOURS.values()
    ]


def counted(train: np.ndarray, test: np.ndarray, categories: int) -> float:
    """Bits a pixel of test maps, of counts in training maps.

    p_k(c | h) = (count(h c) + T(h) p_{k-1}(c | h'))/(count(h) + T(h)), h the first k neighbours, T(h) how many
    categories were seen after h; p_{-1} is uniform.
    """
    digits = categories + 1
    both = [
        (maps.ravel().astype(np.int64), [n.ravel() for n in neighbours(maps, categories)]) for maps in (train, test)
    ]
    contexts = [np.zeros(len(pixels), np.int64) for pixels, _ in both]
    probability = np.full(len(both[1][0]), 1 / categories)
    for k in range(len(NEIGHBOURS) + 1):
        grams = [context * categories + pixels for context, (pixels, _) in zip(contexts, both)]
        size = digits**k
        count = np.bincount(grams[0], minlength=size * categories)
        total, following = count.reshape(size, -1).sum(1), (count.reshape(size, -1) > 0).sum(1)
        c, h, t = count[grams[1]], total[contexts[1]], following[contexts[1]]
        probability = np.where(h > 0, (c + t * probability) / np.maximum(h + t, 1), probability)
        if k < len(NEIGHBOURS):
            contexts = [context * digits + around[k] for context, (_, around) in zip(contexts, both)]
    return float(-np.log2(probability).mean())


def main(
    maps: Literal["fashion", "emoji"] = "fashion",
    process: tuple[str, ...] = ("absorbing", "multinomial"),
    setting: Literal["cpu", "gpu"] = "cpu",
    folder: Path = Path("runs/maps"),
    steps: int | None = None,
) -> None:
    """Count, then train, score and draw by each process.

    Args:
        maps: Silhouettes of Fashion-MNIST, or emoji in eight colours.
        process: Words of processes of categories.
        setting: For two CPU cores, or for one GPU.
        folder: Where runs lie.
        steps: Training steps, if not those of the setting.
    """
    train, test = (jd.data.maps(maps, split) for split in ("train", "test"))
    bits = counted(train.tokens[:COUNTED], test.tokens, train.categories)
    print(f"{maps}: {bits:.3f} bits a pixel by counts of a pixel given {', '.join(NEIGHBOURS)}", flush=True)
    chosen = SETTINGS[setting] | ({"steps": steps} if steps else {})
    for name in process:
        config = runs.Config(data=f"maps({maps})", process=name, **chosen)
        place = folder / f"{maps}_{name.partition('(')[0]}_{setting}"
        run = runs.train(config, place, pictures=0.01)
        found = runs.likelihood(run, place, limit=200 if setting == "cpu" else 10_000, draws=16)
        print(f"    {found['bits_per_pixel']:.4f} +- {found['standard_error']:.4f}  by {name}, at most: {place}")
        jd.plotting.sample_grid(run.known.coloured(test.tokens[:64]), place / "real.png")


if __name__ == "__main__":
    tyro.cli(main)
