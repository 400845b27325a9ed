r"""Inverse problems on digits: samples given a measurement, by every method, against the exact posterior.

    python experiments/inverse_problems.py                  13 minutes of CPU time
    python experiments/inverse_problems.py --half exact     no training

**First half.** The prior is ten Gaussians fitted to the first 1,000 of scikit-learn's digits, one for each class, on
[-1, 1]. Its denoiser is exact, and the posterior of a linear measurement y = A x_0 + s n is again a mixture: with
S_k = A C_k Aᵀ + s² I and G_k = C_k Aᵀ S_k⁻¹,

    weights ∝ w_k N(y; A m_k, S_k),     means m_k + G_k (y - A m_k),     covariances C_k - G_k A C_k,

so all differences are errors of the method. The measurements of one test digit of each class are the means of 2 x 2
pixels and the upper half, with s = 0.1. For each y, 200 samples in 50 steps of `Ancestral` are compared with as many
samples of the exact posterior:

    W2         sliced Wasserstein distance, averaged over the ten y; the floor is that of two sets of exact samples
    mean       distance of the means, root mean square over pixels
    chi²       |y - A x_0|²/s², averaged over measured values; 1 for the true digit
    PSNR       of a sample against the true digit, dB, for pixels of range 2

Expect,

               means of 2 x 2                   upper half
               W2    mean   chi²   PSNR         W2    mean   chi²   PSNR
    (floor)    .050   .031   0.94   14.8        .041   .023   0.99   15.8
    exact      .054   .031   0.77   15.2        .047   .026   0.74   16.2
    MMPS       .091   .074   0.80   14.7        .102   .082   0.74   15.2
    PiGDM      .091   .074   0.95   14.7        .094   .076   0.94   15.5
    JFPS       .113   .100   0.78   14.4        .129   .112   0.73   14.8
    DiffPIR    .164   .148   0.82   13.5        .208   .184   0.60   13.8
    DPS        .093   .073   0.42   15.4        .147   .133   0.39   15.9
    TMPD       .235   .077   1.37   14.9       2.228   .207  16.12   12.4
    DAPS       .181   .107   0.96   12.3        .220   .146   0.91   12.7
    RePaint                                     .104   .080   0.00   15.6

The noise of the means of 200 samples of the prior is then estimated by maximising the evidence, starting at twice the
true value of 0.1: 0.104 ± 0.008 under MMPS, and 0.137 ± 0.004 under PiGDM, whose posterior is less accurate.

MMPS and PiGDM are closest to the posterior, and so is RePaint on the upper half, which it treats as free of noise. None
is exact: at the noise levels where the class is decided, each method approximates ten Gaussians by one. The chi² of
DPS, 0.4, is below 1: its samples fit y better than the true digit does. The exact denoiser has 0.77 and exact samples
0.94; the difference is the error of 50 steps with the small variance.

**Second half.** The prior is a network trained on the same digits. There are two more measurements: the cosine
transform of 4 x 4 blocks, rounded as in JPEG to multiples of 0.35 (the rounding error, 0.35/√12, is as large as the
noise), and the magnitudes of the Fourier transform (phase retrieval). The exact posterior is not known. For 30 test
digits,

              means of 2 x 2    upper half    rounded cosines     spectrum
              chi²   PSNR      chi²   PSNR      chi²   PSNR      chi²   PSNR
    MMPS      1.28   14.1      0.93   13.7      2.34   23.2      1.60   13.0
    PiGDM     1.12   15.0      1.00   15.6      1.47   25.0      1.10   19.1
    JFPS      0.98   14.9      0.73   14.3      1.42   24.6      1.11   15.4
    DiffPIR   1.25   13.4      0.56   13.3      1.11   24.3      1.07   15.5
    DPS       0.54   16.3      0.50   16.1      1.24   24.1      0.92   21.9
    TMPD      1.50   14.8      4.49   11.9      1.86   24.1     50.16    6.7
    DAPS      1.02   13.9      0.83   13.3      1.94   23.2      1.01   17.2
    RePaint                    0.00   15.0

Finally, a classifier of noised digits, p(y = 7 | x), guides the same network, which was trained without labels, to
sevens: an SVM trained on real digits recognises 99 of 100 as sevens.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import digits_conditional
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.svm import SVC

import jaxdiff as jd
from jaxdiff import guidance, plotting, runs, samplers

operators = guidance.operators
EVENT, DIM, CLASSES = (8, 8, 1), 64, 10
NOISE_STD, STEPS = 0.1, 50
UPPER = np.arange(8).reshape(8, 1, 1) < 4


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Clipped(guidance.Wrapper):
    """Clips x_0 to ±bound and adjusts the noise; DPS diverges without clipping."""

    denoiser: Any
    bound: float = 3.0

    def __call__(self, x, t, cond=None) -> jd.Prediction:
        """The clipped prediction."""
        alpha, sigma = self.process.marginal(t)
        data = jnp.clip(self.denoiser(x, t, cond).data, -self.bound, self.bound)
        return jd.Prediction(data, (x - alpha * data) / sigma)


def ten_gaussians(images: jd.data.Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, means, covariances) of digits on [-1, 1], one Gaussian a class; covariances halfway to their mean."""
    x = (2 * (images.image + 0.5) / images.levels - 1).reshape(-1, DIM)
    classes = [x[images.label == k] for k in range(CLASSES)]
    own = np.stack([np.cov(part.T) for part in classes])
    cell = (2 / images.levels) ** 2 / 12 * np.eye(DIM)
    weights = np.array([len(part) for part in classes]) / len(x)
    return weights, np.stack([part.mean(0) for part in classes]), (own + own.mean(0)) / 2 + cell


