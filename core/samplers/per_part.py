"""A sampler for each part of a joint state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..processes.base import Process
from ..processes.product import Product, ProductTransition
from .ancestral import Ancestral
from .base import Sampler

if TYPE_CHECKING:
    from ..diffusion import Diffusion


@dataclass(frozen=True)
class PerPart(Sampler):
    """Each part of a `Product` takes its own kind of step on the shared grid; parts that are not named take `Ancestral`.

    Args:
        samplers: single-step samplers by the name of the part, such as {"sequence": Remasking(), "structure": DDIM()}.

    Raises:
        ValueError: (when a model is built) not a product, an unknown name, or a sampler that cannot serve its part.
    """

    samplers: Mapping[str, Sampler]

    @property
    def stochastic(self) -> bool:
        return any(sampler.stochastic for sampler in self.samplers.values())

    def times(self, diffusion: Diffusion) -> Tensor:
        from ..diffusion import Diffusion as Model

        product = diffusion.process
        if not isinstance(product, Product):
            raise ValueError(f"PerPart needs a product of processes, not {type(product).__name__}.")
        unknown = set(self.samplers) - set(product.parts)
        if unknown:
            raise ValueError(f"There is no part {sorted(unknown)}; the parts are {sorted(product.parts)}.")
        for name, sampler in self.samplers.items():
            if not sampler.single_step:
                raise ValueError(f"{sampler} only samples; a part needs a single-step sampler.")
            process, shape = product.parts[name]
            Model(process, lambda x, t: x, shape, sampler=sampler)  # says what it cannot serve
        return diffusion.base_times

    def transition(
        self, process: Process, clean: Tensor, x: Tensor, t: float | Tensor, s: float | Tensor
    ) -> ProductTransition:
        assert isinstance(process, Product)
        states, estimates = process.unpack(x), process.unpack_clean(clean)
        steps = {
            name: self.samplers.get(name, Ancestral()).transition(part, estimates[name], states[name], t, s)
            for name, (part, _) in process.parts.items()
        }
        return ProductTransition(process, steps)
