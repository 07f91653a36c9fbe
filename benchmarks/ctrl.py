"""CTRL on promoters: add an expression level (low, middle, high) to the shipped, unconditional model, and compare.

    python benchmarks/ctrl.py data [--steps 400]     # the folder that holds dna/yeast; about fifteen minutes on one core

The labels are thirds of the measured YPD expression of one half of the sequences; the classifier sees only those, relatives
apart. What is asked for is judged by the held-out oracle, fitted to the other half. Compared with classifier-free training
on the same labels and with classifier guidance, which tunes nothing. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tiltflow.core import (
    CTRL,
    Classifier,
    Conditions,
    Diffusion,
    Doob,
    Labelled,
    PosteriorMean,
    Tilt,
    add_condition,
    fit_classifier,
    given,
    guide,
    ignore,
)
from tiltflow.core.classifier import ClassifierFit
from tiltflow.core.networks import SequenceRegressor
from tiltflow.core.tuning import ClassifierFree, GumbelSoftmax
from tiltflow.dna import encode
from tiltflow.domains import dna
from tiltflow.domains.dna.data import FLANKS, expression_families, expression_folds, load_expression
from tiltflow.memory import keep_memory
from tiltflow.rewards import expression
from torch import Tensor

LEVELS = ("low", "middle", "high")
TRAIN_STEPS, DRAWS = 4, 256  # few denoising steps and many optimiser steps: best for the time


def labelled(data: Path) -> tuple[Labelled, Tensor]:
    """Half the measured promoters with the third that their expression is in, and the two edges between thirds."""
    measured = load_expression(data)
    families = expression_families(measured)
    fold, level = expression_folds(measured, families), measured.expression[:, 0]
    kept = torch.from_numpy(fold == "A") & ~level.isnan()
    edges = level[kept].quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    x, groups = measured.tokens[kept], torch.from_numpy(families)[kept]
    return Labelled(x, {"level": torch.bucketize(level[kept], edges)}, groups), edges


def classify(data: Labelled) -> Classifier:
    flanks = [encode(flank).tolist() for flank in FLANKS]
    torch.manual_seed(0)
    network = SequenceRegressor(4, 80, len(LEVELS), scanners=128, both_strands=True, flanks=flanks)
    settings = ClassifierFit(steps=1500)
    return fit_classifier(network, data, "level", generator=torch.Generator().manual_seed(0), settings=settings)


def judged(model: Diffusion, classifier: Classifier, edges: Tensor, domain: Any) -> dict[str, Any]:
    """Figures of samples for each level asked for."""
    judge = expression("YPD", heldout=True)
    rows: dict[str, Any] = {}
    for level, name in enumerate(LEVELS):
        cond = {"level": torch.tensor([level])}
        x = given(model, cond).sample(DRAWS, generator=torch.Generator().manual_seed(level))
        with torch.no_grad():
            said = classifier.log_probs(x)
            found = judge(x)
        figures = domain.metrics(x, reward=found, heldout=found)
        rows[name] = {
            "classifier_agrees": float((said.argmax(1) == level).double().mean()),
            "held_out_agrees": float((torch.bucketize(found, edges) == level).double().mean()),
            "held_out_median": float(found.median()),
            "kmer3": figures["kmer3_correlation"],
            "diversity": figures["diversity"],
            "nelbo": float(domain.nelbo(x, draws=8, generator=torch.Generator().manual_seed(0)).median()),
        }
    return rows


@torch.no_grad()
def aimed_at(classifier: Classifier, edges: Tensor, domain: Any, draws: int = 2048) -> dict[str, Any]:
    """What p(x | y) itself would give, by the importance weights p(y | x) of pretrained samples: where alpha = 1 leads."""
    x = domain.diffusion.sample(draws, generator=torch.Generator().manual_seed(7))
    log_p, found = classifier.log_probs(x), expression("YPD", heldout=True)(x)
    rows = {}
    for level, name in enumerate(LEVELS):
        weight = log_p[:, level].softmax(0)
        order = found.argsort()
        median = found[order][torch.searchsorted(weight[order].cumsum(0), 0.5)]
        rows[name] = {
            "classifier_agrees": float(weight @ (log_p.argmax(1) == level).double()),
            "held_out_agrees": float(weight @ (torch.bucketize(found, edges) == level).double()),
            "held_out_median": float(median),
            "effective_samples": float(1 / (weight**2).sum()),
        }
    return rows


def tuned(model: Diffusion, classifier: Classifier, data: Labelled, steps: int) -> Diffusion:
    tilt = Tilt(replace(model, steps=TRAIN_STEPS), classifier, 1.0)
    table = Conditions({"level": torch.arange(len(LEVELS))})
    tokens = GumbelSoftmax(0.5, None)
    rates: dict[str, Any] = {"learning_rate": 2e-3, "warmup": 5, "final_rate": 0.02, "average": 0.95}
    method = CTRL(steps=steps, batch=32, conditions=table, estimator=tokens, save_memory=False, **rates)
    found = method.fit(tilt, generator=torch.Generator().manual_seed(0), observe=[_report])
    return replace(found, steps=model.steps)


def classifier_free(model: Diffusion, classifier: Classifier, data: Labelled, steps: int) -> Diffusion:
    method = ClassifierFree(steps=steps, batch=128, learning_rate=1e-3, final_rate=0.05, average=0.98, data=data)
    return method.fit(Tilt(model, classifier, 1.0), generator=torch.Generator().manual_seed(0))


def classifier_guided(model: Diffusion, classifier: Classifier, strength: float) -> Diffusion:
    """The pretrained model, guided by the classifier's gradient at the mean of the clean estimate."""
    value = PosteriorMean("soft")
    tilt = Tilt(ignore(model, ["level"]), classifier, 1.0, value=value, cond={"level": torch.tensor([0])})
    return Doob("first-order", strength=strength).guided(tilt)


def _report(progress: Any) -> None:
    if progress.step % 25 == 0:
        print(progress.step, {k: round(v, 3) for k, v in progress.facts.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--free-steps", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    domain = dna.load("yeast")
    data, edges = labelled(options.data)
    started = time.process_time()
    classifier = classify(data)
    results: dict[str, Any] = {"edges": edges.tolist(), "classifier": asdict(classifier.quality)}
    results["classifier"]["cpu_seconds"] = time.process_time() - started
    print(json.dumps(results), flush=True)
    model = add_condition(domain.diffusion, {"level": len(LEVELS)})
    results["aimed_at"] = aimed_at(classifier, edges, domain)
    print(json.dumps(results["aimed_at"]), flush=True)
    results["pretrained"] = judged(model, classifier, edges, domain)
    started = time.process_time()
    found = tuned(model, classifier, data, options.steps)
    results["ctrl_cpu_seconds"] = time.process_time() - started
    results["ctrl"] = judged(found, classifier, edges, domain)
    results["ctrl_strength_2"] = judged(guide(found, 2.0, base=model), classifier, edges, domain)
    print(json.dumps(results, indent=1), flush=True)
    started = time.process_time()
    free = classifier_free(model, classifier, data, options.free_steps)
    results["classifier_free_cpu_seconds"] = time.process_time() - started
    for strength in (1.0, 2.0):
        guided = guide(free, strength, drop=["level"])
        results[f"classifier_free_{strength:g}"] = judged(guided, classifier, edges, domain)
    for strength in (1.0, 3.0):
        guided = classifier_guided(model, classifier, strength)
        results[f"classifier_guidance_{strength:g}"] = judged(guided, classifier, edges, domain)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