def posterior(prior, matrix, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, means, covariances) of p(x_0 | y), y = matrix x_0 + NOISE_STD n, for a mixture of Gaussians."""
    weights, means, covariances = prior
    seen = matrix @ covariances @ matrix.T + NOISE_STD**2 * np.eye(len(matrix))
    gain = covariances @ matrix.T @ np.linalg.inv(seen)
    away = y - means @ matrix.T
    fit = np.einsum("ki,ki->k", away, np.linalg.solve(seen, away[..., None])[..., 0]) + np.linalg.slogdet(seen)[1]
    weights = np.log(weights) - fit / 2
    weights = np.exp(weights - weights.max())
    corrected = covariances - gain @ matrix @ covariances
    return weights / weights.sum(), means + np.einsum("kij,kj->ki", gain, away), (corrected + corrected.mT) / 2


def draws(rng, mixture, n) -> np.ndarray:
    """n points [n, *EVENT] of a mixture of Gaussians."""
    weights, means, covariances = mixture
    component = rng.choice(len(weights), n, p=weights)
    roots = np.linalg.cholesky(covariances + 1e-9 * np.eye(DIM))
    return (means[component] + np.einsum("nij,nj->ni", roots[component], rng.standard_normal((n, DIM)))).reshape(
        -1, *EVENT
    )


@dataclasses.dataclass(frozen=True)
class Problem:
    """y = operator(x_0) + NOISE_STD n of digits; which values are noisy, and how y is shown as [8, 8, 1]."""

    operator: Any
    sees: Any = True
    picture: Any = lambda y: y

    def measure(self, rng, x0) -> np.ndarray:
        """y of x0 [n, *EVENT], with noise."""
        y = np.asarray(jax.vmap(self.operator)(jnp.asarray(x0, jnp.float32)))
        return y + NOISE_STD * self.sees * rng.standard_normal(y.shape).astype(np.float32)

    def chi_squared(self, y, x0) -> float:
        """|y - A x_0|²/s², averaged over measured values."""
        away = (np.asarray(y) - jax.vmap(self.operator)(jnp.asarray(x0))) / NOISE_STD
        return float((away**2).sum() / (len(y) * np.sum(np.broadcast_to(self.sees, y.shape[1:]))))


LINEAR = {
    "means of 2 x 2": Problem(operators.average(2), picture=lambda y: y.repeat(2, 1).repeat(2, 2)),
    "upper half": Problem(operators.mask(UPPER), UPPER),
}


ROWS = {
    "MMPS": lambda data_std, covariance: guidance.Moment(),
    "PiGDM": lambda data_std, covariance: guidance.Isotropic(data_std),
    "JFPS": lambda data_std, covariance: guidance.Prior(covariance),
    "DiffPIR": lambda data_std, covariance: guidance.Proximal(1.0),
    "DPS": lambda data_std, covariance: guidance.Point(),
    "TMPD": lambda data_std, covariance: guidance.RowSums(),
}


def observed(denoiser, operator, data_std, covariance) -> dict[str, Any]:
    """`Observed` with every spread, by the name of its method."""
    spreads = {name: of(data_std, covariance) for name, of in ROWS.items()}
    rows = {name: guidance.Observed(denoiser, operator, NOISE_STD, spread) for name, spread in spreads.items()}
    return rows | {"DPS": Clipped(rows["DPS"])}


def solved(denoiser, sampler, cond, n) -> np.ndarray:
    """n samples [n, *EVENT] in STEPS steps."""
    return np.asarray(jd.sample(jax.random.key(1), denoiser, (n, *EVENT), sampler, STEPS, cond))


def psnr(x, truth) -> float:
    """PSNR of samples x against the true digits, dB, averaged over samples; the range of pixels is 2."""
    error = ((np.asarray(x, np.float64) - truth) ** 2).mean((-1, -2, -3))
    return float(np.mean(10 * np.log10(4 / error)))


def first_of_each_class() -> np.ndarray:
    """The first test digit of each class, on [-1, 1]: [10, *EVENT]."""
    images = jd.data.load_digits("test")
    first = [np.flatnonzero(images.label == k)[0] for k in range(CLASSES)]
    return np.asarray(jd.VP().clean(images.image[first], images.levels), np.float32)


def exact_half(samples: int, folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The scores of the first half by (problem, method), and its pictures."""
    process, prior = jd.VP(), ten_gaussians(jd.data.load_digits("train"))
    weights, means, covariances = prior
    denoiser = jd.exact.Mixture(process, weights, means, covariances)
    away = means - weights @ means
    covariance = np.einsum("k,kij->ij", weights, covariances + away[:, :, None] * away[:, None])
    data_std = float(np.sqrt(np.trace(covariance) / DIM))
    truth, rng, found = first_of_each_class(), np.random.default_rng(0), {}
    for problem, (name, of) in enumerate(LINEAR.items()):
        matrix = np.asarray(jax.jacobian(of.operator)(jnp.zeros(EVENT))).reshape(-1, DIM)
        matrix = matrix[matrix.any(1)]
        y = of.measure(rng, truth)
        exact = [posterior(prior, matrix, one[np.broadcast_to(of.sees, one.shape)]) for one in y]
        target, other = (np.stack([draws(rng, one, samples) for one in exact]) for _ in range(2))
        drawn = {"(floor)": other}
        drawn["exact"] = np.stack(
            [solved(jd.exact.Mixture(process, *one), samplers.Ancestral(), None, samples) for one in exact]
        )
        many = np.repeat(y, samples, 0)
        rows = observed(denoiser, of.operator, data_std, covariance)
        ways = {way: (row, samplers.Ancestral(), many) for way, row in rows.items()}
        ways["DAPS"] = denoiser, samplers.DAPS(of.operator, NOISE_STD), many
        if name == "upper half":
            ways["RePaint"] = denoiser, samplers.RePaint(), {"known": many, "mask": UPPER}
        for way, (model, sampler, cond) in ways.items():
            drawn[way] = solved(model, sampler, cond, len(many)).reshape(CLASSES, samples, *EVENT)
        for way, x in drawn.items():
            distances = [
                jd.metrics.sliced_wasserstein(
                    jax.random.key(k), *(z[k].reshape(samples, DIM) for z in (x, target))
                ).value
                for k in range(CLASSES)
            ]
            centre = np.mean(((x.mean(1) - target.mean(1)) ** 2).mean((1, 2, 3)) ** 0.5)
            found[name, way] = {
                "W2": float(np.mean(distances)),
                "mean": float(centre),
                "chi²": of.chi_squared(many, x.reshape(-1, *EVENT)),
                "PSNR": psnr(x, truth[:, None]),
            }
            print_scores(name, way, found[name, way])
        rows = [truth, of.picture(y), *(x[:, 0] for x in drawn.values())]
        names = ["digit", "measured", "exact posterior", *list(drawn)[1:]]
        plotting.strip(np.stack(rows).astype(np.float32), folder / f"exact_{problem}.png", names=names, title=name)
    return found


