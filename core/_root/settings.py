"""What the main job can be told: its keys, the checks between them, and the objects they stand for.

`prepare` finds everything that is wrong with a configuration before anything is run, and returns a `Plan` to run.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .resume import tuning_problems
from .schema import BROKEN, Builder, ConfigError, Problem, check_plugins, explain, shown

if TYPE_CHECKING:
    import torch

    from .core import Tilt
    from .core.steering import Steering
    from .core.tuning import Tuning
    from .domains import Domain
    from .rewards import ForbiddenSites

#: The keys of the main job that are no groups, and what each means.
KEYS = {
    "n": "how many designs",
    "seed": "same seed, same designs",
    "alpha": "temperature in the reward's own unit, small is greedy; each reward has its default",
    "steps": "denoising steps",
    "batch": "designs steered at once; what is finished is kept whatever happens to the rest",
    "pretrained": "unguided samples to compare with",
    "natural": "natural sequences to compare with, 0 for none",
    "out": "folder for the run folders",
    "resume": "a run folder whose tuning was stopped: go on there, with the same keys as before",
    "failures": "a reward of NaN: raise stops the run, exclude leaves the sample out",
    "plugins": "your packages whose classes a configuration may name, such as [mypackage]",
}


@dataclass(frozen=True)
class Compute:
    """What to run on.

    Args:
        threads: for torch; None leaves its default, one for each core.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
    """

    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; expected at least 1, or null for torch's default")
        _device(self.device)


@dataclass(frozen=True)
class Tune:
    """What the job does beside training, where the method is one that tunes.

    Args:
        train_steps: denoising steps while training. The divergence is a sum over steps that hardly depends on their
            number, so a coarse grid saves time; the tuned model is sampled on the job's own grid.
        without_kl: tune once more without the divergence, to see what it prevents; takes as long again.
        candidates: of the SVDD designs to compare with; 0 for none.
        judge_every: training steps between two looks at the model, the points of the curves.
        judged: samples of each look.
        patience: end a training when this many looks in a row were no better than the best before them; null: never.
        kl_budget: end it when the divergence from the pretrained model is above so many nats; null: no budget.
        keep: which weights are the tuned model's, those of the "last" step or of the "best" look. A look is better by its
            held-out reward, or where there is none by its objective.
    """

    train_steps: int = 16
    without_kl: bool = True
    candidates: int = 8
    judge_every: int = 5
    judged: int = 64
    patience: int | None = None
    kl_budget: float | None = None
    keep: str = "last"

    def __post_init__(self) -> None:
        for name, least in (("train_steps", 1), ("candidates", 0), ("judge_every", 1), ("judged", 2), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected a whole number of at least {least}")
        if self.kl_budget is not None and not self.kl_budget > 0:
            raise ValueError(f"kl_budget is {self.kl_budget}; expected a positive number of nats, or null")
        if self.keep not in ("last", "best"):
            raise ValueError(f"keep is {self.keep!r}; expected last or best")


@dataclass(frozen=True)
class Design:
    """All keys of the main job, with their types. `domain`, `reward`, `heldout`, `method` and `value` are nodes."""

    domain: Any
    reward: Any
    heldout: Any
    method: Any
    value: Any
    compute: Compute
    n: int
    seed: int
    alpha: float
    steps: int
    batch: int
    pretrained: int
    natural: int
    failures: Literal["raise", "exclude"]
    out: str
    plugins: list[str]
    tune: Tune = field(default_factory=Tune)
    resume: str | None = None


@dataclass(frozen=True)
class Plan:
    """A checked configuration and what was built from it.

    Attributes:
        config: the resolved configuration, plain data.
        names: how domain, reward and method are called, for the run folder and reports.
        command: what to type to run the same again.
        heldout: a reward that judges the designs and is never optimised, or None.
        forbidden: forbidden sites as they were understood, (entry, site) each.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    command: str
    domain: Domain
    tilt: Tilt
    method: Steering | Tuning
    heldout: Callable[[torch.Tensor], Any] | None
    compute: Compute
    forbidden: tuple[tuple[str, str], ...] = ()
    tune: Tune = field(default_factory=Tune)

    @property
    def tunes(self) -> bool:
        """Whether the method changes the model, and not how it is sampled."""
        from .core.tuning import Tuning

        return isinstance(self.method, Tuning)

    @property
    def designs(self) -> str:
        """What the set of designs is called in metrics and tables."""
        return "tuned" if self.tunes else "steered"

    @property
    def label(self) -> str:
        """The reward in a few words, for figures: its name, and the texts it was given, such as the medium."""
        node, own = self.config["reward"], reward_name(self.tilt.reward_function)
        if own != type(self.tilt.reward_function).__name__:
            return own
        words = [value for key, value in node.items() if isinstance(value, str) and not key.startswith("_")]
        return self.names["reward"] + (f" ({', '.join(words)})" if words else "")

    @property
    def n(self) -> int:
        """Designs asked for."""
        return int(self.config["n"])

    @property
    def batches(self) -> list[int]:
        """Sizes of the batches, n in all."""
        n, batch = self.n, int(self.config["batch"])
        return [min(batch, n - start) for start in range(0, n, batch)]


