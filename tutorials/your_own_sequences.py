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
# # Your own sequences
#
# You have sequences, and numbers that you measured for some of them. This tutorial goes from these two files to designs:
#
# 1. read FASTA and CSV, and see what happens when something is wrong with them;
# 2. train a small model of your sequences (the *prior*);
# 3. fit two predictors to your measurements, each on its own half: one to optimise (the *oracle*), one to judge by;
# 4. design under constraints: fixed bases, forbidden restriction sites, GC content;
# 5. see what goes wrong when one asks for too much.
#
# So that we can check the end result, the "measurements" here are simulated: we know the rule behind them. With real data that
# is the one thing you never have, and why steps 3 and 5 matter. Put your own files in place of ours and the rest stays.
#
# Run it with `python your_own_sequences.py`, or as a notebook after `jupytext --to ipynb your_own_sequences.py`. It takes a
# few minutes on two cores. All files go to the folder `your_own_sequences` below the one you are in.

# %%
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: quicker where others use the cores, too

import matplotlib.pyplot as plt
import torch

from tiltflow.core import SVDD, Pretraining, Progress, Tilt
from tiltflow.dna import decode, encode
from tiltflow.domains import dna
from tiltflow.domains.dna import plots
from tiltflow.rewards import CnnSettings, ForbiddenSites, GcWindow, Require, Sum, Term, fit_cnn, fit_kmer_ridge
from tiltflow.rewards.learned import pearson

SMOKE = os.environ.get("SMOKE_TEST") == "1"  # only check that everything runs: the numbers then mean nothing
LIBRARY = 140 if SMOKE else 3000
MEASURED = 120 if SMOKE else 2000
TRAINING = 4 if SMOKE else 800
EPOCHS = 1 if SMOKE else 20
DESIGNS = 4 if SMOKE else 48
STEPS = 4 if SMOKE else 48

OUT = Path("your_own_sequences")
OUT.mkdir(exist_ok=True)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"})
dice = torch.Generator().manual_seed(0)  # everything random below draws from it


# %% [markdown]
# ## 0. The laboratory that we simulate
#
# Somebody took natural yeast promoters as backgrounds, planted binding sites of an activator and of a repressor in some
# of them, and measured expression. The library is real apart from the planted sites. The rule of expression is ours:
# a site of the activator helps, the more the closer it lies to the gene (at the end of the sequence), and further sites
# add ever less; a site of the repressor costs one unit. Nothing else matters. No promoter can exceed 7.
#
# Everything after this cell pretends not to know the rule, until we use it to check the result.

# %%
ACTIVATOR, REPRESSOR = "TGACTCA", "GATAAG"
FLANKS = ("ACTGGCCGCTTCACTG", "CGGACCAGGATGGGCA")  # the constant ends of the construct


def other_strand(text):
    return text.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def sites(text, word):
    """Where `word` starts, on either strand, counted from 0."""
    return [i for i in range(len(text) - len(word) + 1) if text[i : i + len(word)] in (word, other_strand(word))]


def rule(text):
    """True expression."""
    activation = sum(0.5 + 0.5 * start / len(text) for start in sites(text, ACTIVATOR))
    return 4 + 3 * (1 - math.exp(-1.5 * activation)) - len(sites(text, REPRESSOR))


def truth(x):
    """True expression of tokens [B, L]: float64 [B]."""
    return torch.tensor([rule(text) for text in decode(x)], dtype=torch.float64)


def chance():
    return float(torch.rand((), generator=dice))


shipped = dna.load("yeast", steps=STEPS)
order = torch.randperm(len(shipped.reference.tokens), generator=dice)
planted = shipped.reference.tokens[order[:LIBRARY]].clone()
for row in planted:
    for word in (ACTIVATOR, ACTIVATOR, REPRESSOR):
        if chance() < 0.3:
            start = int(chance() * (len(row) - len(word)))
            row[start : start + len(word)] = encode(word if chance() < 0.5 else other_strand(word))
noisy = truth(planted) + 0.7 * torch.randn(LIBRARY, generator=dice)

