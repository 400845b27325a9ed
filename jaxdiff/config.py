"""What a run is, as data: the words of its config and the classes they stand for.

config.json holds words and numbers, never code; what is in it is checked before anything is done with it.
"""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jaxdiff as jd

IMAGES = {
    "digits": jd.data.load_digits,
    "fashion_mnist": jd.data.load_fashion_mnist,
    "cifar10": jd.data.load_cifar10,
    "imagenet64": jd.data.load_imagenet64,
    "folder": None,  # of the config
}
IN_A_FOLDER = ("fashion_mnist", "imagenet64")  # whose published files may be given
TOYS = ("two_moons", "eight_gaussians", "checkerboard", "swiss_roll", "s_curve", "pinwheel", "circles", "cat")

PROCESSES = {
    "vp": jd.VP,
    "sub_vp": jd.SubVP,
    "ou": jd.OU,
    "ve": jd.VE,
    "brownian_ve": jd.BrownianVE,
    "edm": jd.EDM,
    "cosine": jd.Cosine,
    "flow": jd.Flow,
}
WEIGHTINGS = {
    "simple": jd.losses.weightings.Simple,
    "likelihood": jd.losses.weightings.Likelihood,
    "min_snr": jd.losses.weightings.MinSNR,
    "edm": jd.losses.weightings.EDM,
    "sigmoid": jd.losses.weightings.Sigmoid,
}
TIMES = {
    "uniform": jd.losses.times.Uniform,
    "stratified": jd.losses.times.Stratified,
    "log_normal": jd.losses.times.LogNormal,
    "logit_normal": jd.losses.times.LogitNormal,
    "importance": jd.losses.times.Importance,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is: its data, model and training. A run folder keeps it as config.json."""

    data: Literal[*IMAGES, *TOYS] = "digits"  # pyright: ignore[reportInvalidTypeForm]
    """Data set: images (scikit-learn's 8x8 digits, Fashion-MNIST, CIFAR-10, ImageNet at 64x64, a folder of yours) or a
    toy set in the plane."""
    image_folder: str | None = None
    """With data "folder": where the pictures are; sub-folders are classes. With "imagenet64", and with "fashion_mnist"
    where it cannot be downloaded: where the published files are."""
    image_size: int = 64
    """With data "folder": pixels of a side; larger pictures are shrunk and cut to their centre."""
    grey: bool = False
    """With data "folder": without colours."""
    skip_corrupt: bool = False
    """With data "folder": leave out files that are no pictures, and count them, rather than stop."""
    process: Literal[*PROCESSES] = "vp"  # pyright: ignore[reportInvalidTypeForm]
    """How data becomes noise."""
    parameterization: Literal["data", "noise", "score", "v", "velocity", "edm"] = "v"
    """What the network's output means."""
    weighting: Literal[*WEIGHTINGS] = "simple"  # pyright: ignore[reportInvalidTypeForm]
    """How much each noise level counts."""
    times: Literal[*TIMES] = "stratified"  # pyright: ignore[reportInvalidTypeForm]
    """Where t is drawn."""
    channels: tuple[int, ...] = (16, 32)
    """U-Net (images): channels of each level, each half the size of the one before."""
    blocks: int = 1
    """U-Net: residual blocks a level, each way."""
    attention: tuple[int, ...] = (1,)
    """U-Net: the levels with attention, 0 being the full image."""
    remat: bool = False
    """U-Net: compute each block twice rather than keep what a gradient needs of it: less memory, a third more time."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network is computed in; its weights are float32."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """MLP (toy sets): widths of its layers."""
    conditional: bool = False
    """Train on labels, dropped for one example in ten so that the unconditional model is learned too."""
    flip: bool = False
    """Mirror half of the images left to right, drawn anew each step; not where sides matter, as they do for digits."""
    steps: int = 4000
    """Training steps."""
    batch_size: int = 64
    """Examples a step, over all devices."""
    accumulate: int = 1
    """Parts a batch is computed in, one after another: less memory."""
    learning_rate: float = 3e-3
    """Peak of the learning rate, which rises linearly and falls by a cosine."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, the ones that are used."""
    seed: int = 0
    """Seed of weights, batches and noise."""

    def check(self) -> None:
        """Raise ValueError for settings that do not go together, or have no meaning."""
        for name in ("blocks", "batch_size", "accumulate", "steps", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; expected a whole number above 0")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}; expected a whole number of 0 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate = {self.learning_rate}; expected a number above 0")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}")
        if self.data == "folder" and self.image_folder is None:
            raise ValueError("data = folder needs image_folder: where the pictures are")
        if self.image_folder is not None and self.data not in ("folder", *IN_A_FOLDER):
            raise ValueError(f"image_folder is given, but data = {self.data}; set data to folder, or leave it out")
        if self.data in TOYS and (self.conditional or self.flip):
            setting = "conditional" if self.conditional else "flip"
            raise ValueError(f"{setting} = True is for images; {self.data} has neither labels nor sides: leave it out")


def read_config(folder: Path) -> Config:
    """The config of a run folder; a ValueError that says what is wrong with one that is not."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.json. Make one by `jaxdiff train {folder}`")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a config of this version of jaxdiff: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a config of this version of jaxdiff: expected an object of settings")
    known = get_type_hints(Config)
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(
            f"{path} has settings that this version of jaxdiff does not know: {', '.join(unknown)}; use the version "
            "that wrote it, or a newer one"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in values.items():
        if not _is(value, known[name]):
            words = f"one of {', '.join(get_args(known[name]))}" if get_origin(known[name]) is Literal else known[name]
            raise ValueError(f"{path}: {name} = {value!r}; expected {getattr(words, '__name__', words)}")
    config = Config(**values)
    config.check()
    return config


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(part, get_args(kind)[0]) for part in value)
    if isinstance(kind, types.UnionType):
        return any(_is(value, part) for part in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
