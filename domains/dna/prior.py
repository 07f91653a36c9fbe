"""The promoter prior as a file: a small convolutional denoiser in safetensors, its settings in the header."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ...core.denoiser import Denoiser
from ...core.diffusion import Diffusion
from ...core.networks import ConvDenoiser
from ...core.processes import Masked
from ...core.storage import StorageError, load_tensors, save_tensors
from ...dna import ALPHABET

KIND = "masked prior, convolutional"
MAX_ROWS = 128  # rows a forward: larger batches leave the CPU caches and are slower


def build(length: int, steps: int = 64, **network: Any) -> Diffusion:
    """An untrained masked diffusion over ACGT; keyword arguments go to `ConvDenoiser`."""
    return wrap(ConvDenoiser(len(ALPHABET), length, **network), steps)


def wrap(network: ConvDenoiser, steps: int = 64) -> Diffusion:
    """A masked diffusion around a network."""
    process = Masked(len(ALPHABET))
    whole = process.parameterise(network)
    denoiser = Denoiser(whole.network, whole.parameterisation, max_rows=MAX_ROWS)
    return Diffusion(process, denoiser, (network.trunk.length,), steps=steps)


def save_prior(path: str | Path, diffusion: Diffusion, facts: Mapping[str, Any]) -> None:
    """Write the network's weights, its settings and `facts` (JSON-ready: data, figures, versions)."""
    network = diffusion.denoiser.network
    save_tensors(path, network.state_dict(), {"kind": KIND, "network": network.settings, "facts": dict(facts)})


def load_prior(path: str | Path, steps: int = 64) -> tuple[Diffusion, dict[str, Any]]:
    """Read a prior and its facts.

    Raises:
        FileNotFoundError: no such file.
        StorageError: corrupt, foreign, or weights that do not fit the settings in the header.
    """
    tensors, metadata = load_tensors(path, KIND)
    try:
        settings = dict(metadata["network"])
        network = ConvDenoiser(**{**settings, "dilations": tuple(settings["dilations"])})
        network.load_state_dict(tensors)
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
            f"No shipped DNA prior {name!r}; there is {', '.join(names)}. A file of your own: prior=<path>."
        )
    with as_file(asset) as path:
        return load_prior(path, steps)
