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
# # Molecules with several aims
#
# A lead compound is never good in one number only. Here we ask for molecules that are drug-like, easy to make, neither too
# greasy nor too polar, and like a known drug; then we keep a scaffold, join two fragments, and, where AutoDock Vina is
# installed, dock.
#
# * the **prior** is a diffusion model of drug-like molecules (ZINC), which ships with tiltflow;
# * the **reward** joins several properties, each with a *desirability*: a curve from 0 (useless) to 1 (as wanted);
# * **steering** draws molecules in proportion to p(x) exp(reward / alpha): what the prior finds likely and the reward likes;
# * a **search** looks for the highest rewards that so many looks can buy, and leaves the prior behind.
#
# It needs `pip install 'tiltflow[molecules]'`. Run it with `python molecules_with_several_aims.py`, or as a notebook after
# `jupytext --to ipynb molecules_with_several_aims.py`. It takes a few minutes on two cores. All files go to the folder
# `molecules_with_several_aims` below the one you are in.

# %%
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: quicker where others use the cores, too

import matplotlib.pyplot as plt
import torch

from tiltflow.core import SVDD, PosteriorMean, Tilt
from tiltflow.domains import molecules
from tiltflow.domains.molecules import plots
from tiltflow.domains.molecules.optimise import Search
from tiltflow.rewards import pareto_front
from tiltflow.rewards.molecules import (
    Alerts,
    Descriptor,
    Molecular,
    Part,
    Profile,
    Property,
    Ramp,
    Similarity,
    Smarts,
    Window,
)

SMOKE = os.environ.get("SMOKE_TEST") == "1"  # only check that everything runs: the numbers then mean nothing
DESIGNS = 4 if SMOKE else 64
CALLS = 60 if SMOKE else 1500
STEPS = 4 if SMOKE else 24

OUT = Path("molecules_with_several_aims")
OUT.mkdir(exist_ok=True)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})

# %% [markdown]
# ## The prior
#
# A molecule is a row of tokens, each a *word* of SELFIES: an atom, a ring closure, or a whole ring. Every row is a molecule.

# %%
domain = molecules.load("zinc", steps=STEPS)
print(domain.source)
drawn = domain.diffusion.sample(DESIGNS, generator=torch.Generator().manual_seed(0))
print(*domain.codec.decode(drawn)[:5], sep="\n")
found = domain.metrics(drawn)
for key in ("validity", "uniqueness", "novelty", "qed_median", "alert_free"):
    print(f"{key:12s} {found[key]:.3f}")

# %% [markdown]
# ## One aim
#
# `Molecular` turns a scorer of molecules into a reward. It must be told which way is good: "maximize", "minimize" or a
# curve. SVDD steers: at every step it weighs ten candidates by what their most probable completion is worth.

# %%
qed = Molecular(Descriptor("qed"), "maximize")
steered = SVDD(candidates=10).sample(
    Tilt(domain.diffusion, qed, alpha=0.01, value=PosteriorMean()), DESIGNS, generator=torch.Generator().manual_seed(1)
)
print(f"QED: prior {qed(drawn).median():.2f}, steered {steered.reward.median():.2f}")

# %% [markdown]
# ## Several aims
#
# Four parts and a rule. The geometric mean is strict: one useless part makes the whole useless. logD comes from an oracle
# that was trained on measurements; its 90 % interval and its judge are in its card.

# %%
LEAD = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"  # celecoxib
PARTS = [
    Part(Descriptor("qed"), name="QED"),
    Part(Descriptor("sa_unit"), name="accessibility"),  # 1 is easy to make
    Part(Property("logd"), Window(1.0, 3.0, slack=2.0), name="logD"),
    Part(Similarity([LEAD]), Ramp(zero=0.0, one=0.6), name="similarity"),
]
profile = Profile(PARTS, how="geometric", rules=[Alerts(["PAINS"], hard=True)])
reward = Molecular(profile, "maximize", invalid=0.0)
tilt = Tilt(domain.diffusion, reward, alpha=0.03, value=PosteriorMean())
designs = SVDD(candidates=10).sample(tilt, DESIGNS, generator=torch.Generator().manual_seed(2))
sets = {"prior": drawn, "steered": designs.x}
for name, x in sets.items():
    parts = reward.parts(x)
    print(f"{name:8s} together {reward(x).nanmedian():.2f}: ", end="")
    print(", ".join(f"{part} {values.nanmedian():.2f}" for part, values in parts.items()))

