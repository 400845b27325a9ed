"""What runs of categories, texts and maps, have in common: `Tokens`.

Their process is that of the config with the data's number of categories. Their likelihood is the bound in bits per
value. If the network does not depend on t, the chain rule is reported too; its mean over orders equals the bound.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.arrays import check_whole, said
from jaxdiff.config import TOKENS, Config
from jaxdiff.denoisers import arithmetic
from jaxdiff.likelihood.mean import ratio_of
from jaxdiff.runs.known import Known
from jaxdiff.samplers import Ancestral
from jaxdiff.vocabulary import WORDS, Network, Noise

FEATURES = 16  # channels in which a U-Net or an MLP takes a category
LIMIT = 500  # examples of a likelihood by default
DRAWS = 16  # draws of the bound per example by default
CHAINS = 16  # examples of the chain rule by default


@dataclasses.dataclass(frozen=True)
class Tokens(Known):
    """What a run of categories keeps of its data; data_std is 1 and not used."""

    SOURCES: ClassVar = ()
    DEFAULTS: ClassVar = TOKENS
    SAMPLER: ClassVar = Ancestral()

    def estimate(self) -> dict:
        """Empty: tokens have no flow."""
        return {}

    @property
    def categories(self) -> int:
        """The number of values, the mask not counted."""
        raise NotImplementedError

    @property
    def noun(self) -> str:
        """What one value is called."""
        raise NotImplementedError

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ValueError for a config that is not for categories."""
        if config.flip:
            raise ValueError(f"flip = True is for pictures; {cls.KIND} are not mirrored: leave it out")
        if not isinstance(config.process, Noise | None):
            written = WORDS.write(config.process, jd.Process)
            raise ValueError(f"process = {written} is for numbers, and {cls.KIND} are categories; give absorbing")

    def offered(self, config: Config) -> dict[str, Any]:
        """The arguments of a transformer, and for a U-Net or an MLP its channels."""
        event = {"channels_in": FEATURES, "event": (*self.event, FEATURES)}
        return {"categories": self.categories, "length": math.prod(self.event)} | event

    def network(self, recipe, asked: dict[str, Any], rngs) -> Any:
        """The network; a U-Net or an MLP is wrapped in `jaxdiff.networks.Tokens`."""
        rank = recipe.values.get("space", 2) if "channels_in" in recipe.asks else len(self.event)
        rank = 1 if "length" in recipe.asks else rank
        if rank != len(self.event):
            raise ValueError(
                f"network = {WORDS.write(recipe, Network)} is for examples of rank {rank}, and {self.KIND} have rank "
                f"{len(self.event)}; give {WORDS.write(self.NETWORK, Network)}"
            )
        network = recipe(**asked, rngs=rngs)
        if "categories" in recipe.asks:
            return network
        return jd.networks.Tokens(network, self.categories, FEATURES, rngs=rngs)

    def reading(self, config: Config) -> dict[str, Any]:
        """The process with the number of categories, and the parameterization of the logits."""
        noise: Any = config.process
        return {"process": noise(categories=self.categories), "parameterization": config.parameterization}

    def lasting(self, config: Config) -> dict[str, Any]:
        """The shape and the number of categories."""
        return super().lasting(config) | {"categories": self.categories}

    def whole(self, x, cond) -> np.ndarray:
        """The categories."""
        return np.asarray(x)

    def bits(
        self,
        key,
        denoiser,
        x,
        weight,
        counted,
        cond,
        lasting: dict,
        draws: int = DRAWS,
        chain: int | None = None,
        **unknown,
    ) -> tuple[dict[str, Any], np.ndarray]:
        """The bound of examples x under `weight`, and the chain rule of the first ones: figures, and bits [n].

        `counted` [n] is how many values of each example count, for bits per value. Raises ValueError for a setting that
        does not apply to categories, and for a number of examples `chain` where the chain rule does not apply; None
        leaves it out there.
        """
        if unknown:
            name, value = next(iter(unknown.items()))
            raise ValueError(
                f"{name} = {said(value)} is for numbers, whose likelihood is the flow's; {self.KIND} are categories "
                "and have a bound: leave it out"
            )
        chained = CHAINS if chain is None else check_whole("chain", chain, least=0)
        reason = no_chain(denoiser, x, cond) if chained else ""
        if chain and reason:
            raise ValueError(f"chain = {chain}, but there is no chain rule: {reason}")
        settings = {name: lasting[name] for name in ("progress", "mesh", "precision")}
        found = jd.continuous_bound(key, denoiser, x, draws=draws, cond=cond, weight=weight, **settings)
        bits, name = _whole(found, x), f"bits_per_{self.noun}"
        figures: dict[str, Any] = {"kind": found.kind, "examples": len(x), f"{self.noun}s": int(counted.sum())}
        figures[name], figures["standard_error"] = ratio_of(bits, counted)
        if chained and not reason:
            first = lambda tree: jax.tree.map(lambda leaf: leaf[:chained], tree)
            given = {"cond": first(cond), "weight": first(weight), **settings}
            other = jd.likelihood.chain(jax.random.fold_in(key, 1), denoiser, first(x), "random", **given)
            by_chain = ratio_of(_whole(other, first(x)), first(counted))
            figures[f"chain_{name}"], figures["chain_standard_error"] = by_chain
            figures["chain_examples"] = len(first(x))
            figures["bound_of_the_same"] = ratio_of(first(bits), first(counted))[0]
        figures["precision"] = arithmetic(denoiser, np.float32, lasting["precision"])
        return figures, bits

    def in_words(self, figures: dict[str, Any]) -> str:
        """The figures of `bits` in words."""
        noun, name = self.noun, f"bits_per_{self.noun}"
        words = (
            f"{figures[name]:.4f} +- {figures['standard_error']:.4f} bits a {noun} ({figures['kind']}; "
            f"{figures['examples']} examples, {figures[f'{noun}s']} {noun}s; {figures['precision']})"
        )
        if f"chain_{name}" in figures:
            words += (
                f"; of {figures['chain_examples']} by the chain rule in random orders "
                f"{figures[f'chain_{name}']:.4f} +- {figures['chain_standard_error']:.4f}, by the bound "
                f"{figures['bound_of_the_same']:.4f}"
            )
        return words


def no_chain(denoiser, x, cond) -> str:
    """Why the chain rule does not apply to a denoiser; "" if it does."""
    process = denoiser.process
    if not isinstance(process, jd.Absorbing):
        return f"the process is {said(process)}, which has no masks; leave it out"
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[:1], cond)
    masks = process.unknown((1, *x.shape[1:]))
    early, late = (np.asarray(denoiser(masks, t, one).log_prob(x[:1])) for t in (0.3, 0.9))
    if np.array_equal(early, late):
        return ""
    return "the network depends on t; leave it out, or train a model of texts with transformer(noise=False)"


def _whole(found, x) -> np.ndarray:
    """Bits of each example: bits per counted value, times their number."""
    return found.per_example * (math.prod(x.shape[1:]) if found.counted is None else found.counted)
