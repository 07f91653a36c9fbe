"""Several aims at once: is the front of a joint search beaten by searches for one aim alone at as many calls? Prints JSON.

    python benchmarks/pareto.py [--calls 2000] [--seed 0] [--figure benchmarks/figures/pareto.png]

The four aims of `reward=multi`: QED, synthetic accessibility, logD between 1 and 3, similarity to celecoxib, each as a
desirability between 0 and 1. The joint search spends most of its calls on the geometric mean of all four, and the rest in
equal parts on means in which one aim in turn counts more, each going on from the front found so far; each single search
spends as many calls on one aim. Then all that any of them asked for is looked at in all four aims, and no molecule of a
single search should beat one of the joint front.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from tiltflow.domains import molecules
from tiltflow.domains.molecules.data import prepare
from tiltflow.domains.molecules.optimise import Evolution
from tiltflow.rewards import Budget, hypervolume, pareto_front
from tiltflow.rewards.molecules import Descriptor, Molecular, Part, Profile, Property, Ramp, Similarity, Window, parse

LEAD = "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1"
PARTS = (
    Part(Descriptor("qed"), name="QED"),
    Part(Descriptor("sa_unit"), name="accessibility"),
    Part(Property("logd"), Window(1.0, 3.0, slack=2.0), name="logD in 1 to 3"),
    Part(Similarity([LEAD]), Ramp(0.0, 0.6), name="similarity to the lead"),
)
EMPHASIS = 3.0  # weight of the part that counts more
JOINT = 0.6  # share of the calls in which all parts count the same


def search(profile: Profile, calls: int, seed: int, begin: Sequence[str] = ()) -> list[str]:
    """Molecules that a search for this profile asked for, `calls` new ones; it goes on from `begin`, where given."""
    reward = Molecular(profile, "maximize", invalid=0.0, budget=Budget(calls + len(begin)))
    domain, generator = molecules.load(), torch.Generator().manual_seed(seed)
    if begin:
        domain = replace(domain, reference=SimpleNamespace(tokens=domain.codec.encode(begin)))
    Evolution(start=len(begin) or min(200, calls // 4)).run(domain, reward, generator=generator)
    return [call.text for call in reward.budget.calls]


def writable(smiles: Sequence[str]) -> list[str]:
    """Those that the prior has words for."""
    return [text for text in smiles if prepare([text]).smiles]


def aims(smiles: Sequence[str]) -> torch.Tensor:
    """What each molecule is worth in each aim, float64 `[N, 4]`."""
    return torch.tensor([[part(mol) for part in PARTS] for mol in map(parse, smiles)], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=Path("benchmarks/figures/pareto.png"))
    options = parser.parse_args()
    share = int(options.calls * (1 - JOINT)) // len(PARTS)
    joint = search(Profile(PARTS), options.calls - share * len(PARTS), options.seed)
    for chosen in range(len(PARTS)):
        weighed = [replace(part, weight=EMPHASIS if i == chosen else 1.0) for i, part in enumerate(PARTS)]
        begin = writable([text for text, kept in zip(joint, pareto_front(aims(joint)).tolist(), strict=True) if kept])
        joint = list(dict.fromkeys([*joint, *search(Profile(weighed), share, options.seed + 1 + chosen, begin)]))
    found = {"joint": aims(joint)}
    for part in PARTS:
        found[part.name] = aims(search(Profile([part]), options.calls, options.seed))
    front = found["joint"][pareto_front(found["joint"])]
    told = {"calls": options.calls, "asked": len(joint), "seed": options.seed, "front": len(front)}
    told["hypervolume"] = {name: round(hypervolume(best(values), [0] * 4), 4) for name, values in found.items()}
    told["beaten_by"] = {name: beaten(front, values) for name, values in found.items() if name != "joint"}
    told["geometric_mean"] = {n: round(float(v.clamp(min=0).log().mean(1).exp().max()), 4) for n, v in found.items()}
    print(json.dumps(told, indent=1))
    draw(found, front, options.figure)


def best(values: torch.Tensor, most: int = 60) -> torch.Tensor:
    """The front; of a large one the points with the best geometric mean, since the volume takes long."""
    front = values[pareto_front(values)]
    return front[front.clamp(min=1e-9).log().mean(1).argsort(descending=True)[:most]]


def beaten(front: torch.Tensor, rivals: torch.Tensor) -> int:
    """How many points of the front some rival beats: as good in every aim and better in one."""
    return sum(bool(((rivals >= point).all(1) & (rivals > point).any(1)).any()) for point in front)


def draw(found: dict[str, torch.Tensor], front: torch.Tensor, path: Path) -> None:
    """Every aim against similarity, the searches in colours and the joint front ringed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharey=True)
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#999999")
    for column, axes in enumerate(panels):
        for (name, values), colour in zip(found.items(), colours, strict=True):
            axes.scatter(values[:, column], values[:, 3], s=4, alpha=0.4, color=colour, label=name, linewidths=0)
        axes.scatter(front[:, column], front[:, 3], s=18, facecolors="none", edgecolors="black", linewidths=0.6,
                     label="joint front")  # fmt: skip
        axes.set_xlabel(f"{PARTS[column].name} (desirability, 0 to 1)")
    panels[0].set_ylabel("similarity to the lead (desirability, 0 to 1)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, markerscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