# %% [markdown]
# The steered molecules stay molecules of the prior. If only the best few matter, search: children of the best molecules,
# made by masking a fragment and letting the prior draw it again, and by crossing and mutating their graphs; the prior
# learns on the way from what was good. `calls` is how many molecules may be scored.

# %%
searched = Search(calls=CALLS).sample(tilt, DESIGNS, generator=torch.Generator().manual_seed(3))
sets["searched"] = searched.x
print(f"best by steering {designs.reward.max():.2f}, by search {searched.reward.max():.2f}")

# %% [markdown]
# No molecule is best in everything. The *Pareto front* holds those that no other one beats in all aims at once.

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for (name, x), colour in zip(sets.items(), ("#999999", "#0072B2", "#D55E00")):
    values = torch.stack(list(reward.parts(x).values()), 1)
    front = pareto_front(values)
    for axes, column in zip(panels, range(3)):
        axes.scatter(values[:, column], values[:, 3], s=10, color=colour, alpha=0.5, linewidths=0, label=name)
        axes.scatter(values[front, column], values[front, 3], s=28, facecolors="none", edgecolors=colour, linewidths=0.8)
        axes.set_xlabel(f"{PARTS[column].name} (desirability)")
panels[0].set_ylabel("similarity to the lead (desirability)")
panels[0].legend(frameon=False)
panels[0].set_title("Rings: on the Pareto front of their set")
figure.savefig(OUT / "pareto.png", dpi=120)

# %% [markdown]
# ## Keep a scaffold
#
# With `scaffold`, every sample contains these atoms and grows at the star. Any reward can steer what grows.

# %%
held = molecules.constrain(domain, scaffold="*c1ccc(S(N)(=O)=O)cc1")
kept = SVDD(candidates=10).sample(
    Tilt(held.diffusion, reward, alpha=0.03, value=PosteriorMean()), DESIGNS, generator=torch.Generator().manual_seed(4)
)
print(held.constraints)
print(*domain.codec.decode(kept.x[kept.reward.argsort(descending=True)][:5]), sep="\n")

# %% [markdown]
# A rule says the same in another way, for any substructure and wherever it sits: what lacks it is never chosen.
# Two fragments are joined by `linker`.

# %%
rule = Smarts(must=["S(N)(=O)=O"])
asked = Molecular(Profile(PARTS, rules=[rule]), "maximize", invalid=0.0)
print(f"{(asked(searched.x) > -torch.inf).double().mean():.0%} of the searched molecules have a sulfonamide")
linked = molecules.constrain(domain, linker="*c1ccc(S(N)(=O)=O)cc1.*c1ccc(C)cc1", linker_words=2)
between = linked.diffusion.sample(DESIGNS, generator=torch.Generator().manual_seed(5))
print(linked.constraints)
print(*domain.codec.decode(between)[:5], sep="\n")

# %% [markdown]
# ## Files for others
#
# SDF and CSV hold the molecules with their parts; the grid shows the best of them.

# %%
files = domain.export(OUT, searched, {"reward": searched.reward, **reward.parts(searched.x)})
plots.grid(searched.x, searched.reward).savefig(OUT / "best.png", dpi=120)
print(*(path.name for path in files), "best.png", "pareto.png")

# %% [markdown]
# ## Docking
#
# `pip install 'tiltflow[docking]'` brings AutoDock Vina and meeko. You give the receptor as PDBQT and a box around its
# pocket; a molecule takes seconds to minutes, so give `Molecular` workers, a timeout and a file that remembers. A search
# with few calls, or steering that looks at few candidates, is the way to spend them.
#
# Set RECEPTOR=receptor.pdbqt to run this part.

# %%
receptor = os.environ.get("RECEPTOR")
if receptor is None:
    print("No RECEPTOR, so nothing is docked.")
else:
    from tiltflow.rewards.molecules import Docking

    docking = Docking(receptor, center=(0.0, 0.0, 0.0), size=(20.0, 20.0, 20.0), exhaustiveness=4)
    aims = Profile([Part(docking, Ramp(zero=-4.0, one=-10.0), name="docking"), *PARTS[:2]])
    cache = OUT / "docked.jsonl"
    with Molecular(aims, "maximize", invalid=0.0, workers=2, timeout=300, cache_file=cache) as docked:
        best = Search(calls=50).sample(Tilt(domain.diffusion, docked, alpha=0.1, failures="exclude"), 5)
        print(best.reward, *domain.codec.decode(best.x), sep="\n")
