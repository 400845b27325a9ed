"""Optional packages, and the extras of jaxdiff that install them."""

import importlib.util

EXTRA_OF = {
    "flax": "train",
    "grain": "train",
    "optax": "train",
    "orbax": "train",
    "PIL": "train",
    "safetensors": "train",
    "sklearn": "train",
    "tensorflow_datasets": "train",
    "tqdm": "train",
    "matplotlib": "cli",
    "tyro": "cli",
    "ot": "transport",
    "tensorboardX": "tensorboard",
    "tokenizers": "text",
    "wandb": "wandb",
}


def require(*packages: str) -> None:
    """Raise ImportError for the first of `packages` that is not installed; the message names the extra to install."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            extra = EXTRA_OF[package]
            raise ImportError(f"{package} is not installed; pip install 'jaxdiff[{extra}]'", name=package)
