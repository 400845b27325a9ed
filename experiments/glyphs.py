"""Characters in many typefaces: unconditional, conditional and guided samples (Murphy 2023, figure 25.4).

    python experiments/glyphs.py                     22 minutes of CPU time, so 11 minutes on two idle cores
    python experiments/glyphs.py --setting gpu       not measured yet

62 characters, 0-9, A-Z, a-z, in the typefaces that are installed; if there are too few, an error says what to install.
The families are split in two: one half trains the model, the other a classifier, the judge. For 1,240 samples of each
kind, 16 x 16, from a model of 502k parameters after 4,000 steps, expect

                         legible           right             spread
    real                 0.925 +- 0.007    0.953 +- 0.006    5.69
    unconditional        0.515 +- 0.014
    conditional          0.843 +- 0.010    0.858 +- 0.010    5.05
    guided, scale 2      0.961 +- 0.005    0.980 +- 0.004    4.08

legible: the judge gives one character a probability above 0.9. right: the most likely of the 62 characters is the
requested one; O and 0, l, I and 1, c and C count as different. All capitals have the same height and all characters the
same baseline, so size and position distinguish most of these; the row of real characters, in typefaces that the judge
was not trained on, shows the remaining ambiguity. spread: the variance within a character, summed over pixels on [0,
1]. Guided samples are more legible than real ones, and less diverse.

These numbers are for 75 typefaces of 15 families for the model and 70 of 14 for the judge, from the packages
fonts-dejavu fonts-noto-core fonts-liberation fonts-freefont-ttf fonts-urw-base35 fonts-lato fonts-roboto-unhinted
fonts-open-sans fonts-cantarell fonts-linuxlibertine fonts-sil-gentium fonts-junicode fonts-crosextra-carlito
fonts-crosextra-caladea fonts-hack fonts-inconsolata fonts-comfortaa fonts-quicksand fonts-ebgaramond fonts-mononoki
fonts-firacode fonts-jetbrains-mono, of Debian 12.

The GPU setting (28 x 28, 12.9M parameters), by XLA's count: a forward pass is 2.28 GFLOP an image; training is 2.28 x 3
x 256 x 15,000 = 26 PFLOP and sampling 4.5, together 24 minutes at 21 TFLOP/s.
"""

import dataclasses
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import classifier
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from scipy.special import softmax

import jaxdiff as jd
from jaxdiff import runs

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts", Path("/Library/Fonts"))
PACKAGES = (
    "fonts-dejavu fonts-noto-core fonts-liberation fonts-freefont-ttf fonts-urw-base35 fonts-lato fonts-roboto-unhinted"
)
PICTORIAL = ("D050000L", "Symbol", "Keyboard", "Nushu")  # typefaces that draw something else in the place of letters
FAMILIES, FACES = 8, 8  # the fewest families that will do, and the most faces that are taken of one
DRAWINGS, SCALE = 8, 2.0
LEGIBLE = 0.9
SHOWN = "02458ABEGKQRaegkqt"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The size of a picture, a run, and the numbers of samples and of steps."""

    size: int
    config: runs.Config
    samples: int
    steps: int


SETTINGS = {
    "cpu": Setting(
        16,
        runs.Config(
            data=None,
            condition=("label",),
            network="unet(channels=(16, 32, 64), blocks=1, attention=(2,))",
            steps=4_000,
        ),
        samples=20 * len(ALPHABET),
        steps=25,
    ),
    "gpu": Setting(
        28,
        runs.Config(
            data=None,
            condition=("label",),
            network="unet(channels=(64, 128, 256), blocks=2, attention=(2,))",
            steps=15_000,
            batch_size=256,
            learning_rate=1e-3,
            ema_decay=0.9995,
        ),
        samples=160 * len(ALPHABET),
        steps=50,
    ),
}


def faces(folders: Sequence[Path] = FOLDERS) -> dict[str, list[Path]]:
    """The files of the typefaces that have every character of `ALPHABET`, by family (the first word of the name).

    Files that draw identical alphabets count once. With fewer than `FAMILIES` families it raises FileNotFoundError,
    which says what to install.
    """
    found, seen = {}, set()
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".ttf", ".otf")):
        try:
            font = ImageFont.truetype(path, 24)
        except OSError:  # of pictures in a fixed size
            continue
        name, missing = str(font.getname()[0]), bytes(font.getmask("\uffff"))
        if any(word in name for word in PICTORIAL) or any(
            bytes(font.getmask(c)) == missing for c in reversed(ALPHABET)
        ):
            continue
        drawn = tuple(bytes(font.getmask(c)) for c in ALPHABET)
        if drawn in seen:
            continue
        seen.add(drawn)
        found.setdefault(name.split()[0], []).append(path)
    if len(found) < FAMILIES:
        raise FileNotFoundError(
            f"{len(found)} families of typefaces in {', '.join(map(str, folders))}; expected {FAMILIES} or more. On "
            f"Debian and Ubuntu: apt-get install {PACKAGES}"
        )
    return {family: paths[:: -(-len(paths) // FACES)] for family, paths in sorted(found.items())}


def draw(path: Path, character: str, size: int) -> Image.Image:
    """`character` in white on black at four times the resolution of `size`, with a margin of one pixel of `size`.

    Capitals have the same height in every typeface and all characters the same baseline, so size distinguishes c from
    C.
    """
    fine, margin = 4 * size, 4
    font = ImageFont.truetype(path, 100)
    font = font.font_variant(size=100 * 0.58 * fine / -font.getbbox("H", anchor="ls")[1])
    left, _, right, _ = font.getbbox(character, anchor="ls")
    canvas = Image.new("L", (fine + 2 * margin, fine + 2 * margin))
    at = margin + fine / 2 - (left + right) / 2, margin + 0.76 * fine
    ImageDraw.Draw(canvas).text(at, character, fill=255, font=font, anchor="ls")
    return canvas


def jittered(canvas: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The result of `draw` as uint8 [size, size], slightly scaled, rotated and shifted at random."""
    cut, shift = rng.uniform(2, 6), tuple(rng.uniform(-2, 2, 2))
    turned = canvas.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR, translate=shift)
    box = (cut, cut, canvas.width - cut, canvas.height - cut)
    return np.asarray(turned.resize((size, size), Image.Resampling.BOX, box=box))


