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
# # Ten minutes to your first promoters
#
# A promoter is the stretch of DNA that decides how strongly a gene is read. Here we design promoters of 80 bases for
# baker's yeast that should be read strongly, and choose a few worth ordering.
#
# Three things take part, and it helps to keep them apart:
#
# * a **model** that was trained on the promoters of 1 011 yeast isolates. It gives each sequence x a probability p(x):
#   high for what looks like a yeast promoter, low for what does not;
# * a **reward** r(x), the number we want to be high. Ours is an *oracle*: a network trained on measured promoters that
#   predicts expression from the sequence;
# * a **temperature** alpha that says how far we may leave the model for the sake of the reward.
#
# Together they define the designs we want: sequences drawn in proportion to p(x) exp(r(x) / alpha). Drawing them is
# called *steering*. The model itself is not changed.
#
# Run it with `python first_promoters.py`, or as a notebook after `jupytext --to ipynb first_promoters.py`. It takes a few
# minutes on two cores. All files go to the folder `first_promoters` below the one you are in.

# %%
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: quicker where others use the cores, too

import matplotlib.pyplot as plt
import torch

import tiltflow
from tiltflow.core import SVDD, Progress, Tilt, Trace
from tiltflow.core.particles import ess
from tiltflow.domains import dna
from tiltflow.domains.dna import metrics, plots
from tiltflow.rewards import ForbiddenSites, GcWindow, Homopolymer, expression

SMOKE = os.environ.get("SMOKE_TEST") == "1"  # only check that everything runs: the numbers then mean nothing
DESIGNS = 4 if SMOKE else 64
SAMPLES = 8 if SMOKE else 256
STEPS = 4 if SMOKE else 64

OUT = Path("first_promoters")
OUT.mkdir(exist_ok=True)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})

# %% [markdown]
# Everything random below draws from one generator. The same seed gives the same designs.

# %%
dice = torch.Generator().manual_seed(0)

# %% [markdown]
# ## 1. Load the model
#
# `dna.load` gives one object with all that belongs together: the diffusion model, a codec that turns letters into numbers
# and back (A=0, C=1, G=2, T=3), figures of merit, and statistics of natural promoters to compare with.
#
# The model writes a sequence by starting with 80 unknown bases and filling them in, a few at a time, over `steps` steps.

# %%
promoters = dna.load("yeast", steps=STEPS)
print(promoters.source)

samples = promoters.diffusion.sample(SAMPLES, generator=dice)
for text in promoters.codec.decode(samples[:3]):
    print(text)

# %% [markdown]
# ## 2. What does the model know?
#
# Before trusting a model, look at what it makes of itself. We compare its samples with natural promoters, and also with the
# same samples after shuffling the letters of each one. Shuffling keeps the composition and destroys the order, so
# whatever separates the first two rows from the third is what the model knows about the *order* of bases.

# %%
shuffled = samples.gather(1, torch.rand(samples.shape, generator=dice).argsort(1))
pick = torch.randperm(len(promoters.reference.tokens), generator=dice)[:SAMPLES]
natural = promoters.reference.tokens[pick]


print(f"{'':12}{'NELBO':>8}{'3-mers':>8}{'6-mers':>8}{'nearest':>9}")
for name, x in (("natural", natural), ("samples", samples), ("shuffled", shuffled)):
    found = promoters.metrics(x)
    words = [found[f"kmer{k}_both_strands_correlation"] for k in (3, 6)]
    nelbo = promoters.nelbo(x, generator=dice).quantile(0.5)
    print(f"{name:12}{nelbo:8.3f}{words[0]:8.3f}{words[1]:8.3f}{found['nearest_hamming_median']:9.0f}")

# %% [markdown]
# How to read the table:
#
# * *NELBO* says how hard a base is to guess for the model when others are known, in nats per base; log(4) = 1.386 is
#   chance. Differences look small because any single base of a promoter is hard to guess, but they add up over 80 bases:
#   0.03 nats per base is a factor of exp(2.4), about 11, in probability.
# * *3-mers* and *6-mers* are correlations of word frequencies with those of all natural promoters. Both strands are
#   counted, since the model was trained on both. Few sequences cannot reach 1; the first row shows what this many can reach.
# * *nearest* is the number of bases by which a sequence differs from the closest natural promoter. It is 0 for the natural
#   ones, of course. For samples it is as large as for shuffled letters: the model does not copy.
#
# The first figure shows the word frequencies themselves. Words on the dotted line are as frequent in the samples as in
# nature. The word that yeast promoters are known for, AAA on one strand and TTT on the other, stands far out.

# %%
names = ("samples of the model", "natural promoters")
figure = plots.kmer_scatter(samples, promoters.reference, k=3, both_strands=True, names=names)
plots.show(figure, OUT / "1_words_of_samples.png")

