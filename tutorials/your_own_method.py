# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own steering method, and how to know that it is right
#
# A steering method draws from a pretrained diffusion model so that a reward becomes high. What it should draw from is
#
#     p*(x)  =  p(x) exp(r(x) / alpha) / Z
#
# but on a real model nobody can say whether it does: p* is not known there. A method with a mistake in it still gives
# samples with a high reward.
#
# So tiltflow has **worlds**: problems so small that p, p*, Z and the best possible guidance are known exactly. Here we
# write a new method in ten lines, measure it on worlds, and then break it on purpose to see what the measurement says.
#
# Run it with `python your_own_method.py`, or as a notebook after `jupytext --to ipynb your_own_method.py`. It takes a
# minute. The figure goes to the folder `your_own_method` below the one you are in.

# %%
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tiltflow.core import SVDD, PosteriorMean, Steering
from tiltflow.core.particles import draw_index
from tiltflow.core.steering.base import forward
from tiltflow.core.values import log_mean_exp
from tiltflow.core.worlds import MaskedWorld, MixtureWorld, total_variation
from tiltflow.domains.canvas import finish
from tiltflow.domains.canvas import show as show_figure
from tiltflow.verify import measure, show

SMOKE = os.environ.get("SMOKE_TEST") == "1"  # only check that everything runs
DRAWS = 60_000
BUDGETS = (1, 4, 16) if SMOKE else (1, 2, 4, 8, 16, 32, 64, 128, 256)
OUT = Path("your_own_method")
OUT.mkdir(exist_ok=True)

# %% [markdown]
# ## 1. A world
#
# This one has sequences of four letters from an alphabet of three, 81 in all, with a random law p in which the letters
# depend on each other, and a random reward. The model is a masked diffusion model that is exact: a sequence starts as
# four masks, and one mask after the other is replaced by a letter.

# %%
world = MaskedWorld(length=4, vocab=3, seed=0, alpha=1.0)
print(f"{len(world.p)} sequences; log Z = {world.log_z:.4f}")
print(f"mean reward of p {world.p @ world.rewards:.3f}, of p* {world.tilted @ world.rewards:.3f}")
print(f"from p to p*: total variation {total_variation(world.p, world.tilted):.3f}")

# %% [markdown]
# *Total variation* is half the sum of all differences between two laws: 0 if they are the same, 1 if they share nothing.
#
# ## 2. A method in ten lines
#
# SVDD draws M candidates at every step, values each by V, which says what reward can be expected from it, and keeps one
# with probability proportional to exp(V / alpha). Suppose we do not trust our V altogether. Then we may want to choose
# less greedily, by exp(strength V / alpha) with a strength below 1, and let *weights* make up for the rest.
#
# A method says how one step is done. It gets a state with n samples at time t, and returns them at time s < t:

# %%
@dataclass(frozen=True)
class Tempered(Steering):
    """SVDD that chooses by exp(strength V / alpha), and puts what is missing into the weights."""

    candidates: int = 8
    strength: float = 0.5

    def step(self, tilt, state, t, s, *, generator=None):
        transition, _ = forward(tilt, state, t, s)
        x = transition.sample(self.candidates, generator=generator).transpose(0, 1)  # [n, M, ...]
        log_h = tilt.evaluate(x.flatten(0, 1), s, generator=generator).value.reshape(x.shape[:2]) / tilt.alpha
        pick = draw_index(self.strength * log_h, generator)  # [n]
        chosen = log_h.gather(1, pick.unsqueeze(1)).squeeze(1)
        return replace(
            state,
            x=x[torch.arange(len(x)), pick],
            clean=None,
            value=tilt.alpha * chosen,
            log_weights=state.log_weights + self.gain(log_h, chosen) - state.log_potential,
            log_potential=chosen,
        )

    def gain(self, log_h, chosen):
        return log_mean_exp(self.strength * log_h, -1) + (1 - self.strength) * chosen


# %% [markdown]
# The weight deserves a word. A candidate j was drawn from the model, then kept with probability
# exp(strength v_j) / sum over m of exp(strength v_m), where v = V / alpha. We would have liked exp(v_j). The ratio is
#
#     mean over m of exp(strength v_m)  *  exp((1 - strength) v_j)
#
# which is `gain`. Subtracting the v that was there before the step makes the whole product end in exp(r / alpha).
# If that is right, the mean of the weights is Z, and weighted averages are averages under p*, whatever the strength.
#
# Is it right? Do not look at it for an hour; measure it.
#
# ## 3. Measure it

# %%
show([
    measure(Tempered(8, strength), world, draws=DRAWS, names=("masked", f"strength {strength}", "exact"))
    for strength in (1.0, 0.5, 0.0)
])

# %% [markdown]
# How to read the rows, one for each strength:
#
# * *TV to p\**: how far the draws are from p*. There is a `~` because only the draws could be compared: their number leaves
#   noise, given after `±`. A strength of 0 does not steer at all, so that its distance is the one from p to p*.
# * *log Z* and *z*: the mean of the weights, and how many standard errors it is off. `ok` means that it passed, as did
#   the weighted share of four sets of sequences; and that the test would have noticed an alpha that is 10 % off.
#
# So the weights are right at every strength. What about the draws? We cannot expect p*, since we choose too mildly on
# purpose. But the law of the draws can be computed, and then tested: choosing by exp(strength V / alpha) is what SVDD does
# at a temperature alpha / strength, with values that stay those of alpha. The world computes that law from all sequences.