def drawn(paths: Sequence[Path], size: int, seed: int) -> jd.data.Images:
    """Every character in every typeface, `DRAWINGS` times."""
    rng, images = np.random.default_rng(seed), []
    for path in paths:
        for character in ALPHABET:
            canvas = draw(path, character, size)
            images += [jittered(canvas, size, rng) for _ in range(DRAWINGS)]
    labels = np.tile(np.arange(len(ALPHABET), dtype=np.int32).repeat(DRAWINGS), len(paths))
    return jd.data.Images(np.stack(images)[..., None], labels, 256, len(ALPHABET), tuple(ALPHABET))


def halves(families: dict[str, list[Path]]) -> tuple[list[Path], list[Path]]:
    """The typefaces of every second family, and those of the remaining families."""
    every = list(families.values())
    return [path for paths in every[::2] for path in paths], [path for paths in every[1::2] for path in paths]


def reading(judge: classifier.Classifier, images: np.ndarray, label: np.ndarray | None) -> dict[str, float]:
    """The share that the judge reads with a probability above `LEGIBLE`; given labels, the share read correctly too.

    Also the spread: the variance of pixels on [0, 1] within a typical label, summed over the picture.
    """
    probability = softmax(judge(images)[1].astype(np.float64), axis=1)
    found = {"legible": float(np.mean(probability.max(1) > LEGIBLE))}
    if label is not None:
        within = [np.var(images[label == one] / 255, axis=0).sum() for one in np.unique(label)]
        found |= {"right": float(np.mean(probability.argmax(1) == label)), "spread": float(np.mean(within))}
    return found


def main(setting: Literal["cpu", "gpu"] = "cpu") -> None:
    """Draw the characters, train the judge and the model, sample, and judge the samples.

    Args:
        setting: For two CPU cores, or for one GPU.
    """
    chosen, folder = SETTINGS[setting], Path(f"runs/glyphs_{setting}")
    models, judges = halves(faces())
    data = drawn(models, chosen.size, 0)
    shape, classes = (chosen.size, chosen.size), len(ALPHABET)
    judge = classifier.load(folder / "judge", lambda: drawn(judges, chosen.size, 1), shape, classes)
    run = runs.train(chosen.config, folder / "model", data, pictures=0)

    n = chosen.samples
    label = np.arange(n, dtype=np.int32) % classes
    guided = dataclasses.replace(run, denoiser=jd.guidance.ClassifierFree(run.denoiser, SCALE))
    settings = {"steps": chosen.steps, "batch_size": 5 * classes}
    real = np.random.default_rng(0).choice(len(data), n, replace=False)
    pictures = {
        "real": (data.image[real], data.label[real]),
        "unconditional": (run.restore(runs.draw(run, n, **settings)), None),
        "conditional": (run.restore(runs.draw(run, n, cond=label, **settings)), label),
        f"guided, scale {SCALE:g}": (run.restore(runs.draw(guided, n, cond=label, **settings)), label),
    }
    print(f"{len(models)} typefaces for the model, {len(judges)} for the judge; {n:,} samples of each kind")
    for name, (images, asked) in pictures.items():
        found = reading(judge, images, asked)
        print(f"    {name:20s}" + "   ".join(f"{what} {value:.3f}" for what, value in found.items()))
    draw_rows(pictures, folder / "glyphs.png")
    print(f"picture in {folder}/glyphs.png")


def draw_rows(pictures: dict[str, tuple], path: Path, rows: int = 3) -> None:
    """Plot three rows of each kind, one column for each character of `SHOWN`; unconditional samples have no order."""
    shown, names = [], []
    for name, (images, label) in pictures.items():
        of = [np.arange(len(images))] * len(SHOWN)
        if label is not None:
            of = [np.flatnonzero(label == ALPHABET.index(character)) for character in SHOWN]
        for row in range(rows):
            picked = [indices[row] if label is not None else row * len(SHOWN) + i for i, indices in enumerate(of)]
            shown.append(images[picked])
            names.append("" if row else name)
    jd.plotting.strip(np.stack(shown).astype(np.float32) / 127.5 - 1, path, names=names)


if __name__ == "__main__":
    tyro.cli(main)
