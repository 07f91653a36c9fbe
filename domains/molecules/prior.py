"""The molecule prior as a file: a small transformer in safetensors at half precision, its settings in the header."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from ...core.denoiser import Denoiser
from ...core.diffusion import Diffusion
from ...core.networks import TransformerDenoiser
from ...core.processes import Masked
from ...core.storage import StorageError, load_tensors, save_tensors
from ...molecules import ALPHABET, LENGTH

KIND = "masked prior of molecules, transformer"
MAX_ROWS = 128  # rows a forward: larger batches leave the CPU caches and are slower


def build(length: int = LENGTH, steps: int = 64, **network: Any) -> Diffusion:
    """An untrained masked diffusion over SELFIES words; keyword arguments go to `TransformerDenoiser`."""
    return wrap(TransformerDenoiser(len(ALPHABET), length, **network), steps)


def wrap(network: TransformerDenoiser, steps: int = 64) -> Diffusion:
    """A masked diffusion around a network."""
    process = Masked(len(ALPHABET))
    whole = process.parameterise(network)
    denoiser = Denoiser(whole.network, whole.parameterisation, max_rows=MAX_ROWS)
    return Diffusion(process, denoiser, (network.length,), steps=steps)


def save_prior(path: str | Path, diffusion: Diffusion, facts: Mapping[str, Any], *, half: bool = False) -> None:
    """Write the network's weights, its settings, the alphabet and `facts` (JSON-ready: data, figures, versions).

    Args:
        half: write float16, half the size; weights are rounded to three digits, and loading makes them float32 again.
    """
    network = diffusion.denoiser.network
    weights = {name: w.to(torch.float16) if half else w for name, w in network.state_dict().items()}
    header = {"kind": KIND, "network": network.settings, "alphabet": ALPHABET, "facts": dict(facts)}
    save_tensors(path, weights, header)


def load_prior(path: str | Path, steps: int = 64) -> tuple[Diffusion, dict[str, Any]]:
    """Read a prior and its facts; weights come in float32.

    Raises:
        FileNotFoundError: no such file.
        StorageError: corrupt, foreign, of another alphabet, or weights that do not fit the settings in the header.
    """
    tensors, metadata = load_tensors(path, KIND)
    if tuple(metadata.get("alphabet", ())) != ALPHABET:
        raise StorageError(
            f"{path} is of another version of tiltflow.molecules.ALPHABET. Train it again with this one."
        )
    try:
        network = TransformerDenoiser(**metadata["network"])
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path} does not hold a whole prior: {error}. Make or download it again.") from error
    return wrap(network.eval().requires_grad_(False), steps), dict(metadata.get("facts", {}))


def read_prior(prior: str | Path, steps: int = 64) -> tuple[Diffusion, dict[str, Any]]:
    """A prior by the name of a shipped one, or from a `.safetensors` file. Raises as `load_prior` and `shipped` do."""
    return load_prior(prior, steps) if Path(prior).suffix == ".safetensors" else shipped(str(prior), steps)


def shipped(name: str, steps: int = 64) -> tuple[Diffusion, dict[str, Any]]:
    """A prior that comes with the package.

    Raises:
        ValueError: an unknown name; lists those there are.
    """
    assets = files(__package__) / "assets"
    asset = assets / f"{name}_prior.safetensors"
    if not asset.is_file():
        names = sorted(a.name.removesuffix("_prior.safetensors") for a in assets.iterdir() if "_prior.s" in a.name)
        raise ValueError(
            f"No shipped molecule prior {name!r}; there is {', '.join(names)}. A file of your own: prior=<path>."
        )
    with as_file(asset) as path:
        return load_prior(path, steps)
