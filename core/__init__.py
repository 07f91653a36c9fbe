"""The domain-agnostic core: tensors in, tensors out."""

from . import networks, parameterisations, particles, paths, processes, samplers, schedules, tuning, worlds
from .cost import Cost, Meter
from .denoiser import Denoiser
from .diffusion import Diffusion
from .observers import Observer, Progress, StopWhen, Trace
from .parameterisations import Subs
from .pretraining import Pretraining
from .steering import SMC, SVDD, BestOfN, Doob, ImportanceResampling, Steering, steps
from .tilt import Reward, RewardError, Samples, Tilt
from .transitions import CategoricalTransition, GaussianTransition, Transition
from .tuning import DRAKES, AlignProp, Tuning
from .values import Completions, Given, PosteriorMean, Rollout, Value, fit_value

__all__ = [
    "DRAKES",
    "SMC",
    "SVDD",
    "AlignProp",
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
    "Tuning",
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
    "tuning",
    "worlds",
]
