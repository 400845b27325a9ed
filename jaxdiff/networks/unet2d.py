"""The U-Net of diffusers' `UNet2DModel` as one function of its weights, with the names of its files.

    x ─ conv_in ─ down_blocks ─ mid_block ─ up_blocks ─ conv_norm_out, SiLU, conv_out ─ out

A down block is residual blocks, each followed by attention in "AttnDownBlock2D", and a convolution of stride 2; an up
block has one residual block more, each of which also reads an output of the way down, and nearest-neighbour upsampling
with a convolution. The noise level is the step of the table on which the network was trained, counted from 0.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check_flag, check_instance, check_labels, check_scalar, check_shape, check_whole, expand_time
from jaxdiff.networks.attention import dot_product_attention
from jaxdiff.networks.blocks import check_sides, double, halve
from jaxdiff.networks.convolution import convolution, halving_convolution, pointwise
from jaxdiff.networks.normalization import group_norm, modulate

_DOWN, _UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")


def _conv(w, name, x):
    return convolution(x, w[f"{name}.weight"]) + w[f"{name}.bias"]


def _halving_conv(w, name, x, before: int):
    padding = (before, before or 1)  # without padding, one row and one column at the end
    return halving_convolution(x, w[f"{name}.weight"], padding) + w[f"{name}.bias"]


def _dense(w, name, x):
    kernel = w[f"{name}.weight"]
    return x @ kernel.reshape(kernel.shape[-2:]) + w[f"{name}.bias"]


def _norm(w, name, x, groups, eps):
    return group_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], groups, eps)


def timestep_features(k, size: int, flip: bool, shift: float) -> jax.Array:
    """[batch, size]: sin and cos of k 10000^(-i/(size/2 - shift)), cos first under `flip` (Ho et al. 2020)."""
    half = size // 2
    phase = k[:, None] * jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - shift))
    parts = (jnp.cos(phase), jnp.sin(phase)) if flip else (jnp.sin(phase), jnp.cos(phase))
    return jnp.pad(jnp.concatenate(parts, axis=1), ((0, 0), (0, size % 2)))


@dataclasses.dataclass(frozen=True)
class UNet2D:
    """`network(params, x, c_noise, cond) -> out` for the config of a `UNet2DModel`; the fields have diffusers' names.

    params: {name: array}, convolutions [h, w, in, out] and dense layers [in, out]. `clock(c_noise) -> (step, scale)`:
    the step of its training for c_noise, and the factor by which x is multiplied before the network sees it. cond:
    labels, if `num_class_embeds` is not None.

    Raises ValueError or TypeError for settings of diffusers that are not supported, and when called with labels without
    classes, without labels with classes, or on x of other channels or of a size that cannot be halved often enough.
    """

    clock: Callable
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_type: str | None = "UNetMidBlock2D"
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None

    def __post_init__(self):
        for name in ("in_channels", "out_channels", "layers_per_block"):
            check_whole(name, getattr(self, name))
        sizes = ("attention_head_dim", "norm_num_groups", "attn_norm_num_groups")
        for name in (*sizes, "num_class_embeds", "time_embedding_dim"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        for name in ("center_input_sample", "flip_sin_to_cos", "add_attention"):
            check_flag(name, getattr(self, name))
        for name in ("mid_block_scale_factor", "norm_eps"):
            check_scalar(name, getattr(self, name), above=0)
        check_whole("downsample_padding", self.downsample_padding, least=0, most=1)
        check_shape("block_out_channels", self.block_out_channels, "one width a level")
        check_whole("freq_shift", self.freq_shift, least=0, most=max(0, self.block_out_channels[0] // 2 - 1))
        for name, known in (
            ("act_fn", ("silu", "swish")),
            ("resnet_time_scale_shift", ("default", "scale_shift")),
            ("downsample_type", ("conv", "resnet")),
            ("upsample_type", ("conv", "resnet")),
            ("mid_block_type", ("UNetMidBlock2D", None)),
            ("class_embed_type", (None,)),
            ("time_embedding_type", ("positional",)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not supported; expected one of {known}")
        for name, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            kinds = getattr(self, name)
            check_instance(name, kinds, tuple, "one block a level")
            for kind in kinds:
                if kind not in known:
                    raise ValueError(f"{name} has {kind!r}, which is not supported; expected one of {known}")
            if len(kinds) != len(self.block_out_channels):
                raise ValueError(
                    f"{name} = {kinds}; expected one for each of block_out_channels = {self.block_out_channels}"
                )
        if self.norm_num_groups is None:
            raise ValueError("norm_num_groups = None is not supported; expected a number of groups")

    @property
    def embedding_size(self) -> int:
        """The width of the embedding of the noise level."""
        return 4 * self.block_out_channels[0] if self.time_embedding_dim is None else self.time_embedding_dim

    def check_cond(self, params: dict, cond) -> None:
        """Raise for a `cond` that is not labels of its classes, or not None without classes."""
        if self.num_class_embeds is None:
            if cond is not None:
                raise ValueError("cond was given to a network without classes; leave cond out")
            return
        if cond is None:
            raise ValueError(
                f"cond = None, but the network has {self.num_class_embeds} classes and no label for none: it has no "
                "unconditional model, which classifier-free guidance needs; give cond, without that guidance"
            )
        check_labels(cond, self.num_class_embeds)

    def __call__(self, params: dict, x, c_noise, cond=None) -> jax.Array:
        """Return out [batch, height, width, out_channels] for x [batch, height, width, in_channels]."""
        c_noise = jnp.asarray(c_noise, jnp.promote_types(x.dtype, jnp.float32))
        k, scale = self.clock(jnp.broadcast_to(c_noise, x.shape[:1]))
        return self.at_step(params, (expand_time(scale, x) * x).astype(x.dtype), k, cond)

    def at_step(self, params: dict, x, k, cond=None) -> jax.Array:
        """The same for the step k `[batch]`."""
        check_sides(x, self.in_channels, len(self.block_out_channels))
        self.check_cond(params, cond)
        waves = timestep_features(k, self.block_out_channels[0], self.flip_sin_to_cos, self.freq_shift)
        embedding = _dense(params, "time_embedding.linear_1", waves.astype(x.dtype))
        embedding = _dense(params, "time_embedding.linear_2", jax.nn.silu(embedding))
        if cond is not None:
            labels = jnp.broadcast_to(jnp.asarray(cond), x.shape[:1])
            rows = params["class_embedding.weight"].at[labels]
            embedding += rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        embedding = jax.nn.silu(embedding)

        x = 2 * x - 1 if self.center_input_sample else x
        h = _conv(params, "conv_in", x)
        skips = [h]
        last = len(self.block_out_channels) - 1
        for level, kind in enumerate(self.down_block_types):
            for i in range(self.layers_per_block):
                h = self._block(params, f"down_blocks.{level}", i, [h], embedding, "Attn" in kind)
                skips.append(h)
            if level < last:
                h = self._halve(params, f"down_blocks.{level}.downsamplers.0", h, embedding, kind)
                skips.append(h)
        if self.mid_block_type is not None:
            scale = self.mid_block_scale_factor
            h = self._residual(params, "mid_block.resnets.0", [h], embedding, scale=scale)
            if self.add_attention:
                default = self.norm_num_groups if self.resnet_time_scale_shift == "default" else None
                h = self._attend(params, "mid_block.attentions.0", h, self.attn_norm_num_groups or default, scale)
            h = self._residual(params, "mid_block.resnets.1", [h], embedding, scale=scale)
        for level, kind in enumerate(self.up_block_types):
            for i in range(self.layers_per_block + 1):
                h = self._block(params, f"up_blocks.{level}", i, [h, skips.pop()], embedding, "Attn" in kind)
            if level < last:
                h = self._double(params, f"up_blocks.{level}.upsamplers.0", h, embedding, kind)
        h = _norm(params, "conv_norm_out", h, self.norm_num_groups, self.norm_eps)
        return _conv(params, "conv_out", jax.nn.silu(h))

    def _block(self, w, name, i, parts, embedding, attend):
        h = self._residual(w, f"{name}.resnets.{i}", parts, embedding)
        return self._attend(w, f"{name}.attentions.{i}", h, self.norm_num_groups) if attend else h

    def _residual(self, w, name, parts, embedding, resize=lambda x: x, scale: float = 1):
        x = jnp.concatenate(parts, axis=-1)
        h = resize(jax.nn.silu(_norm(w, f"{name}.norm1", x, self.norm_num_groups, self.norm_eps)))
        h = _conv(w, f"{name}.conv1", h)
        modulation = _dense(w, f"{name}.time_emb_proj", embedding)
        of_norm = w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"]
        if self.resnet_time_scale_shift == "scale_shift":
            of_norm = modulate(*of_norm, *jnp.split(modulation, 2, axis=-1))
        else:
            h = h + modulation[:, None, None]
        groups: Any = self.norm_num_groups
        h = group_norm(h, *of_norm, groups, self.norm_eps)
        h = _conv(w, f"{name}.conv2", jax.nn.silu(h))
        if x.shape[-1] != h.shape[-1]:
            kernel = w[f"{name}.conv_shortcut.weight"]
            x = pointwise(parts, kernel.reshape(kernel.shape[-2:])) + w[f"{name}.conv_shortcut.bias"]
        return (resize(x) + h) / scale

    def _attend(self, w, name, x, groups, scale: float = 1):
        b, height, width, c = x.shape
        size = c if self.attention_head_dim is None else self.attention_head_dim
        h = x if groups is None else _norm(w, f"{name}.group_norm", x, groups, self.norm_eps)
        h = h.reshape(b, height * width, c)
        q, k, v = (_dense(w, f"{name}.to_{part}", h).reshape(b, -1, c // size, size) for part in "qkv")
        mixed = dot_product_attention(q, k, v).reshape(b, height, width, c)
        return (x + _dense(w, f"{name}.to_out.0", mixed)) / scale

    def _halve(self, w, name, x, embedding, kind):
        if self.downsample_type == "resnet" and "Attn" in kind:
            return self._residual(w, name, [x], embedding, resize=halve)
        return _halving_conv(w, f"{name}.conv", x, self.downsample_padding)

    def _double(self, w, name, x, embedding, kind):
        if self.upsample_type == "resnet" and "Attn" in kind:
            return self._residual(w, name, [x], embedding, resize=double)
        return _conv(w, f"{name}.conv", double(x))


def layout(name: str, array) -> Any:
    """A weight in our layout, from PyTorch's: [out, in, h, w] to [h, w, in, out], [out, in] to [in, out]."""
    if name == "class_embedding.weight":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
