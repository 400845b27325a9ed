"""A small training run as a program, for the tests that kill it: `run.py FOLDER '{"steps": 40, ...}'`."""

import json
import os
import resource
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.training import Checkpoints, connect, failing_together, make_mesh, train

if __name__ == "__main__":
    FOLDER, SETTINGS = sys.argv[1], json.loads(sys.argv[2])
    if "process" in SETTINGS:
        connect(SETTINGS["coordinator"], SETTINGS["processes"], SETTINGS["process"])  # before anything else of JAX

KEY = jax.random.key(0)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
BATCH = 24


class Points:
    """The rows [first, last) of 24 points x ~ N(0, 1/4) [24, 64] for any step, drawn from the step."""

    def __init__(self, rows=slice(0, BATCH), delay=0.0, **special):
        self.rows, self.delay, self.special = rows, delay, special

    def __getitem__(self, step):
        time.sleep(self.delay)
        if step == self.special.get("throws_at"):
            raise OSError("the disk of this host is gone")
        if step == self.special.get("dies_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.special.get("exits_at"):
            sys.exit(3)
        if step == self.special.get("interrupted_at"):
            raise KeyboardInterrupt
        return {"x": np.random.default_rng(step).standard_normal((BATCH, 64)).astype(np.float32)[self.rows] / 2}


def denoiser():
    params = {"w": np.full((64, 64), 0.01, np.float32), "b": np.zeros(64, np.float32)}
    return jd.Denoiser(lambda params, x, c_noise, cond: x @ params["w"] + params["b"], params, jd.VP())


LOSS = jd.losses.Denoising()


def slow_to_compile(denoiser, key, x0, cond):
    print("compiling", flush=True)
    for _ in range(4000):
        x0 = jnp.sin(x0 @ jnp.roll(x0[:64].T @ x0[:64], 1))
    return LOSS(denoiser, key, x0, cond)


def press_in_save(step, *seconds):
    """Press Ctrl-C so many seconds after each other from when the checkpoint of `step` is begun."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell sets to be ignored in the background
    save = Checkpoints.save

    def pressing(self, state, **content):
        if int(state.step) == step:
            threading.Thread(target=press).start()
        save(self, state, **content)

    def press():
        for pause in seconds:
            time.sleep(pause)
            print("pressed", time.time(), flush=True)
            os.kill(os.getpid(), signal.SIGINT)

    Checkpoints.save = pressing


def leave(how):
    """Leave before the run, in one of the ways in which a process ends."""
    if how == "error":
        raise ValueError("the data of this host are missing")
    if how == "Ctrl-C":
        raise KeyboardInterrupt
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "abort":
        os._exit(0)
    sys.exit(int(how))


def main(folder, steps=40, log_every=5, checkpoint_every=10, delay=0.0, slow=False, seed=0, model=1, **run):
    rows = slice(0, BATCH)
    if "process" in run:
        n = BATCH // run["processes"]
        rows = slice(n * run["process"], n * (run["process"] + 1))
    special = {name: run[name] for name in ("throws_at", "dies_at", "exits_at", "interrupted_at") if name in run}
    if "pressed" in run:
        press_in_save(*run["pressed"])
    if "bytes_a_file" in run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run["bytes_a_file"], resource.RLIM_INFINITY))
    if "leaves" in run:
        leave(run["leaves"])
    with failing_together(folder):
        if run.get("comes_not"):
            raise ValueError("the data of this host are missing")
        if run.get("goes_by"):
            return
        trained = train(
            jax.random.key(seed),
            folder,
            denoiser(),
            slow_to_compile if slow else LOSS,
            Points(rows, delay, **special),
            steps=steps,
            optimizer=OPTIMIZER,
            mesh=make_mesh(model),
            identity=run.get("identity"),
            allow=tuple(run.get("allow", ())),
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            progress=False,
        )
    print("finished", float(jnp.abs(trained.params["w"]).sum()))


if __name__ == "__main__":
    main(FOLDER, **SETTINGS)
