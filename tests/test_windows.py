"""Without what only POSIX has, the package imports, and one process trains, samples and resumes."""

import subprocess
import sys

CODE = """
import os, sys, types
import flax.nnx, grain, jax, matplotlib.figure, numpy as np, optax, orbax.checkpoint, tensorflow_datasets, tqdm, tyro

held = set()  # the files whose far byte is locked
def locking(file, mode, count):
    assert os.lseek(file, 0, os.SEEK_CUR) > 2**29
    which = os.fstat(file).st_ino
    if which in held:
        raise OSError("locked")
    held.add(which)
sys.modules["fcntl"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_LOCK=1, LK_NBLCK=2)
for name in ("O_NOFOLLOW", "O_NONBLOCK", "uname", "sysconf"):
    delattr(os, name)

import jaxdiff as jd
from jaxdiff import cli, config, runs, vocabulary
from jaxdiff.arrays import atomic_write, check_room, sweep
from pathlib import Path

check_room("an array", 2**29, on_device=False)
folder = Path(sys.argv[1])
leftover = folder / ".x.npy.0123abcd.tmp"
leftover.touch()
sweep(folder)
assert not leftover.exists()
try:
    with atomic_write(folder / "x.npy") as file:
        file.write(b"half")
        raise RuntimeError
except RuntimeError:
    assert not [*folder.iterdir()]

key = jax.random.key(0)
denoiser = jd.Denoiser(lambda params, x, c_noise, cond: x * params["scale"], {"scale": np.ones(())}, jd.VP())
batches = jd.data.batches({"x": np.zeros((8, 2))}, batch_size=4, seed=0)
train = lambda steps: jd.training.train(
    key, folder / "run", denoiser, jd.losses.Denoising(), batches, steps=steps, progress=False
)
train(2)
try:
    train(3)
except ValueError as error:
    assert f"is in use by process {os.getpid()} of " in str(error), error
held.clear()
train(3)
assert max(jd.training.saved_steps(folder / "run")) == 3
"""


def test_without_posix_the_package_imports_and_one_process_trains(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
