"""report.html: what was asked, what came out, how far to trust it, and how to do it again, for someone who was not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import page, summary, tuned
from .core.particles import ess
from .core.storage import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from .domains import Drawing
    from .job import Result
    from .scores import Scored

TOP = 10
OBJECTIVES = 4  # that are drawn against each other
REPORT, FIGURES = "report.html", "figures"
SAMPLES = ("samples.fasta", "samples.sdf")  # what a domain may write beside samples.csv


def write_report(result: Result) -> Path:
    """Draw the figures and write the page; returns its path."""
    files = draw(result)
    path = result.folder / REPORT
    body = [*_opening(result), *_asked(result), *_came_out(result), *_figures(files), *_designs(result), *_end(result)]
    write_text(path, page.page(f"tiltflow: {_subject(result)}", body))
    return path


def _subject(result: Result) -> str:
    names = result.plan.names
    return f"{names['domain']} designs toward {names['reward']}"


# --- figures -------------------------------------------------------------------------------------------------------


def draw(result: Result) -> list[tuple[Path, str]]:
    """Write the figures as PNG: those that every domain has, and the domain's own; (file, caption) each."""
    from .domains.canvas import save

    made = []
    own = {**result.sets, "steered": result.sets[result.plan.designs]}  # what domains call the designs
    curves = tuned.figures(result) if result.plan.tunes else ()
    for drawing in (*curves, *_common(result), *result.plan.domain.figures(own)):
        path = result.folder / FIGURES / f"{drawing.name}.png"
        save(drawing.figure, path)
        made.append((path, drawing.caption))
    return made


def _common(result: Result) -> Iterator[Drawing]:
    """Rewards, naturalness, and the trace of the run."""
    from .domains import Drawing, figures

    label, natural, unit = result.plan.label, result.sets.get("natural"), result.plan.domain.unit
    before, after = result.sets["pretrained"], result.sets[result.plan.designs]
    yield Drawing(
        "reward",
        figures.reward_histogram(before.reward, after.reward, None if natural is None else natural.reward, label),
        f"The reward of natural {unit}s, of samples of the pretrained model, and of the designs. Dashed lines are medians.",
    )
    clouds = _cloud(after), _cloud(before), None if natural is None else _cloud(natural)
    yield Drawing(
        "naturalness",
        figures.reward_vs_naturalness(*clouds, label, site=result.plan.domain.site),
        f"Reward against naturalness. The horizontal axis is how surprised the pretrained model is by a {unit} (NELBO, an "
        "upper bound of minus its log-probability). Natural is where the natural cloud is: designs to the right of it look "
        "unlike anything the model knows, designs to the left of it are too easy to guess, such as long runs of one token.",
    )
    yield from _pareto(result)
    trace = _mean_trace(result.samples.trace or {})
    if _looked(trace):
        yield Drawing(
            "trace", figures.trace(trace, label=label), _trace_caption(unit, bool(trace["ess"].isfinite().any()))
        )


def _pareto(result: Result) -> Iterator[Drawing]:
    """The objectives against each other, of a reward that says which way each of its parts goes; at most the first four."""
    import torch

    from .domains import Drawing, figures
    from .rewards import pareto_front

    plan, sets = result.plan, result.sets
    aims = list(getattr(plan.tilt.reward_function, "directions", {}).items())[:OBJECTIVES]
    if len(aims) < 2:
        return
    names, lower = [name for name, _ in aims], [way == "minimize" for _, way in aims]
    called = {"natural": "natural", "pretrained": "pretrained", "designs": plan.designs}
    parts = {name: sets[key].parts for name, key in called.items() if key in sets}
    clouds = {name: torch.stack([each[aim] for aim in names], 1) for name, each in parts.items() if each is not None}
    signs = torch.tensor([-1.0 if down else 1.0 for down in lower], dtype=torch.float64)
    front = pareto_front(clouds["designs"] * signs)
    yield Drawing(
        "pareto",
        figures.pareto(clouds, front, names, lower),
        "The parts of the reward against each other. Rings are designs that no other design beats in one part without being "
        "worse in another: the choice among these is yours.",
    )


def _cloud(scored: Scored) -> tuple[Tensor, Tensor]:
    """Reward and NELBO, `[n]` both; a finished job has both of every set."""
    assert scored.nelbo is not None
    return scored.reward, scored.nelbo


def _trace_caption(unit: str, grouped: bool) -> str:
    run, value = (
        f"The run from noise (t = 1) to finished {unit}s (t = 0).",
        "the reward expected of the unfinished ones.",
    )
    if not grouped:
        return f"{run} Shown is {value}"
    return (
        f"{run} Above: the share of the particles of a group that carry its weight; it falls where a few count for many. "
        f"Below: {value}"
    )


def _looked(trace: Mapping[str, Tensor]) -> bool:
    """Whether there was a value on the way: methods such as best-of-N look at the finished samples only."""
    return any(bool((trace[name][:-1] != 0).any()) for name in ("value_q10", "value_q90") if name in trace)


