r"""Several processes side by side: a number and its label, an image and its text.

Given x_0, the parts are noised independently of each other, so that every method works part by part: data, x_t,
predictions, shapes and errors are trees of the same structure. Only the denoiser sees all parts at once.

There is one clock or several: a time argument is one t for all parts, or a tree with a time for each. On one clock the
bound is the sum of the parts' bounds, so the rate is the sum of their rates,

    rate = Σ rate_i = d/dt Σ log σ_i/q_i,

and the coordinate of a grid, the angle or the log-SNR, is the mean over the parts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_array, folded, pytree, rebuilt, said
from jaxdiff.arrays.checks import floating
from jaxdiff.processes.curves import inverse
from jaxdiff.processes.grids import Grid, LogSNR
from jaxdiff.processes.process import Process, check_process


@pytree
@dataclasses.dataclass(frozen=True, init=False)
class Product(Process):
    """Several processes side by side, for a joint model such as one of an image and its label.

    x_0, x, predictions and shapes are trees of the structure of `parts`. A time is one number for all parts, or a tree
    with a time for each. The keys of a part are those of the examples folded with the part's number.

    Args:
        parts: a pytree of processes, such as a dictionary.

    Raises:
        TypeError: if a part is not a process.
        ValueError: if there are no parts.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> joint = jd.Product({"image": jd.VP(), "label": jd.Absorbing(10)})
        >>> x0 = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.array([3, 1, 4, 1])}
        >>> x, truth = jd.perturb(jax.random.key(0), joint, x0, 1.0)
        >>> x["image"].shape, x["label"].tolist()  # at t = 1 every label is the mask, 10
        ((4, 8, 8, 1), [10, 10, 10, 10])
    """

    members: tuple[Process, ...]
    structure: Any = dataclasses.field(metadata={"static": True})

    sampling_grid = LogSNR()

    def __init__(self, parts: Any):
        processes, structure = jax.tree.flatten(parts, is_leaf=lambda part: part is None or isinstance(part, Process))
        for process in processes:
            check_process(process, "a part")
        if not processes:
            raise ValueError(f"parts = {said(parts)} holds no process; expected at least one, such as a dictionary")
        object.__setattr__(self, "members", tuple(processes))
        object.__setattr__(self, "structure", structure)

    @property
    def processes(self) -> tuple[Process, ...]:
        return self.members

    @property
    def parts(self) -> Any:
        """The tree of the processes."""
        return self.joined(self.processes)

    @property
    def bound_grid(self) -> Grid:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The grid of the parts if all have the same, otherwise equal steps in log-SNR."""
        first, *others = (process.bound_grid for process in self.processes)
        return first if all(other == first for other in others) else LogSNR()

    def split(self, tree: Any, name: str = "x") -> list:
        try:
            return self.structure.flatten_up_to(tree)
        except (ValueError, TypeError):
            form = self.joined([type(process).__name__ for process in self.processes])
            _check_form(name, form, tree)
            raise

    def joined(self, parts) -> Any:
        return self.structure.unflatten(parts)

    def clocks(self, t) -> list:
        one = t is None or jax.tree_util.all_leaves([t])
        return [t] * len(self.processes) if one else self.split(t, "t")

    @property
    def params(self) -> list:
        """The learned parameters of each part, in order; None for a part without any."""
        return [getattr(process, "params", None) for process in self.processes]

    def with_params(self, params) -> "Product":
        """The product with other learned parameters in its parts."""
        parts: list[tuple[Any, Any]] = list(zip(self.processes, params))
        moved = [process.with_params(part) if hasattr(process, "with_params") else process for process, part in parts]
        return rebuilt(self, members=tuple(moved))

    def _map(self, method: str, *parts: list) -> list:
        """`method` of each process, called with its parts of the arguments."""
        return [getattr(process, method)(*part) for process, *part in zip(self.processes, *parts)]

    def _tree(self, method: str, *parts: list) -> Any:
        """The results of `_map` as a tree."""
        return self.joined(self._map(method, *parts))

    def _given(self, tree, name: str) -> list:
        """The parts of `tree`; None for each if it is None."""
        return [None] * len(self.processes) if tree is None else self.split(tree, name)

    def _keys(self, keys) -> list:
        """The keys of each part: those of the examples folded with the part's number."""
        return [folded(keys, number) for number in range(len(self.processes))]

    def _mean(self, method: str, t) -> jax.Array:
        values = self._map(method, self.clocks(t))
        return sum(values[1:], values[0]) / len(values)

    def log_snr(self, t) -> jax.Array:
        """The mean of the parts' log-SNR at one t."""
        return self._mean("log_snr", t)

    def time_at_log_snr(self, log_snr) -> jax.Array:
        return self._inverse(lambda process, t: process.log_snr(t), "log_snr", log_snr)

    def angle(self, t) -> jax.Array:
        """The mean of the parts' angles at one t."""
        return self._mean("angle", t)

    def time_at_angle(self, angle) -> jax.Array:
        return self._inverse(lambda process, t: -process.angle(t), "angle", -floating(check_array("angle", angle)))

    def log_share(self, t) -> jax.Array:
        """The sum of the parts' log σ/q at one t."""
        return len(self.processes) * self._mean("log_share", t)

    def time_at_log_share(self, log_share) -> jax.Array:
        return self._inverse(lambda process, t: -process.log_share(t), "log_share", -log_share)

    def _inverse(self, function: Callable, name: str, value) -> jax.Array:
        value = floating(check_array(name, value, most=float("inf")))
        return inverse(function, self, value)

    def rate(self, t) -> jax.Array:
        return functools.reduce(jnp.add, self._map("rate", self.clocks(t)))

    def c_noise(self, t) -> Any:
        return self._tree("c_noise", self.clocks(t))

    def check_curves(self) -> None:
        self._map("check_curves")

    def check_times(self, times) -> None:
        self._map("check_times", [times] * len(self.processes))

    def warn_uncovered(self, data_std) -> None:
        self._map("warn_uncovered", self.split(data_std, "data_std"))

    def check(self, x, name: str = "x", noised: bool = False) -> Any:
        """`x` checked part by part, each named by its path; ValueError for different numbers of examples."""
        numbered = jax.tree_util.tree_leaves_with_path(self.joined(range(len(self.processes))))
        paths = [name + jax.tree_util.keystr(path) for path, _ in numbered]
        parts = zip(self.processes, self.split(x, name), paths)
        checked = [process.check(part, path, noised) for process, part, path in parts]
        _check_alike(", ".join(paths), [len(part) for part in checked])
        return self.joined(checked)

    def check_shape(self, shape) -> Any:
        """A tree of shapes, with the same number of examples in each."""
        shapes = self._map("check_shape", self.split(shape, "shape"))
        _check_alike(f"the parts of shape = {shape}", [n for n, *_ in shapes])
        return self.joined(shapes)

    def check_reading(self, parameterization, data_std, learned_variance: bool) -> tuple[tuple, Any]:
        """(parameterization, data_std): a tuple with a name for each part, and a tree.

        `parameterization` may be one name for all parts, such a tuple, or a tree of names.
        """
        if learned_variance:
            raise ValueError("learned_variance = True for a product; expected a denoiser of a single process")
        count, rows = len(self.processes), parameterization
        if rows is None or isinstance(rows, str):
            rows = (rows,) * count
        elif not (isinstance(rows, tuple) and len(rows) == count and all(isinstance(row, str) for row in rows)):
            rows = self.split(rows, "parameterization")
        rows, scales = zip(*self._map("check_reading", list(rows), self._given(data_std, "data_std"), [False] * count))
        return rows, self.joined(scales)

    def check_start(self, parameterization, t) -> None:
        self._map("check_start", parameterization, self.clocks(t))

    def check_prediction(self, prediction, x) -> None:
        self._map("check_prediction", self.split(prediction, "the denoiser's answer"), self.split(x))

    def at(self, x, t) -> tuple[Any, Any]:
        x, t = zip(*self._map("at", self.split(x), self.clocks(t)))
        return self.joined(x), self.joined(t)

    def prior(self, keys, shape, t) -> Any:
        return self._tree("prior", self._keys(keys), self.split(shape, "shape"), self.clocks(t))

    def unknown(self, shape) -> Any:
        return self._tree("unknown", self.split(shape, "shape"))

    def perturb(self, keys, x0, t) -> tuple[Any, Any]:
        x_t, truth = zip(*self._map("perturb", self._keys(keys), self.split(x0, "x0"), self.clocks(t)))
        return self.joined(x_t), self.joined(truth)

    def present(self, x, t, data_std) -> Any:
        return self._tree("present", *map(self.split, (x, t, data_std)))

    def read(self, parameterization, out, x, t, data_std) -> Any:
        out = self.split(out, "what the network returned")
        return self._tree("read", parameterization, out, *map(self.split, (x, t, data_std)))

    def reverse(self, keys, prediction, x, t, s) -> Any:
        parts = *map(self.split, (prediction, x)), self.clocks(t), self.clocks(s)
        return self._tree("reverse", self._keys(keys), *parts)

    def answer(self, keys, prediction) -> Any:
        return self._tree("answer", self._keys(keys), self.split(prediction))

    def error(self, prediction, truth, x, t) -> Any:
        return self._tree("error", *map(self.split, (prediction, truth, x)), self.clocks(t))

    def denoising_error(self, prediction, truth, x, t) -> Any:
        return self._tree("denoising_error", *map(self.split, (prediction, truth, x)), self.clocks(t))

    def error_scale(self, parameterization, t, data_std) -> Any:
        return self._tree("error_scale", parameterization, self.clocks(t), self.split(data_std))

    def kl(self, prediction, truth, x, t, s) -> Any:
        return self._tree("kl", *map(self.split, (prediction, truth, x)), self.clocks(t), self.clocks(s))

    def check_data(self, data, levels) -> Any:
        """A tree of data checked part by part; `levels` is a tree too, or None for the default of each part."""
        checked = self._map("check_data", self.split(data, "data"), self._given(levels, "levels"))
        _check_alike("data", [len(part) for part in checked])
        return self.joined(checked)

    def clean(self, data, levels) -> Any:
        return self._tree("clean", self.split(data, "data"), self._given(levels, "levels"))

    def last_time(self, levels) -> jax.Array | None:
        """The latest of the parts' times, or None if no part has one."""
        times = [t for t in self._map("last_time", self._given(levels, "levels")) if t is not None]
        return functools.reduce(jnp.maximum, times) if times else None

    def prior_kl(self, x0, t) -> Any:
        return self._tree("prior_kl", self.split(x0), self.clocks(t))

    def reconstruction(self, prediction, data, x0, t, levels) -> Any:
        parts = *map(self.split, (prediction, data, x0)), self.clocks(t), self._given(levels, "levels")
        return self._tree("reconstruction", *parts)


def _check_form(name: str, form: Any, tree: Any) -> None:
    """Raise ValueError, with its path, for the first part of `tree` whose structure differs from that of `form`."""
    parts, structure = jax.tree_util.tree_flatten_with_path(form, is_leaf=lambda part: part is not form)
    if jax.tree_util.treedef_is_leaf(structure):
        return
    try:
        found = structure.flatten_up_to(tree)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} has another form than the product of {form}: {error}") from None
    for (key, part), there in zip(parts, found):
        _check_form(name + jax.tree_util.keystr(key), part, there)


def _check_alike(given: str, counts: list[int]) -> None:
    """Raise ValueError if the parts of `given` hold different numbers of examples."""
    if len(set(counts)) > 1:
        raise ValueError(f"{given} hold {counts} examples; expected the same number of examples in each part")
