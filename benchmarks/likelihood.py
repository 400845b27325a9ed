"""The probability-flow likelihood, ours beside the two codes people use: seconds an image at equal error.

    make peers && python benchmarks/likelihood.py        6 minutes on two cores; --help for sizes

The same U-Net with the same weights, the same flow (VP from t = 1e-5 to 1, the step of its table told to the network),
the same images and the same probe of signs an image:

    score_sde     SciPy's RK45 over the whole batch in float64; drift, and eᵀJe in reverse mode, by two passes of the
                  network (Song et al. 2021, likelihood.py of score_sde_pytorch)
    torchdiffeq   dopri5 over the whole batch; one pass and its gradient (ODESolver of flow_matching)
    jaxdiff       jd.log_likelihood: every image its own steps, one pass with the product forward, in (z, φ)

Each at three tolerances. The error is the root mean square over images against jaxdiff at rtol 1e-5, and
seconds at equal error are read off between two tolerances (linear in the logarithms). Ours compiles once,
before the first turn; another tolerance costs it nothing.
"""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import torch
import tyro
from peers import Settings, as_tensor, digits, heading, in_turns, models
from scipy.integrate import solve_ivp

import jaxdiff as jd

T_MIN, TOLERANCES, TARGET = 1e-5, (1e-2, 1e-3, 1e-4), 5e-3


class Flow:
    """dx/dt = f x - ½ g² ∇ log p_t(x) of the module under VP's linear beta, counting its evaluations."""

    def __init__(self, denoiser: jd.Denoiser, module):
        self.low, self.high = denoiser.process.beta_min, denoiser.process.beta_max
        self.step, self.module, self.evaluations = jax.jit(denoiser.network.clock), module, 0

    def __call__(self, x, t: float):
        """The velocity of x [n, channels, height, width] at t, a little above 1 too, where dopri5 looks."""
        beta = self.low + t * (self.high - self.low)
        variance = -math.expm1(-t * self.low - t**2 * (self.high - self.low) / 2)
        k, _ = self.step(np.float32([(math.log(variance) - math.log1p(-variance)) / 8]))
        self.evaluations += 1
        noise = self.module(x, torch.full((len(x),), k.item(), dtype=x.dtype, device=x.device)).sample
        return beta / 2 * (noise / math.sqrt(variance) - x)


def prior(x: np.ndarray) -> np.ndarray:
    """log N(x; 0, I) of every row."""
    return -0.5 * (x**2).sum(1) - x.shape[1] / 2 * math.log(2 * math.pi)


def by_scipy(flow, x, probe, tolerance):
    """log p [n] as score_sde_pytorch has it."""
    n, shape = len(x), x.shape

    def field(t, state):
        at = torch.tensor(state[:-n].reshape(shape), dtype=torch.float32, device=x.device)
        with torch.no_grad():
            drift = flow(at, t)
        with torch.enable_grad():
            at.requires_grad_()
            gradient = torch.autograd.grad((flow(at, t) * probe).sum(), at)[0]
        divergence = (gradient * probe).flatten(1).sum(1)
        return np.concatenate([drift.cpu().numpy().ravel(), divergence.cpu().numpy()])

    start = np.concatenate([x.cpu().numpy().ravel(), np.zeros(n)])
    end = solve_ivp(field, (T_MIN, 1.0), start, rtol=tolerance, atol=tolerance, method="RK45").y[:, -1]
    return prior(end[:-n].reshape(n, -1)) + end[-n:]


def by_torchdiffeq(flow, x, probe, tolerance):
    """log p [n] as flow_matching's ODESolver has it."""
    from torchdiffeq import odeint

    def field(t, state):
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            velocity = flow(at, t.item())
            gradient = torch.autograd.grad((velocity * probe).sum(), at)[0]
        return velocity.detach(), (gradient * probe).flatten(1).sum(1)

    times = torch.tensor([T_MIN, 1.0], device=x.device)
    with torch.no_grad():
        ends = odeint(field, (x, torch.zeros(len(x), device=x.device)), times, rtol=tolerance, atol=tolerance)
    x_1, trace = (end[-1].cpu().numpy().astype(float) for end in ends)
    return prior(x_1.reshape(len(x), -1)) + trace