def estimated_noise(n: int) -> dict[str, samplers.NoiseEstimate]:
    """The noise of the means of `n` samples of the exact prior, estimated starting at twice its value."""
    prior, rng = ten_gaussians(jd.data.load_digits("train")), np.random.default_rng(2)
    of, denoiser, found = LINEAR["means of 2 x 2"], jd.exact.Mixture(jd.VP(), *prior), {}
    y = of.measure(rng, draws(rng, prior, n))
    for way, spread in {"MMPS": guidance.Moment(), "PiGDM": guidance.Isotropic(0.5)}.items():
        observed = guidance.Observed(denoiser, of.operator, 2 * NOISE_STD, spread)
        one = samplers.estimate_noise(jax.random.key(3), observed, (n, *EVENT), y, rounds=40)
        print(f"noise by {way:6s} {one.noise_std:.4f} ± {one.standard_error:.4f}, of {NOISE_STD}; {one.converged=}")
        found[way] = one
    return found


def print_scores(problem: str, way: str, scores: dict[str, float]) -> None:
    """Print one row of a table."""
    print(
        f"{problem:15s} {way:10s}", *(f"{name} {value:7.3f}" for name, value in scores.items()), sep="   ", flush=True
    )


NONLINEAR = {
    "rounded cosines": Problem(operators.quantise(0.35, block=4)),
    "spectrum": Problem(
        operators.phase_retrieval(), picture=lambda y: 2 * np.fft.fftshift(y, (1, 2))[:, 4:12, 4:12] / y.max() - 1
    ),
}


