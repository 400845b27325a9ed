"""The config of a run: numbers and words (`jaxdiff.words`), validated before they are used.

A run's folder keeps it as config.json, with one entry per setting: {"process": "edm(sigma_max=160)", "steps": 4000,
...}. It never contains code.
"""

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import jaxdiff as jd
from jaxdiff.arrays import check_path, check_scalar, check_whole, read_json, said
from jaxdiff.losses import Loss
from jaxdiff.vocabulary import WORDS, Data, Network, Noise

OF_TOKENS = jd.data.text, jd.data.maps  # data sets of categories
LARGEST_SEED = 2**32 - 1  # JAX takes 32 bits: 2^32 would be the same seed as 0


def _setting(default, **bounds) -> Any:
    """A field with a default and the bounds of its values."""
    return dataclasses.field(default=default, metadata=bounds)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run: its data, model and training. Settings that are words may be given as text.

    `jaxdiff words` lists all words, and `jaxdiff train --help` describes every setting.

    Args:
        data: The data set: digits, folder('pictures', size=64), table('mine.csv'), text('mine.txt', length=128), ...;
            None if `jaxdiff.runs.train` is given the data, which then decide the defaults below.
        condition: What the model is given: the label of pictures, or columns of a table by their names: a tuple, or
            one text "y,z".
        dropout: With a condition: the share of labels that are dropped, from which guidance learns p(x); 0.1 by
            default.
        flip: Mirror half of the pictures, at random in each step; not for pictures whose sides matter, such as digits.
        network: The network; by default unet(channels=(16, 32), blocks=1, attention=(1,)) for pictures and maps, mlp
            for rows, transformer for texts.
        dtype: The type in which the network is computed in training and sampling; weights and likelihoods are float32.
        process: How data become noise: vp (default), edm(sigma_max=160), flow, ...; for texts and maps absorbing
            (default) or multinomial, with the data's number of categories.
        parameterization: What the network predicts; by default v, and leave_one_out for texts and maps.
        loss: The loss: denoising(min_snr(5), log_normal), flow_matching(optimal_transport), ...; by default denoising,
            and bound for texts and maps.
        steps: Training steps.
        batch_size: Examples per step, over all devices.
        learning_rate: Peak of the learning rate, which rises linearly and falls by a cosine.
        ema_decay: Decay of the moving average of the weights, with which the model is used.
        seed: Seed of weights, batches and noise, 0 to 2^32 - 1.

    Raises:
        ValueError: if a setting is out of its range, or a text is not a word of its kind.
        TypeError: if a setting has another type.

    Examples:
        >>> from jaxdiff import runs
        >>> config = runs.Config(data="digits", process="edm(sigma_max=160)", steps=1000)
        >>> config.process.sigma_max, config.steps
        (160.0, 1000)
        >>> config.written()["parameterization"]
        'v'
    """

    data: Data | None = WORDS.parse("digits", Data)
    condition: tuple[str, ...] = ()
    dropout: float | None = _setting(None, least=0, below=1)
    flip: bool = False
    network: Network | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    process: Noise | jd.Process | None = None
    parameterization: Literal["data", "noise", "score", "v", "velocity", "edm", "leave_one_out"] | None = None
    loss: Loss | None = None
    steps: int = _setting(4000, least=1, most=2**31 - 1)
    batch_size: int = _setting(64, least=1)
    learning_rate: float = _setting(3e-3, above=0)
    ema_decay: float = _setting(0.999, least=0, below=1)
    seed: int = _setting(0, least=0, most=LARGEST_SEED)

    if TYPE_CHECKING:  # a word may be given as text; what is read is the object

        def __init__(
            self,
            data: Data | str | None = ...,
            condition: tuple[str, ...] | str = ...,
            dropout: float | None = ...,
            flip: bool = ...,
            network: Network | str | None = ...,
            dtype: Literal["float32", "bfloat16"] = ...,
            process: Noise | jd.Process | str | None = ...,
            parameterization: Literal["data", "noise", "score", "v", "velocity", "edm", "leave_one_out"] | None = ...,
            loss: Loss | str | None = ...,
            steps: int = ...,
            batch_size: int = ...,
            learning_rate: float = ...,
            ema_decay: float = ...,
            seed: int = ...,
        ) -> None: ...

    def __post_init__(self):
        kinds = get_type_hints(Config)
        if isinstance(self.condition, str):
            object.__setattr__(self, "condition", (self.condition,))
        if isinstance(self.process, jd.Discrete):
            raise ValueError(
                f"process = {said(self.process)}: the data decide its number of categories; give it as a word, such as "
                "'absorbing'"
            )
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if field.metadata and value is not None:
                (check_whole if kind is int else check_scalar)(field.name, value, **field.metadata)
            object.__setattr__(self, field.name, fitting(value, kind, field.name))
        tokens = isinstance(self.process, Noise) or (self.data is not None and self.data.make in OF_TOKENS)
        if self.data is not None or self.process is not None:
            for name, value in missing(self, TOKENS if tokens else NUMBERS).items():
                object.__setattr__(self, name, value)
        names = tuple(name.strip() for text in self.condition for name in text.split(","))
        object.__setattr__(self, "condition", names)
        if self.dropout is not None and not self.condition:
            raise ValueError(f"dropout = {self.dropout} needs a condition to drop; give condition, or leave it out")

    def written(self) -> dict[str, Any]:
        """The settings as JSON."""
        kinds = get_type_hints(Config)
        return {field.name: plain(getattr(self, field.name), kinds[field.name]) for field in dataclasses.fields(self)}


NUMBERS = {"process": jd.VP(), "parameterization": "v", "loss": jd.losses.Denoising()}
TOKENS = {
    "process": WORDS.parse("absorbing", Noise),
    "parameterization": "leave_one_out",
    "loss": jd.losses.Bound(),
}


def missing(config: Config, defaults: dict[str, Any]) -> dict[str, Any]:
    """The `defaults` of the settings that the config leaves out."""
    return {name: value for name, value in defaults.items() if getattr(config, name) is None}


def fitting(value, kind, name: str) -> Any:
    """`value` converted to the annotation `kind`: text is parsed as words, whole numbers become floats.

    Raises ValueError for text that is not a word of that kind, TypeError for a value that no word makes.
    """
    if isinstance(value, str) and WORDS.has(kind):
        return WORDS.parse(value, kind, name)
    try:
        return WORDS.parse(WORDS.write(value, kind), kind, name)
    except TypeError as error:
        raise TypeError(f"{name} = {error}") from None


def plain(value, kind) -> Any:
    """`value` as JSON: numbers, truth values, strings and lists of them as they are, everything else in whole words."""
    if isinstance(value, tuple) and not WORDS.has(kind):
        return list(value)
    return value if isinstance(value, str | int | float | None) else WORDS.write(value, kind, whole=True)


def check_seed(seed: int) -> int:
    """`seed`, 0 to 2^32 - 1; ValueError for another."""
    return check_whole("seed", seed, least=0, most=LARGEST_SEED)


def read_config(folder: str | os.PathLike) -> Config:
    """Read the config.json of a run.

    Args:
        folder: the run's folder.

    Returns:
        Its `Config`.

    Raises:
        ValueError: if `folder` is not a run's folder, or config.json is damaged or from another version.

    Examples:
        >>> import pathlib, tempfile
        >>> from jaxdiff import runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "config.json").write_text('{"data": "digits", "steps": 1000}')
        ...     runs.read_config(folder).steps
        1000
    """
    folder = check_path("folder", folder)
    path = folder / "config.json"
    if not path.exists() and (folder / "checkpoints").is_dir():
        raise ValueError(
            f"{folder} has no config.json: jaxdiff.training.train wrote the run, and only the script that called it "
            "can build its model. Load its weights there (jaxdiff.training.load_params), or train by "
            "jaxdiff.runs.train, which keeps a config"
        )
    if not path.exists():
        raise ValueError(f"{folder} is not a run folder: it has no config.json. Make one by `jaxdiff train {folder}`")
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a config of this version of jaxdiff: {error}") from None
    if values.keys() & _BEFORE.keys():
        values = _in_words(values)
    if unknown := sorted(values.keys() - get_type_hints(Config).keys()):
        raise ValueError(
            f"{path} has settings that this version of jaxdiff does not know: {', '.join(unknown)}; use the version "
            "that wrote it, or a newer one"
        )
    try:
        return Config(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


# Settings that only a config.json from before there were words has, with their defaults.
_BEFORE = {
    "image_folder": None,
    "image_size": 64,
    "grey": False,
    "skip_corrupt": False,
    "weighting": "simple",
    "times": "stratified",
    "channels": [16, 32],
    "blocks": 1,
    "attention": [1],
    "remat": False,
    "hidden": [128, 128, 128],
    "conditional": False,
    "label_dropout": None,
    "accumulate": 1,  # now an argument of `train`
}
_IMAGES = ("digits", "fashion_mnist", "cifar10", "imagenet64", "folder")


def _in_words(values: dict[str, Any]) -> dict[str, Any]:
    """A config from before there were words, converted to words."""
    old = {"data": "digits"} | _BEFORE | values
    call = lambda name, **given: f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in given.items())})"
    where = {} if old["image_folder"] is None else {"folder": old["image_folder"]}
    network = {name: old[name] for name in ("channels", "blocks", "attention", "remat")}
    if old["data"] == "folder":
        where |= {"size": old["image_size"], "channels": 1 if old["grey"] is True else 3}
        where |= {"on_corrupt": "skip"} if old["skip_corrupt"] is True else {}
    return {name: value for name, value in values.items() if name not in _BEFORE} | {
        "data": call(old["data"], **where),
        "condition": ("label",) if old["conditional"] is True else (),
        "dropout": old["label_dropout"],
        "network": call("unet", **network) if old["data"] in _IMAGES else call("mlp", hidden=old["hidden"]),
        "loss": f"denoising({old['weighting']}, {old['times']})",
    }


def _literal(value) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)
