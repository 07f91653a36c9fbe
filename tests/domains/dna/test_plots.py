"""Figures: what is drawn equals the numbers, nothing is cut off or on top of another, nothing global changes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiltflow.core.storage import StorageError
from tiltflow.dna import encode
from tiltflow.domains.dna import plots
from tiltflow.domains.dna.reference import Reference
from tiltflow.domains.dna.statistics import kmer_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

LABEL = "predicted expression in YPD medium by the two-headed oracle (sorting bin, logarithmic)"


def normal(n: int, mean: float, seed: int) -> torch.Tensor:
    return mean + torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.load()


@pytest.fixture(scope="module")
def columns() -> dict[str, torch.Tensor]:
    t = torch.linspace(1, 0.02, 50, dtype=torch.float64)
    median = 9 + 3 * (1 - t)
    values = {"value_q10": median - 1, "value_median": median, "value_q90": median + 2}
    return {"t": t, "ess": 0.5 + t / 2, **values, "forward_rows": t}


@pytest.fixture(params=["histogram", "histogram of nothing", "naturalness", "trace", "logo", "logo of 9", "3", "6"])
def figure(request: pytest.FixtureRequest, reference: Reference, columns: dict[str, torch.Tensor]) -> Figure:
    """Every kind of figure, with long labels."""
    a, b, c = normal(64, 9, 0), normal(64, 14, 1), normal(500, 9, 2)
    b[:3] = -math.inf
    draw = {
        "histogram": lambda: plots.reward_histogram(a, b, c, LABEL),
        "histogram of nothing": lambda: plots.reward_histogram(a[:0], torch.full((2,), math.nan)),
        "naturalness": lambda: plots.reward_vs_naturalness((b, a / 9), (a, b / 9), (c, c / 9), LABEL),
        "trace": lambda: plots.trace(columns, LABEL),
        "logo": lambda: plots.logo(reference.tokens[:64]),
        "logo of 9": lambda: plots.logo(reference.tokens[:1, :9], start=-80),
        "3": lambda: plots.kmer_scatter(reference.tokens[:64], reference),
        "6": lambda: plots.kmer_scatter(reference.tokens[:64], reference, 6, both_strands=True),
    }
    return draw[request.param]()


def shown_texts(axes: Axes) -> list[Text]:
    """Every text of a panel that is drawn; matplotlib also keeps labels of ticks beyond the limits."""
    texts = [axes.xaxis.label, axes.yaxis.label, *axes.texts, axes._left_title]  # type: ignore[attr-defined]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        texts += [tick.label1 for tick in axis.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
    texts += axes.get_legend().get_texts() if axes.get_legend() else []
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


def test_nothing_is_cut_off_or_unnamed_and_no_text_lies_on_another(figure: Figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    texts = [text for axes in figure.axes for text in shown_texts(axes)]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]
    for name, box in boxes:
        assert box.x0 >= page.x0, name
        assert box.x1 <= page.x1, name
        assert box.y0 >= page.y0, name
        assert box.y1 <= page.y1, name
    for i, (name, box) in enumerate(boxes):
        for other, rival in boxes[:i]:
            # Drawn sizes include the descent of the font: allow a pixel of it.
            apart = box.x1 <= rival.x0 + 1 or rival.x1 <= box.x0 + 1 or box.y1 <= rival.y0 + 1 or rival.y1 <= box.y0 + 1
            assert apart, (name, other)
    assert all(text.get_fontsize() >= 9 for text in texts)
    assert all(axes.get_ylabel() for axes in figure.axes)
    assert figure.axes[-1].get_xlabel()


def test_drawing_changes_nothing_global(reference: Reference, columns: dict[str, torch.Tensor]) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    for each in (plots.trace(columns), plots.logo(reference.tokens[:8])):
        each.canvas.draw()
    assert dict(matplotlib.rcParams) == before


def test_histogram_shows_fractions_and_counts_what_it_leaves_out() -> None:
    after = torch.tensor([1.0, 2.0, 2.0, 5.0, -math.inf, math.nan])
    figure = plots.reward_histogram(torch.tensor([0.0, 1.0]), after, label="r")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["pretrained (2), median 0.5", "designs (4), 2 not finite, median 2"]
    medians = [line.get_xdata()[0] for line in figure.axes[0].lines]  # type: ignore[index]
    assert medians == [0.5, 2.0]
    for polygon in figure.axes[0].patches:
        corners: Any = polygon.get_xy()  # type: ignore[attr-defined]
        width, height = corners[1:, 0] - corners[:-1, 0], corners[1:, 1]
        bins = width > 1e-9
        assert height[bins & (height > 0)].sum() == pytest.approx(1)


def test_naturalness_puts_each_design_at_its_numbers() -> None:
    reward, nelbo = torch.tensor([1.0, 2.0, math.nan, 4.0]), torch.tensor([1.3, 1.4, 1.5, math.inf])
    axes = plots.reward_vs_naturalness((reward, nelbo)).axes[0]
    assert torch.as_tensor(axes.collections[0].get_offsets()).tolist() == [
        [pytest.approx(1.3), 1.0],
        [pytest.approx(1.4), 2.0],
    ]
    assert axes.get_legend().get_texts()[0].get_text() == "designs (2), 2 not finite"


def test_trace_runs_from_noise_to_data(columns: dict[str, torch.Tensor]) -> None:
    top, bottom = plots.trace(columns).axes
    assert top.get_xlim() == bottom.get_xlim() == (1, 0)
    assert torch.as_tensor(top.lines[0].get_ydata()).tolist() == columns["ess"].tolist()
    assert torch.as_tensor(bottom.lines[0].get_ydata()).tolist() == columns["value_median"].tolist()


def test_a_trace_without_groups_has_one_panel(columns: dict[str, torch.Tensor]) -> None:
    alone = plots.trace({**columns, "ess": columns["ess"] * math.nan}, "r").axes
    assert [axes.get_title(loc="left") for axes in alone] == ["Value along the steps: r"]


def test_names_and_titles_can_be_chosen(reference: Reference, columns: dict[str, torch.Tensor]) -> None:
    a, b, c = (normal(5, mean, 0) for mean in (1, 2, 3))
    tokens = reference.tokens[:5]
    histogram = plots.reward_histogram(a, b, c, names=("mild", "hot", "wild"), title="Before")
    clouds = plots.reward_vs_naturalness(
        (a, a), (b, b), (c, c), names=("hot", "mild", "wild"), title="Cloud", site="base"
    )
    words = plots.kmer_scatter(tokens, reference, names=("mine", "theirs"), title="Words")
    for figure, expected in ((histogram, ["wild", "mild", "hot"]), (clouds, ["wild", "mild", "hot"])):
        legend = [text.get_text().split(" ")[0] for text in figure.axes[0].get_legend().get_texts()]
        assert legend == expected
    assert f"median {float(b.quantile(0.5)):.3g}" in histogram.axes[0].get_legend().get_texts()[2].get_text()
    assert "nats per base" in clouds.axes[0].get_xlabel()
    assert words.axes[0].get_xlabel() == "in theirs (% of 3-mers)"
    assert words.axes[0].get_ylabel() == "in mine (% of 3-mers)"
    drawn = (histogram, clouds, words, plots.trace(columns, title="Way"), plots.logo(tokens, title="Mine"))
    titles = [figure.axes[-1 if figure is drawn[3] else 0].get_title(loc="left") for figure in drawn]
    assert titles == ["Before", "Cloud", "Words", "Way", "Mine (axis to 2 of 2 bits)"]


def test_show_writes_says_where_and_displays_in_a_notebook(
    tmp_path: Path, reference: Reference, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed: list[str] = []
    notebook = SimpleNamespace(get_ipython=object)
    pictures = SimpleNamespace(Image=lambda filename, width: filename, display=displayed.append)
    for name, ipython in (("terminal", SimpleNamespace(get_ipython=lambda: None)), ("notebook", notebook)):
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", pictures)
        plots.show(plots.logo(reference.tokens[:1, :9]), tmp_path / f"{name}.png")
        assert capsys.readouterr().out == f"figure: {tmp_path / name}.png\n"
        assert (tmp_path / f"{name}.png").exists()
    assert displayed == [str(tmp_path / "notebook.png")]


def test_letter_heights_follow_schneider() -> None:
    tokens = torch.stack([encode(text) for text in ("AAC", "AAG", "ACT", "ACA")])
    bias = 3 / (2 * 4 * math.log(2))
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[0, 0] = 2 - bias
    expected[1, :2] = (2 - 1 - bias) / 2  # one bit of entropy, two letters alike
    torch.testing.assert_close(plots.letter_heights(tokens), expected, rtol=0, atol=1e-12)
    assert plots.letter_heights(tokens[:1]).tolist() == [[2, 0, 0, 0], [2, 0, 0, 0], [0, 2, 0, 0]]


def test_logo_draws_the_heights(reference: Reference) -> None:
    tokens = reference.tokens[:64, :50]
    heights = plots.letter_heights(tokens)
    figure = plots.logo(tokens)
    assert [len(axes.get_xticks()) for axes in figure.axes] == [8, 2]
    drawn: dict[int, list[tuple[float, float, Any]]] = {}
    for axes in figure.axes:
        for patch in axes.patches:
            box = patch.get_path().get_extents()
            drawn.setdefault(round((box.x0 + box.x1) / 2), []).append((box.y0, box.y1, patch.get_facecolor()))
    for site, column in enumerate(heights, start=1):
        stack = sorted(drawn.get(site, []), key=lambda letter: letter[:2])
        assert [y1 - y0 for y0, y1, _ in stack] == pytest.approx(sorted(h for h in column.tolist() if h > 0), abs=1e-9)
        if stack:
            assert stack[-1][1] == pytest.approx(float(column.sum()), abs=1e-9)


def test_kmer_scatter_draws_the_spectra(reference: Reference) -> None:
    tokens = reference.tokens[:64]
    axes = plots.kmer_scatter(tokens, reference).axes[0]
    expected = 100 * torch.stack([reference.spectrum(3), kmer_spectrum(tokens, 3)], 1)
    torch.testing.assert_close(torch.as_tensor(axes.collections[0].get_offsets()), expected, rtol=0, atol=1e-12)
    far = int((expected[:, 0] - expected[:, 1]).abs().argmax())
    word = "".join("ACGT"[far // 4**place % 4] for place in (2, 1, 0))
    assert word in [text.get_text() for text in axes.texts]


def test_save_writes_a_png_whole_or_not_at_all(tmp_path: Path, reference: Reference) -> None:
    figure = plots.logo(reference.tokens[:1, :9])
    plots.save(figure, tmp_path / "logo.png")
    content = (tmp_path / "logo.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20]) == round(figure.get_figwidth() * 150)

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("disk full")

    figure.savefig = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="disk full"):
        plots.save(figure, tmp_path / "logo.png")
    assert (tmp_path / "logo.png").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["logo.png"]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        plots.save(figure, tmp_path / "file" / "logo.png")
