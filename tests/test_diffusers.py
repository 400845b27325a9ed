"""Models and schedulers of diffusers, held against diffusers: at random weights, tiny. `make peers` installs it."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import few_names

import jaxdiff as jd
from jaxdiff.networks import Cast
from jaxdiff.pretrained.schedulers import EDMS, FLOWS, TABLES, read_scheduler

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def to_torch(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def of_torch(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def saved(folder, model, scheduler, **settings):
    """What jaxdiff makes of a folder that diffusers wrote."""
    model.save_pretrained(folder / "unet", **settings)
    scheduler.save_pretrained(folder / "scheduler")
    return jd.pretrained.from_diffusers(folder)


def scheduler_class(name):
    if name == "DPMSolverSDEScheduler" and "torchsde" not in sys.modules:  # which it needs to draw samples alone
        sys.modules["torchsde"] = types.ModuleType("torchsde")
        from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler

        return DPMSolverSDEScheduler
    return getattr(diffusers, name)


NAMES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax"))
READ = {f"{kind}Scheduler" for kind in (*TABLES, *FLOWS, *EDMS)}


def test_every_scheduler_of_diffusers_is_read_or_refused_by_name():
    assert set(NAMES) >= READ
    for name in {*NAMES, "SchedulerOfTomorrow", "FlaxDDPMScheduler"} - READ:
        with pytest.raises(ValueError, match=f"_class_name = '{name}' is not a supported scheduler; .*DDPM"):
            read_scheduler({"_class_name": name})
    for config in ({}, {"_class_name": None}, {"_class_name": ["DDPMScheduler"]}):
        with pytest.raises(ValueError, match="_class_name = .* is not a supported scheduler"):
            read_scheduler(config)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_has_the_noise_levels_of_its_own_class(kind, tmp_path):
    """Also where a config leaves out what the class has its own value for."""
    scheduler = scheduler_class(f"{kind}Scheduler")()
    bar = np.asarray(scheduler.alphas_cumprod, np.float64)
    scheduler.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "scheduler_config.json").read_text())
    for config in (whole, {"_class_name": f"{kind}Scheduler"}):
        trained = read_scheduler(config)
        assert trained.parameterization == "noise"
        np.testing.assert_allclose(np.cumprod(1 - jd.pretrained.betas_of(config)), bar, rtol=2e-4, atol=1e-6)
        alpha, sigma = trained.process.marginal(np.arange(1, 1001) / 1000)
        np.testing.assert_allclose(alpha**2, bar, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(sigma**2, 1 - bar, rtol=2e-3, atol=1e-6)


def test_a_sigmoid_schedule_is_that_of_diffusers():
    config = {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}
    expected = diffusers.DDPMScheduler(beta_schedule="sigmoid").betas
    np.testing.assert_allclose(jd.pretrained.betas_of(config), expected, rtol=1e-5)


def steps_of(model, scheduler, n=4):
    """(σ/α of each step, what the peer ends with) from X, by its own loop."""
    scheduler.set_timesteps(n)
    x = to_torch(X) * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else to_torch(X)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        with torch.no_grad():
            x = scheduler.step(model(seen, t).sample, t, x).prev_sample
    return np.asarray(scheduler.sigmas, np.float64)[:-1], of_torch(x)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EulerDiscrete", {"prediction_type": "v_prediction", "use_karras_sigmas": True, "num_train_timesteps": 100}),
        pytest.param("FlowMatchEulerDiscrete", {"shift": 3.0}, marks=pytest.mark.slow),
        pytest.param(
            "EDMEuler",
            {"prediction_type": "v_prediction", "sigma_data": 0.8, "sigma_max": 20.0},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_samples_by_eulers_steps_are_those_of_diffusers(name, settings, model, tmp_path):
    """DDIM is Euler's method on each of these flows: the same steps from the same noise end in the same image."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**settings)
    ratio, theirs = steps_of(model, scheduler)
    denoiser = saved(tmp_path, model, scheduler)
    if "Flow" in name:
        times, start = ratio, X  # their σ is our t
    else:
        times = np.array(denoiser.process.time_at_log_snr(jnp.asarray(-2 * np.log(ratio))))
        alpha = np.asarray(denoiser.process.marginal(times[0])[0])
        start = X * alpha * np.float32(scheduler.init_noise_sigma)
    x = jd.sample(KEY, denoiser, X.shape, jd.samplers.DDIM(), grid=times, x_start=start)
    ours = jax.jit(lambda *given: denoiser(*given))(x, times[-1]).data
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())
    assert np.abs(theirs - of_torch(to_torch(X))).max() > 0.1


