"""What a run keeps of its data, so that it can be used without them: `Known`, with one subclass per kind of data.

It is stored as data.json in the run's folder. Everything that depends on the kind of data is a method here; what
follows from the config alone is not.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import jax
import numpy as np

from jaxdiff import samplers
from jaxdiff.arrays import check_choice, check_instance, check_number, check_whole, read_json, said
from jaxdiff.config import NUMBERS, Config, missing
from jaxdiff.likelihood import Hutchinson
from jaxdiff.losses import ConditionDropout, Loss
from jaxdiff.metrics import Distance
from jaxdiff.runs.summary import write_json
from jaxdiff.samplers import DPMSolverPP, ProbabilityFlow, Sampler
from jaxdiff.vocabulary import Network

SEEN = 10_000  # the most pictures that data_std is measured on


@dataclasses.dataclass(frozen=True)
class Known(abc.ABC):
    """What a run keeps of its training data, and the methods for data of that kind: a base class.

    A subclass sets SOURCES, NETWORK and SHOWN and gives the abstract methods; it is registered under its name in lower
    case. `learned` makes one from data, and the folder of a run keeps it as data.json.

    Attributes:
        event: the shape of one example as the model sees it.
        data_std: the standard deviation of its values.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data, runs
        >>> pixels = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4, 1) % 17
        >>> images = data.Images(pixels, np.zeros(8, np.int32), levels=17, classes=1)
        >>> known = runs.learned(runs.Config(), images)
        >>> isinstance(known, runs.Known), known.KIND, known.event
        (True, 'pictures', (4, 4, 1))
    """

    KINDS: ClassVar[dict[str, type["Known"]]] = {}
    KIND: ClassVar[str]  # the name in KINDS and in data.json
    SOURCES: ClassVar[tuple[type, ...]]  # the types of data sets of this kind
    NETWORK: ClassVar[Network]  # the default network
    DEFAULTS: ClassVar[dict[str, Any]] = NUMBERS  # the other defaults of a config
    SHOWN: ClassVar[int]  # how many samples a picture shows
    SAMPLER: ClassVar[Sampler] = DPMSolverPP()  # the default sampler

    event: tuple[int, ...]
    data_std: float

    def __init_subclass__(cls):
        cls.KIND = cls.__name__.lower()
        Known.KINDS[cls.KIND] = cls

    def __post_init__(self):
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _of_kind(field.name, getattr(self, field.name), kinds[field.name])
            object.__setattr__(self, field.name, value)
        check_number("data_std", self.data_std, above=0)

    @classmethod
    @abc.abstractmethod
    def learned(cls, config: Config, source, seen: int) -> Self:
        """Measure what a run keeps of the training examples in `source`; for pictures, of `seen` random ones.

        Raises ValueError if `config` does not fit them.
        """

    @abc.abstractmethod
    def offered(self, config: Config) -> dict[str, Any]:
        """The arguments of a network that the data determine."""

    def lasting(self, config: Config) -> dict[str, Any]:
        """What other data must have in common with these, so that training may continue with them."""
        return {"kind": self.KIND, "event": self.event}

    def dropout(self, config: Config) -> float | None:
        """The share of examples whose condition is dropped in training; None if the model has no condition."""
        return 0.0 if config.condition else None

    def reading(self, config: Config) -> dict[str, Any]:
        """The fields of the denoiser besides its network: process, parameterization and data_std."""
        return {"process": config.process, "parameterization": config.parameterization, "data_std": self.data_std}

    def completed(self, config: Config) -> Config:
        """The config with the defaults of this kind of data in place of settings that it leaves out."""
        return dataclasses.replace(config, **missing(config, self.DEFAULTS | {"network": self.NETWORK}))

    def network(self, recipe: Network, asked: dict[str, Any], rngs) -> Any:
        """The module that a recipe makes with the arguments that the data determine."""
        return recipe(**asked, rngs=rngs)

    def start(self, text: str | None, n: int) -> Any:
        """x at t = 1 of n samples that continue `text`; None if `text` is None."""
        if text is not None:
            raise ValueError(f"infill = {said(text)} is for texts; leave it out")

    def figures(self, x) -> dict[str, float]:
        """Figures of samples x, as the model sees them, to report with them."""
        return {}

    def loss(self, config: Config) -> Loss:
        """The loss of the config, with its rate of dropped conditions."""
        rate = self.dropout(config)
        loss: Any = config.loss
        return ConditionDropout(loss, rate=rate) if rate else loss

    def draw(self, key, denoiser, n: int, sampler, batch_size: int, cond=None, **settings) -> Any:
        """Draw n samples, as the model sees them; `settings` are those of `jaxdiff.samplers.draw`."""
        return samplers.draw(key, denoiser, (n, *self.event), batch_size, cond, sampler=sampler, **settings)

    def estimate(self) -> dict[str, Any]:
        """The settings of a likelihood by default, for the command line."""
        return {"flow": ProbabilityFlow(rtol=1e-4, atol=1e-4), "trace": Hutchinson()}

    def given(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns to condition a likelihood on; ValueError if the model is not a joint one of all columns."""
        raise ValueError(
            f"condition = {' '.join(names)}: only a joint model of mixed columns can be conditioned on any of them; "
            "leave it out"
        )

    @abc.abstractmethod
    def examples(self, source) -> Any:
        """`source` as `jaxdiff.data.batches` takes it."""

    @abc.abstractmethod
    def prepare(self, config: Config) -> Callable:
        """The `prepare(key, batch) -> (x_0, cond)` of the training step."""

    @abc.abstractmethod
    def condition(self, config: Config, given: Sequence[str], n: int) -> Any:
        """The `cond` of n samples from a user's text, such as ["3", "cat"], ["label=cat"] or ["y=1.5", "z=2"]."""

    @abc.abstractmethod
    def in_turn(self, source, n: int) -> Any:
        """The `cond` of n samples in a picture, for a model that cannot sample without one."""

    @abc.abstractmethod
    def real(self, source, config: Config, condition: Sequence[str], most: int) -> tuple[np.ndarray, Any]:
        """At most `most` random examples of `source` in the user's form, and their labels or given columns.

        If `condition` names labels, only examples with one of them are taken. The seed is fixed. Raises ValueError for
        examples whose shape differs from that of the training examples.
        """

    @abc.abstractmethod
    def as_given(self, config: Config, given: Any, n: int) -> np.ndarray | None:
        """The `cond` of n samples, distributed as `given`, that of real examples; None if the model has none."""

    @abc.abstractmethod
    def features(
        self, features: Any, folder: Path, source, held_out: tuple[np.ndarray, Any], progress: bool
    ) -> tuple[Callable[[Any], np.ndarray], dict[str, Any]]:
        """A function from examples in the user's form to features [n, d], and entries for the report, "name" first.

        `features` is the user's choice, None for the default. A classifier is trained on `source`, kept in `folder`,
        and its accuracy measured on `held_out`. Raises ValueError for features that do not fit this kind of data.
        """

    @abc.abstractmethod
    def whole(self, x, cond) -> np.ndarray:
        """Samples in the form of `real`, from the model's samples x given `cond`."""

    @abc.abstractmethod
    def distances(self, key: jax.Array, real: np.ndarray, x: np.ndarray) -> dict[str, Distance]:
        """Distances between samples x and real examples in the data's units, by name."""

    @abc.abstractmethod
    def restore(self, x) -> Any:
        """Samples in the form of the user's data, from samples as the model sees them."""

    def with_given(self, x, given: Sequence[str]) -> Any:
        """Restored samples x, in which the values of `given`, a user's text, are exactly as they were given."""
        return x

    @abc.abstractmethod
    def write(self, x, folder: Path) -> Path:
        """Write restored samples into the folder, in the format of the data. Returns the file."""

    @abc.abstractmethod
    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Path | None:
        """Draw samples, as the model sees them, next to the data in `source` if that helps.

        `cond` is their condition, by which they may be arranged. Returns `path`, or None if such samples have no
        picture.
        """

    @abc.abstractmethod
    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Draw further pictures of a trained model; `draw(n, sampler, steps, **more)` draws samples."""

    @abc.abstractmethod
    def score(
        self, key: jax.Array, denoiser, source, limit: int | None, conditional: bool, lasting: dict, **settings
    ) -> tuple[dict, str]:
        """The likelihood of the examples in `source`: figures for the summary, and a report in words.

        Of more than `limit` examples the first of `shuffled` are scored; None is a default of the kind of data.
        `lasting` has the record, the progress bar, the mesh and the precision of products. Raises ValueError for
        examples unlike those of the training, and for settings that do not apply.
        """


def shuffled(n: int) -> np.ndarray:
    """The numbers 0 to n - 1 in a random order that is always the same, so that the first of them are a random sample.

    A smaller sample is thus part of a larger one.
    """
    return np.random.default_rng(0).permutation(n)


def kind_of(source) -> type[Known]:
    """The subclass of `Known` for the data set `source`; TypeError if there is none."""
    for kind in Known.KINDS.values():
        if isinstance(source, kind.SOURCES):
            return kind
    names = ", ".join(source.__name__ for kind in Known.KINDS.values() for source in kind.SOURCES)
    raise TypeError(f"data = {said(source)}; expected one of {names}")


def learned(config: Config, source, seen: int = SEEN) -> Known:
    """Measure what a run keeps of its training data.

    Args:
        config: the config of the run.
        source: the training data: images, a table, texts or maps of `jaxdiff.data`.
        seen: how many pictures are measured at most, drawn at random from a fixed seed.

    Returns:
        The `Known` of that kind of data: `Pictures`, `Rows`, `Mixed`, `Texts` or `Maps`.

    Raises:
        TypeError: if `source` is not a data set of these kinds.
        ValueError: if `config` does not fit the data.

    Examples:
        >>> import numpy as np
        >>> from jaxdiff import data, runs
        >>> pixels = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4, 1) % 17
        >>> images = data.Images(pixels, np.zeros(8, np.int32), levels=17, classes=1)
        >>> runs.learned(runs.Config(), images).event
        (4, 4, 1)
    """
    return kind_of(source).learned(config, source, seen)


def write_known(folder: Path, known: Known) -> None:
    """Write data.json."""
    write_json(folder / "data.json", {"kind": known.KIND} | dataclasses.asdict(known))


def read_known(folder: Path) -> Known:
    """Read data.json. Raises ValueError if it is damaged, FileNotFoundError if it is missing."""
    values = read_json(path := folder / "data.json")
    try:
        check_choice("kind", name := values.pop("kind", None), Known.KINDS)
        return Known.KINDS[name](**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the data.json of a run: {error}") from None


def _of_kind(name: str, value: Any, kind: Any) -> Any:
    """`value` in the type of its annotation, also from JSON. Raises TypeError or ValueError if it does not fit."""
    if get_origin(kind) is tuple:
        check_instance(name, value, (list, tuple), "a list")
        return tuple(_of_kind(f"{name}[{i}]", part, get_args(kind)[0]) for i, part in enumerate(value))
    if kind is int:
        return check_whole(name, value)
    if kind is float:
        return float(check_number(name, value))
    if isinstance(value, dict) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**value)
    check_instance(name, value, kind, f"a {kind.__name__}")
    return value