_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (lambda n: n >= 1, "a whole number of at least 1"),
    "steps": (lambda n: n >= 1, "a whole number of at least 1"),
    "batch": (lambda n: n >= 1, "a whole number of at least 1"),
    "pretrained": (lambda n: n >= 1, "a whole number of at least 1"),
    "natural": (lambda n: n >= 0, "a whole number of at least 0"),
    "seed": (lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1"),
    "alpha": (lambda a: a > 0 and math.isfinite(a), "a positive number, in the reward's own unit"),
}


def prepare(
    config: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    command: str = "",
    problems: Sequence[Problem] = (),
) -> Plan:
    """Check and build everything that a configuration names.

    Args:
        config: plain nested data with the keys of `Design`.
        problems: what is already known to be wrong, to be told together with the rest.

    Raises:
        ConfigError: all problems at once.
    """
    found = list(problems)
    known = {problem.key for problem in problems}
    if "reward" in known:
        known.add("heldout")  # they come from one file
    known |= _passed_on(config)
    builder = Builder(_plugins(config), found, frozenset(known))
    built = builder.arguments(Design, config)
    parts = {name: value for name, value in built.items() if value is not BROKEN}
    found += check_plugins(_plugins(config)) + _limits(parts) + writable(parts.get("out"))
    ban = _ban(config, found)
    tilt = _tilt(parts, ban, found)
    found += tuning_problems(parts, config, ban)
    if found or tilt is None:
        raise ConfigError(found)
    domain, method = parts["domain"], parts["method"]
    tune = parts.get("tune", Tune())
    called = {"domain": domain.name, "reward": reward_name(parts["reward"]), "method": type(method).__name__}
    forbidden = ban.resolved if ban else ()
    heldout, compute = parts["heldout"], parts["compute"]
    names = {**called, **(names or {})}
    built_domain = tilt_domain(domain, tilt)
    return Plan(dict(config), names, command, built_domain, tilt, method, heldout, compute, forbidden, tune)


def tilt_domain(domain: Domain, tilt: Tilt) -> Domain:
    """The domain with the diffusion that the tilt uses (on its device)."""
    return replace(domain, diffusion=tilt.diffusion)


