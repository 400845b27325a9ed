"""One block of a DiT, ours beside diffusers': forward, and a training step.

    make peers && python benchmarks/transformer.py        two minutes on two cores; --help for sizes

The block of DiT-S on 32 x 32 latents cut into patches of 2 x 2, with the same weights on both sides: adaLN-Zero,
attention, MLP. A training step is the gradient of a mean squared error, and AdamW.

    eager       diffusers' BasicTransformerBlock under "ada_norm_zero", as DiTTransformer2DModel has it
    compile     the same under `torch.compile`
    jaxdiff     jaxdiff.networks.dit.DiTBlock under `jax.jit`
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import tyro
from diffusers.models.attention import BasicTransformerBlock
from peers import device, in_turns, print_programs

from jaxdiff.networks import initialize
from jaxdiff.networks.dit import DiTBlock

RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Settings:
    """The block, and how much of it to measure."""

    width: int = 384
    """Numbers a patch."""
    heads: int = 6
    """Of attention."""
    places: int = 256
    """Patches of an image."""
    batch: int = 8
    """Images at once."""
    repetitions: int = 15
    """Turns of each side."""
    json: bool = False
    """Print one line of JSON."""


def blocks(settings: Settings):
    """The same block in PyTorch and here: (module, function, params)."""
    torch.manual_seed(0)
    module = BasicTransformerBlock(
        settings.width,
        settings.heads,
        settings.width // settings.heads,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    weights = {name: jnp.asarray(array.detach().numpy().T) for name, array in module.named_parameters()}
    part = lambda name, *names: jnp.concatenate([weights[f"{n}.{name}"] for n in names], -1)
    dense = lambda *names: {"kernel": part("weight", *names), "bias": part("bias", *names)}
    params = {
        "stream": {
            "modulate": dense("norm1.linear"),
            "heads": {"linear": dense("attn1.to_q", "attn1.to_k", "attn1.to_v")},
            "out": dense("attn1.to_out.0"),
            "mlp": {"dense_in": dense("ff.net.0.proj"), "dense_out": dense("ff.net.2")},
        }
    }
    make = lambda rngs: DiTBlock(settings.width, settings.heads, qk_norm=False, reads=False, rngs=rngs)
    network, _ = initialize(jax.random.key(0), make)
    block = lambda params, x, embedding: network(params, x, None, None, jax.nn.silu(embedding))[0]
    return module.to(device()), block, params


def torch_block(module):
    """`module` as a function of x and the embedding."""
    silu, linear = module.norm1.silu, module.norm1.linear

    def run(x, embedding):
        parts = linear(silu(embedding)).chunk(6, dim=1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part[:, None] for part in parts)
        x = x + gate * module.attn1(module.norm1.norm(x) * (1 + scale) + shift)
        return x + gate_mlp * module.ff(module.norm3(x) * (1 + scale_mlp) + shift_mlp)

    return run


def torch_step(module, run, x, embedding, target):
    """A training step of the peer as a function without arguments."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)

    def step():
        loss = torch.nn.functional.mse_loss(run(x, embedding), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def without_gradient(run, *inputs):
    """The peer's forward pass as a function without arguments."""

    def forward():
        with torch.no_grad():
            return run(*inputs)

    return forward


def measure(settings: Settings) -> dict[str, dict]:
    """{program: {code: seconds}}."""
    module, block, params = blocks(settings)
    rng = np.random.default_rng(0)
    shape = settings.batch, settings.places, settings.width
    arrays = [rng.standard_normal(s).astype(np.float32) for s in (shape, (settings.batch, settings.width), shape)]
    x, embedding, target = map(jnp.asarray, arrays)
    tensors = [torch.tensor(array).to(device()) for array in arrays]
    optimizer = optax.adamw(RATE)
    eager = torch_block(module)
    compiled = torch.compile(eager)
    forward = jax.jit(block)
    np.testing.assert_allclose(
        forward(params, x, embedding), without_gradient(eager, *tensors[:2])().cpu(), rtol=1e-3, atol=1e-3
    )

    @jax.jit
    def update(params, state):
        loss, gradient = jax.value_and_grad(lambda params: jnp.square(block(params, x, embedding) - target).mean())(
            params
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    trained = params

    def ours():
        nonlocal trained, state
        trained, state, loss = update(trained, state)
        return loss

    return {
        "forward": in_turns(
            {
                "eager": without_gradient(eager, *tensors[:2]),
                "compile": without_gradient(compiled, *tensors[:2]),
                "jaxdiff": lambda: forward(params, x, embedding),
            },
            settings.repetitions,
        ),
        "training step": in_turns(
            {
                "eager": torch_step(module, eager, *tensors),
                "compile": torch_step(module, compiled, *tensors),
                "jaxdiff": ours,
            },
            settings.repetitions,
        ),
    }


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    examples = f"{settings.batch} images of {settings.places} patches"
    what = f"A block of width {settings.width}, {settings.heads} heads, {examples}"
    print_programs(what, measure(settings), settings)