def at_error(seconds, errors) -> float:
    """Seconds at the error TARGET, along the line through the two tolerances nearest to it in the logarithms."""
    order = np.argsort(np.abs(np.log(np.asarray(errors) / TARGET)))[:2]
    (e0, e1), (s0, s1) = (np.log(np.asarray(values)[order]) for values in (errors, seconds))
    return math.exp(s0 + (s1 - s0) * (math.log(TARGET) - e0) / (e1 - e0))


def measure(settings: Settings) -> tuple[dict, str]:
    """{code: {tolerance: figures}} with its seconds at equal error, and what it was measured on."""
    denoiser, module = models(settings)
    denoiser = dataclasses.replace(denoiser, process=jd.VP())
    x = jd.dequantize(jax.random.key(1), digits(settings.batch), 17)
    keys = jd.samplers.example_keys(jax.random.key(2), settings.batch)
    draw = lambda key: jd.likelihood.Hutchinson().vectors(key, x[0].size, x.dtype).reshape(x.shape[1:])
    tensor, probe = as_tensor(x), as_tensor(jax.vmap(draw)(keys))
    flow = Flow(denoiser, module)
    within = lambda tolerance: jd.samplers.ProbabilityFlow(rtol=tolerance, atol=tolerance)
    ours = lambda tolerance: jd.log_likelihood(keys, denoiser, x, flow=within(tolerance), t_min=T_MIN)
    truth = np.asarray(ours(1e-5).log_prob, float)

    def peer(code, passes):
        def run(tolerance):
            flow.evaluations = 0
            log_prob = code(flow, tensor, probe, tolerance)
            return log_prob, flow.evaluations / passes

        return run

    def jaxdiff(tolerance):
        found = jax.block_until_ready(ours(tolerance))
        return np.asarray(found.log_prob, float), float(found.evaluations.max())

    codes = {"score_sde": peer(by_scipy, 2), "torchdiffeq": peer(by_torchdiffeq, 1), "jaxdiff": jaxdiff}
    found = {name: {} for name in codes}
    for tolerance in TOLERANCES:
        answers = {}

        def side(name, tolerance=tolerance, answers=answers):
            answers[name] = codes[name](tolerance)

        times = in_turns({name: functools.partial(side, name) for name in codes}, settings.repetitions)
        for name, (log_prob, evaluations) in answers.items():
            found[name][tolerance] = {
                "seconds_an_image": times[name]["seconds"] / settings.batch,
                "compile_seconds": times[name]["first_call_seconds"] - times[name]["seconds"],
                "evaluations": evaluations,
                "error": float(np.sqrt(np.mean((log_prob - truth) ** 2)) / (x[0].size * math.log(2))),
            }
    for rows in found.values():
        seconds, errors = ([row[key] for row in rows.values()] for key in ("seconds_an_image", "error"))
        rows["at_equal_error"] = at_error(seconds, errors)
    return found, heading(denoiser, settings)


def table(found: dict) -> str:
    """The figures to read."""
    lines = [f"{'':14s}{'rtol':>8s}{'evaluations':>13s}{'error, bits/dim':>17s}{'s/image':>10s}{'compile':>10s}"]
    for name, rows in found.items():
        for tolerance in TOLERANCES:
            row = rows[tolerance]
            lines.append(
                f"{name:14s}{tolerance:8.0e}{row['evaluations']:13.0f}{row['error']:17.1e}"
                f"{row['seconds_an_image']:10.3f}{row['compile_seconds']:8.1f} s"
            )
    ours = found["jaxdiff"]["at_equal_error"]
    lines.append(f"\nat an error of {TARGET:.0e} bits/dim")
    for name, rows in found.items():
        seconds = rows["at_equal_error"]
        lines.append(f"{name:14s}{seconds:8.3f} s/image {seconds / ours:6.1f} times ours")
    return "\n".join(lines)


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__, default=Settings(batch=4, repetitions=2))
    found, about = measure(settings)
    print(json.dumps(found) if settings.json else f"{about}\n\n{table(found)}")