@pytest.mark.slow
def test_heuns_first_step_on_a_flow_is_that_of_diffusers(model, tmp_path):
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0)
    denoiser = saved(tmp_path, model, scheduler)
    scheduler.set_timesteps(4)
    with torch.no_grad():
        theirs = of_torch(scheduler.step(model(to_torch(X), scheduler.timesteps[0]).sample, 1000.0, to_torch(X))[0])
    grid = np.asarray(scheduler.sigmas[:2])
    ours = jd.sample(KEY, denoiser, X.shape, jd.samplers.DDIM(), grid=grid, x_start=X)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EDMDPMSolverMultistep", "DPMSolverMultistep", "UniPCMultistep"])
def test_solvers_of_higher_order_read_an_output_alike(name, model, tmp_path):
    """x_0 of one output, by the scheduler's own conversion; two of them run flow matching by a flag."""
    edm = "EDM" in name
    flow = {} if edm else {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.0}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**flow)
    denoiser = saved(tmp_path, model, scheduler)
    scheduler.set_timesteps(8)
    sigma = scheduler.sigmas[2]
    told = 0.25 * torch.log(sigma) if edm else 1000 * sigma  # which flow's solvers round to whole steps
    with torch.no_grad():
        out = model(scheduler.precondition_inputs(to_torch(X), sigma) if edm else to_torch(X), told).sample
    if edm:
        theirs = scheduler.precondition_outputs(to_torch(X), out, sigma)
    else:
        scheduler._step_index = 2
        theirs = scheduler.convert_model_output(out, sample=to_torch(X))
    time = denoiser.process.time_at_log_snr(jnp.asarray(-2 * np.log(float(sigma)))) if edm else float(sigma)
    ours = denoiser(jnp.asarray(X), time).data
    np.testing.assert_allclose(ours, of_torch(theirs), atol=1e-4 * float(theirs.abs().max()))


