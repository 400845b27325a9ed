"""The error of `log_likelihood` in float32 against float64, by dimension and tolerance.

    python experiments/float32_likelihood.py        3 minutes on two cores

A mixture of three Gaussians in D dimensions, whose variances fall from 1.02 to 0.02 + 1/D along random axes, under VP,
EDM and Flow, with an exact trace; float64 is solved at tolerances of 1e-10. Expect the largest error in nats over 16
examples and the three processes, and the number of evaluations of the process that takes most:

    rtol = atol       1e-4          1e-5          1e-6          1e-7
    D = 2        5.3e-3   34   4.4e-4   46   4.3e-6   66   3.3e-6   90
    D = 16       1.2e-2   47   2.5e-3   61   1.4e-4   84   1.9e-5  125
    D = 64       8.5e-2   52   4.2e-3   75   3.3e-4  106   4.0e-5  148

So down to 1e-6 the solver's tolerance causes most of the error, and the rounding of float32 the rest.
"""

import jax
import numpy as np

import jaxdiff as jd

PROCESSES = jd.VP(), jd.EDM(), jd.Flow()
TOLERANCES = 1e-4, 1e-5, 1e-6, 1e-7


def problem(d: int, components: int = 3, n: int = 16):
    """The arguments of the mixture, and n samples of it."""
    rng = np.random.default_rng(d)
    means = rng.standard_normal((components, d))
    bases = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in means]
    covariances = np.array([basis * (0.02 + 1 / np.arange(1, d + 1)) @ basis.T for basis in bases])
    drawn = rng.integers(0, components, n)
    x = [rng.multivariate_normal(means[k], covariances[k]) for k in drawn]
    return (np.ones(components), means, covariances), np.stack(x).astype(np.float32)


def solved(mixture, x, tolerance: float) -> jd.likelihood.Likelihood:
    """The log-likelihoods of x in its dtype."""
    flow = jd.samplers.ProbabilityFlow(rtol=tolerance, atol=tolerance)
    return jd.log_likelihood(jax.random.key(0), mixture, x, flow=flow, trace=jd.likelihood.Exact())


def main() -> None:
    print("rtol = atol " + "".join(f"{tolerance:>14.0e}" for tolerance in TOLERANCES))
    for d in (2, 16, 64):
        arguments, x = problem(d)
        errors, evaluations = np.zeros((2, len(PROCESSES), len(TOLERANCES)))
        for row, process in enumerate(PROCESSES):
            with jax.enable_x64(True):
                truth = solved(jd.exact.Mixture(process, *arguments), x.astype(np.float64), 1e-10).log_prob
            for column, tolerance in enumerate(TOLERANCES):
                found = solved(jd.exact.Mixture(process, *arguments), x, tolerance)
                errors[row, column] = np.abs(found.log_prob - np.asarray(truth)).max()
                evaluations[row, column] = found.evaluations.mean()
        worst = zip(errors.max(0), evaluations.max(0))
        print(f"D = {d:<6}" + "".join(f"{error:>9.1e}{count:5.0f}" for error, count in worst), flush=True)


if __name__ == "__main__":
    main()
