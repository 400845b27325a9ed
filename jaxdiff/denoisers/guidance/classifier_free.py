"""Classifier-free guidance: from the prediction without a condition towards the prediction with it, and beyond.

A null stands for "no condition": one example's cond that carries no information, or None, which leaves it to the
denoiser. With a null that has values all predictions are one batch in which the K + 1 conditions of an example lie side
by side, so that examples that are sharded over devices stay on their device.
"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_field, count, is_concrete, said
from jaxdiff.arrays.checks import native
from jaxdiff.denoisers.checks import check_same_process
from jaxdiff.denoisers.condition import as_nulls, check_cond_of, check_null, together
from jaxdiff.denoisers.denoiser import (
    DenoiserLike,
    check_denoiser,
    check_numbers,
    check_start_of,
    innermost,
)
from jaxdiff.denoisers.guidance.saturation import rescaled
from jaxdiff.denoisers.guidance.scale import Interval, Parts, Scale, Scaled, as_parts, scale_at
from jaxdiff.denoisers.guidance.sharpening import check_same_sharpenings
from jaxdiff.processes import Gaussian, Prediction, extrapolated, of_examples, pytree


class _TowardsCond(Scaled):
    """Guidance away from the prediction under `null` of the denoiser, or of `free`."""

    null: Any
    free: DenoiserLike | None

    def __post_init__(self):
        super().__post_init__()
        if self.free is not None:
            check_denoiser(self.free, "free")
            check_same_process("free", self.free, self.denoiser, "wrap free in OnProcess")
            check_same_sharpenings("free", self.free, self.denoiser)
        check_null(self.null)
        if self.null is None and getattr(innermost(self._unconditional), "condition_dropout", None) == 0:
            warnings.warn(
                f"{type(self).__name__} of a denoiser whose condition was never dropped in training (condition_dropout "
                "= 0): its unconditional prediction was not learned, so that guidance away from it is arbitrary. "
                "Train by jaxdiff.losses.ConditionDropout(loss)",
                UserWarning,
                stacklevel=4,
            )

    @property
    def _unconditional(self) -> DenoiserLike:
        return self.denoiser if self.free is None else self.free

    def _check_given(self, cond) -> None:
        if cond is None:
            name = type(self).__name__
            raise ValueError(f"{name} needs cond; give cond, or leave {name} out for unconditional samples")

    def _rows(self, cond, n: int) -> list:
        """The conditions of n examples: the null, then with one more scaled part revealed at a time, up to `cond`."""
        cond = jax.tree.map(lambda leaf: _for_all(jnp.asarray(native(leaf)), n), cond)
        if not isinstance(self.scale, Parts):
            return [_spread(as_nulls(self.null, cond), n), cond]
        parts = [together(name, cond) for name in self.scale.names]
        revealed = [name for names in parts for name in names]
        _check_parts(self.scale.names, self.null, cond, revealed)
        null, known = ({name: tree[name] for name in revealed} for tree in (self.null, cond))
        rows = [cond | _spread(as_nulls(null, known), n)]
        for names in parts:
            rows.append(rows[-1] | {name: cond[name] for name in names})
        return rows

    def asked(self, cond) -> list[tuple[DenoiserLike, Any]]:
        """The denoisers, each with a cond it is called with, the unconditional one first."""
        self._check_given(cond)
        sizes = [leaf.shape[0] for leaf in jax.tree.leaves(cond) if np.ndim(leaf)]
        first, *others = [None, cond] if self.null is None else self._rows(cond, sizes[0] if sizes else 1)
        return [(self._unconditional, first), *((self.denoiser, row) for row in others)]

    def check_cond(self, cond) -> None:
        """Raise for cond = None, and for a `cond` or a null that the denoisers do not accept."""
        (free, null), *others = self.asked(cond)
        with warnings.catch_warnings(action="ignore"):  # __post_init__ has warned
            try:
                check_cond_of(free, null)
            except (ValueError, TypeError) as error:
                name = type(self).__name__
                raise type(error)(
                    f"{name} needs a prediction without cond, which this denoiser does not have ({error}); "
                    f"leave {name} out"
                    if null is None
                    else f"null: {error}"
                ) from None
        for denoiser, given in others:
            check_cond_of(denoiser, given)

    def check_start(self, t) -> None:
        """Raise if one of the denoisers has no prediction at a concrete `t`."""
        check_start_of(self.denoiser, t)
        check_start_of(self._unconditional, t)

    def _answers(self, x, t, cond) -> list:
        """The predictions for x without a condition, ..., with `cond`."""
        self._check_given(cond)
        if self.null is None:
            return [self._unconditional(x, t, None), self.denoiser(x, t, cond)]
        x, t = self.process.at(x, t)
        first, *others = self._rows(cond, count(x))
        if self.free is None:
            return _together(self.denoiser, x, t, [first, *others])
        return [self.free(x, t, first), *_together(self.denoiser, x, t, others)]


def _for_all(leaf, n: int):
    """A scalar repeated for n examples; an array as it is."""
    return leaf if leaf.ndim else _spread(leaf, n)


def _spread(tree, n: int) -> Any:
    """`tree`, of one example, repeated for n; NumPy arrays if its values are concrete, so that they can be checked."""

    def repeat(leaf):
        room = np if is_concrete(leaf) else jnp
        return room.broadcast_to(room.asarray(leaf), (n, *leaf.shape))

    return jax.tree.map(repeat, tree)


def _check_parts(names, null, cond, revealed: list[str]) -> None:
    """Raise ValueError if cond or null lacks a part that has a scale, or null has a part that cond lacks."""
    for owner, tree in (("cond", cond), ("null", null)):
        missing = [name for name in revealed if not isinstance(tree, dict) or name not in tree]
        if missing:
            raise ValueError(f"scale names {', '.join(names)}, but {owner} = {said(tree)} has no {missing[0]}")
    if unknown := sorted(null.keys() - cond.keys()):
        raise ValueError(f"null has {unknown[0]}, which cond = {said(cond)} does not have; leave it out")


def _together(denoiser: DenoiserLike, x, t, rows: list) -> list:
    """The predictions of `denoiser` for x at t [n] under each of the conditions `rows`, computed as one batch."""
    k = len(rows)
    x, t = jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=0), (x, t))
    cond = jax.tree.map(lambda *leaves: jnp.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:]), *rows)
    answers = denoiser(x, t, cond)
    of_row = lambda leaf, i: leaf.reshape(-1, k, *leaf.shape[1:])[:, i] if jnp.ndim(leaf) else leaf
    return [of_examples(lambda leaf, i=i: of_row(leaf, i), answers) for i in range(k)]


@pytree
@dataclasses.dataclass(frozen=True)
class ClassifierFree(_TowardsCond):
    """Classifier-free guidance: unconditional + scale (conditional - unconditional).

    With a `null` all predictions are one batch of 2 n examples, (K + 1) n with K scales, and scale 0 and 1 give one of
    the two predictions up to rounding. With null None the denoiser is evaluated twice, at cond and at cond = None, and
    scale 0 and 1 give these predictions exactly.

    Args:
        denoiser: the denoiser.
        scale: 1 + w of the paper: 0 is the unconditional model, 1 the conditional one, and above 1 guides. A number,
            one per example `[batch]`, or an `Interval`. A dictionary has a scale for each named part of cond; the parts
            are revealed in its order, tokens with their mask, and parts that it does not name are always known.
        null: one example's cond, without a batch axis, that stands for "no condition", such as the encoding of "" or of
            a negative prompt. None calls the denoiser with cond = None.
        free: another denoiser of the same process, which gives the unconditional prediction.
        rescale: in [0, 1], the share of the contrast added to x_0 by guidance that is taken back (Lin et al. 2024, who
            recommend 0.7).

    Raises:
        TypeError: if `rescale` is not 0 and the process is not one of numbers.
        ValueError: if a part with a scale is missing, `null` does not match one example of cond, or `free` has another
            process or other sharpenings (`TopK`, ...); when called, if cond is None, the denoiser has no unconditional
            model, or the logits of one model are read as "data" and those of the other as "leave_one_out".

    Source:
        Ho and Salimans 2022, "Classifier-free diffusion guidance", eq. 6; Brooks et al. 2023, "InstructPix2Pix", eq. 3,
        for several parts.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> means, covariances = jnp.array([[-2.0], [2.0]]), jnp.ones((2, 1, 1))
        >>> denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], means, covariances)  # cond is the component
        >>> guided = jd.guidance.ClassifierFree(denoiser, 3.0)
        >>> x = jnp.zeros((1, 1))  # between the means, where the unconditional score is 0
        >>> bool(jnp.allclose(jd.score(guided, x, 0.5, 1), 3 * jd.score(denoiser, x, 0.5, 1), atol=1e-5))
        True
    """

    denoiser: DenoiserLike
    scale: Scale | Interval | dict[str, Any] = 1.0
    null: Any = None
    free: DenoiserLike | None = None
    rescale: float = 0.0

    def __post_init__(self):
        if isinstance(self.scale, dict):
            object.__setattr__(self, "scale", as_parts(self.scale))
        super().__post_init__()
        if isinstance(self.scale, Parts) and self.null is None:
            raise ValueError(f"null = None, but scale names {', '.join(self.scale.names)}; give the null of each part")
        check_field(self, "rescale", least=0, most=1, noun="a share")
        if not (is_concrete(self.rescale) and np.all(np.asarray(self.rescale) == 0)):
            check_numbers(self.denoiser, "rescale", "leave it out")

    def __call__(self, x, t, cond=None) -> Any:
        scales = self.scale.scales if isinstance(self.scale, Parts) else (self.scale,)
        answers = self._answers(x, t, cond)
        guided = extrapolated(answers, [scale_at(scale, self.process, t, x, 1.0) for scale in scales])
        if not isinstance(self.process, Gaussian):
            return guided
        return rescaled(self.process, guided, answers[-1], self.rescale, t)


@pytree
@dataclasses.dataclass(frozen=True)
class ClassifierFreePP(_TowardsCond):
    """CFG++: guided data with unconditional noise; `scale` in [0, 1].

    The paper's step is x_s = α_s x_0^guided + σ_s ε^free. x = α x_0 + σ ε no longer holds, so that this defines a step
    and not a flow. It is exactly the DDIM step of

        ClassifierFree with scale / (1 - (σ_s/α_s) / (σ_t/α_t)),

    a scale that grows as the steps get shorter. DDIM takes this step, and Heun takes it as its predictor. Others read
    it differently: ProbabilityFlow, `encode` and likelihoods integrate v = cos φ ε - sin φ x_0, which is that of
    ClassifierFree with scale sin² φ; DPM-Solver++ and Ancestral read only x_0, and see ClassifierFree; Euler-Maruyama
    and Langevin steps read only ε, which is not guided, and raise ValueError.

    Args:
        denoiser: a denoiser of numbers.
        scale: λ of the paper, in [0, 1].
        null: as in `ClassifierFree`.
        free: as in `ClassifierFree`.

    Raises:
        TypeError: if the process is not one of numbers.
        ValueError: if `scale` is outside [0, 1], and as in `ClassifierFree`.

    Source:
        Chung et al. 2024, "CFG++: manifold-constrained classifier free guidance for diffusion models", arXiv
        2406.08070, algorithm 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> means, covariances = jnp.array([[-2.0], [2.0]]), jnp.ones((2, 1, 1))
        >>> denoiser = jd.exact.Mixture(jd.VP(), [0.5, 0.5], means, covariances)  # cond is the component
        >>> guided = jd.guidance.ClassifierFreePP(denoiser, 0.6)
        >>> x = jnp.zeros((1, 1))
        >>> bool(jnp.allclose(guided(x, 0.5, 1).noise, denoiser(x, 0.5).noise))
        True
    """

    denoiser: DenoiserLike
    scale: Scale = 0.6
    null: Any = None
    free: DenoiserLike | None = None

    def __post_init__(self):
        check_numbers(self.denoiser, "ClassifierFreePP", "guide by ClassifierFree")
        check_field(self, "scale", least=0, most=1, noun="the λ of CFG++")
        super().__post_init__()

    def __call__(self, x, t, cond=None) -> Prediction:
        free, conditional = self._answers(x, t, cond)
        _, noise = free
        return dataclasses.replace(extrapolated([free, conditional], [self.scale]), noise=noise)