texts = decode(planted)
texts[2] = texts[2][:30] + "N" + texts[2][31:]  # the sequencer was not sure
texts[4] = texts[4].lower()  # some programs write repeats in lower case
constructs = [FLANKS[0] + text + FLANKS[1] for text in texts]
(OUT / "library.fasta").write_text("".join(f">seq{i}\n{text}\n" for i, text in enumerate(constructs)))
lines = [f"seq{i},{constructs[i]},{noisy[i]:.3f}" for i in range(10, 10 + MEASURED) if i < LIBRARY]
(OUT / "measured.csv").write_text("\n".join(["name,construct,expression", *lines]) + "\n")

# %% [markdown]
# ## 1. Read your files
#
# `DnaCodec(80)` reads sequences of 80 bases. It never guesses: what does not fit is refused, with the line and a
# way out, and all problems of a file are listed at once. Here is what a first attempt on our files says.

# %%
codec = dna.DnaCodec(80)


def attempt(reader, *arguments, **options):
    """Read, or print why not."""
    try:
        return reader(*arguments, **options)
    except dna.CodecError as error:
        print("\n".join(str(error).splitlines()[:4]), "\n")


attempt(codec.read_fasta, OUT / "library.fasta")  # the sequences have more than 80 letters
attempt(codec.read_fasta, OUT / "library.fasta", prefix=FLANKS[0], suffix=FLANKS[1])  # flanks off: an N is left
attempt(codec.read_csv, OUT / "measured.csv", "sequence", labels="expresion", prefix=FLANKS[0], suffix=FLANKS[1])

# %% [markdown]
# So: strip the constant flanks of the construct, leave out sequences with ambiguous letters, and name the right columns. The
# report says what was done; keep it with your results. Lower-case letters are read as upper case.
#
# A cell that is not a number is an error as well. One that is empty is a measurement that was not made: it becomes NaN,
# which fits leave out, and the report counts it. (A blank that silently became 0 would teach the oracle something false.)

# %%
library = codec.read_fasta(OUT / "library.fasta", prefix=FLANKS[0], suffix=FLANKS[1], ambiguous="skip")
measured = codec.read_csv(OUT / "measured.csv", "construct", labels="expression", prefix=FLANKS[0], suffix=FLANKS[1])
print(library.report)
print(measured.report)

table = f"name,sequence,expression\na,{texts[5]},3.1\nb,{texts[6]},\n"
(OUT / "holes.csv").write_text(table)
print(codec.read_csv(OUT / "holes.csv", labels="expression").report, "\n")
(OUT / "broken.csv").write_text(table + f"c,{texts[7]},n.d.\n")
attempt(codec.read_csv, OUT / "broken.csv", labels="expression")

# %% [markdown]
# ## 2. Train a prior on them
#
# The prior decides which designs are within reach: steering chooses among what the prior proposes, and what it never
# proposes cannot be chosen. The shipped model knows natural promoters. Yours knows your library.
#
# A tenth of the sequences is set aside to see whether the model learns more than its training set by heart, and with each
# sequence all of its relatives: a model that saw a near copy need not have learned anything. The network is small, since
# 3 000 sequences are few. An interrupted training goes on where it stopped when run again; we delete what an earlier
# run left, to start anew.

