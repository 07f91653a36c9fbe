"""Our samplers against diffusers' schedulers: the same denoiser, noise and noise levels give the same trajectories.

Their discrete steps are mapped to our times by the log-SNR. They keep coefficients in float32, hence 1e-5.
"""

from __future__ import annotations

import pytest
import torch
from tiltflow.core.paths import EDM, FlowMatching, VPLinear
from tiltflow.core.samplers import DDIM, Ancestral, DPMSolver, EulerODE, HeunODE, denoise

from .mixtures import PLANE, tensor

diffusers = pytest.importorskip("diffusers", reason="needs diffusers, which the dev extra installs")

# Their schedulers hand tensors to numpy in a way that its second version frowns on.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
COUNT = 12


@pytest.fixture
def start(generator):
    return torch.randn(7, 2, dtype=torch.float64, generator=generator(0))


def eps_of(x, signal):
    """What a perfect eps network returns at x = sqrt(signal) x0 + sqrt(1 - signal) eps; signal is their alphas_cumprod."""
    a, s = signal.double().sqrt(), (1 - signal.double()).sqrt()
    return (x - a * PLANE.posterior_mean(x, a, s)) / s


def times_of(log_snr):
    """Our VP times `[S + 1]` of their noise levels, and 0 at the end."""
    return torch.cat([VPLinear().inverse(log_snr), tensor(0.0)])


def ours(path, sampler, x, times, generator=None):
    path = denoise(PLANE.diffusion(path, sampler=sampler), x, times, generator=generator)
    return torch.stack([state for _, state, _ in path])


def close(ours, theirs):
    torch.testing.assert_close(ours, torch.stack(theirs).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta, start, generator):
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(COUNT)
    x, theirs, noise = start, [], generator(1)
    for t in scheduler.timesteps:
        z = torch.randn(x.shape, dtype=x.dtype, generator=noise)
        x = scheduler.step(eps_of(x, scheduler.alphas_cumprod[t]), t, x, eta=eta, variance_noise=z).prev_sample
        theirs.append(x)
    times = times_of(torch.logit(scheduler.alphas_cumprod[scheduler.timesteps].double()))
    close(ours(VPLinear(), DDIM(eta), start, times, generator(1)), theirs)


def test_ddpm(start, generator):
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(COUNT)
    x, theirs, noise = start, [], generator(1)
    for t in scheduler.timesteps:
        x = scheduler.step(eps_of(x, scheduler.alphas_cumprod[t]), t, x, generator=noise).prev_sample
        theirs.append(x)
    times = times_of(torch.logit(scheduler.alphas_cumprod[scheduler.timesteps].double()))
    close(ours(VPLinear(), Ancestral(), start, times, generator(1)), theirs)


@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver(karras, start):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", use_karras_sigmas=karras
    )
    scheduler.set_timesteps(30)
    x, theirs = start, []
    for index, t in enumerate(scheduler.timesteps):
        signal = 1 / (1 + scheduler.sigmas[index].double() ** 2)
        x = scheduler.step(eps_of(x, signal), t, x).prev_sample.double()
        theirs.append(x)
    close(ours(VPLinear(), DPMSolver(), start, times_of(-2 * scheduler.sigmas[:-1].double().log())), theirs)


def test_euler_in_sigma(start):
    """Their states are x / a: Euler's method there is ours in the straight variable."""
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    scheduler.set_timesteps(COUNT)
    times = times_of(-2 * scheduler.sigmas[:-1].double().log())
    a = VPLinear().a(times)
    x, theirs = start / a[0], []
    for index, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)  # which they want called
        sigma = scheduler.sigmas[index].double()
        x = scheduler.step((x - PLANE.posterior_mean(x, 1.0, sigma)) / sigma, t, x).prev_sample
        theirs.append(a[index + 1] * x)
    close(ours(VPLinear(), EulerODE(), start, times), theirs)


def test_heun_in_sigma(start):
    scheduler = diffusers.HeunDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    scheduler.set_timesteps(COUNT)
    levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()
    path = EDM(float(levels[0]))
    x, theirs = path.sigma_max * start, []
    for index, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        sigma = scheduler.sigmas[index].double()  # two estimates a step: at its start, then at its end
        x = scheduler.step((x - PLANE.posterior_mean(x, 1.0, sigma)) / sigma, t, x).prev_sample
        if index % 2 or index == len(scheduler.timesteps) - 1:
            theirs.append(x)
    got = ours(path, HeunODE("time"), path.sigma_max * start, levels / path.sigma_max)
    close(got, theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(shift, start):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(COUNT)
    times = scheduler.sigmas.double()
    x, theirs = start, []
    for index, t in enumerate(scheduler.timesteps):
        sigma = times[index]
        velocity = (x - PLANE.posterior_mean(x, 1 - sigma, sigma)) / sigma
        x = scheduler.step(velocity, t, x).prev_sample.double()
        theirs.append(x)
    close(ours(FlowMatching(), EulerODE("time"), start, times), theirs)
