"""What a run keeps of its data, so that it needs them no more: `Known`, one subclass for each kind of data.

data.json in the run's folder holds it. Everything that depends on the kind of the data is a method here; what follows
from the config alone is not.
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
from jaxdiff.config import Config
from jaxdiff.likelihood import Hutchinson
from jaxdiff.losses import ConditionDropout, Loss
from jaxdiff.metrics import Distance
from jaxdiff.runs.summary import write_json
from jaxdiff.samplers import DPMSolverPP, ProbabilityFlow, Sampler
from jaxdiff.vocabulary import Network

SEEN = 10_000  # pictures that data_std is measured on


@dataclasses.dataclass(frozen=True)
class Known(abc.ABC):
    """What a run learned from its training data, and what is done with data of that kind.

    event: the shape of an example as the model sees it. data_std: its standard deviation there.
    """

    KINDS: ClassVar[dict[str, type["Known"]]] = {}
    KIND: ClassVar[str]  # its name there, and in data.json
    SOURCES: ClassVar[tuple[type, ...]]  # what examples of this kind come as
    NETWORK: ClassVar[Network]  # where the config names none
    SHOWN: ClassVar[int]  # samples in a picture
    SAMPLER: ClassVar[Sampler] = DPMSolverPP()  # how samples are drawn unless told
    LIKELIHOOD: ClassVar[dict[str, Any]] = {  # settings of a likelihood unless told, by the command line
        "flow": ProbabilityFlow(rtol=1e-4, atol=1e-4),
        "trace": Hutchinson(),
    }

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
        """What is to be known of the training examples in `source`, of pictures by `seen` of them, drawn from a seed.

        Raises ValueError where `config` cannot be of them.
        """

    @abc.abstractmethod
    def offered(self, config: Config) -> dict[str, Any]:
        """What a network is built from: the arguments that the data decide."""

    def lasting(self, config: Config) -> dict[str, Any]:
        """What other data have to have in common with these for training to go on with them."""
        return {"kind": self.KIND, "event": self.event}

    def dropout(self, config: Config) -> float | None:
        """The share of examples whose condition is dropped in training; None of a model without one."""
        return 0.0 if config.condition else None

    def reading(self, config: Config) -> dict[str, Any]:
        """What the denoiser is beside its network: process, parameterization and data_std."""
        return {"process": config.process, "parameterization": config.parameterization, "data_std": self.data_std}

    def default_network(self, config: Config) -> Network:
        """The network where the config names none."""
        return self.NETWORK

    def network(self, recipe: Network, asked: dict[str, Any], rngs) -> Any:
        """The module that a recipe makes of what the data decide."""
        return recipe(**asked, rngs=rngs)

    def start(self, text: str | None, n: int) -> Any:
        """x at t = 1 of n samples, of which a part is known; None for a text of None."""
        if text is not None:
            raise ValueError(f"infill = {said(text)} is for texts; leave it out")

    def figures(self, x) -> dict[str, float]:
        """Numbers of samples, as the model sees them, that stand beside where they are written."""
        return {}

    def loss(self, config: Config) -> Loss:
        """What the model is trained by: the loss of the config, with the condition dropped as it says."""
        rate = self.dropout(config)
        loss: Any = config.loss
        return ConditionDropout(loss, rate=rate) if rate else loss

    def draw(self, key, denoiser, n: int, sampler, batch_size: int, cond=None, **settings) -> Any:
        """n samples, as the model sees them; `settings` are those of `jaxdiff.samplers.draw`."""
        return samplers.draw(key, denoiser, (n, *self.event), batch_size, cond, sampler=sampler, **settings)

    def given(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns that a likelihood is given by `names`; ValueError where it is given what the model was."""
        raise ValueError(f"condition = {' '.join(names)}: no model of all columns, which are given any; leave it out")

    @abc.abstractmethod
    def examples(self, source) -> Any:
        """`source` as `jaxdiff.data.batches` takes it."""

    @abc.abstractmethod
    def prepare(self, config: Config) -> Callable:
        """What makes (x_0, cond) of a key and a batch of examples, inside the training step."""

    @abc.abstractmethod
    def condition(self, config: Config, given: Sequence[str], n: int) -> Any:
        """The `cond` of n samples from what a user wrote, such as ["3", "cat"], ["label=cat"] or ["y=1.5", "z=2"]."""

    @abc.abstractmethod
    def in_turn(self, source, n: int) -> Any:
        """The `cond` of n samples to picture of a model that knows nothing without one."""

    @abc.abstractmethod
    def real(self, source, config: Config, condition: Sequence[str], most: int) -> tuple[np.ndarray, Any]:
        """At most `most` random examples of `source` in the user's form, and their labels or given columns.

        Where `condition` names labels, only examples with one of them. The seed is fixed. Raises ValueError for
        examples whose shape differs from that of the training examples.
        """

    @abc.abstractmethod
    def as_given(self, config: Config, given: Any, n: int) -> np.ndarray | None:
        """The `cond` of n samples, distributed as `given` of the real examples; None where the model has none."""

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
        """Samples in the form of `real`, from the model's samples x for `cond`."""

    @abc.abstractmethod
    def distances(self, key: jax.Array, real: np.ndarray, x: np.ndarray) -> dict[str, Distance]:
        """Distances of samples x in the data's units, by their names."""

    @abc.abstractmethod
    def restore(self, x) -> Any:
        """Samples as the user gave the data, from what the model sees."""

    @abc.abstractmethod
    def write(self, x, folder: Path) -> Path:
        """Write restored samples into the folder, in the format of the data. Returns the file."""

    @abc.abstractmethod
    def picture(self, x, source, path: Path, title: str | None = None, cond=None) -> Path | None:
        """Draw samples, as the model sees them, beside the data where `source` has them and it says something.

        `cond` is what they were given, where that says how to arrange them. Returns `path`; None where there is no
        picture of such samples.
        """

    @abc.abstractmethod
    def last_pictures(self, denoiser, source, draw: Callable, folder: Path) -> None:
        """Draw what a trained model shows beside its samples; `draw(n, sampler, steps, **more)` draws."""

    @abc.abstractmethod
    def score(
        self, key: jax.Array, denoiser, source, limit: int | None, conditional: bool, lasting: dict, **settings
    ) -> tuple[dict, str]:
        """The likelihood of the examples in `source`: figures for a summary, and words to print.

        `lasting` is what long work is given: its record, progress and mesh, and the precision of products. Raises
        ValueError for examples that are unlike those of the training, and for settings that have no meaning here.
        """


def kind_of(source) -> type[Known]:
    """The kind of the data in `source`; TypeError where there is none."""
    for kind in Known.KINDS.values():
        if isinstance(source, kind.SOURCES):
            return kind
    names = ", ".join(source.__name__ for kind in Known.KINDS.values() for source in kind.SOURCES)
    raise TypeError(f"data = {said(source)}; expected one of {names}")


def learned(config: Config, source, seen: int = SEEN) -> Known:
    """What is to be known of the training examples in `source`, by their kind; of pictures by `seen` of them."""
    return kind_of(source).learned(config, source, seen)


def write_known(folder: Path, known: Known) -> None:
    """Write data.json."""
    write_json(folder / "data.json", {"kind": known.KIND} | dataclasses.asdict(known))


def read_known(folder: Path) -> Known:
    """What data.json says; ValueError for one that is damaged, FileNotFoundError where there is none."""
    values = read_json(path := folder / "data.json")
    try:
        check_choice("kind", name := values.pop("kind", None), Known.KINDS)
        return Known.KINDS[name](**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not what a run keeps of its data: {error}") from None


def _of_kind(name: str, value: Any, kind: Any) -> Any:
    """A field as its annotation says, from JSON too. Raises TypeError or ValueError for another value."""
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