def test_files_in_half_precision_and_in_parts_are_read(model, tmp_path):
    scheduler = diffusers.DDPMScheduler()
    whole = saved(tmp_path / "whole", model, scheduler)
    parts = saved(tmp_path / "parts", model, scheduler, max_shard_size="20KB")
    assert len(list((tmp_path / "parts" / "unet").glob("*.safetensors"))) > 2
    jax.tree.map(np.testing.assert_array_equal, parts.params, whole.params)
    for kind, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        for size in ("1GB", "20KB"):
            half = diffusers.UNet2DModel(**TINY).to(dtype)
            half.load_state_dict(model.state_dict())
            found = saved(tmp_path / f"{kind}-{size}", half, scheduler, variant=kind, max_shard_size=size)
            bits = torch.finfo(dtype).eps / 2
            for name, array in found.params.items():
                assert array.dtype == jnp.float32
                np.testing.assert_allclose(array, whole.params[name], rtol=bits, atol=1e-7)
    both = tmp_path / "whole" / "unet"
    half.save_pretrained(both, variant="fp16")
    again = jd.pretrained.from_diffusers(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    rounded = jd.pretrained.from_diffusers(tmp_path / "whole", variant="fp16")
    assert any((rounded.params[name] != array).any() for name, array in whole.params.items())
    with pytest.raises(TypeError, match="variant = 16; expected None, or the name of a variant"):
        jd.pretrained.from_diffusers(tmp_path / "whole", variant=16)
    with pytest.raises(TypeError, match="config = 3; expected what a scheduler_config.json holds"):
        jd.pretrained.betas_of(3)
    with pytest.raises(ValueError, match=r"variant = 'int8', but .* has the variants \"fp16\", None"):
        jd.pretrained.from_diffusers(tmp_path / "whole", variant="int8")
    (both / "diffusion_pytorch_model.safetensors").rename(both / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(ValueError, match=r'has the variants "bf16", "fp16"; choose one by variant='):
        jd.pretrained.from_diffusers(tmp_path / "whole")


def test_an_index_that_is_not_of_its_files_is_refused(model, tmp_path):
    saved(tmp_path, model, diffusers.DDPMScheduler(), max_shard_size="20KB")
    unet = tmp_path / "unet"
    path = unet / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = index["weight_map"]
    first = sorted(set(files.values()))[0]
    outside = {name: "../" + file for name, file in files.items()}
    elsewhere = files | {next(iter(files)): sorted(set(files.values()))[-1]}
    for change, message in (
        ([], "expected a JSON object"),
        ({}, 'no "weight_map"'),
        ({"weight_map": {"conv_in.bias": 3}}, 'no "weight_map"'),
        ({"weight_map": outside}, r"names '\.\./diffusion.*expected a file beside it"),
        ({"weight_map": elsewhere}, "has other weights than .* says"),
        ({"weight_map": files | {"more": "diffusion_pytorch_model-00099-of-00099.safetensors"}}, "does not exist"),
    ):
        path.write_text(json.dumps(change))
        with pytest.raises(ValueError, match=message):
            jd.pretrained.from_diffusers(tmp_path)
    path.write_text(json.dumps(index))
    (unet / first).rename(unet / "aside")
    with pytest.raises(ValueError, match="which does not exist"):
        jd.pretrained.from_diffusers(tmp_path)
    (unet / "aside").rename(unet / first)
    model.save_pretrained(unet)
    with pytest.raises(ValueError, match="has both .* and .*; remove the one that is out of date"):
        jd.pretrained.from_diffusers(tmp_path)


@pytest.fixture
def folder(model, tmp_path):
    saved(tmp_path, model, diffusers.DDPMScheduler())
    return tmp_path


def changed(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True is not supported"),
        ({"rescale_betas_zero_snr": True, "trained_betas": [0.1, 0.2]}, "rescale_betas_zero_snr = True"),
        ({"timestep_type": "continuous", "_class_name": "EulerDiscreteScheduler"}, "timestep_type = 'continuous'"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale = 3.0 is an unknown field, which might change the model"),
        ({"invert_sigmas": True}, "invert_sigmas = True is not supported"),
        ({"variance_type": "learned"}, "variance_type = 'learned' is not supported"),
        ({"variance_type": "learned_range"}, "out_channels = 1 for in_channels = 1; expected 2"),
        ({"predict_epsilon": False}, "predict_epsilon = False is not supported"),
        ({"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
        ({"use_flow_sigmas": True}, "prediction_type = 'epsilon'; expected \"flow_prediction\""),
        ({"beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "beta_start|prediction_type = 'epsilon'"),
        ({"of_tomorrow": None}, "of_tomorrow = None is an unknown field"),
    ],
)
def test_a_field_of_a_scheduler_that_would_change_the_numbers_is_refused(fields, message, folder):
    path = folder / "scheduler" / "scheduler_config.json"
    changed(path, **fields)
    with pytest.raises(ValueError, match=f"scheduler_config.json: .*{message}|unet/config.json: {message}"):
        jd.pretrained.from_diffusers(folder)


def test_a_field_of_a_model_that_would_change_the_numbers_is_refused(folder):
    path = folder / "unet" / "config.json"
    whole = path.read_text()
    for fields, message in (
        ({"dual_cross_attention": True}, "dual_cross_attention = True is an unknown field"),
        ({"time_embedding_dim": 48}, r"shape \(32,.*expected \(48,"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier' is not supported"),
        ({"class_embed_type": "identity"}, "class_embed_type = 'identity' is not supported"),
        ({"out_channels": 4}, "out_channels = 4 for in_channels = 1; expected 1 or 2"),
        ({"up_block_types": ["UpBlock2D"]}, "expected one for each of block_out_channels"),
        ({"attention_head_dim": 16}, "shapes are not those of its config"),
        ({"freq_shift": 4}, "freq_shift = 4"),
    ):
        path.write_text(whole)
        changed(path, **fields)
        with pytest.raises(ValueError, match=message):
            jd.pretrained.from_diffusers(folder)
    path.write_text(whole)
    changed(path, dropout=0.3, sample_size=[8, 8], num_train_timesteps=1000, time_embedding_dim=32)
    jd.pretrained.from_diffusers(folder)


@pytest.mark.parametrize("place", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_config_of_another_kind_is_refused_in_our_words(place, folder):
    path = folder / place
    for content in (b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="JSON"):
            jd.pretrained.from_diffusers(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        jd.pretrained.from_diffusers(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", few_names(["unet/config.json", "scheduler/scheduler_config.json"], "scheduler/scheduler_config.json")
)
def test_no_value_of_another_type_gets_by(place, folder):
    """Each field in turn: it is refused in our words, or it is one that the model does not depend on."""
    path = folder / place
    whole = json.loads(path.read_text())
    kept = {}
    for name in [name for name in whole if name != "_diffusers_version"]:
        for value in ("text", [], {"a": 1}, -1, 0, 1.5, float("nan"), True, None):
            if value == whole[name] and type(value) is type(whole[name]):
                continue
            path.write_text(json.dumps(whole | {name: value}))
            try:
                jd.pretrained.from_diffusers(folder)
            except ValueError as error:
                assert str(folder) in str(error)  # noqa: PT017
            else:
                kept.setdefault(name, []).append(value)
    sampling = {"clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "steps_offset"}
    sampling |= {"thresholding", "timestep_spacing", "sample_size", "dropout", "num_train_timesteps"}
    right = {"trained_betas": [None], "variance_type": [None], "rescale_betas_zero_snr": [None]}
    right |= {"attention_head_dim": [None], "center_input_sample": [True], "downsample_padding": [0]}
    right |= {"mid_block_scale_factor": [1.5], "norm_eps": [1.5]}
    assert {name: values for name, values in kept.items() if name not in sampling and values != right.get(name)} == {}


def test_images_that_it_cannot_halve_and_labels_that_are_not_there_are_refused(tmp_path):
    model = diffusers.UNet2DModel(**{**TINY, "num_class_embeds": 3})
    denoiser = saved(tmp_path, model, diffusers.DDPMScheduler())
    draw = lambda cond, size=8, model=denoiser: jd.sample(KEY, model, (2, size, size, 1), steps=1, cond=cond)
    with pytest.raises(ValueError, match="images of 7 x 7 cannot be halved 1 times for 2 levels; pad them"):
        draw(0, 7)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"label {label} is out of range; expected 0 to 2"):
            draw(np.array([0, label]))
        with pytest.raises(ValueError, match=f"label {label} is out of range"):
            denoiser(jnp.asarray(X), 0.5, label)
    with pytest.raises(ValueError, match="cond = None, but the network has 3 classes"):
        draw(None)
    for guided in (jd.guidance.ClassifierFree(denoiser, 2.0), jd.guidance.ClassifierFreePP(denoiser)):
        with pytest.raises(ValueError, match="no unconditional model, which classifier-free guidance needs"):
            draw(0, model=guided)
    answers = jax.jit(lambda cond: denoiser(jnp.asarray(X), 0.5, cond).data)(np.array([2, -1]))
    assert np.isfinite(answers[0]).all()
    assert np.isnan(answers[1]).all()


def test_the_step_is_not_rounded_where_a_model_is_computed_in_bfloat16(folder, monkeypatch):
    """bfloat16 has no 333, only 332 and 334."""
    denoiser = jd.pretrained.from_diffusers(folder)
    told = []
    monkeypatch.setattr(type(denoiser.network), "at_step", lambda self, params, x, k, cond: told.append(k) or x)
    level = denoiser.network.clock.levels[333]
    Cast(denoiser.network, jnp.bfloat16)(denoiser.params, jnp.asarray(X), jnp.full(2, level), None)
    np.testing.assert_allclose(told[0], 333, atol=1e-2)
