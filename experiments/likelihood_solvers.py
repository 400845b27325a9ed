r"""Evaluations and error of the likelihood, by solver, coordinates and tolerance.

    python experiments/likelihood_solvers.py        12 minutes on two cores; also plots the result

Each of diffrax's explicit solvers with an error estimate, at rtol = atol = 1e-3 to 1e-6 in float32, solves the same
flow in three coordinate systems, u = x/c as a function of s:

    z, φ            c = q    s = φ         du/ds = cos φ E[ε|x] - sin φ E[x_0|x]
    x, t            c = 1    s = t         du/ds = α' E[x_0|x] + σ' E[ε|x]
    x/α, log-SNR    c = α    s = log-SNR   du/ds = -½ e^{-s/2} E[ε|x]

under VP from t = 1e-5 to 1, on two problems of 64 dimensions.

    mixture    eight Gaussians with spectra like those of 8 x 8 images (`solvers.py`), with the exact trace; compared
               with the closed-form density at t = 1e-5, with the prior in place of the distribution at t = 1
    network    one of the default settings (trained here if missing) on test digits, one probe an image; compared with
               Dopri8 at rtol 1e-9 in float64 with the same probe

Expect, as evaluations and error in bits/dim (Heun, Midpoint and Ralston take two to twenty times more),

    mixture, rtol         1e-3          1e-4          1e-5          1e-6
    z, φ      Bosh3        47  6.7e-3    85  1.0e-3   162  1.2e-4   331  1.3e-5
              Tsit5        43  4.8e-3    58  3.8e-4    77  5.3e-5   124  7.0e-6
              Dopri5       40  3.1e-3    50  1.0e-3    70  9.4e-5   110  6.0e-6
              Dopri8       98  7.2e-4   116  6.1e-5   145  1.6e-6   204  4.9e-7
    x, t      Tsit5        39  3.1e-3    51  7.6e-4    71  2.6e-4   127  2.3e-5
              Dopri5       38  3.0e-3    49  8.9e-4    64  2.3e-4   104  3.7e-5
    x/α       Tsit5        70  2.0e-2   108  6.2e-4   169  6.6e-5   253  6.5e-6
              Dopri5       77  2.2e-2   107  4.0e-3   153  2.3e-4   241  1.8e-5
    network
    z, φ      Bosh3        59  4.3e-3   110  6.3e-4   222  8.1e-5   445  9.8e-6
              Tsit5        51  1.9e-3    94  4.5e-4   151  9.8e-5   236  3.7e-6
              Dopri5       43  1.7e-3    55  5.0e-4   110  1.5e-4   185  6.6e-6
              Dopri8      118  1.8e-4   174  1.5e-4   320  2.8e-6   433  3.7e-7
    x, t      Tsit5        51  1.8e-1   159  1.9e-4   168  3.1e-5   228  4.0e-6
              Dopri5       43  1.2e-1   159  3.9e-4   157  4.8e-5   200  4.5e-6
    x/α       Tsit5        72  1.2e-2   110  8.0e-4   166  7.8e-5   253  7.3e-6
              Dopri5       71  5.1e-3   100  2.4e-3   165  1.9e-4   244  2.4e-5

Dopri5 in (z, φ) is the library's default: it takes the fewest evaluations on the network down to 1e-5 bits/dim, and
nearly the fewest on the mixture. In (x, t) at rtol 1e-3 its error control misses the start of a network's flow, and the
result is wrong by a tenth of a bit; in (x/α, log-SNR) most evaluations are spent where the flow hardly changes.
"""

import functools
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from solvers import image_like

import jaxdiff as jd
from jaxdiff import runs
from jaxdiff.denoisers import angular_velocity
from jaxdiff.plotting import lines
from jaxdiff.processes import expand_time
from jaxdiff.samplers import ProbabilityFlow

FOLDER, N, T_MIN = Path("runs/likelihood_solvers"), 16, 1e-5
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
SOLVERS = {
    type(solver).__name__: solver
    for solver in (
        diffrax.Heun(),
        diffrax.Midpoint(),
        diffrax.Ralston(),
        diffrax.ReversibleHeun(),
        diffrax.Bosh3(),
        diffrax.Tsit5(),
        diffrax.Dopri5(),
        diffrax.Dopri8(),
    )
}


def within(tolerance, solver=None) -> ProbabilityFlow:
    return ProbabilityFlow(solver, rtol=tolerance, atol=tolerance)


def in_time(denoiser, x, t):
    alpha_rate, sigma_rate = (expand_time(rate, x) for rate in denoiser.process.velocity(t))
    data, noise = denoiser(x, t)
    return alpha_rate * data + sigma_rate * noise


def in_log_snr(denoiser, x, t):
    return -jnp.exp(-denoiser.process.log_snr(t) / 2) / 2 * denoiser(x, t).noise


