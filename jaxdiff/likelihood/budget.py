r"""Where the error of a likelihood comes from.

An estimate of an image draws x from its cell and integrates the flow under random probes; its mean over both is the
dequantisation bound. The variance of a mean over n images of r estimates each is therefore

    (images + (dequantisation + trace)/r)/n.

trace is read off the spread of its estimates in one solve, dequantisation is what more a second estimate of the same
image differs by, and images is the rest of the spread over the data set, which no computing makes smaller.

What repeating does not show are shifts: that of the solver, by tolerances ten times finer for the same x and probes;
that of beginning at t_min and not at the data, by a t_min ten times smaller; and that of the arithmetic, by the same
model in full precision, products of float32 at "highest" and networks without their `jaxdiff.networks.Cast`. They are
differences image by image, with a standard error of their own. The prior's term is KL(q(x_1 | x_0) || prior): x_1 is
not quite noise.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import at_precision
from jaxdiff.arrays.batches import in_batches, joined
from jaxdiff.likelihood.estimate import Estimator
from jaxdiff.likelihood.mean import Mean, finite, mean_of
from jaxdiff.likelihood.trace import estimates_of
from jaxdiff.likelihood.variational_bound import VariationalBound, continuous_bound
from jaxdiff.samplers import decode, encode

SECOND = 2**32 - 1  # the repeat that only the budget uses


@dataclasses.dataclass(frozen=True)
class ErrorBudget:
    """Where the error of a `BitsPerDim` comes from, bits/dim, as far as `examples` of its images tell.

    images, dequantisation, trace: the parts of its standard error, whose squares add up to its square. solver: what
    tolerances ten times finer change. truncation: what t_min/10 changes. arithmetic: what full precision changes, 0
    where everything was computed in it. prior: KL(q(x_1 | x_0) || prior). round_trip: the largest
    |x - decode(encode(x))| where both converge, in levels. bound: the variational bound of these images in continuous
    time. flow: the mean of their first estimates, which belongs beside it.
    """

    examples: int
    images: float
    dequantisation: float
    trace: float
    solver: Mean
    truncation: Mean
    arithmetic: Mean
    prior: float
    round_trip: float
    flow: float
    bound: VariationalBound = dataclasses.field(repr=False)

    def __str__(self):
        shift = lambda value: f"{value.mean:+.5f} +- {value.standard_error:.5f}"
        total = math.sqrt(self.images**2 + self.dequantisation**2 + self.trace**2)
        below = "below" if abs(self.solver.mean) < total else "NOT below"
        bound = f"{self.bound.bits_per_dim:.4f} +- {self.bound.standard_error:.4f}"
        parts = (
            ("images", f"{self.images:.4f}", "how they differ; only more of them make it smaller"),
            (
                "dequantisation",
                f"{self.dequantisation:.4f}",
                "where in their cells they were put; smaller by repeats, too",
            ),
            ("trace", f"{self.trace:.4f}", "the random probes; smaller by repeats or more probes, too"),
        )
        beside = (
            ("solver", shift(self.solver), f"what tolerances ten times finer change, {below} the standard error"),
            ("truncation", shift(self.truncation), "what a t_min ten times smaller changes"),
            ("arithmetic", shift(self.arithmetic), "what full precision changes"),
            ("prior", f"{self.prior:.5f}", "x at t = 1 is not quite noise: KL(q(x_1 | x_0) || prior)"),
            ("round trip", f"{self.round_trip:.1e}", "the largest |x - decode(encode(x))|, in levels"),
            ("bound", bound, f"{self.bound.kind}; the flow on these images: {self.flow:.4f}"),
        )
        row = lambda name, value, note: f"  {name:<15}{value:>20}   {note}"
        return "\n".join(
            [
                f"error budget, measured on {self.examples} of the images, bits/dim",
                "in the standard error, whose square is the sum of these squares:",
                *(row(*part) for part in parts),
                "beside it:",
                *(row(*one) for one in beside),
            ]
        )


def measure(
    key,
    estimator: Estimator,
    index,
    base: np.ndarray,
    per_example: np.ndarray,
    repeats,
    batch_size: int,
    progress: bool,
) -> ErrorBudget:
    """The budget by the images `index`, whose first estimates are `base`; the rest is that of the whole run."""
    settings = estimator.likelihood
    # every step in the same batches, filled up, so that what was compiled for the estimates serves here
    over = lambda compute, label: joined(in_batches(compute, index, batch_size, progress, label, estimator.mesh))
    changed = lambda label, repeat=0, **more: over(lambda part: estimator(part, repeat, **more), label)

    flow, several = settings["flow"], settings["trace"].with_spread()
    size, dtype = math.prod(estimator.images.shape[1:]), np.float32
    second = changed("budget: noise", SECOND, trace=several)
    known = mean_of(finite(second.trace_error**2)).mean
    trace = known * estimates_of(several, size, dtype) / estimates_of(settings["trace"], size, dtype)
    spread = mean_of(finite((second.bits_per_dim - base) ** 2)).mean
    dequantisation = max((spread - trace - known) / 2, 0.0)

    finer = changed("budget: solver", flow=dataclasses.replace(flow, rtol=flow.rtol / 10, atol=flow.atol / 10))
    earlier = changed("budget: truncation", t_min=settings["t_min"] / 10)

    full = estimator.in_full()
    in_full = base  # where nothing falls short of it, and the same would be computed again
    if full.arithmetic != estimator.arithmetic:
        in_full = over(lambda part: full(part, 0), "budget: arithmetic").bits_per_dim

    def trip(part):
        cond = estimator.cond_of(part)
        with at_precision(estimator.precision):
            x = estimator.draw(part, 0)[1][0][0]
            z = encode(estimator.denoiser, x, cond, flow, settings["t_min"])
            failed = jnp.isnan(z).any(range(1, z.ndim), keepdims=True)
            back = decode(estimator.denoiser, jnp.where(failed, 0.0, z), cond, flow, settings["t_min"])
        return jnp.where(failed, jnp.nan, jnp.abs(back - x)).max(range(1, x.ndim)) * estimator.levels / 2

    bound = continuous_bound(
        jax.random.fold_in(key, SECOND),
        estimator.denoiser,
        estimator.images[index],
        levels=estimator.levels,
        batch_size=batch_size,
        cond=jax.tree.map(lambda c: c[index], estimator.cond),
        progress=progress,
        mesh=estimator.mesh,
        precision=estimator.precision,
    )
    found = np.isfinite(per_example)
    count, each = found.sum(), repeats[found].mean()
    total = per_example[found].var(ddof=1) if count > 1 else math.nan
    part = lambda variance: math.sqrt(max(variance, 0.0) / count) if count else math.nan
    return ErrorBudget(
        examples=len(index),
        images=part(total - (dequantisation + trace) / each),
        dequantisation=part(dequantisation / each),
        trace=part(trace / each),
        solver=mean_of(finite(finer.bits_per_dim - base)),
        truncation=mean_of(finite(earlier.bits_per_dim - base)),
        arithmetic=mean_of(finite(in_full - base)),
        prior=float(np.mean(bound.prior, dtype=np.float64)),
        round_trip=float(max(finite(over(trip, "budget: round trip")), default=math.nan)),
        flow=mean_of(finite(base)).mean,
        bound=bound,
    )
