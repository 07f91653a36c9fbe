"""The domain-agnostic core: tensors in, tensors out."""

from . import networks, parameterisations, particles, paths, processes, samplers, schedules, worlds
from .cost import Cost, Meter
from .denoiser import Denoiser
from .diffusion import Diffusion
from .observers import Observer, Progress, StopWhen, Trace
from .parameterisations import Subs
from .pretraining import Pretraining
from .steering import SMC, SVDD, BestOfN, Doob, ImportanceResampling, Steering, steps
from .tilt import Reward, RewardError, Samples, Tilt
from .transitions import CategoricalTransition, GaussianTransition, Transition
from .values import Completions, Given, PosteriorMean, Rollout, Value, fit_value

__all__ = [
    "SMC",
    "SVDD",
    "BestOfN",
    "CategoricalTransition",
    "Completions",
    "Cost",
    "Denoiser",
    "Diffusion",
    "Doob",
    "GaussianTransition",
    "Given",
    "ImportanceResampling",
    "Meter",
    "Observer",
    "PosteriorMean",
    "Pretraining",
    "Progress",
    "Reward",
    "RewardError",
    "Rollout",
    "Samples",
    "Steering",
    "StopWhen",
    "Subs",
    "Tilt",
    "Trace",
    "Transition",
    "Value",
    "fit_value",
    "networks",
    "parameterisations",
    "particles",
    "paths",
    "processes",
    "samplers",
    "schedules",
    "steps",
    "worlds",
]
