r"""The density of a table, and of some columns given others, compared with scikit-learn's models.

    python experiments/tabular.py                 about 10 minutes on two cores; run again to resume
    python experiments/tabular.py --setting gpu   a wider network and six times the steps; not measured

Two tables:

    made      a and b from eight Gaussians on a ring, and y = a b ± 0.5 + s(a) ε, with equally likely signs and noise of
              s(a) = 0.1 √(1 + a²): 10,000 training rows. Every density is known exactly, and so is the best
              possible number.
    digits    the first six principal components of scikit-learn's digits, in their units: 1,000 training rows, 447
              test rows. The conditional density is that of the last four given the first two.

Models, each with its settings chosen on validation rows:

    diffusion            this library, one run for each number: `jaxdiff.runs.train`, with `condition` for p(y | x)
    Gaussian mixture     scikit-learn's GaussianMixture, full covariances; p(y | x) = p(x, y)/p(x), both in closed form
    kernel density       scikit-learn's KernelDensity, Gaussian kernels; p(y | x) likewise
    boosted trees        scikit-learn's HistGradientBoostingRegressor for the mean and one Gaussian for the residuals:
                         p(y | x) as a regression models it

Expect, in nats a test row ± the standard error of the difference to the first line,

    made                   p(a, b, y)           p(y | a, b)
    exact                     -1.755               -0.087
    diffusion                 -1.817 ± 0.007       -0.096 ± 0.003
    Gaussian mixture          -1.791 ± 0.006       -0.120 ± 0.005
    kernel density            -1.917 ± 0.012       -0.235 ± 0.011
    boosted trees                                  -0.786 ± 0.017

    digits                 p(c1, ..., c6)       p(c3, ..., c6 | c1, c2)
    diffusion                -20.782              -13.167
    Gaussian mixture         -21.317 ± 0.083      -13.479 ± 0.082
    kernel density           -20.957 ± 0.070      -13.192 ± 0.069
    boosted trees                                 -14.495 ± 0.107

(the ring of eight Gaussians is itself a Gaussian mixture), and in runs/tabular conditional.png, p(y | a, b) at four
places, and pairs.png, samples of the digits' components beside the data.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import jaxdiff as jd
from jaxdiff.plotting import BLUE, GREY, INK, ORANGE, Picture

FOLDER = Path("runs/tabular")
SETTINGS = {
    "cpu": {
        "made": {"network": "mlp((256, 256, 256, 256))", "steps": 10_000, "batch_size": 512, "learning_rate": 2e-3},
        "digits": {"network": "mlp((128, 128, 128))", "steps": 1000, "batch_size": 256},
    },
    "gpu": {
        "made": {"network": "mlp((512, 512, 512, 512))", "steps": 60_000, "batch_size": 1024, "learning_rate": 1e-3},
        "digits": {"network": "mlp((128, 128, 128))", "steps": 1000, "batch_size": 256},
    },
}
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
BANDWIDTHS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
PLACES = ((1.0, 1.0), (1.4, 0.0), (-1.0, 1.0), (0.0, -1.4))
ANGLES = np.arange(8) * np.pi / 4
CENTRES = 1.4 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
WIDTH = 0.2


@dataclasses.dataclass(frozen=True)
class Rows:
    """Training, validation and test rows, [n, columns]; the last columns are those to predict."""

    names: tuple[str, ...]
    given: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def condition(self) -> tuple[str, ...]:
        """The names of the columns that are given."""
        return self.names[: self.given]


def draw_made(rng, n):
    place = CENTRES[rng.integers(8, size=n)] + WIDTH * rng.standard_normal((n, 2))
    sign = rng.choice([-0.5, 0.5], size=n)
    y = place.prod(1) + sign + 0.1 * np.sqrt(1 + place[:, 0] ** 2) * rng.standard_normal(n)
    return np.column_stack([place, y])


def made(rows=10_000) -> Rows:
    rng = np.random.default_rng(0)
    return Rows(("a", "b", "y"), 2, *(draw_made(rng, n) for n in (rows, 2000, 2000)))


def true_log_densities(rows):
    """(log p(a, b, y), log p(y | a, b)) of the made table."""
    at, y = rows[:, :2], rows[:, 2]
    ring = [norm.logpdf(at, centre, WIDTH).sum(1) for centre in CENTRES]
    scale = 0.1 * np.sqrt(1 + at[:, 0] ** 2)
    both = [norm.logpdf(y, at.prod(1) + sign, scale) for sign in (-0.5, 0.5)]
    conditional = logsumexp(both, axis=0) - np.log(2)
    return logsumexp(ring, axis=0) - np.log(8) + conditional, conditional


def digits() -> Rows:
    images = [jd.data.load_digits(split).image for split in ("train", "validation", "test")]
    pixels = [image.reshape(len(image), -1).astype(float) for image in images]
    components = PCA(6, random_state=0).fit(pixels[0])
    return Rows(tuple(f"c{i + 1}" for i in range(6)), 2, *map(components.transform, pixels))


def fit_run(name, rows, setting, condition=()):
    """The run of a table, trained in its folder, or loaded if it is finished."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    jd.data.write_rows(path := FOLDER / f"{name}.csv", rows.names, rows.train)
    table = jd.data.Table(path, condition=condition)
    config = jd.runs.Config(data=None, condition=condition, **SETTINGS[setting][name])
    folder = FOLDER / f"{name}_{setting}{'_given' if condition else ''}"
    return jd.runs.train(config, folder, data=table, pictures=0, checkpoint_every=config.steps)


