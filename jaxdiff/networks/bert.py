"""BERT (Devlin et al. 2019) as one function of its weights, with the names of transformers' files.

    ids ─ a row for the word + one for the position + one for the type ─ norm ─ layer ─ ... ─ layer ─ tokens

A layer is norm(x + attention(x)), then norm(x + MLP(x)).
"""

import dataclasses
import functools

import jax

from jaxdiff.arrays import check_choice, check_scalar, check_whole
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.transformer import layer_norm

_ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Bert:
    """`network(params, ids, mask) -> tokens` for the config of a `BertModel`; the fields have transformers' names.

    params: {name: array}, dense layers [out, in]. Raises TypeError or ValueError for a field of another kind, and for
    heads that do not divide the width.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                check_whole(field.name, getattr(self, field.name))
        check_choice("hidden_act", self.hidden_act, _ACTIVATIONS)
        check_scalar("layer_norm_eps", self.layer_norm_eps, above=0)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide the width {self.hidden_size}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by its name."""
        width, inner = self.hidden_size, self.intermediate_size
        norm = lambda name: {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        dense = lambda name, rows, columns: {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        tables = {"word": self.vocab_size, "position": self.max_position_embeddings, "token_type": self.type_vocab_size}
        shapes = {f"embeddings.{name}_embeddings.weight": (rows, width) for name, rows in tables.items()}
        shapes |= norm("embeddings.LayerNorm")
        for layer in (f"encoder.layer.{i}" for i in range(self.num_hidden_layers)):
            for part in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ):
                shapes |= dense(f"{layer}.{part}", width, width)
            shapes |= dense(f"{layer}.intermediate.dense", inner, width) | dense(f"{layer}.output.dense", width, inner)
            shapes |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
        return shapes

    def __call__(self, params: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Tokens [batch, length, hidden_size] for ids [batch, length]; mask: bool, True where a token is read."""
        dense = lambda name, x: x @ params[f"{name}.weight"].T + params[f"{name}.bias"]

        def norm(name, x):
            return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], self.layer_norm_eps)

        length = ids.shape[1]
        x = params["embeddings.word_embeddings.weight"][ids] + params["embeddings.position_embeddings.weight"][:length]
        x = norm("embeddings.LayerNorm", x + params["embeddings.token_type_embeddings.weight"][0])
        heads = (*ids.shape, self.num_attention_heads, -1)
        for layer in (f"encoder.layer.{i}" for i in range(self.num_hidden_layers)):
            q, k, v = (dense(f"{layer}.attention.self.{part}", x).reshape(heads) for part in ("query", "key", "value"))
            mixed = dot_product_attention(q, k, v, mask).reshape(x.shape)
            x = norm(f"{layer}.attention.output.LayerNorm", x + dense(f"{layer}.attention.output.dense", mixed))
            inner = _ACTIVATIONS[self.hidden_act](dense(f"{layer}.intermediate.dense", x))
            x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", inner))
        return x
