"""Names of other libraries beside ours, as docs/guides/coming_from.md pairs them: both give the same numbers.

The denoiser is the exact one of N(0.5, 0.25). A step's noise is what our sampler draws from its keys, which the other
library is handed. UniPC, DPMSolverMultistep of orders 1 and 2 and DDIM of diffusers are held in samplers/test_peers.py;
EulerDiscrete, EDMEuler and FlowMatchEuler, as well as prediction types, in test_diffusers.py.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.samplers import DDIM, Ancestral, DPMSolverPP, Heun

MEAN, VARIANCE = 0.5, 0.25
START = np.array([[0.0], [1.0], [-1.3]], np.float32)  # of unit size; times σ where noise is not scaled
BETAS = np.linspace(1e-4, 0.02, 1000)
EDM = jd.EDM(0.05, 10.0)


def exact_data(x, alpha, sigma):
    """E[x_0 | x]."""
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def steps_of(process, sampler, times, x):
    """(x after each step [steps, n], the noise of each step [steps, n, 1]) from x at times[0]."""
    denoiser = jd.exact.Gaussian(process, np.array([MEAN]), np.array([[VARIANCE]]))
    x, times = jnp.asarray(x), jnp.asarray(times, jnp.float32)
    state = sampler.init(process, x, len(times) - 1)
    path, noise = [], []
    for step, (t, s) in enumerate(zip(times, times[1:])):
        keys = jd.samplers.example_keys(jax.random.key(step), len(x))
        noise.append(np.array(jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)))
        x, state = sampler.step(keys, denoiser, x, t, s, state, None)
        path.append(np.array(x[:, 0]))
    return np.array(path), np.array(noise)


def times_at(process, ratio):
    """The times at which σ/α is `ratio`."""
    return np.asarray(process.time_at_log_snr(jnp.asarray(-2 * np.log(np.asarray(ratio, np.float64)), jnp.float32)))


def agree(ours, theirs):
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours, np.array(theirs), atol=2e-4)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


# diffusers


def scheduler_of(name, **settings):
    return getattr(pytest.importorskip("diffusers"), f"{name}Scheduler")(**settings)


def patch_noise(monkeypatch, torch, scheduler, noise):
    """Let the scheduler draw these, in turn."""
    drawn = iter(map(torch.tensor, noise))
    module = importlib.import_module(type(scheduler).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn))


@pytest.mark.parametrize(
    ("name", "settings", "sampler"),
    [
        ("DDPM", {"variance_type": "fixed_small"}, Ancestral()),
        ("DDPM", {"variance_type": "fixed_large"}, Ancestral("large")),
        ("DDIM", {"eta": 1.0}, Ancestral()),
        ("DDIM", {"eta": 0.5}, DDIM(0.5)),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, DPMSolverPP(2, sde=True)),
    ],
)
def test_steps_with_noise_on_a_table_are_those_of_diffusers(name, settings, sampler, torch, monkeypatch):
    eta = {"eta": settings.pop("eta")} if "eta" in settings else {}
    settings |= {} if "DPM" in name and name != "DDPM" else {"clip_sample": False}
    scheduler = scheduler_of(name, trained_betas=BETAS, timestep_spacing="trailing", **settings)
    scheduler.set_timesteps(8)
    times = (scheduler.timesteps.numpy() + 1) / 1000
    ours, noise = steps_of(jd.from_betas(BETAS), sampler, times, START)
    patch_noise(monkeypatch, torch, scheduler, np.append(noise, noise[:1], 0))
    bar, x, theirs = np.cumprod(1 - BETAS), torch.tensor(START), []
    for k in scheduler.timesteps:
        alpha, sigma = np.sqrt(bar[k]), np.sqrt(1 - bar[k])
        x = scheduler.step((x - alpha * exact_data(x, alpha, sigma)) / sigma, k, x, **eta).prev_sample.float()
        theirs.append(x[:, 0].numpy())
    agree(ours, theirs[:-1])


def by_levels(scheduler, torch, x, output, n=8):
    """(σ of each evaluation, x after each), for a scheduler that steps in σ; `output` is what a network says."""
    scheduler.set_timesteps(n)
    x, levels, path = torch.tensor(x), [], []
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        levels.append(float(scheduler.sigmas[scheduler.step_index or 0]))
        x = scheduler.step(output(x, levels[-1]), t, x).prev_sample
        path.append(x[:, 0].numpy())
    return levels, path


def noise_of(x, sigma):
    """ε at α = 1."""
    return (x - exact_data(x, 1.0, sigma)) / sigma


def test_euler_ancestral_of_diffusers_is_ancestral_sampling(torch, monkeypatch):
    levels = scheduler_of("EulerAncestralDiscrete", trained_betas=BETAS, timestep_spacing="trailing")
    levels.set_timesteps(8)
    sigmas, process = levels.sigmas.numpy()[:-1], jd.EDM(0.01, 200.0)
    start = START * sigmas[0]
    ours, noise = steps_of(process, Ancestral(), times_at(process, sigmas), start)
    scheduler = scheduler_of("EulerAncestralDiscrete", trained_betas=BETAS, timestep_spacing="trailing")
    patch_noise(monkeypatch, torch, scheduler, np.append(noise, noise[:1], 0))
    agree(ours / sigmas[0], np.array(by_levels(scheduler, torch, start, noise_of)[1][:-1]) / sigmas[0])


def test_heun_of_diffusers_is_heun_where_alpha_is_1(torch):
    scheduler, process = scheduler_of("HeunDiscrete", trained_betas=BETAS), jd.EDM(0.01, 200.0)
    scheduler.set_timesteps(8)
    start = START * float(scheduler.sigmas[0])
    levels, path = by_levels(scheduler, torch, start, noise_of)
    sigmas = np.array(levels)[[0, *range(1, len(levels), 2)]]
    ours, _ = steps_of(process, Heun(), times_at(process, sigmas), start)
    agree(ours / sigmas[0], np.array(path[1::2]) / sigmas[0])


def test_heun_of_diffusers_on_a_flow_is_heun(torch):
    velocity = lambda x, t: (x - exact_data(x, 1 - t, t)) / t
    scheduler = scheduler_of("FlowMatchHeunDiscrete", shift=2.0)
    levels, path = by_levels(scheduler, torch, START, velocity)
    times = np.array(levels)[[0, *range(1, len(levels), 2)]]
    ours, _ = steps_of(jd.Flow(), Heun(), times, START)
    agree(ours, path[1::2])


def test_the_edm_solver_of_diffusers_is_dpm_solver_on_edm(torch):
    def output(x, sigma):  # F of Karras et al. 2022, eq. 7, for data_std = 0.5
        skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
        return (exact_data(x, 1.0, sigma) - skip * x) / out

    scheduler = scheduler_of("EDMDPMSolverMultistep", sigma_min=0.05, sigma_max=10.0)
    levels, path = by_levels(scheduler, torch, START * 10, output)
    np.testing.assert_allclose(EDM.sigma(jd.grids.Karras()(EDM, 8)), levels, rtol=1e-4)
    ours, _ = steps_of(EDM, DPMSolverPP(2), times_at(EDM, levels), START * 10)
    agree(ours, path[:-1])


def test_guidance_scale_of_diffusers_is_our_scale():
    """As its pipelines write it: uncond + guidance_scale (cond - uncond)."""
    mixture = jd.exact.Mixture(jd.VP(), np.ones(2), np.array([[-1.0], [1.0]]), np.full((2, 1, 1), 0.1))
    x, label = jnp.asarray(START), jnp.array([0, 1, 1])
    cond, uncond = mixture(x, 0.5, label), mixture(x, 0.5)
    guided = jd.guidance.ClassifierFree(mixture, 7.5)(x, 0.5, label)
    np.testing.assert_allclose(guided.noise, uncond.noise + 7.5 * (cond.noise - uncond.noise), rtol=1e-4)


# k-diffusion


@pytest.mark.parametrize(
    ("name", "settings", "sampler"),
    [
        ("sample_euler", {}, DDIM()),
        ("sample_euler_ancestral", {}, Ancestral()),
        ("sample_euler_ancestral", {"eta": 0.5}, DDIM(0.5)),
        ("sample_heun", {}, Heun()),
        ("sample_heun", {"s_churn": 2.0, "s_noise": 1.1}, Heun(2.0, s_noise=1.1)),
        ("sample_dpmpp_2m", {}, DPMSolverPP(2)),
        ("sample_dpmpp_2m_sde", {"solver_type": "midpoint"}, DPMSolverPP(2, sde=True)),
    ],
)
def test_samplers_of_k_diffusion_are_ours(name, settings, sampler, torch, monkeypatch):
    sampling = pytest.importorskip("k_diffusion.sampling")
    sigmas = sampling.get_sigmas_karras(8, 0.05, 10.0)[:-1]  # without the 0 at the end
    process = jd.EDM(0.05, 20.0)  # churn raises the first level, but never above σ(1)
    ours, noise = steps_of(process, sampler, times_at(process, sigmas), START * 10)
    drawn = iter(map(torch.tensor, noise))
    monkeypatch.setattr(torch, "randn_like", lambda x: next(drawn))  # of churn
    given = {"noise_sampler": lambda *_: next(drawn)} if "ancestral" in name or "sde" in name else {}
    theirs = []
    last = getattr(sampling, name)(
        lambda x, sigma: exact_data(x, 1.0, sigma[:, None]),
        torch.tensor(START * 10),
        sigmas,
        callback=lambda step: theirs.append(step["x"][:, 0].numpy()),
        disable=True,
        **settings,
        **given,
    )
    seen = slice(-1 if "s_churn" in settings else 0, None)  # its callback shows x after churn
    agree(ours[seen], [*theirs[1:], last[:, 0].numpy()][seen])


def test_sigmas_of_k_diffusion_are_our_grids(torch):
    sampling = pytest.importorskip("k_diffusion.sampling")
    ratio = lambda process, times: np.exp(-np.asarray(process.log_snr(times)) / 2)
    close = lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs.numpy()[:-1], rtol=1e-3
    )  # √(eᵇ - 1) loses some
    close(ratio(EDM, jd.grids.Time()(EDM, 8, t_end=0.0)), sampling.get_sigmas_karras(9, 0.05, 10.0))
    close(ratio(EDM, jd.grids.Karras()(EDM, 9)), sampling.get_sigmas_karras(9, 0.05, 10.0))
    close(ratio(EDM, jd.grids.LogSNR()(EDM, 9)), sampling.get_sigmas_exponential(9, 0.05, 10.0))
    vp = jd.VP(0.1, 20.0)
    close(ratio(vp, jd.grids.Time()(vp, 8, t_end=1e-3)), sampling.get_sigmas_vp(9, 19.9, 0.1, 1e-3))


# azula


@pytest.mark.parametrize(
    ("name", "settings", "sampler"),
    [
        ("DDPM", {}, Ancestral()),
        ("DDIM", {}, DDIM()),
        ("DDIM", {"eta": 0.25}, DDIM(0.5)),
        ("Euler", {}, DDIM()),
        ("Heun", {}, Heun()),
        ("xEAB", {"order": 3}, DPMSolverPP(3)),
    ],
)
def test_samplers_of_azula_are_ours(name, settings, sampler, torch, monkeypatch):
    azula = pytest.importorskip("azula.sample")
    schedule = pytest.importorskip("azula.noise").VESchedule(0.05, 10.0)

    class Exact:
        def __init__(self):
            self.schedule, self.asked = schedule, []

        def __call__(self, x, t):
            self.asked.append(x)
            alpha, sigma = schedule(t)
            return type("Found", (), {"mean": exact_data(x, alpha, sigma)})

    process = jd.VE(0.05, 10.0)
    ours, noise = steps_of(process, sampler, np.linspace(1, 0, 9), START * 10)
    drawn = iter(map(torch.tensor, noise))
    monkeypatch.setattr(torch, "randn_like", lambda x: next(drawn))
    denoiser = Exact()
    last = getattr(azula, f"{name}Sampler")(denoiser, steps=8, silent=True, **settings)(torch.tensor(START * 10))
    path = [*denoiser.asked[2 if name == "Heun" else 1 :: 2 if name == "Heun" else 1], last]
    agree(ours, [x[:, 0].numpy() for x in path])


def test_schedules_of_azula_are_our_processes(torch):
    noise = pytest.importorskip("azula.noise")
    t = np.linspace(0.1, 1, 10).astype(np.float32)
    for schedule, process in (
        (noise.VESchedule(0.02, 50.0), jd.VE(0.02, 50.0)),
        (noise.RectifiedSchedule(0.0, 0.01), jd.Flow(0.01)),
        (noise.CosineSchedule(0.0, 0.0), jd.Cosine(0.0)),
        (noise.VPSchedule(np.exp(-5.0), 0.0), jd.VP(1e-6, 20.0)),
    ):
        for ours, theirs in zip(process.marginal(t), schedule(torch.tensor(t))):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5 * float(theirs.max()))


# torchcfm, whose time runs from noise to data


@pytest.mark.parametrize(
    ("name", "sigma", "process"),
    [
        ("Conditional", 0.0, jd.Flow()),
        ("TargetConditional", 0.1, jd.Flow(0.1)),
        ("VariancePreservingConditional", 0.0, jd.Cosine(0.0)),
    ],
)
def test_paths_of_torchcfm_are_our_processes(name, sigma, process, torch):
    """x_t and its velocity: ours is the negative."""
    cfm = pytest.importorskip("torchcfm.conditional_flow_matching")
    matcher = getattr(cfm, f"{name}FlowMatcher")(sigma)
    rng = np.random.default_rng(0)
    data, source = rng.standard_normal((2, 4, 3)).astype(np.float32)
    t = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
    alpha, sigma_t = (np.asarray(c)[:, None] for c in process.marginal(t))
    slopes = [np.asarray(jax.vmap(jax.grad(curve))(t))[:, None] for curve in (process.alpha, process.sigma)]
    given = torch.tensor(source), torch.tensor(data), torch.tensor(1 - t)
    noise = torch.tensor(source) if name == "TargetConditional" else torch.zeros(4, 3)  # the source is its noise
    x = matcher.sample_xt(*given, noise)
    np.testing.assert_allclose(alpha * data + sigma_t * source, x.numpy(), atol=1e-5)
    velocity = matcher.compute_conditional_flow(*given, x).numpy()
    np.testing.assert_allclose(-(slopes[0] * data + slopes[1] * source), velocity, atol=1e-4)
