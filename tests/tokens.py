"""A small joint law of tokens, known whole: the exact denoiser of a table, and what enumeration says of it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

K, N = 3, 2
MASK = K
TABLE = np.array([[0.30, 0.02, 0.08], [0.03, 0.20, 0.02], [0.05, 0.05, 0.25]])
_VALUES = np.array(list(itertools.product(range(K), repeat=N)))


@jd.pytree
@dataclasses.dataclass(frozen=True)
class Squared(jd.Absorbing):
    """Another schedule, by its alpha alone."""

    def alpha(self, t):
        return (1 - t) ** 2


SCHEDULES = {"linear": jd.Absorbing(K), "squared": Squared(K)}


def network(log_table, x, c_noise, cond):
    """log p(token = v, the other tokens that are seen), [batch, N, K]: the sum over all values of the table."""
    fits = (x[:, None] == K) | (x[:, None] == _VALUES)  # [batch, K^N, N]
    others = jnp.stack([fits[..., [j for j in range(N) if j != i]].all(-1) for i in range(N)], -1)
    of_value = _VALUES[:, :, None] == jnp.arange(K)
    summed = others[..., None] & of_value
    return jax.nn.logsumexp(log_table.reshape(-1, 1, 1), 1, where=summed)


def tokens(process=SCHEDULES["linear"]):
    """The denoiser that says what the table says."""
    return jd.Denoiser(network, np.log(TABLE).astype(np.float32), process)


def data(n):
    """Draws from the table, [n, N]."""
    return _VALUES[np.random.default_rng(1).choice(len(_VALUES), n, p=TABLE.ravel())]


def marginal(table, axes):
    return table.sum(tuple(i for i in range(table.ndim) if i not in axes))


def entropy(table, axes, given):
    """H(tokens `axes` | tokens `given`), nats."""
    of = lambda p: -np.sum(p * np.log(p))
    return of(marginal(table, {*axes, *given})) - of(marginal(table, {*given}))


def conditionals(x):
    """log p(x_0^i = v | tokens of x that are seen), [batch, N, K], -inf where it cannot be; by slices of the table."""
    result = np.empty((*x.shape, K))
    for at, row in enumerate(x):
        seen = TABLE[tuple(slice(None) if v == MASK else slice(v, v + 1) for v in row)]
        for i, v in enumerate(row):
            law = marginal(seen, {i}) / seen.sum()
            with np.errstate(divide="ignore"):
                result[at, i] = np.log(law) if v == MASK else np.log(np.eye(K)[v])
    return result