def _mean_trace(trace: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over batches of each step; a batch that was stopped early counts for the steps it has."""
    if not trace:
        return {}
    times = trace["t"].unique().flip(0)
    return {name: _mean_at(times, trace["t"], column) for name, column in trace.items()}


def _mean_at(times: Tensor, t: Tensor, column: Tensor) -> Tensor:
    import torch

    return torch.stack([column[t == time].mean() for time in times])


def _figures(files: list[tuple[Path, str]]) -> Iterator[str]:
    if files:
        yield page.heading("Figures")
        yield from (page.picture(*file) for file in files)


# --- words ---------------------------------------------------------------------------------------------------------


def _opening(result: Result) -> Iterator[str]:
    samples = result.metrics[result.plan.designs]["n"]
    yield page.heading(f"{samples} {_subject(result)}", 1)
    started = result.info["started"][:16].replace("T", " ")
    yield page.paragraph(f"{result.folder.name}, {started}, tiltflow {result.info['versions']['tiltflow']}", "faint")
    yield page.paragraph(f"{_moved(result, 'reward', 'The median reward')} {_held_out(result)}", "lead")
    yield from (page.warning(text) for text in summary.warnings(result))


def _moved(result: Result, key: str, subject: str) -> str:
    before, after = (result.metrics[name].get(f"{key}_median") for name in ("pretrained", result.plan.designs))
    if before is None or after is None:
        return f"{subject} is not defined for one of the sets."
    deviations, unit = result.metrics["gain"].get(f"{key}_median_gain_in_natural_sd"), result.plan.domain.unit
    scale = "" if deviations is None else f" ({deviations:+.1f} standard deviations of natural {unit}s)"
    return (
        f"{subject} went from {before:.2f} for samples of the pretrained model to {after:.2f} for the designs{scale}."
    )


def _held_out(result: Result) -> str:
    if result.plan.heldout is None:
        return (
            "There is no held-out reward here: nothing but the reward itself, which was optimised, judges the designs."
        )
    return _moved(result, "heldout", "The held-out reward, which was never optimised,")


def _asked(result: Result) -> Iterator[str]:
    plan, config, info, unit = result.plan, result.plan.config, result.info, result.plan.domain.unit
    alpha = f"{config['alpha']:g}"
    forbidden = ", ".join(entry if entry == site else f"{entry} ({site})" for entry, site in plan.forbidden)
    asked = [
        ("Model", info["model"]),
        ("Reward", _terms(config["reward"])),
        ("Held-out reward", phrase(config["heldout"]) if config["heldout"] else "none"),
        ("Temperature alpha", f"{alpha}: a gain of {alpha} in reward outweighs a factor e in the model's probability"),
        ("Method", _method(result)),
        ("Fixed in the sampler", plan.domain.constraints or "nothing"),
        *[("Forbidden on both strands", forbidden or "nothing")] * ("forbidden" in config["domain"]),
        ("Designs", f"{plan.n}, in {config['steps']} denoising steps, seed {config['seed']}"),
    ]
    yield page.heading("What was asked")
    yield page.paragraph(
        f"A diffusion model that was trained on natural {unit}s gives each {unit} x a probability p(x). The designs are "
        f"drawn so that a {unit} is preferred in proportion to p(x) exp(reward(x) / alpha): high reward, but still what "
        "the model finds plausible."
    )
    yield page.table(["", ""], asked, ["", ""])


def _method(result: Result) -> str:
    config = result.plan.config
    if result.plan.tunes:
        return f"{phrase(config['method'])}, trained on {result.plan.tune.train_steps} denoising steps"
    return f"{phrase(config['method'])}, unfinished {result.plan.domain.unit}s judged by {phrase(config['value'])}"


def _terms(node: Mapping[str, Any]) -> str:
    """A reward in words, a line for each term of a sum."""
    return "\n".join(map(phrase, node["terms"])) if isinstance(node.get("terms"), list) else phrase(node)


def phrase(node: Any) -> str:
    """A config node as one would write it: expression(condition=YPD)."""
    if isinstance(node, Mapping) and "_target_" in node:
        arguments = [f"{key}={phrase(value)}" for key, value in node.items() if key != "_target_" and value is not None]
        return f"{str(node['_target_']).rpartition('.')[2]}({', '.join(arguments)})"
    if isinstance(node, Mapping):
        return "{" + ", ".join(f"{key}: {phrase(value)}" for key, value in node.items()) + "}"
    return "[" + ", ".join(map(phrase, node)) + "]" if isinstance(node, list) else str(node)


def _came_out(result: Result) -> Iterator[str]:
    sets = summary.called(result)
    columns, kinds = ["", *sets.values(), "meaning"], ["", *("n" for _ in sets), "small"]
    meanings = getattr(result.plan.domain.metrics, "meanings", {})
    yield page.heading("What came out")
    if result.plan.tunes:
        header, body = tuned.four_rows(result)
        yield page.table(header, body, ["", *("n" for _ in header[1:])])
        note = tuned.NOTE if "3-mers" in header else ""
        yield page.paragraph(" ".join(filter(None, (note, tuned.errors(result)))), "faint")
    domain = result.plan.domain
    rows = summary.rows(result.metrics, site=domain.site, unit=domain.unit).items()
    yield page.table(columns, [[words, *figures, meanings.get(key, "")] for key, (words, figures) in rows], kinds)
    described = [("natural", _natural(result))] * ("natural" in sets)
    described += [("pretrained", "samples of the model as it is")]
    described += tuned.described(result) if result.plan.tunes else [("steered", "the designs")]
    yield page.bullets(f"{name}: {words}" for name, words in described)
    figures = {key: [result.metrics[name].get(key) for name in sets] for key in meanings}
    others = [[key, *map(_cell, row), meanings[key]] for key, row in figures.items() if row != [None] * len(sets)]
    if others:
        yield page.details("All figures", page.table(columns, others, kinds))


def _natural(result: Result) -> str:
    """What the natural set is, and whether the model has seen it."""
    unit = result.plan.domain.unit
    unseen = getattr(result.plan.domain.reference, "held_out", False)
    return f"natural {unit}s, {'none' if unseen else 'most'} of which the model was trained on"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


def _designs(result: Result) -> Iterator[str]:
    designs = result.sets[result.plan.designs]
    best = designs.rows(_first(len(designs)))
    # A rule that all of them keep says nothing here.
    columns = {name: values for name, values in best.columns.items() if not bool((values == 0).all())}
    columns = {"reward": best.reward, **{name.removeprefix("part_"): values for name, values in columns.items()}}
    texts = result.plan.domain.codec.decode(best.x)
    figures = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [
        [str(i), text, *(f"{v:.2f}" for v in row)] for i, (text, row) in enumerate(zip(texts, figures, strict=True), 1)
    ]
    yield page.heading(f"The {len(best)} designs of highest reward")
    yield page.table(["", result.plan.domain.unit, *columns], lines, ["n", "seq", *("n" for _ in columns)])
    files = [name for name in SAMPLES if (result.folder / name).exists()]
    yield page.paragraph(
        f"All designs are in {' and '.join(files)}, and with every figure in samples.csv, the best first."
    )


def _first(count: int) -> Tensor:
    import torch

    return torch.arange(min(TOP, count))


def _end(result: Result) -> Iterator[str]:
    cost, info = result.samples.cost, result.info
    doing = "sampling the tuned model" if result.plan.tunes else "steering"
    yield page.heading("What it cost")
    yield page.paragraph(
        f"{cost.forward_rows:,} {result.plan.domain.unit}s through the network and {cost.reward_calls:,} evaluations "
        f"of the reward in {cost.seconds:.1f} seconds of {doing}; {info['seconds']:.0f} seconds in all, on {info['device']} with "
        f"{info['threads']} thread{'s' * (info['threads'] != 1)}. {_failures(cost.reward_failures)}"
    )
    if result.plan.tunes:
        yield page.paragraph(tuned.spent(result))
    yield page.heading("How to do it again")
    yield page.code(result.plan.command or "See config.yaml in the run folder.")
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    yield page.paragraph(f"Made with {versions}. In Python, the run folder is read by:")
    model = "\nrun.tuned().diffusion" if result.plan.tunes else ""
    yield page.code(
        f'import tiltflow\n\nrun = tiltflow.load("{result.folder}")\nrun.samples.x, run.samples.reward{model}'
    )
    if result.plan.tunes:
        yield page.paragraph("The tuned model is a file like any other, to be sampled, steered or tuned again:")
        yield page.code(f"tiltflow domain.prior={result.folder / 'tuned.safetensors'}")
    yield page.details(
        "The whole configuration", page.code((result.folder / "config.yaml").read_text(encoding="utf-8"))
    )
    yield page.heading("Before you use them")
    yield page.bullets(_caveats(result))


def _failures(count: int) -> str:
    return f"The reward failed for {count} of them, which were excluded." if count else ""


def _caveats(result: Result) -> Iterator[str]:
    yield (
        "Rewards are predictions, and optimisation finds their errors. Trust a design more where the held-out reward, another "
        "kind of model on other data, agrees, and where the NELBO stays within the range of natural data: neither above "
        "it nor below."
    )
    yield from [tuned.CAVEAT] if result.plan.tunes else _weights(result)
    if result.plan.names["method"] in ("best_of_n", "BestOfN"):
        yield "Best-of-N takes the highest reward and ignores alpha."
    yield "Nothing here has been measured in an experiment."


def _weights(result: Result) -> Iterator[str]:
    weights = result.samples.log_weight
    yield (
        "The samples follow the tilted law only approximately; log_weight in samples.csv corrects averages over it (all 0 where "
        f"a method has none). By these weights the {len(weights)} samples count like {float(ess(weights)):.1f} independent "
        "ones. Picking the highest rewards is a choice, not a draw from that law."
    )
