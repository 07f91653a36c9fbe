"""Files are whole or absent, and a foreign or broken one is refused with a message."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from tiltflow.core.storage import StorageError, atomic, load_tensors, save_tensors, write_json, write_text

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(3), "bytes": torch.arange(7, dtype=torch.uint8)}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, {"kind": "thing", "n": 3, "nested": {"list": [1, 2.5, "x"]}})
    return path


def test_what_is_written_is_read(written):
    tensors, metadata = load_tensors(written, "thing")
    assert metadata == {"kind": "thing", "n": 3, "nested": {"list": [1, 2.5, "x"]}}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert load_tensors(written)[1]["n"] == 3


def test_layout_and_gradients_do_not_matter(tmp_path):
    turned = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T.requires_grad_()
    save_tensors(tmp_path / "t", {"turned": turned, "again": turned[:2]}, {})
    tensors, _ = load_tensors(tmp_path / "t")
    assert torch.equal(tensors["turned"], turned)
    assert torch.equal(tensors["again"], turned[:2])


@pytest.mark.parametrize("there", [True, False])
def test_a_body_that_raises_leaves_no_trace(there, tmp_path):
    path = tmp_path / "folder" / "file.txt"
    if there:
        write_text(path, "old")

    def write():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [p.name for p in path.parent.iterdir()] == (["file.txt"] if there else [])
    assert not there or path.read_text() == "old"


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "a long text")
    write_text(path, "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("content", [float("nan"), {"a": [float("inf")]}, {"a": object()}, {"a": torch.zeros(1)}])
def test_json_that_others_cannot_read_is_not_written(content, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "x.json", content)
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "x.json", {"a": [1, None, "ü"]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, None, "ü"]}


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(StorageError, match="Cannot write"):
            write_text(path, "text")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_tensors(path)


def test_another_kind(written):
    with pytest.raises(StorageError, match="holds 'thing'; expected 'prior'"):
        load_tensors(written, "prior")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"tiltflow": "no json"}, {"tiltflow": "[1, 2]"}, {"tiltflow": "3"}]
)
def test_a_foreign_file(metadata, tmp_path):
    save_file(TENSORS, tmp_path / "foreign", metadata=metadata)
    with pytest.raises(StorageError, match="not written by tiltflow"):
        load_tensors(tmp_path / "foreign")
    with pytest.raises(StorageError, match="not written by tiltflow"):
        load_tensors(tmp_path / "foreign", "prior")


def test_cut_short_at_any_byte(written):
    whole = written.read_bytes()
    for length in range(0, len(whole), 7):
        written.write_bytes(whole[:length])
        with pytest.raises(StorageError, match=str(written)):
            load_tensors(written)


def test_garbage(written):
    """Random bytes, pickles, and a header that claims to be enormous: always the same kind of error."""
    random = torch.randint(256, (2000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    huge = struct.pack("<Q", 2**60) + b"{}"
    for content in (b"", bytes(random.tolist()), b"\x80\x05K\x01.", b"PK\x03\x04" + bytes(100), huge, b">seq\nACGT\n"):
        written.write_bytes(content)
        with pytest.raises(StorageError, match="not a whole safetensors file"):
            load_tensors(written)


def test_flipped_bytes_are_read_or_refused(written):
    """Never another kind of error: 500 files with a changed byte in the header."""
    whole = written.read_bytes()
    generator = torch.Generator().manual_seed(1)
    header = struct.unpack("<Q", whole[:8])[0]
    messages = []
    for _ in range(500):
        where, what = torch.randint(8 + header, (), generator=generator), torch.randint(256, (), generator=generator)
        written.write_bytes(whole[: int(where)] + bytes([int(what)]) + whole[int(where) + 1 :])
        try:
            load_tensors(written, "thing")
        except StorageError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(str(written) in message for message in messages)