def trained_half(run: runs.Run, shown: int, folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The scores of the second half by (problem, method), for the first `shown` test digits, and its pictures."""
    denoiser, rng, found = run.denoiser, np.random.default_rng(1), {}
    test, train = (jd.data.load_digits(split) for split in ("test", "train"))
    truth = np.asarray(denoiser.process.clean(test.image[:shown], test.levels), np.float32)
    seen = np.asarray(denoiser.process.clean(train.image, train.levels)).reshape(-1, DIM)
    covariance, data_std = np.cov(seen.T), float(seen.std(0).mean())
    for problem, (name, of) in enumerate({**LINEAR, **NONLINEAR}.items()):
        y = of.measure(rng, truth)
        rows = observed(denoiser, of.operator, data_std, covariance)
        ways = {way: (row, samplers.Ancestral(), y) for way, row in rows.items()}
        inner = samplers.LinearDraw() if name in LINEAR else samplers.LangevinDraw()
        ways["DAPS"] = denoiser, samplers.DAPS(of.operator, NOISE_STD, inner=inner), y
        if name == "upper half":
            ways["RePaint"] = denoiser, samplers.RePaint(), {"known": y, "mask": UPPER}
        drawn = {way: solved(model, sampler, cond, len(y)) for way, (model, sampler, cond) in ways.items()}
        for way, x in drawn.items():
            found[name, way] = {"chi²": of.chi_squared(y, x), "PSNR": psnr(x, truth)}
            print_scores(name, way, found[name, way])
        rows = [z[:CLASSES] for z in (truth, of.picture(y), *drawn.values())]
        names = ["digit", "measured", *drawn]
        plotting.strip(np.stack(rows).astype(np.float32), folder / f"trained_{problem}.png", names=names, title=name)
    return found


def sevens(run: runs.Run, folder: Path) -> float:
    """The share of guided samples that an SVM of real digits recognises as sevens; also plots them."""
    train = jd.data.load_digits("train")
    classifier = digits_conditional.classifier_of(folder / "classifier", run.denoiser, train, (16, 32), 1_000)
    svm = SVC().fit(digits_conditional.pixels(train.image), train.label)
    guided = guidance.Classifier(run.denoiser, classifier, scale=3.0)
    x = solved(guided, samplers.DPMSolverPP(), np.full(100, 7), 100)
    plotting.sample_grid(x, folder / "sevens.png", columns=20, title="a model of digits under p(y = 7 | x)")
    return float(np.mean(svm.predict(digits_conditional.pixels(run.restore(x))) == 7))


def main(
    half: Literal["both", "exact", "trained"] = "both",
    samples: int = 200,
    shown: int = 30,
    steps: int = 3_000,
    folder: Path = Path("runs/inverse_problems"),
) -> dict[str, Any]:
    """Measure test digits, sample their posteriors, and score the samples; returns the tables, by half.

    Args:
        half: The exact prior, the trained prior, or both.
        samples: The number of samples of each of the ten posteriors under the exact prior.
        shown: The number of test digits measured under the trained prior.
        steps: Training steps.
        folder: The folder of the run and pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if half != "trained":
        found["exact"] = exact_half(samples, folder)
        found["noise"] = estimated_noise(samples)
    if half != "exact":
        run = runs.train(runs.Config(steps=steps), folder / "run")
        found["trained"] = trained_half(run, shown, folder)
        found["sevens"] = sevens(run, folder)
        print(f"{found['sevens']:.2f} of 100 digits drawn under p(y = 7 | x) are sevens by an SVM of real ones")
    return found


if __name__ == "__main__":
    tyro.cli(main)
