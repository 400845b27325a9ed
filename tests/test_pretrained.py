"""Files of weights; and models that diffusers builds, at random weights: `make peers` installs it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names, within
from safetensors.numpy import load_file, save_file

import jaxdiff as jd

SMALL = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
PLAIN = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
# what the layouts of well-known checkpoints turn on, in small
CONFIGS = {
    "ddpm-cifar10": {
        **PLAIN,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "layers_per_block": 2,
    },
    "ddpm-celebahq, church": {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
    "labels, heads": {**PLAIN, "num_class_embeds": 10, "attention_head_dim": 8, "in_channels": 1, "out_channels": 1},
    "scale and shift": {**PLAIN, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "resampling blocks": {**PLAIN, "downsample_type": "resnet", "upsample_type": "resnet", "center_input_sample": True},
    "scaled middle": {**PLAIN, "mid_block_scale_factor": 1.5, "add_attention": False},
    "learned variance": {**PLAIN, "out_channels": 6},
}


def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return {"down": {0: {"kernel": draw(3, 5), "bias": draw(5)}}, "scale": draw(), "odd": draw(7)[::2]}


def test_params_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    jd.pretrained.write_params(path, params())
    jax.tree.map(np.testing.assert_array_equal, jd.pretrained.read_params(path, params()), params())
    arrays = load_file(path)  # by anyone
    assert arrays.keys() == {"down.0.kernel", "down.0.bias", "scale", "odd"}
    np.testing.assert_array_equal(arrays["down.0.kernel"], params()["down"][0]["kernel"])


def test_no_damage_goes_unnoticed(tmp_path):
    """Every bit of the file flipped in turn, and every length but its own."""
    path = tmp_path / "w.safetensors"
    jd.pretrained.write_params(path, like := params())
    whole = path.read_bytes()
    numbers = len(whole) - 4 * sum(leaf.size for leaf in jax.tree.leaves(like))
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        try:
            read = jd.pretrained.read_params(path, like)
        except ValueError:
            continue
        assert i < numbers  # a flip in the digest's own name leaves the weights as they were
        jax.tree.map(np.testing.assert_array_equal, read, like)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or cut short"):
            jd.pretrained.read_params(path, like)


def test_params_of_something_else_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    jd.pretrained.write_params(path, params())
    for like, message in (
        (params() | {"more": jnp.zeros(1)}, "has no weight 'more' that its config requires"),
        ({"down": params()["down"], "odd": params()["odd"]}, "has 1 weights that its config does not have.*'scale'"),
        (params() | {"odd": jnp.zeros(5)}, r"odd has shape \(4,\); expected \(5,\) by its config"),
    ):
        with pytest.raises(ValueError, match=message):
            jd.pretrained.read_params(path, like)
    with pytest.raises(ValueError, match="scale holds a value that is not finite"):
        jd.pretrained.write_params(path, params() | {"scale": jnp.asarray(jnp.inf)})


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "w.safetensors"
    jd.pretrained.write_params(path, params())
    before = path.read_bytes()
    for wrong, error, message in (
        ({"w": jnp.array([1.0, jnp.nan])}, ValueError, "w holds a value that is not finite"),
        ({"a.b": jnp.zeros(1), "a": {"b": jnp.ones(1)}}, ValueError, "two arrays have the name 'a.b'"),
        ({"w": "text"}, TypeError, "w = 'text'; expected an array of numbers"),
        ({"w": jax.random.key(0)}, TypeError, "expected an array of numbers"),
    ):
        with pytest.raises(error, match=message):
            jd.pretrained.write_params(path, wrong)
        assert path.read_bytes() == before
    with pytest.raises(TypeError, match="expected an array of numbers"):
        jax.jit(lambda w: jd.pretrained.write_params(path, {"w": w}))(jnp.zeros(1))
    with pytest.raises(TypeError, match="path = 3; expected a path"):
        jd.pretrained.write_params(3, params())
    assert [found.name for found in tmp_path.iterdir()] == ["w.safetensors"]


def test_params_keep_their_types_and_are_read_as_others_of_their_kind_alone(tmp_path):
    path = tmp_path / "w.safetensors"
    like = {"half": jnp.arange(3, dtype=jnp.bfloat16), "count": jnp.arange(3), "swapped": np.arange(3.0).astype(">f4")}
    jd.pretrained.write_params(path, like)
    read = jd.pretrained.read_params(path, like | {"swapped": jnp.zeros(3)})
    jax.tree.map(np.testing.assert_array_equal, read, like)
    assert {name: leaf.dtype for name, leaf in read.items()} == {
        "half": jnp.bfloat16,
        "count": jnp.int32,
        "swapped": jnp.float32,
    }
    for name, other in (("count", jnp.zeros(3)), ("half", jnp.zeros(3, int))):
        with pytest.raises(ValueError, match=f"{name} has dtype .*; expected {other.dtype}"):
            jd.pretrained.read_params(path, like | {name: other})
    with pytest.raises(TypeError, match="like: half = 3; expected arrays"):
        jd.pretrained.read_params(path, like | {"half": 3})
    with pytest.raises(FileNotFoundError):
        jd.pretrained.read_params(tmp_path / "nowhere", like)


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def save(diffusers, folder, config, **scheduler):
    """A pipeline's folder of a model whose every weight is random, and the model."""
    import torch

    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**{**SMALL, **config})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(**scheduler).save_pretrained(folder / "scheduler")
    return model


