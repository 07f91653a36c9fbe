"""The domain-agnostic core: tensors in, tensors out."""

from . import networks, parameterisations, particles, paths, processes, samplers, schedules, tuning, worlds
from .classifier import Classifier, fit_classifier
from .cost import Cost, Meter
from .denoiser import Denoiser
from .diffusion import Diffusion
from .guidance import add_condition, given, guide, ignore
from .observers import Observer, Progress, StopWhen, Trace
from .parameterisations import Subs
from .pretraining import Pretraining
from .steering import SMC, SVDD, BestOfN, Doob, ImportanceResampling, Steering, steps
from .tilt import Reward, RewardError, Samples, Tilt
from .transitions import CategoricalTransition, GaussianTransition, Transition
from .tuning import CTRL, DRAKES, AlignProp, Conditions, Labelled, Tuning
from .values import Completions, Given, PosteriorMean, Rollout, Value, fit_value

__all__ = [
    "CTRL",
    "DRAKES",
    "SMC",
    "SVDD",
    "AlignProp",
    "BestOfN",
    "CategoricalTransition",
    "Classifier",
    "Completions",
    "Conditions",
    "Cost",
    "Denoiser",
    "Diffusion",
    "Doob",
    "GaussianTransition",
    "Given",
    "ImportanceResampling",
    "Labelled",
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
    "add_condition",
    "fit_classifier",
    "fit_value",
    "given",
    "guide",
    "ignore",
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
