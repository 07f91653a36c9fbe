"""A suite is worth what it catches: faults that published code has had, put into ours, and the test that sees each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from tiltflow.core import SMC, SVDD, BestOfN, Doob, Tilt, denoiser, particles, transitions, values
from tiltflow.core.parameterisations import subs
from tiltflow.core.paths import VPCosine
from tiltflow.core.processes import Gaussian, Masked
from tiltflow.core.samplers import Ancestral, FirstHitting, ancestral
from tiltflow.core.schedules import Linear
from tiltflow.core.steering import base, best_of_n, smc, svdd
from tiltflow.core.steering import doob as doob_module
from tiltflow.core.transitions import CategoricalTransition, UnmaskingTransition

from . import test_denoiser as denoisers
from . import test_doob as doob
from . import test_laws as laws
from . import test_masked as process
from . import test_mixture_world as mixture
from . import test_particles as resampling
from . import test_samplers as samplers
from . import test_steering as steering
from . import test_transitions as steps

SEEN = (AssertionError, pytest.fail.Exception)


@dataclass(frozen=True)
class Fault:
    """`plant(monkeypatch)` puts it in; `test(**arguments)` must then fail. Arguments may name fixtures."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    test: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)


def attribute(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace an attribute by make(the original)."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def everywhere(name: str, make: Callable[[Any], Any], *owners: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """The same in several modules that import it by name."""

    def plant(patch):
        for owner in owners:
            patch.setattr(owner, name, make(getattr(owner, name)))

    return plant


# --- the faults -----------------------------------------------------------------------------------------------------


def hotter(step):
    return lambda self, tilt, *args, **kwargs: step(self, replace(tilt, alpha=1.1 * tilt.alpha), *args, **kwargs)


def one_candidate_less(step):
    return lambda self, *args, **kwargs: step(replace(self, candidates=self.candidates - 1), *args, **kwargs)


def unguided_at_first(step):
    def wrong(self, tilt, state, *args, **kwargs):
        return step(replace(self, candidates=1) if state.index == 0 else self, tilt, state, *args, **kwargs)

    return wrong


def one_percent_uniform(finish):
    def wrong(self, tilt, state, *, generator=None):
        state = finish(self, tilt, state, generator=generator)
        vocab = tilt.diffusion.process.vocab
        noise = torch.randint(vocab, state.x.shape, generator=generator)
        swap = torch.rand(len(state.x), 1, generator=generator) < 0.01
        return replace(state, x=torch.where(swap, noise, state.x))

    return wrong


def twenty_four_steps(patch):
    patch.setattr(FirstHitting, "times", lambda self, diffusion: torch.linspace(1, 0, 25, dtype=torch.float64))
    patch.setattr(FirstHitting, "transition", lambda self, *args: Ancestral().transition(*args))


def float32_gumbel(_):
    def wrong(log_probs, u):
        noise = torch.rand((*u.shape, log_probs.shape[-1]), generator=torch.Generator().manual_seed(0))
        return (log_probs.float() - (-(noise.log())).log()).argmax(-1)

    return wrong


def not_renormalised(_):
    return lambda clean, temperature, top_p: clean / temperature


def argmax_at_the_end(sample):
    def wrong(self, n=None, *, generator=None):
        if float(self.stay.max()) > 0:
            return sample(self, n, generator=generator)
        return torch.where(self.x == self.clean.shape[-1], self.clean.argmax(-1), self.x)

    return wrong


def one_uniform_a_row(uniform):
    return lambda shape, like, generator: uniform((*shape[:-1], 1), like, generator).expand(shape)


def forgets(*names):
    def make(gather):
        def wrong(self, index):
            stale = {name: getattr(self, name) for name in names}
            return replace(
                gather(self, index), **{name: old if old is None else old[: len(index)] for name, old in stale.items()}
            )

        return wrong

    return make


def weights_not_reset(resample):
    def wrong(state, scheme, chosen, generator):
        index = replace(state, x=torch.arange(len(state.x)))
        ancestors = resample(index, scheme, chosen, generator).x
        return replace(state.gather(ancestors), log_z=state.log_z)

    return wrong


def loses_log_z(resample):
    return lambda state, *args: replace(resample(state, *args), log_z=state.log_z)


def no_terminal_correction(settle):
    def wrong(tilt, state):
        done = settle(tilt, state)
        return replace(done, log_weights=state.log_weights + done.log_potential)

    return wrong


def coast_without_weights(coast):
    return lambda tilt, state, generator: replace(coast(tilt, state, generator), log_weights=state.log_weights)


def forgets_the_previous_value(_):
    return lambda self, state, log_h: state.log_weights + values.log_mean_exp(log_h, -1)


def thirty_nats_down(_):
    def wrong(log_h, previous):
        peak = log_h.amax(-1, keepdim=True)
        return torch.where(log_h == -math.inf, torch.where(peak.isfinite(), peak - 30, previous), log_h)

    return wrong


def shared_point(_):
    """Systematic resampling that forgets the comb: one uniform for all."""
    return lambda weights, generator: particles._invert(
        weights, particles.uniform((len(weights), 1), weights, generator).expand_as(weights)
    )


def kl_of_unmasked_sites(_):
    def wrong(self, other):
        gap = transitions.kl_categorical(self.clean, other.clean)
        return torch.where(self.x == self.clean.shape[-1], 0.0, gap).sum(-1)

    return wrong


def kl_without_the_step(_):
    def wrong(self, other):
        gap = transitions.kl_categorical(self.clean, other.clean)
        return torch.where(self.x == self.clean.shape[-1], gap, 0.0).sum(-1)

    return wrong


def exp_in_float32(_):
    return lambda x, dim: x.float().exp().mean(dim).log().double()


def nan_passes(_):
    def wrong(self, x):
        return torch.as_tensor(self.reward_function(x)).double()

    return wrong


def in_place(_):
    def wrong(self, output, x, t):
        output -= output[..., : self.vocab].logsumexp(-1, keepdim=True)
        held = subs._held(x, self.vocab, output.dtype)
        return torch.where((x == self.vocab).unsqueeze(-1), output[..., : self.vocab], held)

    return wrong


def always_reused(denoise_once):
    def wrong(model, x, t, cond=None, known=None, distinct=False):
        return (
            denoise_once(model, x, t, cond, known, distinct)
            if known is None
            else denoiser._refresh(model, x, t, cond, known, distinct)
        )

    return wrong


def unweighted(_):
    return lambda self, t: torch.ones_like(t, dtype=torch.float64)


def swapped_stay(stay):
    return lambda self, t, s, x: 1 - stay(self, t, s, x)


def forgets_the_proposal(move):
    def wrong(self, tilt, state, t, s, generator=None):
        moved = move(self, tilt, state, t, s, generator)
        return moved if s <= 0 else replace(moved, log_weights=state.log_weights)

    return wrong


def guided_twice(estimate):
    return lambda self, *args, **kwargs: estimate(replace(self, strength=2 * self.strength), *args, **kwargs)


def score_for_estimate(_):
    return lambda self, clean, x, t, log_h: clean + self.path.s(torch.tensor(t).double()) ** 2 * log_h


def same_token_everywhere(neighbours):
    """h at the first open site only, for all sites."""

    def wrong(self, tilt, x, t, clean, generator):
        log_h, value = neighbours(self, tilt, x, t, clean, generator)
        return log_h[:, :1].expand_as(log_h), value

    return wrong


SVDD_LAW = (laws.test_svdd_follows_its_law, {"world": laws.SMALL, "candidates": 8, "value": None})
SMC_WEIGHTS = (
    steering.test_smc_weights_are_unbiased,
    {"method": SMC(4, threshold=1.0), "value": "plug-in"},
)
LINEAR = Masked(3, Linear())

FAULTS = [
    Fault("alpha off by 10 %", attribute(SVDD, "step", hotter), *SVDD_LAW),
    Fault("7 candidates instead of 8", attribute(SVDD, "step", one_candidate_less), *SVDD_LAW),
    Fault("no guidance on the first step", attribute(SVDD, "step", unguided_at_first), *SVDD_LAW),
    Fault("1 % uniform samples", attribute(SVDD, "finish", one_percent_uniform), *SVDD_LAW),
    Fault("argmax for softmax", lambda patch: patch.setitem(svdd.SELECTIONS, "softmax", svdd.argmax), *SVDD_LAW),
    Fault(
        "24 ancestral steps sold as exact",
        twenty_four_steps,
        samplers.test_one_site_at_a_time_draws_follow_the_data_law,
        {"generator": "generator"},
    ),
    Fault(
        "masks that are left are filled by argmax",
        attribute(UnmaskingTransition, "sample", argmax_at_the_end),
        samplers.test_ancestral_draws_follow_its_own_law,
        {"count": 2, "generator": "generator"},
    ),
    Fault(
        "float32 Gumbel noise",
        attribute(steps, "categorical", float32_gumbel),
        steps.test_a_mass_of_1e_12_has_its_share_of_the_uniforms,
        {"position": 1},
    ),
    Fault(
        "one uniform for all sites of a row",
        attribute(transitions, "uniform", one_uniform_a_row),
        steps.test_unmasking_draws_are_independent_over_sites_and_draws,
        {"generator": "generator"},
    ),
    Fault(
        "temperature without renormalising",
        attribute(ancestral, "truncate", not_renormalised),
        samplers.test_truncation_leaves_the_rate_of_unmasking,
        {"sampler": Ancestral, "options": {"temperature": 0.5}},
    ),
    Fault("weights are not reset", attribute(smc, "resample", weights_not_reset), *SMC_WEIGHTS),
    Fault("log Z is lost in resampling", attribute(smc, "resample", loses_log_z), *SMC_WEIGHTS),
    Fault("no terminal correction", attribute(smc, "settle", no_terminal_correction), *SMC_WEIGHTS),
    Fault(
        "a stale log-potential after resampling",
        attribute(particles.Particles, "gather", forgets("log_potential")),
        *SMC_WEIGHTS,
    ),
    Fault(
        "a stale clean estimate after resampling",
        attribute(particles.Particles, "gather", forgets("clean")),
        *SMC_WEIGHTS,
    ),
    Fault(
        "one random point for all slots",
        lambda patch: patch.setitem(particles.RESAMPLING, "systematic", shared_point(None)),
        resampling.test_uniforms_of_different_slots_are_different,
        {"scheme": "systematic", "generator": "generator"},
    ),
    Fault(
        "SVDD weights that forget the previous value",
        attribute(SVDD, "_weigh", forgets_the_previous_value),
        steering.test_svdd_weights_are_unbiased,
        {"candidates": 2, "value": "exact"},
    ),
    Fault(
        "values of -inf that kill a path",
        everywhere("soften", thirty_nats_down, svdd, smc),
        steering.test_hard_constraints_keep_the_weights_unbiased,
        {"method": SMC(8), "value": "plug-in"},
    ),
    Fault(
        "an early stop without its weight",
        attribute(base, "coast", coast_without_weights),
        steering.test_an_early_stop_keeps_the_weights_unbiased,
        {"method": SVDD(4), "stop": 1},
    ),
    Fault(
        "a KL of the unmasked sites",
        attribute(UnmaskingTransition, "kl", kl_of_unmasked_sites),
        steps.test_kl_is_that_of_the_enumerated_laws,
    ),
    Fault(
        "a KL without the size of the step",
        attribute(UnmaskingTransition, "kl", kl_without_the_step),
        process.test_the_divergence_of_a_path_does_not_depend_on_the_number_of_steps,
        {"process": LINEAR},
    ),
    Fault(
        "exp(r / alpha) in float32",
        everywhere("log_mean_exp", exp_in_float32, values, particles, svdd, smc, best_of_n),
        steering.test_a_tiny_alpha_neither_overflows_nor_divides_by_zero,
        {"generator": "generator"},
    ),
    Fault(
        "NaN rewards reach the methods",
        attribute(Tilt, "_evaluate", nan_passes),
        steering.test_nan_raises_or_is_excluded_and_counted,
        {"method": BestOfN(4), "generator": "generator"},
    ),
    Fault(
        "in-place edits of the caller's logits",
        attribute(subs.Subs, "clean", in_place),
        denoisers.test_the_logits_of_a_caller_are_left_alone,
    ),
    Fault(
        "estimates reused though time matters",
        attribute(denoisers, "denoise_once", always_reused),
        denoisers.test_a_time_dependent_estimate_is_never_reused,
    ),
    Fault(
        "a bound without its weight",
        attribute(Masked, "_weight", unweighted),
        process.test_the_bound_of_the_exact_denoiser_is_the_log_likelihood,
        {"process": LINEAR},
    ),
    Fault(
        "proposals that are not weighed",
        attribute(Doob, "move", forgets_the_proposal),
        steering.test_doob_weights_are_unbiased,
        {"method": Doob(), "value": "plug-in"},
    ),
    Fault(
        "guidance that counts twice",
        attribute(Doob, "estimate", guided_twice),
        doob.test_the_exact_h_reproduces_the_tilted_law,
        {"world": doob.WORLD},
    ),
    Fault(
        "one site's h for all sites",
        attribute(Doob, "_neighbours", same_token_everywhere),
        doob.test_the_exact_h_reproduces_the_tilted_law,
        {"world": doob.WORLD},
    ),
    Fault(
        "a score that is taken for a clean estimate",
        attribute(Gaussian, "guide", score_for_estimate),
        mixture.test_doob_is_the_exact_denoiser_of_the_tilted_law,
        {"path": VPCosine(), "t": 0.5},
    ),
    Fault(
        "a step without noise that is guided and weighed",
        lambda patch: patch.setattr(doob_module, "atom", lambda step: False),
        mixture.test_weights_are_unbiased_for_the_sampler_s_own_law,
        {"method": Doob(), "value": "exact"},
    ),
    Fault(
        "sites that leave when they should stay",
        attribute(Masked, "stay", swapped_stay),
        process.test_steps_undo_the_noise,
        {"process": LINEAR},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_seen(fault, monkeypatch, request):
    arguments = {
        name: request.getfixturevalue(value) if isinstance(value, str) and name == value else value
        for name, value in fault.arguments.items()
    }
    fault.plant(monkeypatch)
    with pytest.raises(SEEN) as seen:
        fault.test(**arguments)
    assert "underpowered" not in str(seen.value)  # seen, and not merely undecided


def test_there_are_enough_faults():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


def test_nothing_planted_is_left():
    """The plants above are undone: spot checks of what they replaced."""
    assert SVDD.step.__module__ == "tiltflow.core.steering.svdd"
    assert smc.resample is particles.resample
    assert CategoricalTransition.kl.__module__ == "tiltflow.core.transitions"
