"""The report: self-contained, escaped, true to the figures, and honest about what went wrong."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiltflow import job, page, report, summary
from tiltflow.cli import compose
from tiltflow.scores import Scored
from tiltflow.settings import prepare


class Page(HTMLParser):
    """What a browser would find: well-nested tags, what they refer to, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def result(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> job.Result:
    """A finished job with everything a report can show."""
    arguments = [
        "reward=gc",
        "heldout={_target_: tiltflow.rewards.Homopolymer, max_run: 4}",
        "domain.template=N20 TATAWAW N*",
        "domain.forbidden=[BsaI]",
        "n=3",
        "steps=4",
        "natural=8",
        "pretrained=3",
        f"domain.prior={tiny_prior}",
        f"out={tmp_path_factory.mktemp('runs')}",
    ]
    composed = compose(arguments)
    plan = prepare(composed.config, names=composed.choices, command="tiltflow n=3 'a <b>'", problems=composed.problems)
    return job.run(plan, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def html(result: job.Result) -> str:
    return (result.folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(html: str, result: job.Result) -> None:
    parsed = Page(html)
    assert parsed.open == []
    assert len(parsed.links) == 4
    for link, name in zip(parsed.links, ("reward", "naturalness", "trace", "logo"), strict=True):
        head, _, data = link.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == (result.folder / "figures" / f"{name}.png").read_bytes()
    assert not re.search(r"url\(|@import|<script|<link|<iframe", html)


def test_it_says_what_was_asked_in_its_parsed_form(html: str) -> None:
    text = Page(html).text
    assert "read as N20 TATAWAW N53" in text
    assert "BsaI (GGTCTC)" in text
    assert "GcWindow(low=0.45, high=0.55)" in text
    assert "SVDD(candidates=" in text
    assert "none, untrained" in text
    assert "tiltflow n=3 'a <b>'" in text
    assert "<b>" not in html.replace("<body>", "").replace("<br>", "")


def test_it_shows_the_figures_of_the_metrics(html: str, result: job.Result) -> None:
    text = Page(html).text
    for name in ("pretrained", "steered", "natural"):
        assert f"{result.metrics[name]['nelbo_median']:.3f}" in text
    assert f"{result.metrics['gain']['reward_median_gain_in_natural_sd']:+.1f} standard deviations" in text
    for sequence in result.plan.domain.codec.decode(result.sets["steered"].x):
        assert sequence in text
    assert f"{result.samples.cost.reward_calls:,} evaluations" in text


def test_every_metric_has_its_meaning(html: str) -> None:
    from tiltflow.domains.dna.metrics import METRICS

    text = Page(html).text
    assert all(meaning in text for key, meaning in METRICS.items() if not key.startswith("motif"))


def test_nothing_of_the_users_is_taken_for_html() -> None:
    nasty = '<script>alert("x")</script>&'
    pieces = [
        page.heading(nasty),
        page.paragraph(nasty, nasty),
        page.warning(nasty),
        page.code(nasty),
        page.bullets([nasty]),
        page.table([nasty], [[nasty]], [""]),
        page.details(nasty, page.paragraph(nasty)),
    ]
    whole = page.page(nasty, pieces)
    assert "<script" not in whole
    assert Page(whole).text.count(nasty) == len(pieces) + 3  # title; table and details show it twice


def test_nodes_read_as_one_would_write_them() -> None:
    node = {"_target_": "a.b.Sum", "terms": [{"_target_": "c.Term", "weight": 1.0, "name": None}], "options": {"x": 1}}
    assert report.phrase(node) == "Sum(terms=[Term(weight=1.0)], options={x: 1})"


def test_batches_are_averaged_step_by_step() -> None:
    trace = {
        "t": torch.tensor([0.5, 0.0, 0.5]).double(),
        "ess": torch.tensor([1.0, 0.2, 0.5]).double(),
        "batch": torch.tensor([0.0, 0, 1]).double(),
    }
    mean = report._mean_trace(trace)
    assert mean["t"].tolist() == [0.5, 0.0]
    assert mean["ess"].tolist() == pytest.approx([0.75, 0.2])


def test_the_terminal_says_which_strand_and_which_unit(clean: job.Result) -> None:
    words = [words for words, _ in summary.rows(clean.metrics, site=clean.plan.domain.site).values()]
    assert "3-mer correlation with natural (strand given)" in words
    assert "NELBO, median (nats per base)" in words


def test_methods_without_groups_have_no_sample_size_to_show(html: str, result: job.Result) -> None:
    """SVDD's samples never compete: no panel, and no caption about one."""
    assert result.samples.trace is not None
    assert bool(result.samples.trace["ess"].isnan().all())
    assert "Shown is the reward expected" in html
    assert "share of the particles" not in html
    assert "share of the particles" in report._trace_caption("sequence", True)


def test_a_run_that_looked_at_nothing_on_its_way_has_no_trace_to_show() -> None:
    """Best-of-N: the value is zero, which stands for none, until the samples are finished."""
    none = {name: torch.tensor([0.0, 0.0, 5.0]) for name in ("value_q10", "value_q90")}
    assert not report._looked(none)
    assert report._looked({**none, "value_q90": torch.tensor([0.0, 1.0, 5.0])})
    assert not report._looked(report._mean_trace({}))


def test_a_domain_draws_its_own_figures(result: job.Result, tmp_path: Path) -> None:
    """Beside those of every domain; none, unless it has any."""
    from matplotlib.figure import Figure
    from tiltflow.domains import Drawing
    from tiltflow.domains.base import no_figures

    def own(sets: dict[str, Scored]) -> list[Drawing]:
        return [Drawing("own", Figure(), f"{len(sets['steered'])} designs")]

    for figures, expected in (
        (own, ["reward", "naturalness", "trace", "own"]),
        (no_figures, ["reward", "naturalness", "trace"]),
    ):
        plan = replace(result.plan, domain=replace(result.plan.domain, figures=figures))
        drawn = report.draw(replace(result, folder=tmp_path, plan=plan))
        assert [path.stem for path, _ in drawn] == expected
        assert all(path.exists() for path, _ in drawn)
    assert drawn[0][0].parent == tmp_path / "figures"


# --- what to be warned of -----------------------------------------------------------------------------------------


def changed(result: job.Result, name: str, **figures: float) -> job.Result:
    return replace(result, metrics={**result.metrics, name: {**result.metrics[name], **figures}})


def lowered(scored: Scored, name: str) -> Scored:
    return replace(scored, **{name: getattr(scored, name) - 300})


def at(scored: Scored, *nelbo: float) -> Scored:
    """The same set with other NELBOs, as often as it takes."""
    count = len(scored)
    return replace(scored, nelbo=torch.tensor(nelbo * count, dtype=torch.float64)[:count])


def with_sets(result: job.Result, **changed: Scored) -> job.Result:
    return replace(result, sets={**result.sets, **changed})


@pytest.fixture
def clean(result: job.Result) -> job.Result:
    """The same result with figures that raise no concern."""
    calm = {"diversity": 0.7, "n": 3, "unique": 3, "kmer3_correlation": 0.85, "kmer3_ceiling": 0.9}
    made = changed(changed(result, "steered", **calm), "pretrained", **calm)
    gains = {"reward_median_gain_in_natural_sd": 3.0, "heldout_median_gain_in_natural_sd": 2.0}
    natural = result.sets["natural"]
    assert natural.heldout is not None
    high = replace(at(natural, 1.2, 1.3, 1.4), reward=natural.reward + 100, heldout=natural.heldout + 100)
    sets = {name: at(each, 1.3) for name, each in result.sets.items()} | {"natural": high}
    return replace(made, metrics={**made.metrics, "gain": gains}, excluded=0, sets=sets)


def test_no_warning_without_reason(clean: job.Result) -> None:
    assert summary.warnings(clean) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: changed(r, "gain", heldout_median_gain_in_natural_sd=1.4), "only by 1.4"),
        (
            lambda r: with_sets(r, steered=at(r.sets["steered"], 1.3, 1.45, 1.45)),
            "2 of 3 designs are harder to guess for the model than 19 in 20 natural sequences (NELBO above 1.400, median 1.450 "
            "nats per base)",
        ),
        (
            lambda r: with_sets(r, steered=at(r.sets["steered"], 1.1)),
            "3 of 3 designs are easier to guess for the model than 19 in 20 natural sequences (NELBO below 1.200, median 1.100 "
            "nats per base): no praise",
        ),
        (
            lambda r: without_natural(with_sets(r, steered=at(r.sets["steered"], 1.1))),
            "19 in 20 samples of it (NELBO below",
        ),
        (
            lambda r: with_sets(r, natural=lowered(r.sets["natural"], "reward")),
            "3 of 3 designs by the reward (above",
        ),
        (
            lambda r: with_sets(r, natural=lowered(r.sets["natural"], "heldout")),
            "3 of 3 designs by the held-out reward (above",
        ),
        (
            lambda r: changed(r, "steered", kmer3_correlation=0.7),
            "less as natural sequences do than they could (correlation 0.70, within reach 0.85)",
        ),
        (lambda r: changed(r, "steered", diversity=0.4), "resemble each other"),
        (lambda r: changed(r, "steered", unique=1), "2 of 3 designs are copies"),
        (lambda r: replace(r, excluded=1), "1 of 3 samples break a hard rule"),
        (lambda r: replace(r, excluded=3), "use none of them"),
        (lambda r: replace(r, samples=replace(r.samples, stopped=2)), "steered for 2 steps only"),
    ],
)
def test_each_reason_is_named(change: Callable[[job.Result], job.Result], words: str, clean: job.Result) -> None:
    (warning,) = summary.warnings(change(clean))
    assert words in warning


def test_words_that_a_template_takes_away_are_not_blamed_on_alpha(clean: job.Result) -> None:
    low = changed(changed(clean, "pretrained", kmer3_correlation=0.5), "steered", kmer3_correlation=0.45)
    assert summary.warnings(low) == []


def without_natural(result: job.Result) -> job.Result:
    return replace(result, sets={name: each for name, each in result.sets.items() if name != "natural"})


def test_undefined_figures_are_dashes(clean: job.Result) -> None:
    lonely = changed(clean, "steered", diversity=None, heldout_median=None)  # type: ignore[arg-type]
    assert summary.rows(lonely.metrics)["diversity"][1][-1] == "-"
    assert "is not defined" in report._held_out(lonely)


def test_comparing_names_what_differs(clean: job.Result) -> None:
    runs = [replace(clean, plan=replace(clean.plan, command=f"tiltflow n=3 method={m}")) for m in ("svdd", "smc")]
    header, body = summary.comparison(runs)
    assert [row[0] for row in body] == ["method=svdd", "method=smc"]
    assert all(len(row) == len(header) for row in body)
    assert body[0][header.index("diversity")] == "0.700"
