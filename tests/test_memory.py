"""Freed memory is kept where the C library lets us."""

from __future__ import annotations

import ctypes
import sys

import pytest
from tiltflow.memory import keep_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_glibc_accepts_the_settings():
    assert keep_memory() is hasattr(ctypes.CDLL(None), "mallopt")


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False
