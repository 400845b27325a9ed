r"""Which sampler of categories, and how many steps: every one of them beside a law that is known.

    python experiments/discrete_samplers.py        8 minutes of CPU time; runs/discrete_samplers/samplers.png

The denoisers are exact, so that what is left is what a sampler makes of them: values that are drawn in one step are
drawn independently of each other.

    table   a joint law of five tokens of three values, 243 states, drawn from a Dirichlet law: the total variation of
            20,000 samples, Σ |share - p|/2
    chain   a Markov chain of 32 letters of twelve, with the transitions of a sparse language: the total variation of
            the pairs of neighbours of 500 samples, all places together

The floor is the mean for as many draws from the law itself. The last step counts; TauLeaping(1) evaluates the denoiser
twice in every other step. Expect of masks and of uniform noise, beside floors of 0.033 and 0.025,

                                    table                             chain
    steps                      2       4       8      32         4      16      32
    masks
    Ancestral              0.355   0.207   0.117   0.043     0.155   0.042   0.040
    Ancestral, remask 0.3  0.357   0.220   0.151   0.066     0.149   0.056   0.038
    Ancestral, remask 1    0.357   0.269   0.198   0.111     0.191   0.087   0.055
    TauLeaping             0.405   0.234   0.130   0.048     0.149   0.048   0.031
    TauLeaping, corrected  0.397   0.222   0.112   0.044     0.112   0.036   0.025
    Unmask, random         0.251   0.071   0.033   0.032     0.141   0.029   0.026
    Unmask, confidence     0.318   0.150   0.028   0.032     0.358   0.062   0.031
    Unmask, entropy        0.295   0.109   0.030   0.031     0.319   0.041   0.027
    Unmask, margin         0.368   0.167   0.030   0.034     0.345   0.075   0.029
    Unmask, left to right  0.368   0.158   0.034   0.028     0.519   0.218   0.020
    uniform noise
    Ancestral              0.473   0.324   0.187   0.055     0.159   0.037   0.025
    TauLeaping             0.470   0.338   0.203   0.067     0.224   0.042   0.028
    TauLeaping, corrected  0.472   0.336   0.197   0.063     0.207   0.037   0.021

`Unmask` with one token a step is exact in every order (table, 8 steps; chain, 32). In fewer steps random places are
best, since tokens far from each other depend least on each other; left to right is worst on a chain, and orders by
confidence lie between.
"""

from pathlib import Path

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.plotting import lines
from jaxdiff.samplers import Ancestral, TauLeaping, Unmask

FOLDER = Path("runs/discrete_samplers")
K, TOKENS, LETTERS, LENGTH = 3, 5, 12, 32
SAMPLES, CHAINS = 20_000, 500
MASKS = {  # of masks
    "Ancestral": Ancestral(),
    "Ancestral, remask 0.3": Ancestral(remask=0.3),
    "Ancestral, remask 1": Ancestral(remask=1.0),
    "TauLeaping": TauLeaping(),
    "TauLeaping, corrected": TauLeaping(1),
    "Unmask, random": Unmask(),
    "Unmask, confidence": Unmask("confidence"),
    "Unmask, entropy": Unmask("entropy"),
    "Unmask, margin": Unmask("margin"),
    "Unmask, left to right": Unmask("left to right"),
}
UNIFORM = {"Ancestral": Ancestral(), "TauLeaping": TauLeaping(), "TauLeaping, corrected": TauLeaping(1)}


def table_law():
    """A joint law of TOKENS tokens, [K]*TOKENS."""
    return np.random.default_rng(0).dirichlet(np.full(K**TOKENS, 0.3)).reshape((K,) * TOKENS)


def chain_law():
    """(initial, transition) of a chain in its stationary law, in which each letter has a few likely successors."""
    rng = np.random.default_rng(1)
    transition = 0.98 * rng.dirichlet(np.full(LETTERS, 0.15), LETTERS) + 0.02 / LETTERS
    initial = np.linalg.matrix_power(transition, 500)[0]
    return initial / initial.sum(), transition


def of_table(process):
    """(denoiser, shape, samples -> counts, the law they estimate, how many counts) of the table."""
    law = table_law()
    count = lambda x: np.bincount(np.ravel_multi_index(np.asarray(x).T, law.shape), minlength=law.size)
    return jd.exact.Table(process, law), (SAMPLES, TOKENS), count, law.ravel()


def of_chain(process):
    """The same of the pairs of neighbours in a chain."""
    initial, transition = chain_law()

    def count(x):
        x = np.asarray(x)
        return np.bincount((x[:, :-1] * LETTERS + x[:, 1:]).ravel(), minlength=LETTERS**2)

    denoiser = jd.exact.Markov(process, initial, transition)
    return denoiser, (CHAINS, LENGTH), count, (initial[:, None] * transition).ravel()


def total_variation(counts, law):
    return np.abs(counts / counts.sum() - law).sum() / 2


def floor(denoiser, shape, count, law, repeats=20):
    """The total variation of draws from the law itself, in the mean over `repeats` sets of them."""
    n, length = shape
    size = (n,) if isinstance(denoiser, jd.exact.Table) else (n, length)
    draw = jax.jit(lambda key: denoiser.draw(key, *size))
    return np.mean([total_variation(count(draw(key)), law) for key in jax.random.split(jax.random.key(9), repeats)])


def curves(samplers, steps, denoiser, shape, count, law):
    """{name: (steps, total variation)}."""
    found = {}
    for name, sampler in samplers.items():
        draws = (jd.sample(jax.random.key(2), denoiser, shape, sampler, n) for n in steps)
        found[name] = np.array(steps), np.array([total_variation(count(x), law) for x in draws])
    return found


def print_table(title, steps, found, least):
    print(f"\n{title}: total variation, floor {least:.4f}")
    print(f"    {'steps':26s}" + "".join(f"{n:>8d}" for n in steps))
    for name, (_, values) in found.items():
        print(f"    {name:26s}" + "".join(f"{value:8.4f}" for value in values))


def main(table_steps=(1, 2, 4, 8, 32), chain_steps=(1, 4, 16, 32)) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    panels, floors = {}, {}
    for title, samplers, steps, law in (
        ("table, masks", MASKS, table_steps, of_table(jd.Absorbing(K))),
        ("table, uniform noise", UNIFORM, table_steps, of_table(jd.Multinomial(K))),
        ("chain, masks", MASKS, chain_steps, of_chain(jd.Absorbing(LETTERS))),
        ("chain, uniform noise", UNIFORM, chain_steps, of_chain(jd.Multinomial(LETTERS))),
    ):
        panels[title], floors[title] = curves(samplers, steps, *law), floor(*law)
        print_table(title, steps, panels[title], floors[title])
    lines(panels, FOLDER / "samplers.png", x="steps", y="total variation", floors=floors, columns=2)
    print(f"\npicture in {FOLDER}/samplers.png")


if __name__ == "__main__":
    main()