# %%
def law_of(method, value=None):
    """The law of the draws over the 81 sequences."""
    milder = replace(world.tilt(value=value), alpha=world.alpha / method.strength)
    return world.law(SVDD(method.candidates), milder)


method = Tempered(8, 0.5)
right = measure(method, world, law=law_of(method), draws=DRAWS, names=("masked", "tempered", "exact"))
plug_in = measure(
    method,
    world,
    value=PosteriorMean(),
    law=law_of(method, PosteriorMean()),
    draws=DRAWS,
    names=("masked", "tempered", "plug-in"),
)
show([right, plug_in])
assert not right.failed and not plug_in.failed

# %% [markdown]
# The column *own law* now holds a chi-square test of the draws against that law, and the distance to p* has no noise any
# more. The second row uses a value that can be had for any model (the reward of the most probable completion) in place
# of the exact one. The worse value changes the law, and still it is the law that we computed.
#
# ## 4. What more candidates bring
#
# With exact laws no draw is needed to see how a method behaves. SVDD halves its distance whenever M doubles. The milder
# choice comes to a halt, as it must. With a plug-in value, both do: that is the price of a value that is wrong, and no
# number of candidates pays it.

# %%
figure = Figure(figsize=(6.5, 4.2), layout="constrained", facecolor="white")
axes = figure.subplots()
lines = {
    "strength 1 (SVDD)": (1.0, None, "#D55E00", "-"),
    "strength 1, plug-in value": (1.0, PosteriorMean(), "#D55E00", "--"),
    "strength 0.7": (0.7, None, "#0072B2", "-"),
    "strength 0.7, plug-in value": (0.7, PosteriorMean(), "#0072B2", "--"),
}
for label, (strength, value, colour, stroke) in lines.items():
    distance = [total_variation(law_of(Tempered(m, strength), value), world.tilted) for m in BUDGETS]
    axes.plot(BUDGETS, distance, color=colour, linestyle=stroke, marker="o", markersize=4, label=label)
    print(f"{label:28}", " ".join(f"{d:.4f}" for d in distance))
axes.set(xscale="log", yscale="log")
axes.legend(frameon=False, fontsize=9)
finish(axes, "candidates M", "total variation to p*", "More candidates help as far as the choice and the value do")
show_figure(figure, OUT / "budget.png")

# %% [markdown]
# ## 5. Break it
#
# Now three mistakes of the kind that one makes. The first forgets that the choice was milder than the weights assume. The
# second chooses still more mildly than it claims, and weighs what it does correctly. The third forgets to subtract the
# value from before the step.

# %%
class WrongGain(Tempered):
    """Weights as if the strength were 1."""

    def gain(self, log_h, chosen):
        return log_mean_exp(log_h, -1)


class TooMild(Tempered):
    """A strength that is not the one that was asked for."""

    def step(self, tilt, state, t, s, *, generator=None):
        return Tempered(self.candidates, 0.8 * self.strength).step(tilt, state, t, s, generator=generator)


class NeverSubtracted(Tempered):
    """Every step counts from zero."""

    def step(self, tilt, state, t, s, *, generator=None):
        fresh = replace(state, log_potential=torch.zeros_like(state.log_potential))
        return super().step(tilt, fresh, t, s, generator=generator)


broken = [
    measure(kind(8, 0.5), world, law=law_of(method), draws=DRAWS, names=("masked", kind.__name__, "exact"))
    for kind in (WrongGain, TooMild, NeverSubtracted)
]
show([right, *broken])
for row in broken:
    print(f"{row.method:16} draws follow the law: {row.law}; weights are unbiased: {row.weights}")
assert all(row.failed for row in broken)

# %% [markdown]
# Look at the rewards in the table: they tell us next to nothing. Each mistake is caught in a place of its own:
#
# * `TooMild` has the right weights for what it does, and only the law of its draws gives it away;
# * the draws of the other two are right, and their weights are not;
# * `WrongGain` even has the right mean weight: the exact value happens to see to that, whichever candidate is kept, and its
#   *z* is harmless. What fails is the weighted share of the sets of sequences: its averages are not those of p*.
#
# Every one of these tests fails right code once in 10 000 times.
#
# ## 6. Another state space
#
# Nothing in our ten lines says that x is a sequence. This world has numbers on a line: p is a mixture of Gaussians, the
# reward a quadratic, and p* a mixture again. Its sampler takes 16 steps and is not exact itself, so that even a perfect
# method would not reach p* here; weights are held against what the *sampler* gives.

# %%
line = MixtureWorld(size=1, seed=0, alpha=0.5, steps=16)
found = measure(Tempered(8, 0.5), line, draws=DRAWS, names=("mixture", "tempered", "exact"))
show([found])
assert not found.failed

# %% [markdown]
# ## Where to go from here
#
# * `tiltflow verify` does all this for the methods of the library: `tiltflow verify --fast` takes less than a minute.
# * `measure(..., law=...)` takes the law that you claim. Without it, methods that are built on one of the library's are held
#   against *its* law, which is what you want for a subclass that should only be quicker.
# * `UniformWorld` has sequences whose letters change again and again, `LandscapeWorld` measured scores of your own
#   sequences, from a table.