# %% [markdown]
# A sequence logo shows what sequences have in common, position by position. This one is almost flat (mind the
# axis), and rightly so: promoters carry their elements at different places, so no position has a base of its own.

# %%
plots.show(plots.logo(samples), OUT / "2_logo_of_samples.png")

# %% [markdown]
# ## 3. Choose the reward
#
# `expression("YPD")` predicts how strongly an 80-mer drives expression in rich medium (YPD), on the scale of the experiment:
# 0 to 17, a logarithm of fluorescence, so that each unit is the same *factor* of expression.
#
# An oracle makes errors, and optimisation looks for them: a sequence may score high because it is good, or because the
# oracle is wrong about it. So there is a second oracle, of another kind and trained on other measurements, that we never
# optimise. What both agree on is more likely to be true. It is called the *held-out* oracle.

# %%
oracle = expression("YPD")
heldout = expression("YPD", heldout=True)

oracle_on = {"natural": oracle(natural), "samples": oracle(samples)}
heldout_on = {"natural": heldout(natural), "samples": heldout(samples)}
for name in oracle_on:
    agree = torch.corrcoef(torch.stack([oracle_on[name], heldout_on[name]]))[0, 1]
    medians = f"oracle {oracle_on[name].quantile(0.5):.2f}, held-out {heldout_on[name].quantile(0.5):.2f}"
    print(f"{name}: medians {medians}; correlation of the two {agree:.2f}")

# %% [markdown]
# Natural promoters cover a wide range, from hardly expressed to strong, and so do the samples. The correlation is not 1:
# part of any difference between two promoters is the opinion of one oracle. How well each of them predicts measurements
# that it has never seen is written in the cards beside the shipped files, `rewards/assets/*.md`.
#
# ## 4. Steer
#
# `Tilt` states the problem: model, reward, alpha. alpha is in the unit of the reward. With alpha = 0.2, a sequence whose
# predicted expression is 0.2 higher is preferred as if the model had found it e = 2.7 times more probable.
#
# `SVDD` solves it. At every step it lets the model propose several candidates for the next bases, guesses what each
# will be worth when it is finished, and goes on with one of them, chosen in proportion to exp(value / alpha).
# `Trace` records what happens on the way.

# %%
ALPHA = 0.2
tilt = Tilt(promoters.diffusion, oracle, alpha=ALPHA)
designs = SVDD(candidates=16).sample(tilt, DESIGNS, generator=dice, observe=[Progress(), Trace()])
print(f"{designs.cost.forward_rows} sequences through the model, {designs.cost.reward_calls} calls of the reward")

# %% [markdown]
# ## 5. Read the result
#
# **Did the reward rise, and did the held-out oracle rise with it?** We give the gain in standard deviations of natural
# promoters, so that the two can be compared.

# %%
oracle_on["designs"], heldout_on["designs"] = designs.reward, heldout(designs.x)
for name, found, judge in (("oracle", oracle_on, oracle), ("held-out", heldout_on, heldout)):
    before, after = found["samples"].quantile(0.5), found["designs"].quantile(0.5)
    print(f"{name:9} {before:.2f} -> {after:.2f}, {(after - before) / judge.natural_std:+.1f} standard deviations")

for file, title, found in (
    ("3_oracle", "The oracle, which was optimised", oracle_on),
    ("4_heldout", "The held-out oracle, which was not", heldout_on),
):
    three = (found[name] for name in ("samples", "designs", "natural"))
    plots.show(plots.reward_histogram(*three, "predicted YPD expression", title=title), OUT / f"{file}.png")

# %% [markdown]
# The held-out oracle rose too, so most of the gain is more than an error of the first one. But look at its scale: some
# designs may lie beyond 17, where the experiment ends. The held-out oracle adds up contributions of words and cannot
# level off. Take its direction from it, not its level.
#
# **Are the designs still like promoters?** Each dot is a sequence. The bases of those far to the right are hard to guess:
# nothing like them was in the training data. Those far to the left are *too* easy to guess: mostly long runs of A or T. Good
# designs lie high, and above the grey cloud.

# %%
nelbo_on = {
    name: promoters.nelbo(x, generator=dice)
    for name, x in (("natural", natural), ("samples", samples), ("designs", designs.x))
}
clouds = [(oracle_on[name], nelbo_on[name]) for name in ("designs", "samples", "natural")]
figure = plots.reward_vs_naturalness(*clouds, "predicted YPD expression", site="base")
plots.show(figure, OUT / "5_naturalness.png")

# %% [markdown]
# **What did the reward ask for?** The figure of section 2 again, for the designs. Words above the line have become more
# frequent than in nature: these are the pieces of the elements that the oracle holds for activating. Words below the line
# had to make room. In our run, words of C and G gained and words such as TAT lost, while AAA stayed: compare yours.

