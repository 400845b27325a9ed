"""The conditions of a network: named parts, each of which it accepts only if it was built to.

    label       integers [n], 0 to classes - 1, or `classes` for none
    vector      floats [n, vector]
    image       floats [n, *sides of x, image], which joins the channels of x
    level       floats [n], the log-SNR to which that image was noised
    tokens      floats [n, length, tokens]
    token_mask  bool [n, length], True where a token is read, which may be nowhere; everywhere by default

cond is a dict of them. A network with labels alone also accepts a bare array of integers, and one with vectors alone a
bare array of floats. None stands for no label and no tokens; a vector, an image and a level have no value for "none".
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdiff.arrays import as_array, check_flag, check_labels, check_whole, said, with_dtype

_NOTES = {
    "label": "one label per example",
    "vector": "one vector per example",
    "image": "one image per example",
    "level": "one log-SNR per example",
    "tokens": "one sequence per example",
    "token_mask": "True where a token is read",
}


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The parts of cond that a network accepts.

    Args:
        classes: the number of labels, 0 for none.
        vector: the size of a vector, 0 for none.
        image: the channels of an image, 0 for none.
        level: whether the image comes with its log-SNR.
        tokens: the width of tokens, 0 for none.

    Raises:
        TypeError: if a size is not a whole number, or `level` is not a bool.
        ValueError: if a size is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> conditions = jd.networks.Conditions(classes=10, vector=3)
        >>> conditions.names
        ('label', 'vector')
        >>> conditions.check({"label": jnp.array([0, 9]), "vector": jnp.zeros((2, 3))})
    """

    classes: int = 0
    vector: int = 0
    image: int = 0
    level: bool = False
    tokens: int = 0

    def __post_init__(self):
        for name in ("classes", "vector", "image", "tokens"):
            check_whole(name, getattr(self, name), least=0)
        check_flag("level", self.level)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that a dict must have."""
        taken = {"label": self.classes, "vector": self.vector, "image": self.image, "level": self.level}
        return tuple(name for name, width in (taken | {"tokens": self.tokens}).items() if width)

    def check(self, cond) -> None:
        """Raise for a `cond` that the network does not accept.

        Raises:
            TypeError: if a part is missing, unknown or of another dtype.
            ValueError: if a part has another shape, a label does not exist, or the network accepts no condition.
        """
        self._given(cond)

    def read(self, cond, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        """The parts of `cond` for x of `shape` [n, *sides, channels], missing ones replaced by "none".

        Tokens under a mask are set to 0. Raises what `check` raises, and ValueError for a part of another batch or an
        image of other sides.
        """
        parts, n = self._given(cond), shape[0]
        if self.classes:
            label = parts.get("label", jnp.asarray(self.classes))
            parts["label"] = label if label.ndim else jnp.broadcast_to(label, (n,))
        if self.tokens:
            tokens = parts.get("tokens", jnp.zeros((n, 0, self.tokens)))
            mask = parts.get("token_mask", jnp.ones(tokens.shape[:2], bool))
            parts |= {"tokens": jnp.where(mask[..., None], tokens, 0), "token_mask": mask}
        whole = {"label": (n,), "image": (n, *shape[1:-1], self.image)}
        for name, part in parts.items():
            if part.shape != (expected := whole.get(name, (n, *part.shape[1:]))):
                called = f"cond[{name!r}]" if isinstance(cond, dict) else "cond"
                scalar = "a scalar or " if name == "label" else ""
                raise ValueError(
                    f"{called} has shape {part.shape}; expected {scalar}{list(expected)}, {_NOTES[name]}"
                    f"{', of the sides of x' if name == 'image' else ''}"
                )
        return parts

    def _given(self, cond) -> dict[str, jax.Array]:
        """The parts in `cond`, each with its form checked."""
        if cond is None:
            for name in self.names:
                if name not in ("label", "tokens"):
                    raise TypeError(
                        f"cond = None, but the network cannot do without {name}; expected {self._expected()}"
                    )
            return {}
        if not self.names:
            raise ValueError(
                "cond was given to a network without classes or other conditions; build it with classes=..., or "
                "leave cond out"
            )
        if isinstance(cond, dict):
            return self._named(cond)
        if isinstance(cond, list | tuple) or self.names not in (("label",), ("vector",)):
            raise TypeError(f"{with_dtype('cond', cond)}; expected {self._expected()}")
        return {self.names[0]: self._checked(self.names[0], "cond", cond)}

    def _named(self, cond: dict) -> dict[str, jax.Array]:
        optional = ("token_mask",) if self.tokens else ()
        for name in cond:
            if name not in (*self.names, *optional):
                raise TypeError(f"cond has {said(name)}, which this network does not take; expected {self._expected()}")
        for name in self.names:
            if name not in cond:
                raise TypeError(f"cond has no {name}; expected {self._expected()}")
        parts = {name: self._checked(name, f"cond[{name!r}]", part) for name, part in cond.items()}
        mask = parts.get("token_mask")
        if mask is not None and mask.shape != parts["tokens"].shape[:2]:
            raise ValueError(
                f"cond['token_mask'] has shape {mask.shape}, for tokens of shape {parts['tokens'].shape}; expected "
                "one entry per token"
            )
        return parts

    def _checked(self, name: str, called: str, value) -> jax.Array:
        if name == "label":
            return check_labels(value, self.classes, none=True, name=called)
        array = None if isinstance(value, list | tuple | dict) else as_array(value)
        kind = bool if name == "token_mask" else jnp.floating
        if value is None or array is None or not jnp.issubdtype(array.dtype, kind):
            raise TypeError(f"{with_dtype(called, value)}; expected {self._form(name)}")
        axes = {"vector": 2, "level": 1, "tokens": 3, "token_mask": 2}.get(name, max(2, array.ndim))
        width = {"vector": self.vector, "image": self.image, "tokens": self.tokens}.get(name)
        if array.ndim != axes or width not in (None, array.shape[-1]):
            raise ValueError(f"{called} has shape {array.shape}; expected {self._form(name)}")
        return jnp.asarray(array)

    def _form(self, name: str) -> str:
        axes = {
            "label": f"integer labels 0 to {self.classes - 1}",
            "vector": f"floats [batch, {self.vector}]",
            "image": f"floats [batch, *sides of x, {self.image}]",
            "level": "floats [batch]",
            "tokens": f"floats [batch, length, {self.tokens}]",
            "token_mask": "bool [batch, length]",
        }
        return f"{axes[name]}, {_NOTES[name]}"

    def _expected(self) -> str:
        if self.names in (("label",), ("vector",)):
            return self._form(self.names[0])
        return "a dict of " + "; ".join(f"{name}: {self._form(name)}" for name in self.names)