COORDINATES = {  # name: t -> s, s -> t, t -> c, du/ds
    "z, φ": (lambda p: p.angle, lambda p: p.time_at_angle, lambda p: p.scale, angular_velocity),
    "x, t": (lambda p: lambda t: t, lambda p: lambda s: s, lambda p: jnp.ones_like, in_time),
    "x/α, log-SNR": (
        lambda p: p.log_snr,
        lambda p: p.time_at_log_snr,
        lambda p: lambda t: p.marginal(t)[0],
        in_log_snr,
    ),
}


@functools.partial(jax.jit, static_argnames="coordinates")
def log_prob(denoiser, x, vectors, flow, coordinates):
    """log p [n] of x [n, *event], evaluations and success; the trace sums products with `vectors` [n, m, *event]."""
    process = denoiser.process
    s_of, t_of, scale_of, velocity_of = (part(process) if i < 3 else part for i, part in enumerate(coordinates))
    ends = jnp.asarray([T_MIN, 1.0], x.dtype)
    c_0, c_1 = scale_of(ends)
    s_0, s_1 = s_of(ends)

    def one(x, vectors):
        def field(s, state):
            t = t_of(s)
            velocity = lambda u: velocity_of(denoiser, (scale_of(t) * u)[None], t)[0].astype(u.dtype)
            du, product = jax.linearize(velocity, state[0])
            return du, jnp.sum(jax.vmap(lambda e: jnp.vdot(e, product(e)))(vectors))

        start = (x / c_0, jnp.zeros((), x.dtype))
        (u, trace), evaluations, converged = flow.solve(field, start, s_0, s_1)
        prior = jax.scipy.stats.norm.logpdf(c_1 * u).sum()
        return prior + x.size * jnp.log(c_1 / c_0) + trace, evaluations, converged

    return jax.vmap(one)(x, vectors)


def mixture():
    """The mixture's denoiser, x, the vectors of its trace, and log p."""
    (weights, means, covariances), _ = image_like()
    rng = np.random.default_rng(1)
    k = rng.integers(len(weights), size=N)
    x = np.stack([rng.multivariate_normal(means[i], covariances[i]) for i in k])
    exact = jd.exact.Mixture(jd.VP(), weights, means, covariances)
    x = jnp.asarray(x, jnp.float32)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), exact)
    start = x.astype(float)
    end = jd.encode(exact, start, t_min=T_MIN, flow=within(1e-10))
    prior = jax.scipy.stats.norm.logpdf(end).sum(1)  # the model's, in the place of the law of x at t = 1
    truth = exact.log_prob(start, T_MIN) - exact.log_prob(end, 1.0) + prior
    return single, x, jnp.broadcast_to(jnp.eye(64, dtype=x.dtype), (N, 64, 64)), truth


def network():
    """The same for a network of the default settings."""
    denoiser = runs.train(runs.Config(), Path("runs/digits_default"), pictures=0).denoiser
    data = jd.data.load_digits("test")
    x = jd.dequantize(jax.random.key(0), data.image[:N], data.levels).astype(jnp.float32)
    vectors = jax.random.rademacher(jax.random.key(1), (N, 1, *x.shape[1:]), jnp.float32)
    flow = within(1e-9, diffrax.Dopri8())
    exactly = log_prob(denoiser, x.astype(float), vectors.astype(float), flow, COORDINATES["z, φ"])
    assert exactly[2].all()
    return denoiser, x, vectors, exactly[0]


def measure(denoiser, x, vectors, truth):
    """{coordinates: {solver: (evaluations, rms error in bits/dim)}}, each for the tolerances that it reaches."""
    to_bits = 1 / (x[0].size * np.log(2))
    found = {}
    for name, coordinates in COORDINATES.items():
        found[name] = {}
        for solver_name, solver in SOLVERS.items():
            rows = []
            for tolerance in TOLERANCES:
                flow = within(tolerance, solver)
                value, evaluations, converged = log_prob(denoiser, x, vectors, flow, coordinates)
                assert value.dtype == jnp.float32
                error = np.sqrt(np.mean(np.square(np.asarray(value, float) - np.asarray(truth)))) * to_bits
                rows.append((float(evaluations.mean()), error) if converged.all() else (np.nan, np.nan))
            found[name][solver_name] = tuple(np.array([row for row in rows if np.isfinite(row).all()]).T)
            print_row(name, solver_name, rows)
    return found


def print_row(coordinates, solver, rows):
    cells = "".join("            -       " if np.isnan(e) else f"{n:10.0f} {e:9.1e}" for n, e in rows)
    print(f"{coordinates:14s}{solver:16s}{cells}", flush=True)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    panels = {}
    for title, problem in {"mixture": mixture, "network": network}.items():
        print(f"\n{title}: evaluations and error in bits/dim at rtol = atol =")
        print(" " * 30 + "".join(f"{tolerance:20.0e}" for tolerance in TOLERANCES))
        for name, found in measure(*problem()).items():
            panels[f"{title}: {name}"] = found
    lines(panels, FOLDER / "likelihood_solvers.png", x="evaluations", y="error, bits/dim", columns=3)
    print(f"\npicture in {FOLDER}/likelihood_solvers.png")


if __name__ == "__main__":
    main()