# %%
figure = plots.kmer_scatter(designs.x, promoters.reference, k=3, both_strands=True)
plots.show(figure, OUT / "6_words_of_designs.png")

# %% [markdown]
# **How did the steering go?** The next figure follows the run from unknown (t = 1) to finished (t = 0). It shows the value:
# what the half-written sequences are expected to score. It should climb, and its band should narrow.
#
# **How good are averages?** The designs follow the wanted law p(x) exp(r(x) / alpha) only approximately. Each carries a
# weight (`designs.log_weight`) for how much too often or too seldom it was drawn. The *effective sample size* (ESS) says
# how evenly the weights are spread: as many as there are designs where they are even, 1 where a single design
# carries them all. With a small alpha it is close to that: the wanted law then prefers the very best sequences so strongly
# that few draws cannot stand for it.
#
# For picking good designs this does not matter. For averages over the wanted law it does: a weighted mean such as the one
# below is worth something only where the ESS is large, which takes a larger alpha and more candidates.

# %%
plots.show(plots.trace(designs.trace, "predicted YPD expression"), OUT / "7_trace.png")
weights = designs.log_weight.softmax(0)
print(f"mean reward {designs.reward.mean():.2f}, weighted mean {weights @ designs.reward:.2f}")
print(f"the ESS is {ess(designs.log_weight):.1f} of {len(designs)} designs")

# %% [markdown]
# ## 6. What alpha does
#
# alpha is the knob that matters most. A small one buys reward and pays with likeness to natural promoters; a large one
# leaves the model as it is. We steer a few promoters at each of several values.

# %%
alphas = [0.05, 0.2, 1.0, 5.0]
rows = []
for alpha in alphas:
    found = SVDD(candidates=16).sample(Tilt(promoters.diffusion, oracle, alpha=alpha), DESIGNS // 2, generator=dice)
    words = promoters.metrics(found.x)["kmer3_both_strands_correlation"]
    rows.append((float(found.reward.quantile(0.5)), float(heldout(found.x).quantile(0.5)), words))
    print(f"alpha {alpha:<5} oracle {rows[-1][0]:.2f}   held-out {rows[-1][1]:.2f}   3-mer correlation {words:.3f}")

optimised, judged, words = zip(*rows)
ceiling = promoters.metrics(found.x)["kmer3_both_strands_ceiling"]
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8.5, 6), sharex=True, layout="constrained")
top.axhspan(*oracle_on["natural"].quantile(torch.tensor([0.1, 0.9]).double()), color="#eeeeee", label="natural, 10 to 90 %")
top.axhline(float(oracle_on["samples"].quantile(0.5)), color="#999999", linestyle=":", label="samples of the model")
top.axhline(17, color="#333333", linestyle="-.", linewidth=1, label="end of the scale")
top.plot(alphas, judged, "s--", color="#0072B2", label="held-out oracle")
top.plot(alphas, optimised, "o-", color="#D55E00", label="oracle (optimised)")
top.set(ylabel="median YPD expression", title="What is gained")
bottom.axhline(ceiling, color="#999999", linestyle=":", label="as many natural promoters")
bottom.plot(alphas, words, "o-", color="#333333", label="designs")
bottom.set(xscale="log", xlabel="alpha (left: greedy, right: close to the model)", title="What is paid")
bottom.set(ylabel="3-mer correlation\nwith natural promoters", xticks=alphas, xticklabels=alphas)
bottom.minorticks_off()
top.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
bottom.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plots.show(figure, OUT / "8_alpha.png")

# %% [markdown]
# Read it from right to left. Most of the gain comes early, at a modest price. Then the oracle levels off, since its scale
# ends, and the held-out oracle leaves the scale altogether, while the words of the designs are no longer those of
# promoters: much is paid for little. Where to stop is your choice and depends on what you want to learn. To order
# designs of two or three alphas is a good answer.
#
# ## 7. Pick designs
#
# We have more designs than anybody wants to order. Choose in three passes:
#
# 1. rules of the bench: GC content that can be synthesised, none of the restriction sites used for cloning, no long
#    runs of one base. Each rule below is a reward, too: 0 where it holds, negative where it is broken;
# 2. doubt: keep what the held-out oracle, too, puts above nine in ten natural promoters, and what is as hard to guess
#    as natural promoters are (their middle 90 %);
# 3. reward, with diversity: go down the list from the best and skip what resembles one already chosen. Ten
#    variants of one design would fail together.