def outputs(model, denoiser, steps, labels):
    """What both networks say at whole steps of the table."""
    import torch

    config = model.config
    x = np.random.default_rng(1).standard_normal((len(steps), 16, 16, config.in_channels)).astype(np.float32)
    cond = None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        theirs = model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(steps), cond).sample
    return x, theirs.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", few_names(CONFIGS, "labels, heads"))
def test_outputs_are_those_of_diffusers(name, diffusers, tmp_path):
    config = CONFIGS[name]
    model = save(diffusers, tmp_path, config)
    denoiser = jd.pretrained.from_diffusers(tmp_path)
    steps = np.array([0, 17, 500, 999])
    labels = np.array([3, 0, 9, 1]) if "num_class_embeds" in config else None
    x, theirs = outputs(model, denoiser, steps, labels)
    assert np.abs(theirs).max() > 0.1
    at_step = jax.jit(denoiser.network.at_step)
    ours = at_step(denoiser.params, jnp.asarray(x), jnp.asarray(steps, jnp.float32), labels)
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1.0, np.abs(theirs).max()))

    # and by the noise level alone: step k of a table counted from 0 is t = (k + 1)/T
    t = jnp.asarray((steps + 1) / 1000, jnp.float32)
    alpha = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[steps].reshape(-1, 1, 1, 1)
    prediction = jax.jit(lambda *given: denoiser(*given))(jnp.asarray(x), t, labels)
    noise = theirs[..., : x.shape[-1]]
    np.testing.assert_allclose(prediction.noise, noise, atol=2e-3)
    np.testing.assert_allclose(alpha * prediction.data, x - np.sqrt(1 - alpha**2) * noise, atol=2e-3)
    assert denoiser.learned_variance == ("out_channels" in config and config["out_channels"] == 6)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "num_train_timesteps": 400},
        {"trained_betas": [0.01, 0.1, 0.3]},
    ],
    ids=lambda s: s.get("beta_schedule", "table"),
)
def test_the_scheduler_becomes_the_process(scheduler, diffusers, tmp_path):
    save(diffusers, tmp_path, PLAIN, **scheduler)
    denoiser = jd.pretrained.from_diffusers(tmp_path)
    bar = np.asarray(diffusers.DDPMScheduler(**scheduler).alphas_cumprod)
    alpha, _ = denoiser.process.marginal(np.arange(1, len(bar) + 1) / len(bar))
    np.testing.assert_allclose(alpha**2, bar, rtol=2e-4, atol=1e-6)
    expected = {"v_prediction": "v", "sample": "data"}.get(scheduler.get("prediction_type"), "noise")
    assert denoiser.parameterization == expected


@pytest.mark.slow
def test_from_a_folder_to_samples_and_bits(diffusers, tmp_path):
    save(diffusers, tmp_path, {**PLAIN, "in_channels": 1, "out_channels": 1})
    denoiser = jd.pretrained.from_diffusers(tmp_path)
    x = jd.sample(jax.random.key(0), denoiser, (2, 8, 8, 1), steps=4)
    assert np.isfinite(x).all()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    report = jd.bits_per_dim(jax.random.key(1), denoiser, images, budget=0, t_min=1e-3, flow=within(1e-2))
    assert report.not_converged == 0


def test_what_cannot_be_read_is_refused(diffusers, tmp_path):
    weights = "unet/diffusion_pytorch_model.safetensors"

    def refused(message, change, model=PLAIN):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        save(diffusers, folder, model)
        change(folder)
        with pytest.raises(ValueError, match=message):
            jd.pretrained.from_diffusers(folder)

    def config(**changed):
        def change(folder):
            path = folder / "unet/config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changed))

        return change

    cut = lambda folder: (folder / weights).write_bytes((folder / weights).read_bytes()[:5000])
    refused("damaged or cut short", cut)
    refused("is a pickle, which is never loaded", lambda f: (f / weights).rename(f / "unet/pytorch_model.bin"))
    refused("no unet/config.json or config.json", lambda f: (f / "unet/config.json").unlink())
    refused("no scheduler", lambda f: (f / "scheduler/scheduler_config.json").unlink())
    refused("has no weight .*down_blocks.0.resnets.1", config(layers_per_block=2))
    refused(r"conv_in.bias has shape \(16,\); expected \(32,\) by its config", config(block_out_channels=[32, 32]))
    refused(r"down_blocks.1.*has shape \(32,\); expected \(64,\)", config(block_out_channels=[16, 64]))
    refused(r"conv_out.bias has shape \(3,\); expected \(6,\)", config(out_channels=6))
    refused(r"time_emb_proj.bias has shape \(16,\); expected \(32,\)", config(resnet_time_scale_shift="scale_shift"))
    refused("shapes are not those of its config", config(norm_num_groups=7))
    labels = PLAIN | {"num_class_embeds": 10}
    refused(r"class_embedding.weight has shape \(10, 64\); expected \(12, 64\)", config(num_class_embeds=12), labels)
    refused("weights that its config does not have", config(add_attention=False))
    refused("SkipDownBlock2D", config(down_block_types=["SkipDownBlock2D", "AttnDownBlock2D"]))
    refused("holds a UNet2DConditionModel", config(_class_name="UNet2DConditionModel"))

    def poison(folder):
        arrays = load_file(folder / weights)
        arrays["conv_in.weight"][0, 0, 0, 0] = np.nan
        save_file(arrays, folder / weights)

    refused("conv_in.weight holds a value that is not finite", poison)
    with pytest.raises(ValueError, match="is not a folder"):
        jd.pretrained.from_diffusers(tmp_path / "nowhere")