def run_log_prob(run, rows):
    """log p of rows in their units, under a run."""
    columns = run.known.columns
    x, cond = columns.standardised(rows)
    flow = jd.samplers.ProbabilityFlow(rtol=1e-4, atol=1e-4)
    found = jd.log_likelihood(
        jax.random.key(0), run.denoiser, jnp.asarray(x), cond=cond, flow=flow, trace=jd.likelihood.Exact()
    )
    return np.asarray(found.log_prob, np.float64) - columns.log_scale


def marginal(mixture, given):
    """The marginal mixture of the first `given` columns."""
    part = GaussianMixture(mixture.n_components)
    part.weights_, part.means_ = mixture.weights_, mixture.means_[:, :given]
    part.covariances_ = mixture.covariances_[:, :given, :given]
    part.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(part.covariances_))
    return part


def mixture_of(train, given, size):
    """rows -> (log p(x, y), log p(y | x)) under a mixture of `size` Gaussians."""
    joint = GaussianMixture(size, reg_covar=1e-4, random_state=0).fit(train)
    part = marginal(joint, given)

    def densities(rows):
        log_joint = joint.score_samples(rows)
        return log_joint, log_joint - part.score_samples(rows[:, :given])

    return densities


def kernels_of(train, given, bandwidth):
    """rows -> (log p(x, y), log p(y | x)) under a Gaussian kernel at every row."""
    joint, part = (KernelDensity(bandwidth=bandwidth).fit(rows) for rows in (train, train[:, :given]))

    def densities(rows):
        log_joint = joint.score_samples(rows)
        return log_joint, log_joint - part.score_samples(rows[:, :given])

    return densities


def chosen(fit, train, given, settings, validation):
    """rows -> (log p(x, y), log p(y | x)), each with the setting that is best on the validation rows."""
    fits = [fit(train, given, setting) for setting in settings if fit is kernels_of or setting < len(train) / 10]
    scores = np.array([[values.mean() for values in densities(validation)] for densities in fits])
    best = [fits[i] for i in scores.argmax(0)]
    return lambda rows: tuple(densities(rows)[kind] for kind, densities in enumerate(best))


def regression(train, given, validation):
    """rows -> log p(y | x): the mean by boosted trees, one Gaussian for the residuals of each column."""
    x, y = train[:, :given], train[:, given:]
    trees = [HistGradientBoostingRegressor(random_state=0).fit(x, column) for column in y.T]
    rest = lambda rows: rows[:, given:] - np.column_stack([tree.predict(rows[:, :given]) for tree in trees])
    spread = np.cov(rest(validation).T).reshape(y.shape[1], y.shape[1])
    root = np.linalg.cholesky(spread)
    log_scale = np.log(np.diag(root)).sum()
    return lambda rows: norm.logpdf(np.linalg.solve(root, rest(rows).T)).sum(0) - log_scale