# %%
low, high = nelbo_on["natural"].quantile(torch.tensor([0.05, 0.95]).double())
passes = {
    "GC 30 to 60 %": GcWindow(0.3, 0.6)(designs.x) == 0,
    "no BsaI, no EcoRI": ForbiddenSites(["BsaI", "EcoRI"])(designs.x) == 0,
    "no run over 8": Homopolymer(8)(designs.x) == 0,
    "held-out high": heldout_on["designs"] > heldout_on["natural"].quantile(0.9),
    "NELBO as natural": (nelbo_on["designs"] > low) & (nelbo_on["designs"] < high),
}
for name, passed in passes.items():
    print(f"{name:18} {int(passed.sum()):3} of {DESIGNS}")
good = torch.stack(list(passes.values())).all(0)
print(f"{'all of them':18} {int(good.sum()):3} of {DESIGNS}")
if SMOKE:
    good[:] = True  # too few designs to be choosy

chosen = []
for i in designs.reward.argsort(descending=True).tolist():
    differences = [int((designs.x[i] != designs.x[j]).sum()) for j in chosen]
    if good[i] and min(differences, default=80) >= 30 and len(chosen) < 8:
        chosen.append(i)

# %% [markdown]
# Rules that must hold are better built into the search than applied afterwards: see the second tutorial.
#
# Write the chosen ones down: FASTA for the company that makes them, CSV with all numbers for your notebook. Files that exist
# are not overwritten unless you say so.

# %%
best = designs[chosen]
near = metrics.nearest_neighbour(best.x, promoters.reference)
table = {
    "name": [f"promoter_{i + 1}" for i in range(len(best))],
    "sequence": best.x,
    "oracle": best.reward,
    "heldout": heldout_on["designs"][chosen],
    "nelbo": nelbo_on["designs"][chosen],
    "gc": metrics.gc_content(best.x),
    "nearest_promoter": [promoters.reference.genes[row] for row in near.row.tolist()],
    "bases_from_it": near.distance,
}
promoters.codec.write_csv(OUT / "promoters.csv", table, overwrite=True)
notes = [f"oracle={mine:.2f} heldout={other:.2f}" for mine, other in zip(table["oracle"], table["heldout"])]
promoters.codec.write_fasta(OUT / "promoters.fasta", best.x, table["name"], notes, overwrite=True)
print((OUT / "promoters.fasta").read_text())

# %% [markdown]
# ## 8. The same in one line
#
# The command `tiltflow` does all of this but the picking, and writes a report. In a terminal it is just
#
#     tiltflow
#
# for the default job (which is greedier than ours, alpha 0.05), or with choices, for instance
#
#     tiltflow n=64 alpha=0.5 method.candidates=8 seed=1
#     tiltflow -m method=best_of_n,svdd,smc alpha=0.2,1
#
# where the second runs all combinations and ends with a table of them. `tiltflow --help` lists the choices. Here we start
# the command from Python:

# %%
arguments = [f"n={DESIGNS}", f"steps={STEPS}", f"alpha={ALPHA}", "seed=1", f"out={OUT / 'runs'}"]
arguments += ["natural=20", "pretrained=20"] if SMOKE else []
done = subprocess.run([sys.executable, "-m", "tiltflow", *arguments], capture_output=True, text=True)
print(done.stdout, done.stderr)
done.check_returncode()

# %% [markdown]
# Open the `report.html` that it names. It begins with the answer: both oracles before and after. Notes below it appear where
# a number of that very run calls for caution, for instance when the held-out oracle did not follow. Then come what was
# asked, what came out, the figures of section 5, the best designs, what it cost, and how to repeat it. It is a
# single file: send it to a colleague as it is.
#
# All that a run holds can be loaded again: by its folder, or, as here, by the folder that holds all runs, whose latest is
# taken. Nothing in a run folder is ever executed, so it is safe to load one that somebody sent you.

# %%
run = tiltflow.load(OUT / "runs")
print(f"{run.info['status']} in {run.info['seconds']} s, columns: {', '.join(run.columns)}")
for key in ("reward_median", "heldout_median", "kmer3_correlation", "diversity"):
    print(f"{key:18} pretrained {run.metrics['pretrained'][key]:6.3f}, steered {run.metrics['steered'][key]:6.3f}")

top = int(run.samples.best)
print(f"the highest reward, {run.samples.reward[top]:.2f} (held-out {run.columns['heldout'][top]:.2f}), is that of")
print(promoters.codec.decode(run.samples.x[[top]])[0])

# %% [markdown]
# ## Before you order
#
# All numbers here are predictions. The two oracles learned from experiments of one kind, so they may share errors that
# neither of them reveals. Add controls to the order: natural promoters of known strength, and a few samples that were not
# steered. Then the measurement tells how far the oracle could be trusted, and becomes the training data of a better one.
#
# Next: `your_own_sequences.py` does the same with sequences and measurements of your own.
