"""Joint states of several processes, such as a sequence and a structure, noised side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..parameterisations import Parameterisation
from ..transitions import Transition
from .base import Noised, Process
from .times import stratified_uniforms

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Product:
    """Named parts, each with a process of its own, noised independently to the same t; one network sees them all.

    A joint state is one float tensor `[B, D]`, the parts flattened and laid side by side, tokens as their numbers (exact in
    float32 up to 2^24). So whatever handles states of a continuous process (particles, candidates, caches, files) handles
    these. `unpack` gives the parts by name, in their own shapes and types, and `pack` puts them together; relaxed tokens
    `[B, L, S]` make a wider state, which `unpack` recognises by its width. The clean estimate is the parts' own, side by
    side: `unpack_clean`.

        process = Product({"sequence": (Masked(20), (64,)), "structure": (Gaussian(FlowMatching()), (64, 3))})
        model = Diffusion(process, network, process.shape)      # network(parts, t) -> {"sequence": logits, ...}
        tilt = Tilt(model, process.on_parts(reward), alpha)     # reward(sequence=..., structure=...) -> [B]

    Args:
        parts: process and shape of one sample, by name.

    Raises:
        ValueError: no parts, or a part with an empty shape.
    """

    parts: Mapping[str, tuple[Process, tuple[int, ...]]]

    def __post_init__(self) -> None:
        if not self.parts or any(not shape or min(shape) < 1 for _, shape in self.parts.values()):
            raise ValueError(f"parts is {self.parts!r}; expected at least one name: (process, shape of one sample).")

    @property
    def shape(self) -> tuple[int]:
        """`(D,)`, for `Diffusion`."""
        return (sum(self._widths(relaxed=False).values()),)

    # --- Joint states and their parts ---

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """The parts of joint states `[..., D]`: int64 `[..., L]`, relaxed `[..., L, S]`, or float `[..., *shape]`.

        Raises:
            ValueError: a width that is neither that of tokens nor that of relaxed ones.
        """
        hard, relaxed = self._widths(relaxed=False), self._widths(relaxed=True)
        width = x.shape[-1]
        if width not in (sum(hard.values()), sum(relaxed.values())):
            raise ValueError(
                f"Joint states have width {width}; expected {sum(hard.values())} ({', '.join(self.parts)})."
            )
        if width != sum(hard.values()):
            return self._split(x, relaxed, {name: self._symbols(name) for name in self.parts})
        found = self._split(x, hard, dict.fromkeys(self.parts))
        return {name: part.round().long() if self._symbols(name) else part for name, part in found.items()}

    def unpack_clean(self, clean: Tensor) -> dict[str, Tensor]:
        """The parts' own clean estimates: log-probabilities `[..., L, K]`, or means `[..., *shape]`."""
        last = {name: getattr(process, "vocab", None) for name, (process, _) in self.parts.items()}
        widths = {name: math.prod(shape) * (last[name] or 1) for name, (_, shape) in self.parts.items()}
        return self._split(clean, widths, last)

    def pack(self, parts: Parts) -> Tensor:
        """Joint states (or clean estimates) `[..., D]` from the parts by name.

        Raises:
            ValueError: other names than this product's.
        """
        if set(parts) != set(self.parts):
            raise ValueError(f"The parts are {sorted(parts)}; expected {sorted(self.parts)}.")
        flat = []
        for name, (_, shape) in self.parts.items():
            part = parts[name]
            hard = not part.dtype.is_floating_point or not self._symbols(name)
            flat.append(part.flatten(-len(shape) if hard else -len(shape) - 1))
        joint = torch.cat(flat, -1)
        return joint if joint.dtype.is_floating_point else joint.to(torch.get_default_dtype())

    def on_parts(self, function: Callable[..., Any]) -> Callable[[Tensor], Any]:
        """A function of joint states from one that takes the parts by name: `reward(sequence=..., structure=...)`."""

        def joint(x: Tensor) -> Any:
            return function(**self.unpack(x))

        joint.__name__ = getattr(function, "__name__", type(function).__name__)
        for ability in ("takes", "differentiable"):
            if hasattr(function, ability):
                setattr(joint, ability, getattr(function, ability))
        return joint

    def decode(self, clean: Tensor, *, soft: bool = False) -> Tensor:
        """A clean joint state from a clean estimate `[B, ...]`: the best token of each site (`soft`: the probabilities), and
        the mean."""
        found = self.unpack_clean(clean)
        for name, (process, _) in self.parts.items():
            symbols = self._symbols(name)
            if symbols and soft:
                found[name] = nn.functional.pad(found[name].exp(), (0, symbols - getattr(process, "vocab", symbols)))
            elif symbols:
                found[name] = found[name].argmax(-1)
        return self.pack(found)

    def _symbols(self, name: str) -> int | None:
        """S, what a site of a noised part can hold; None for a continuous part."""
        process = self.parts[name][0]
        vocab = getattr(process, "vocab", None)
        return None if vocab is None else getattr(process, "states", vocab + 1)

    def _widths(self, *, relaxed: bool) -> dict[str, int]:
        return {
            name: math.prod(shape) * ((self._symbols(name) or 1) if relaxed else 1)
            for name, (_, shape) in self.parts.items()
        }

    def _split(self, x: Tensor, widths: dict[str, int], last: Mapping[str, int | None]) -> dict[str, Tensor]:
        pieces = x.split(list(widths.values()), -1)
        shapes = {
            name: shape if last[name] is None else (*shape, last[name]) for name, (_, shape) in self.parts.items()
        }
        return {name: part.unflatten(-1, shapes[name]) for name, part in zip(widths, pieces, strict=True)}

    # --- The process contract, part by part ---

    def prior(self, n: int, shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """`[n, D]`; the shape is known."""
        if shape and tuple(shape) != self.shape:
            raise ValueError(
                f"shape is {tuple(shape)}; the parts need {self.shape}: Diffusion(process, ..., process.shape)."
            )
        return self.pack({name: part.prior(n, size, generator=generator) for name, (part, size) in self.parts.items()})

    def corrupt(self, x0: Tensor, t: float | Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        found = self.unpack(x0)
        return self.pack(
            {name: part.corrupt(found[name], t, generator=generator) for name, (part, _) in self.parts.items()}
        )

    def transition(self, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor) -> ProductTransition:
        states, estimates = self.unpack(x), self.unpack_clean(clean)
        steps = {name: part.transition(estimates[name], states[name], t, s) for name, (part, _) in self.parts.items()}
        return ProductTransition(self, steps)

    def elbo(self, clean: Tensor, x0: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        """The sum of the parts' bounds at the same t, `[B]`: the noise of the parts is independent."""
        estimates, data, states = self.unpack_clean(clean), self.unpack(x0), self.unpack(x)
        time = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        total = torch.zeros(len(x), dtype=clean.dtype, device=x.device)
        for name, (part, _) in self.parts.items():
            low, high = getattr(part, "span", (0.0, 1.0))  # outside its span the bound of a Gaussian part is 0
            term = part.elbo(estimates[name], data[name], states[name], time.clamp(low, high))
            total = total + torch.where((time >= low) & (time <= high), term, 0.0)
        return total

    def noise(self, x0: Tensor, *, strata: int | None = None, generator: torch.Generator | None = None) -> Noised:
        """t = u^2, u uniform and of low discrepancy: most bounds have their largest terms near the data."""
        u = stratified_uniforms(len(x0), strata or len(x0), generator).to(x0.device).clamp(1e-6, 1 - 5e-8)
        return Noised(self.corrupt(x0, u**2, generator=generator), u**2, 2 * u)

    def parameterise(self, network: Callable[..., Mapping[str, Tensor]]) -> Denoiser:
        """A network (parts, t) -> outputs, both by name, each output read in its process's default parameterisation."""
        if not callable(network):
            raise TypeError(
                f"network is a {type(network).__name__}; expected a callable (parts, t) -> outputs by name."
            )
        return Denoiser(_ByParts(self, network), _Estimates())

    def check(self, x: Tensor, *, clean: bool) -> None:
        """Raises ValueError unless x is float `[B, D]`, every part a state of its process."""
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.ndim != 2:
            came = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"A product of processes got {came}; expected floats [B, {self.shape[0]}]: see `pack`.")
        found = self.unpack(x)
        for name, (part, _) in self.parts.items():
            part.check(found[name], clean=clean)
        if x.shape[-1] == self.shape[0] and not torch.equal(self.pack(found).to(x.dtype), x):
            raise ValueError("Tokens in a joint state are fractions; expected whole numbers: see `pack`.")


@dataclass(frozen=True)
class ProductTransition:
    """Independent steps of the parts: draws are packed, log-probabilities and divergences add up.

    Attributes:
        product: whose states they are; steps: the parts' own transitions by name.
    """

    product: Product
    steps: Mapping[str, Transition]

    def sample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        return self.product.pack({name: step.sample(n, generator=generator) for name, step in self.steps.items()})

    def rsample(self, temperature: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        """Relaxed tokens and reparameterised numbers, `[B, D']` of the width of relaxed states."""
        drawn = {name: step.rsample(temperature, generator=generator) for name, step in self.steps.items()}
        return self.product.pack(drawn)

    def log_prob(self, x: Tensor) -> Tensor:
        found = self.product.unpack(x)
        terms = [step.log_prob(found[name]) for name, step in self.steps.items()]
        return torch.stack([term.double() for term in terms]).sum(0)

    def kl(self, other: ProductTransition) -> Tensor:
        return torch.stack([step.kl(other.steps[name]).double() for name, step in self.steps.items()]).sum(0)

    def tilt(self, log_h: Any) -> ProductTransition:
        """Each part reweighted by its own entry of the mapping `log_h`; parts that are not named stay as they are."""
        steps = {name: step.tilt(log_h[name]) if name in log_h else step for name, step in self.steps.items()}
        return ProductTransition(self.product, steps)


class _ByParts(nn.Module):
    """A network on parts by name, seen as one on joint states that returns the joint clean estimate."""

    def __init__(self, product: Product, network: Callable[..., Mapping[str, Tensor]]):
        super().__init__()
        self.product, self.network = product, network
        self.time_invariant = bool(getattr(network, "time_invariant", False))

    def forward(self, x: Tensor, t: Tensor, *cond: Any) -> Tensor:
        states = self.product.unpack(x)
        outputs = self.network(states, t, *cond)
        if not isinstance(outputs, Mapping) or set(outputs) != set(states):
            came = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(f"The network returned {came}; expected outputs by name, {sorted(states)}.")
        return self.product.pack(
            {name: self._reader(name).clean(outputs[name], states[name], t) for name in self.product.parts}
        )

    def _reader(self, name: str) -> Parameterisation:
        reader: Any = self.product.parts[name][0].parameterise(_nothing)
        return reader.parameterisation


def _nothing(x: Tensor, t: Tensor) -> Tensor:
    """Stands in for a network where only its parameterisation is asked for."""
    return x


class _Estimates:
    """The output is the joint clean estimate already."""

    def clean(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return output

    def settled(self, x: Tensor) -> Tensor | None:
        return None

    def settled_clean(self, x: Tensor) -> Tensor:
        raise NotImplementedError("No row is settled: another part may still change.")
