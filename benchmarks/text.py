"""The transformer of a masked text model, ours beside the same in PyTorch: forward, and a training step.

    make peers && python benchmarks/text.py        two minutes on two cores; --help for sizes

Both sides have the same weights, and their logits are compared before anything is timed. A training step draws masks,
and takes the weighted cross-entropy of the masked tokens (`jaxdiff.losses.Bound`), its gradient, and AdamW.

    eager       the network written in PyTorch, attention by its `scaled_dot_product_attention`
    compile     the same under `torch.compile`
    jaxdiff     jaxdiff.networks.Transformer under `jax.jit`
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
import tyro
from peers import device, in_turns, print_programs
from programs import moved

import jaxdiff as jd
from jaxdiff.networks import Transformer, initialize

RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Settings:
    """The network, and how much of it to measure."""

    categories: int = 27
    """Symbols, besides the mask."""
    length: int = 128
    """Symbols of a text."""
    width: int = 192
    """Numbers a token."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Of attention."""
    batch: int = 32
    """Texts at once."""
    repetitions: int = 15
    """Turns of each side."""
    json: bool = False
    """Print one line of JSON."""


class Peer(torch.nn.Module):
    """The network of `jaxdiff.networks.Transformer` without a noise level, of its weights."""

    def __init__(self, params, settings: Settings):
        super().__init__()
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        self.names = ["_".join(str(key.key) for key in path) for path, _ in flat]
        for name, (_, leaf) in zip(self.names, flat):
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(np.asarray(leaf))))
        self.settings = settings
        half = settings.width // settings.heads // 2
        angles = np.arange(settings.length)[:, None] * 10_000.0 ** (-np.arange(half) / half)
        for name, wave in (("cos", np.cos), ("sin", np.sin)):
            self.register_buffer(name, torch.tensor(wave(angles), dtype=torch.float32))

    def dense(self, x, name):
        """x times a kernel plus a bias."""
        return x @ getattr(self, f"{name}_kernel") + getattr(self, f"{name}_bias")

    def turned(self, x):
        """Each place turned by its number."""
        one, other = x.chunk(2, -1)
        return torch.cat([one * self.cos - other * self.sin, one * self.sin + other * self.cos], -1)

    def block(self, h, name):
        """One block, [batch, length, width] -> the same."""
        batch, length, width = h.shape
        shift, scale, gate, *mlp = getattr(self, f"{name}_modulate_numbers").chunk(6)
        norm = lambda h, shift, scale: F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift
        parts = self.dense(norm(h, shift, scale), f"{name}_heads_linear").chunk(3, -1)
        q, k, v = (part.view(batch, length, self.settings.heads, -1).transpose(1, 2) for part in parts)
        rms = lambda x, which: F.rms_norm(x, x.shape[-1:], getattr(self, f"{name}_heads_norm_{which}_scale"), 1e-6)
        mixed = F.scaled_dot_product_attention(self.turned(rms(q, "q")), self.turned(rms(k, "k")), v)
        h = h + gate * self.dense(mixed.transpose(1, 2).reshape(h.shape), f"{name}_out")
        hidden = F.gelu(self.dense(norm(h, *mlp[:2]), f"{name}_mlp_dense_in"), approximate="tanh")
        return h + mlp[2] * self.dense(hidden, f"{name}_mlp_dense_out")

    def forward(self, x):
        """Logits [batch, length, categories]."""
        table, width = self.read_rows_embedding, self.settings.width
        h = width**0.5 * F.embedding(x, table)
        for index in range(self.settings.depth):
            h = self.block(h, f"blocks_{index}_stream")
        shift, scale = self.modulate_numbers.chunk(2)
        features = self.dense(F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift, "out")
        return features @ table[: self.settings.categories].T + self.bias


def peer_step(module: Peer, run, x):
    """A training step of the peer as a function without arguments."""
    optimizer, mask = torch.optim.AdamW(module.parameters(), lr=RATE), module.settings.categories

    def step():
        t = (torch.arange(len(x), device=x.device) + torch.rand(1, device=x.device)) / len(x)
        masked = torch.rand(x.shape, device=x.device) < t[:, None]
        errors = F.cross_entropy(run(torch.where(masked, mask, x)).transpose(1, 2), x, reduction="none")
        loss = ((errors * masked).mean(1) / t).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure(settings: Settings) -> dict[str, dict]:
    """{program: {code: seconds}}."""
    sizes = settings.categories, settings.length, settings.width, settings.depth, settings.heads
    network, params = initialize(jax.random.key(0), lambda rngs: Transformer(*sizes, noise=False, rngs=rngs))
    params = moved(params)
    denoiser, loss = jd.Denoiser(network, params, jd.Absorbing(settings.categories)), jd.losses.Bound()
    module = Peer(params, settings).to(device())
    compiled, forward = torch.compile(module), jax.jit(network)
    x = jax.random.randint(jax.random.key(2), (settings.batch, settings.length), 0, settings.categories)
    tokens, level = torch.tensor(np.asarray(x)).long().to(device()), jnp.zeros(settings.batch)

    def without_gradient(run):
        with torch.no_grad():
            return run(tokens)

    peers = without_gradient(module).cpu()
    np.testing.assert_allclose(forward(params, x, level, None), peers, rtol=1e-3, atol=2e-3)
    optimizer = optax.adamw(RATE)

    @jax.jit
    def update(params, state, key):
        mean = lambda params: loss(dataclasses.replace(denoiser, params=params), key, x).mean()
        value, gradient = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    trained, state, steps = params, optimizer.init(params), 0

    def ours():
        nonlocal trained, state, steps
        steps += 1
        trained, state, value = update(trained, state, jax.random.key(steps))
        return value

    return {
        "forward": in_turns(
            {
                "eager": lambda: without_gradient(module),
                "compile": lambda: without_gradient(compiled),
                "jaxdiff": lambda: forward(params, x, level, None),
            },
            settings.repetitions,
        ),
        "training step": in_turns(
            {
                "eager": peer_step(module, module, tokens),
                "compile": peer_step(module, compiled, tokens),
                "jaxdiff": ours,
            },
            settings.repetitions,
        ),
    }


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    what = (
        f"{settings.batch} texts of {settings.length} symbols out of {settings.categories}, {settings.depth} blocks of "
        f"width {settings.width}"
    )
    print_programs(what, measure(settings), settings)