def in_units(densities, rows: Rows):
    """Joint and conditional log-densities of standardised rows, converted to the rows' units."""
    scale = rows.train.std(0)
    shift = np.log(scale).sum(), np.log(scale[rows.given :]).sum()
    return lambda values: tuple(
        log_prob - part for log_prob, part in zip(densities((values - rows.train.mean(0)) / scale), shift)
    )


def compare(name, rows: Rows, setting):
    """{model: (log p(x, y) or None, log p(y | x))} of the test rows, and the models of p(y | x)."""
    standard = lambda values: (values - rows.train.mean(0)) / rows.train.std(0)
    train, validation = standard(rows.train), standard(rows.validation)
    mixtures = in_units(chosen(mixture_of, train, rows.given, COMPONENTS, validation), rows)
    kernels = in_units(chosen(kernels_of, train, rows.given, BANDWIDTHS, validation), rows)
    joint, conditional = (fit_run(name, rows, setting, condition) for condition in ((), rows.condition))
    trees = regression(rows.train, rows.given, rows.validation)
    models = {
        "diffusion": lambda values: (run_log_prob(joint, values), run_log_prob(conditional, values)),
        "Gaussian mixture": mixtures,
        "kernel density": kernels,
        "boosted trees": lambda values: (None, trees(values)),
    }
    return models, joint


def report(name, rows, results):
    """Print the results for a data set; returns the lines."""
    first = next(iter(results.values()))
    joint, rest = f"p({', '.join(rows.names)})", f"p(the rest | {', '.join(rows.condition)})"
    lines = [f"{name:20}{joint:>24}{rest:>24}"]
    for model, values in results.items():
        line = f"{model:20}"
        for value, reference in zip(values, first):
            if value is None:
                line += f"{'':24}"
                continue
            error = (value - reference).std() / np.sqrt(len(value))
            line += f"{value.mean():14.3f}" + (f" ± {error:.3f} " if value is not reference else " " * 10)
        lines.append(line.rstrip())
    print(*lines, sep="\n", flush=True)
    return lines


def picture_conditional(models):
    """Plot p(y | a, b) at four places: exact, and of each model."""
    y = np.linspace(-2.2, 2.2, 221)
    picture = Picture(11, 2.9)
    picture.set_layout_engine("constrained")
    styles = {"diffusion": (ORANGE, 1.6), "Gaussian mixture": ("#3c9d72", 1.0), "kernel density": ("#8a5fb0", 1.0)}
    styles["boosted trees"] = (GREY, 1.0)
    for axes, (a, b) in zip(picture.subplots(1, 4, sharey=True), PLACES):
        rows = np.column_stack([np.full_like(y, a), np.full_like(y, b), y])
        axes.fill_between(y, np.exp(true_log_densities(rows)[1]), color=BLUE, alpha=0.25, linewidth=0, label="exact")
        for name, model in models.items():
            color, width = styles[name]
            axes.plot(y, np.exp(model(rows)[1]), color=color, linewidth=width, label=name)
        axes.set_title(f"p(y | a = {a:g}, b = {b:g})", loc="left", size=9, color=INK)
        axes.set(xlabel="y", xlim=(-2.2, 2.2), ylim=(0, 2.1))
        axes.spines[["top", "right"]].set_visible(False)
    picture.axes[0].legend(frameon=False, fontsize=7, loc="upper left")
    picture.saved(FOLDER / "conditional.png")


def main(setting="cpu", made_rows=10_000):
    table = made(made_rows)
    models, _ = compare("made", table, setting)
    exact = {"exact": true_log_densities(table.test)}
    report("made", table, exact | {name: model(table.test) for name, model in models.items()})
    picture_conditional(models)

    table = digits()
    models, run = compare("digits", table, setting)
    report("digits", table, {name: model(table.test) for name, model in models.items()})
    samples = run.restore(jd.runs.draw(run, 1000))
    jd.plotting.pairs({"data": table.train, "samples": samples}, table.names, FOLDER / "pairs.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    main(parser.parse_args().setting)