def reward_name(reward: Any) -> str:
    """What to call a reward: its own label or name, or what it is."""
    for attribute in ("label", "name", "__name__"):
        name = getattr(reward, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(reward).__name__


def _plugins(config: Mapping[str, Any]) -> tuple[str, ...]:
    plugins = config.get("plugins")
    return tuple(p for p in plugins if isinstance(p, str)) if isinstance(plugins, list) else ()


def _passed_on(config: Mapping[str, Any]) -> set[str]:
    """The domain's own key of the number of steps, where it holds the job's and that one is wrong: one message is enough."""
    steps, domain = config.get("steps"), config.get("domain")
    wrong = isinstance(steps, int) and not _LIMITS["steps"][0](steps)
    return {"domain.steps"} if wrong and isinstance(domain, Mapping) and domain.get("steps") == steps else set()


def _limits(parts: dict[str, Any]) -> list[Problem]:
    """Numbers out of their range; they are taken out of `parts`."""
    wrong = {key: why for key, (holds, why) in _LIMITS.items() if key in parts and not holds(parts[key])}
    return [Problem(key, f"{parts.pop(key)}; expected {why}") for key, why in wrong.items()]


def writable(out: str | None) -> list[Problem]:
    """Whether files can be made in the folder `out`, or where it would be made."""
    if out is None:
        return []
    folder = Path(out).expanduser().absolute()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return []
    except OSError as error:
        return [Problem("out", f"{shown(out)}: cannot write into {place} ({error.strerror}); choose another folder")]


# --- the parts together --------------------------------------------------------------------------------------------


def _tilt(parts: dict[str, Any], ban: ForbiddenSites | None, found: list[Problem]) -> Tilt | None:
    """The problem to solve, after making sure that domain, rewards, value and method fit each other."""
    from .core import Tilt
    from .core.steering import Steering
    from .core.tuning import Tuning
    from .domains import Domain

    _expect(parts, "domain", Domain, "a Domain, such as tiltflow.domains.dna.load gives", found)
    methods = "a steering method, such as tiltflow.core.SVDD, or one that tunes, such as tiltflow.core.tuning.DRAKES"
    _expect(parts, "method", (Steering, Tuning), methods, found)
    for key in ("reward", "heldout"):
        _fits_domain(parts, key, found)
    if not {"domain", "reward", "compute"} <= parts.keys():
        return None
    reward = _without(parts["reward"], ban)
    device = _device(parts["compute"].device)
    for each in (reward, parts.get("heldout")):
        place(each, device)
    diffusion, failures = parts["domain"].diffusion.to(device), parts.get("failures", "raise")
    try:
        # Where alpha or the value is wrong, the rest is looked at without it.
        tilt = Tilt(diffusion, reward, parts.get("alpha", 1.0), parts.get("value"), failures=failures)
    except (ValueError, TypeError) as error:
        key = "value" if parts.get("value") is not None else "reward"
        found.append(Problem(key, explain(error)))
        return None
    _try_out(tilt, parts, found)
    return tilt


def _expect(parts: dict[str, Any], key: str, kind: type | tuple[type, ...], wanted: str, found: list[Problem]) -> None:
    if key in parts and not isinstance(parts[key], kind):
        found.append(Problem(key, f"{shown(parts.pop(key))}; expected {wanted}"))


def _fits_domain(parts: dict[str, Any], key: str, found: list[Problem]) -> None:
    from .domains import check_reward

    if key not in parts or (key == "heldout" and parts[key] is None):
        return
    if not callable(parts[key]):
        found.append(Problem(key, f"{shown(parts.pop(key))}; expected a reward, such as tiltflow.rewards.expression"))
    elif "domain" in parts:
        try:
            check_reward(parts["domain"], parts[key])
        except ValueError as error:
            found.append(Problem(key, str(error)))
            del parts[key]


def _ban(config: Mapping[str, Any], found: list[Problem]) -> ForbiddenSites | None:
    """The rule that `domain.forbidden` stands for."""
    from .rewards import ForbiddenSites

    domain = config.get("domain")
    sites = domain.get("forbidden") if isinstance(domain, Mapping) else None
    if not isinstance(sites, list) or not sites or not all(isinstance(site, str) for site in sites):
        return None
    try:
        return ForbiddenSites(sites)
    except ValueError as error:
        found.append(Problem("domain.forbidden", str(error)))
        return None


def _without(reward: Any, ban: ForbiddenSites | None) -> Any:
    """The reward, and minus infinity where a forbidden site occurs: the sampler cannot enforce it, so the reward must."""
    from .rewards import Require, Sum, Term

    if ban is None:
        return reward
    rule = Require(ban, at_least=0, name="no forbidden site")
    terms = reward.terms if isinstance(reward, Sum) else (Term(reward, 1.0, "maximize"),)
    return Sum((*terms, rule))


def _try_out(tilt: Tilt, parts: Mapping[str, Any], found: list[Problem]) -> None:
    """Ask the method whether it can serve the tilt, and the rewards for two rough samples."""
    import torch

    from .core import Tilt

    if "method" in parts:
        try:
            parts["method"].check(tilt)
        except ValueError as error:
            found.append(Problem("method", str(error)))
    with torch.no_grad():
        rough = replace(tilt.diffusion, steps=1).sample(2, generator=torch.Generator().manual_seed(0))
        judge = parts.get("heldout")
        heldout = None if judge is None else Tilt(tilt.diffusion, judge, 1.0, failures="exclude")
        for key, problem in (("reward", tilt), ("heldout", heldout)):
            try:
                if problem is not None:
                    problem.reward(rough)
            except Exception as error:  # a user's reward may fail in any way
                found.append(Problem(key, f"failed on two trial samples: {explain(error)}"))


def place(reward: Any, device: torch.device) -> None:
    """Move every network inside a reward to a device."""
    from torch import nn

    if isinstance(reward, nn.Module):
        reward.to(device)
    elif is_dataclass(reward) and not isinstance(reward, type):
        for each in fields(reward):
            place(getattr(reward, each.name), device)
    elif isinstance(reward, list | tuple):
        for part in reward:
            place(part, device)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which cannot be used here ({reason}); expected auto or cpu") from None
    return device