# %%
corpus = dna.sequence_corpus(library.tokens)
settings = Pretraining(steps=TRAINING, batch=64, learning_rate=3e-3, warmup=50, validate_every=max(1, TRAINING // 16))
network = {"channels": 48, "kernel": 9, "dilations": (1, 2), "dropout": 0.1}

(OUT / "prior.checkpoint.safetensors").unlink(missing_ok=True)
for progress in dna.train_prior(corpus, OUT / "prior.safetensors", settings, network=network):
    row = progress.curve[-1]
    print(f"step {row['step']:4}: training {row['train']:.4f}, validation {row['validation']:.4f} nats per base")

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
steps = [row["step"] for row in progress.curve]
axes.plot(steps, [row["train"] for row in progress.curve], color="#0072B2", marker=".", label="training")
axes.plot(steps, [row["validation"] for row in progress.curve], color="#D55E00", marker=".", label="validation")
axes.axhline(math.log(4), color="#999999", linestyle=":", label="chance, log 4")
axes.set(xlabel="step", ylabel="loss (nats per base)", title="Training of the prior")
axes.legend(frameon=False)
plots.show(figure, OUT / "1_training.png")

# %% [markdown]
# Where the training curve goes on falling and the validation curve turns up again, the model begins to learn its training
# set by heart: stop there, or make the network smaller.
#
# Statistics of your library go along with the prior: they are what designs are compared with. We take over the known
# yeast motifs of the shipped statistics, so that motifs can be counted.

# %%
reference = dna.Reference.build(library.tokens, library.names, shipped.reference.motifs, info={"data": "my library"})
reference.save(OUT / "reference.safetensors")
own = dna.load(OUT / "prior.safetensors", steps=STEPS, reference=OUT / "reference.safetensors")
print(own.source)

# %% [markdown]
# The line above also gives the loss of a Markov chain on the same held-out sequences (order 5: each base predicted from
# the five before it). Such chains are good at short fixed words, such as the ones planted here, so with few sequences they may
# well win on this number. A chain cannot be steered base by base, though, nor filled in around fixed sites.
#
# What did each prior learn that matters here? We take the motifs that are most enriched in your library over natural
# promoters, and count them in samples of your prior and of the shipped one.

# %%
samples = own.diffusion.sample(8 if SMOKE else 400, generator=dice)
foreign = shipped.diffusion.sample(8 if SMOKE else 400, generator=dice)
enriched = (own.reference.motif_rate - shipped.reference.motif_rate).argsort(descending=True)[:6].tolist()
rates = {
    "your library": own.reference.motif_rate,
    "samples of your prior": own.reference.motif_hits(samples).double().mean(0),
    "samples of the shipped prior": own.reference.motif_hits(foreign).double().mean(0),
}

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for i, ((name, rate), colour) in enumerate(zip(rates.items(), ("#999999", "#D55E00", "#0072B2"))):
    axes.bar([place + 0.27 * (i - 1) for place in range(6)], rate[enriched].tolist(), 0.25, color=colour, label=name)
axes.set_xticks(range(6), [own.reference.motifs[i].name.split(".")[-1] for i in enriched])
axes.set(ylabel="hits per sequence", title="The motifs most enriched in your library")
axes.legend(frameon=False)
plots.show(figure, OUT / "2_motifs.png")

# %% [markdown]
# Your prior has learned the commonest of them, though it writes them less often than your library has them. The shipped
# prior hardly ever writes some. It cannot be steered to what it does not propose, and section 5 shows what happens if one
# tries.
#
# If your sequences are close to natural yeast promoters and few, `dna.train_prior(..., start="yeast")` goes on from the shipped
# model instead of from nothing.

# %% [markdown]
# ## 3. Fit an oracle, and a judge
#
# Whatever is optimised gets exploited where it is wrong. So fit two predictors of *different kinds* on *different halves*:
# the oracle (a convolutional network) is optimised, the judge (ridge regression on word counts) never is. A third part
# tests both.
#
# Relatives must not cross between the parts: a network that saw a variant of a test sequence does not predict it, it
# remembers. `split_families` links sequences that share a 20-mer or agree at most positions, and moves whole families.

# %%
family, part = dna.split_families(measured.tokens, {"oracle": 0.4, "judge": 0.4, "test": 0.2})
x, y = measured.tokens, measured.labels["expression"]
a, b, test = (torch.from_numpy(part == name) for name in ("oracle", "judge", "test"))
print(f"{int(a.sum())} sequences for the oracle, {int(b.sum())} for the judge, {int(test.sum())} to test both")

blank = fit_cnn(x[a], y[a], generator=dice, settings=CnnSettings(epochs=EPOCHS, batch=64), groups=family[part == "oracle"])
oracle = fit_cnn(
    x[a],
    y[a],
    generator=dice,
    settings=CnnSettings(epochs=EPOCHS, batch=64, scanners=192),  # room for all motifs and some more
    motifs=own.reference.motifs,
    groups=family[part == "oracle"],
)
judge = fit_kmer_ridge(x[b], y[b], generator=dice, groups=family[part == "judge"])

predictors = {
    "network from nothing": blank.reward(),
    "network from known motifs (the oracle)": oracle.reward(),
    "ridge on words (the judge)": judge.reward(),
}
for name, predictor in predictors.items():
    print(f"{name:40} R = {pearson(predictor(x[test]), y[test]):.2f} on the test part")

# %% [markdown]
# Some hundreds of measurements are too few for a network to discover motifs from nothing. Started from known motifs, it
# only has to learn which of them matter, how much and where, and that is worth more than any other setting. If you have no
# motif collection for your organism and few measurements, optimise the ridge instead.
#
# The simulation lets us say how good a predictor could be: this far and no further, because of the noise in the
# measurements. (With real data, replicates tell you.)

# %%
print(f"the truth itself: R = {pearson(truth(x[test]), y[test]):.2f} with the measurements of the test part")

figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
for axes, name in zip(panels, ("network from known motifs (the oracle)", "ridge on words (the judge)")):
    axes.scatter(predictors[name](x[test]), y[test], s=8, color="#0072B2", alpha=0.6, linewidths=0)
    axes.plot([1, 8], [1, 8], color="#333333", linestyle=":", linewidth=1)
    axes.set(xlabel="predicted", title=name, xlim=(1, 8), ylim=(0, 9))
panels[0].set_ylabel("measured (test part)")
plots.show(figure, OUT / "3_predictors.png")

oracle.save(OUT / "oracle.safetensors")
judge.save(OUT / "judge.safetensors")

# %% [markdown]
# ## 4. Design under constraints
#
# There are two places for a constraint:
#
# * **in the sampler**, for what is said site by site: a template in IUPAC letters. It holds for every design, at no cost. Ours
#   wants a TATA box at positions 55 to 60;
# * **in the reward**, for what concerns the sequence as a whole: `Require` makes it minus infinity where it is broken.
#   Steering avoids that while it can; the few designs that end there are dropped. Ours wants 30 to 55 % GC, and no
#   site of EcoRI or BsaI on either strand.
#
# A template that makes a forbidden site unavoidable is refused before anything is computed:

# %%
try:
    dna.constrain(own, {20: "GAATTC"}, forbidden=["EcoRI", "BsaI"])
except dna.TemplateError as error:
    print(error)

# %% [markdown]
# This one is possible. What was understood is echoed: read it. `Sum` states the whole aim, each term with its direction.

# %%
constrained = dna.constrain(own, {55: "TATAAA"}, forbidden=["EcoRI", "BsaI"])
print(constrained.constraints)

aim = Sum(
    [
        Term(oracle.reward(), 1.0, "maximize", name="expression"),
        Require(GcWindow(0.30, 0.55), at_least=0, name="GC 30 to 55 %"),
        Require(ForbiddenSites(["EcoRI", "BsaI"]), at_least=0, name="no EcoRI, no BsaI"),
    ]
)
tilt = Tilt(constrained.diffusion, aim, alpha=0.1)
designs = SVDD().sample(tilt, DESIGNS, generator=dice, observe=[Progress()])

kept = designs[designs.reward.isfinite()].x
print(f"{len(kept)} of {DESIGNS} designs keep all rules")
print("all have the TATA box:", all(text[54:60] == "TATAAA" for text in decode(kept)))

# %% [markdown]
# Now the question that one can never ask of real data: are the designs as good as predicted? Each box shows the middle half
# of a set.

# %%
sets = {"your library": library.tokens, "samples": samples, "designs": kept}
scorers = {"oracle": oracle.reward(), "judge": judge.reward(), "truth": truth}
colours = ("#D55E00", "#0072B2", "#009E73")

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for i, ((name, scorer), colour) in enumerate(zip(scorers.items(), colours)):
    boxes = [scorer(tokens).numpy() for tokens in sets.values()]
    places = [place + 0.25 * (i - 1) for place in range(len(sets))]
    drawn = axes.boxplot(boxes, positions=places, widths=0.2, patch_artist=True, showfliers=False, manage_ticks=False)
    for box, median in zip(drawn["boxes"], drawn["medians"]):
        box.set(facecolor=colour, alpha=0.6)
        median.set(color="black")
    axes.plot([], [], "s", color=colour, alpha=0.6, label=name)
    print(f"{name:7}" + "".join(f"   {of}: mean {scores.mean():.2f}" for of, scores in zip(sets, boxes)))
axes.axhline(7, color="#333333", linestyle=":", label="the most that the truth allows")
axes.set_xticks(range(len(sets)), sets)
axes.set(ylabel="expression", title="What was predicted, and what is true")
figure.legend(frameon=False, loc="outside lower center", ncols=4)
plots.show(figure, OUT / "4_truth.png")

# %% [markdown]
# The truth rose, and by less than the oracle says. That is the rule and not bad luck: of two equally good sequences, the one
# that the oracle overrates is chosen. The judge sees part of this, since its errors are others. It does not see all of it:
# both learned from the same kind of data and share some errors.
#
# ## 5. Asking for too much
#
# What if we lower alpha further and further? We do it twice: with your prior, and with the shipped one that hardly ever
# writes the sites that matter.

# %%
alphas = [3.0, 0.3] if SMOKE else [3.0, 1.0, 0.3, 0.1, 0.03, 0.01]
curves = {}
for title, domain in (("Prior of your library", own), ("Shipped prior", shipped)):
    for alpha in alphas:
        found = SVDD().sample(Tilt(domain.diffusion, oracle.reward(), alpha=alpha), DESIGNS // 2, generator=dice).x
        curves[title, alpha] = [float(scorer(found).mean()) for scorer in scorers.values()]
        means = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(scorers, curves[title, alpha]))
        print(f"{title:22} alpha {alpha:<5} {means}")

figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
for axes, title in zip(panels, ("Prior of your library", "Shipped prior")):
    for i, (name, style) in enumerate(zip(scorers, ("o-", "s--", "D-"))):
        means = [curves[title, alpha][i] for alpha in alphas]
        axes.plot(alphas, means, style, color=colours[i], label={"oracle": "oracle (optimised)"}.get(name, name))
    axes.axhline(7, color="#333333", linestyle=":", label="the most that the truth allows")
    axes.set(xscale="log", xlabel="alpha (right: greedy)", title=title)
    axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axes.minorticks_off()
    axes.invert_xaxis()  # greedier to the right
panels[0].set_ylabel("mean expression")
handles, labels = panels[0].get_legend_handles_labels()
figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4)
plots.show(figure, OUT / "5_too_much.png")

# %% [markdown]
# Read from left to right, toward greed.
#
# * With your prior, oracle and truth rise together at first. Then the truth stops rising, or falls, while the oracle stays
#   above it: from there on, you only collect errors of the oracle.
# * With the shipped prior, the oracle promises a gain as well, and little of it is real. The good sites are
#   hardly in reach, so errors are most of what is left to collect. The oracle alone does not show the difference. The judge
#   does, in part: its gap to the oracle is wider.
#
# What to do, then, without the truth at hand: stop where the judge stops following; choose designs at two or three alphas; and
# measure some, which gives labels exactly where the oracle is least sure.
#
# ## 6. Keep it, and use it from the command line
#
# Write the designs down, best first, with both scores. The prior, the oracle and the judge are files by now, and the command
# takes them as they are.

# %%
best = kept[aim(kept).argsort(descending=True)]
table = {
    "name": [f"design_{i + 1}" for i in range(len(best))],
    "sequence": best,
    "oracle": oracle.reward()(best),
    "judge": judge.reward()(best),
    "truth": truth(best),  # only in a simulation
}
codec.write_csv(OUT / "designs.csv", table, overwrite=True)
codec.write_fasta(OUT / "designs.fasta", best, table["name"], overwrite=True)

arguments = [
    f"domain.prior={OUT / 'prior.safetensors'}",
    f"domain.reference={OUT / 'reference.safetensors'}",
    "domain.template=N54 TATAAA N20",
    "domain.forbidden=[EcoRI,BsaI]",
    "reward=fitted",
    f"reward.file={OUT / 'oracle.safetensors'}",
    f"heldout.file={OUT / 'judge.safetensors'}",
    "alpha=0.1",
    f"n={DESIGNS}",
    f"steps={STEPS}",
    f"out={OUT / 'runs'}",
]
arguments += ["natural=20", "pretrained=20"] if SMOKE else []
print(shlex.join(["tiltflow", *arguments]))
done = subprocess.run([sys.executable, "-m", "tiltflow", *arguments], capture_output=True, text=True)
print(done.stdout, done.stderr)
done.check_returncode()

# %% [markdown]
# Training works from the command line, too (`tiltflow pretrain --help` has all keys). `part=oracles` starts from the motifs
# that are shipped with tiltflow, as we did; `motifs=my_motifs.pfm` names others:
#
#     tiltflow pretrain part=prior sequences=library.fasta prefix=ACTGG... suffix=CGGAC... ambiguous=skip out=models
#     tiltflow pretrain part=oracles sequences=measured.csv column=construct labels=[expression] prefix=... out=models
#     tiltflow pretrain part=reference sequences=library.fasta prefix=ACTGG... suffix=CGGAC... ambiguous=skip out=models
