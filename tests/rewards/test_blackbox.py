"""Black boxes that raise, hang, die and lie; what is evaluated once; what survives in the cache file."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiltflow import dna
from tiltflow.rewards import BlackBox, BlackBoxError

WORDS = ["AA", "CA", "GA", "CA", "TA", "AA"]
TOKENS = torch.stack([dna.encode(word) for word in WORDS])
SCORES = {"AA": 1.0, "CA": 2.0, "GA": -math.inf, "TA": 4.0}
EXPECTED = [SCORES[word] for word in WORDS]


def box(function: Callable[..., Any], **options: Any) -> BlackBox:
    return BlackBox(function, dna.decode, name="test", **options)


def same(values: torch.Tensor, expected: list[float]) -> bool:
    return torch.equal(values.nan_to_num(nan=-99.0), torch.tensor(expected, dtype=torch.float64).nan_to_num(nan=-99.0))


def logged(path: Path, function: Callable[[str], float]) -> Callable[[list[str]], list[float]]:
    """`function` on a list, writing each text it sees to a file, from whatever process."""

    def score(texts: list[str]) -> list[float]:
        with path.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return [function(text) for text in texts]

    return score


@contextmanager
def no_worker_left(pids: Path) -> Iterator[None]:
    """Every process that wrote its id to `pids` must be gone at the end."""
    yield
    for pid in map(int, pids.read_text().split()):
        _wait_until(lambda pid=pid: not _alive(pid))  # type: ignore[misc]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rsplit(")")[-1].split()[0] == "Z")


def _wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 3, "workers": 2}, {"timeout": 60.0}])
def test_order_is_kept_and_duplicates_are_evaluated_once(options: dict[str, Any], tmp_path: Path) -> None:
    with box(logged(tmp_path / "seen", SCORES.__getitem__), **options) as reward:
        assert reward(TOKENS).tolist() == EXPECTED
        assert sorted((tmp_path / "seen").read_text().split()) == sorted(SCORES)
        assert reward(TOKENS[:3]).tolist() == EXPECTED[:3]
        assert sorted((tmp_path / "seen").read_text().split()) == sorted(SCORES)
    assert (reward.counts.evaluated, reward.counts.cached) == (4, 3)
    assert (reward.counts.failed, reward.counts.timed_out) == (0, 0)


def test_without_cache_each_call_evaluates_again(tmp_path: Path) -> None:
    reward = box(logged(tmp_path / "seen", SCORES.__getitem__), cache=False)
    reward(TOKENS)
    reward(TOKENS)
    assert len((tmp_path / "seen").read_text().split()) == 8


def test_one_text_at_a_time() -> None:
    assert box(SCORES.__getitem__, vectorised=False)(TOKENS).tolist() == EXPECTED


@pytest.mark.parametrize(
    "convert",
    [tuple, np.array, torch.tensor, lambda v: np.array(v, np.float32), lambda v: [np.float32(x) for x in v]],
    ids=["tuple", "array", "tensor", "float32", "numpy scalars"],
)
def test_numbers_of_any_kind(convert: Callable[[list[float]], Any]) -> None:
    assert box(lambda texts: convert([SCORES[text] for text in texts]))(TOKENS).tolist() == EXPECTED


def test_empty_batch() -> None:
    assert box(lambda texts: 1 / 0)(TOKENS[:0]).shape == (0,)


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"vectorised": False}, {"vectorised": False, "timeout": 60.0}])
def test_a_text_that_raises_is_nan_and_the_others_are_kept(options: dict[str, Any]) -> None:
    def score(given: list[str] | str) -> Any:
        if "GA" in given:
            raise KeyError("no GA here")
        return SCORES[given] if isinstance(given, str) else [SCORES[text] for text in given]

    with box(score, **options) as reward:
        assert same(reward(TOKENS), [1, 2, math.nan, 2, 4, 1])
        assert (reward.counts.evaluated, reward.counts.failed) == (4, 1)
        assert same(reward(TOKENS), [1, 2, math.nan, 2, 4, 1])  # a failure is not cached: it is tried again
        assert (reward.counts.evaluated, reward.counts.failed) == (5, 2)


def test_nan_is_a_failure_that_keeps_the_others() -> None:
    reward = box(lambda texts: [math.nan if text == "GA" else 1.0 for text in texts])
    assert same(reward(TOKENS), [1, 1, math.nan, 1, 1, 1])
    assert reward.counts.failed == 1


def test_exit_in_a_function_is_a_failure_not_the_end() -> None:
    assert bool(box(lambda texts: sys.exit(2))(TOKENS).isnan().all())


@pytest.mark.parametrize("options", [{}, {"workers": 2}])
def test_raise_policy_names_text_and_cause_and_keeps_what_was_found(options: dict[str, Any], tmp_path: Path) -> None:
    def score(texts: list[str]) -> list[float]:
        return [1 / 0 if text == "GA" else 1.0 for text in texts]

    with (
        box(score, on_error="raise", cache_file=tmp_path / "c", **options) as reward,
        pytest.raises(BlackBoxError, match=r"test failed for 'GA': ZeroDivisionError.*test_blackbox\.py, line"),
    ):
        reward(TOKENS)
    assert len((tmp_path / "c").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 values for 4 texts"),
        (np.ones((4, 1)), r"shape \(4, 1\) for 4 texts; expected \(4,\)"),
        (torch.ones(()), r"shape \(\)"),
        (["1.0"] * 4, "returned str '1.0' for a text"),
        (np.array(["a"] * 4), "returned str 'a' for a text"),
        ([None] * 4, "returned NoneType None for a text"),
        ([1j] * 4, "returned complex 1j"),
        ([10**400] * 4, "larger than any float"),
        (None, "returned NoneType None for 4 texts"),
        (1.0, "returned float 1.0 for 4 texts; expected a sequence of 4 numbers"),
        ({"AA": 1.0}, "returned dict {'AA': 1.0} for 4 texts"),
        ("1234", "returned str '1234' for 4 texts"),
    ],
)
def test_a_broken_contract_is_an_error_under_any_policy(returned: Any, message: str) -> None:
    with pytest.raises(BlackBoxError, match=f"^test .*{message}"):
        box(lambda texts: returned)(TOKENS)


def test_a_broken_contract_in_a_worker_is_the_same_error() -> None:
    with box(lambda texts: [1.0], workers=2) as reward, pytest.raises(BlackBoxError, match="1 values for 4 texts"):
        reward(TOKENS)


def test_none_for_one_text_is_an_error() -> None:
    with pytest.raises(BlackBoxError, match="NoneType None for a text"):
        box(lambda text: None, vectorised=False)(TOKENS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hanging_text_times_out_and_the_others_are_kept(workers: int, tmp_path: Path) -> None:
    def score(text: str) -> float:
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if text == "CA":
            child = subprocess.Popen(["sleep", "600"])
            with (tmp_path / "pids").open("a") as file:
                file.write(f"{child.pid}\n")
            child.wait()
        return SCORES[text]

    start = time.monotonic()
    with no_worker_left(tmp_path / "pids"), box(score, vectorised=False, workers=workers, timeout=2.0) as reward:
        assert same(reward(TOKENS), [1, math.nan, -math.inf, math.nan, 4, 1])
        assert (reward.counts.evaluated, reward.counts.timed_out, reward.counts.failed) == (4, 1, 0)
    assert time.monotonic() - start < 300  # it came back at all


def test_late_batches_in_a_row_end_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiltflow.rewards._processes.HOPELESS", 3)
    with (
        box(lambda text: time.sleep(600), vectorised=False, timeout=0.1) as reward,
        pytest.raises(BlackBoxError, match=r"longer than 0\.1 s for 3 batches in a row"),
    ):
        reward(TOKENS)
    assert reward.counts.timed_out == 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_text_that_kills_its_process_is_nan_and_the_others_are_kept(batch_size: int) -> None:
    def score(texts: list[str]) -> list[float]:
        if "GA" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return [SCORES[text] for text in texts]

    with box(score, workers=2, batch_size=batch_size) as reward:
        assert same(reward(TOKENS), [1, 2, math.nan, 2, 4, 1])
    assert (reward.counts.evaluated, reward.counts.failed) == (4, 1)


def test_workers_survive_between_calls_and_restart_after_close() -> None:
    reward = box(lambda text: float(os.getpid()), vectorised=False, timeout=60.0)
    first, second = reward(TOKENS[:1]), reward(TOKENS[1:2])
    reward.close()
    third = reward(TOKENS[2:3])
    reward.close()
    assert first == second != third
    assert int(first) != os.getpid()


def test_a_function_that_cannot_travel_is_refused_at_once() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot be sent to a worker process .*lock"):
        box(lambda texts: [float(lock.locked()) for _ in texts], workers=2)


def test_cache_file_outlives_the_run_and_a_torn_line(tmp_path: Path) -> None:
    path, seen = tmp_path / "new" / "cache.jsonl", tmp_path / "seen"
    assert box(logged(seen, SCORES.__getitem__), cache_file=path)(TOKENS).tolist() == EXPECTED
    assert box(lambda texts: 1 / 0, cache_file=path)(TOKENS).tolist() == EXPECTED  # nothing left to evaluate

    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # the last line loses its end
    seen.unlink()
    assert box(logged(seen, SCORES.__getitem__), cache_file=path)(TOKENS).tolist() == EXPECTED
    assert seen.read_text().split() == ["TA"]
    assert box(lambda texts: 1 / 0, cache_file=path)(TOKENS).tolist() == EXPECTED
    assert path.read_bytes().startswith(whole[:-9])  # what was there is left alone


def test_cache_file_skips_lines_that_hold_no_value(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    box(lambda texts: [1.0] * len(texts), cache_file=path)
    odd = [
        '{"x": "AA"}',
        '{"x": "CA", "r": NaN}',
        '{"x": "GA", "r": true}',
        "[1]",
        "\x00",
        '{"x": 3, "r": 3}',
        "[" * 9999,
    ]
    odd += ['{"x": "TA", "r": 1' + "0" * 400 + "}", '{"x": "TA", "r": "nan"}', "", '{"x": "AA", "r": 7}']
    with path.open("a") as file:
        file.write("\n".join(odd) + "\n")
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    assert box(lambda texts: [0.0] * len(texts), cache_file=path)(TOKENS).tolist() == [7, 0, 0, 0, 0, 7]


def test_cache_file_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "designs.fasta").write_text(">one\nACGT\n")
    with pytest.raises(ValueError, match=r"designs\.fasta:1: not a cache"):
        box(len, cache_file=tmp_path / "designs.fasta")
    assert (tmp_path / "designs.fasta").read_text() == ">one\nACGT\n"
    box(len, cache_file=tmp_path / "c")
    with pytest.raises(ValueError, match="holds the values of 'test', not of 'other'"):
        BlackBox(len, dna.decode, cache_file=tmp_path / "c", name="other")


def test_cache_is_bounded_by_least_recent_use(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    reward = box(logged(seen, SCORES.__getitem__), cache_size=2)
    for row in (0, 1, 0, 2, 0, 1):  # AA CA AA GA AA CA: AA stays, CA is evaluated again
        reward(TOKENS[row : row + 1])
    assert seen.read_text().split() == ["AA", "CA", "GA", "CA"]


def test_cache_file_is_one_json_object_per_line(tmp_path: Path) -> None:
    box(lambda texts: [SCORES[text] for text in texts], cache_file=tmp_path / "c")(TOKENS)
    header, *entries = [json.loads(line) for line in (tmp_path / "c").read_text().splitlines()]
    assert header["name"] == "test"
    assert {entry["x"]: float(entry["r"]) for entry in entries} == SCORES


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"function": 3}, TypeError, "function 3"),
        ({"decode": None}, TypeError, "decode None"),
        ({"workers": 0}, ValueError, "workers 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size 2.5"),
        ({"timeout": 0}, ValueError, "timeout 0"),
        ({"timeout": math.nan}, ValueError, "timeout nan"),
        ({"on_error": "skip"}, ValueError, "on_error 'skip'"),
        ({"cache_file": "c", "cache": False}, ValueError, "cache_file needs cache=True"),
        ({"function": lambda texts: texts, "name": "", "cache_file": "c"}, ValueError, "cache_file needs a name="),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BlackBox(**({"function": len, "decode": dna.decode, "name": "test"} | options))  # type: ignore[arg-type]


def test_decode_must_give_one_text_per_sample() -> None:
    with pytest.raises(BlackBoxError, match="decode gave 1 items for 6 samples"):
        BlackBox(len, lambda tokens: ["A"])(TOKENS)


SCRIPT = """
import os, time, torch
from tiltflow import dna
from tiltflow.rewards import BlackBox

def slow(text):
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(SECONDS)
    return 1.0

reward = BlackBox(slow, dna.decode, vectorised=False, workers=2)
try:
    print(reward(torch.tensor([[0], [1]])).sum().item())
except KeyboardInterrupt:
    print("interrupted")
"""


@contextmanager
def _script(folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A program whose function takes `seconds` for a text."""
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("SECONDS", str(seconds)))
    command = [sys.executable, "-W", "error", str(script)]
    program = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def _both_work(folder: Path) -> bool:
    return (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2


def test_a_program_ends_in_silence_and_leaves_no_process(tmp_path: Path) -> None:
    with _script(tmp_path, 0) as program:
        assert program.communicate(timeout=60) == ("2.0\n", "")
        assert program.returncode == 0
    with no_worker_left(tmp_path / "pids"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ending_a_program_ends_its_workers(end: signal.Signals, tmp_path: Path) -> None:
    with _script(tmp_path, 600) as program, no_worker_left(tmp_path / "pids"):
        _wait_until(lambda: _both_work(tmp_path))
        program.send_signal(end)
        out, error = program.communicate(timeout=60)
    assert (out, error) == (("interrupted\n" if end == signal.SIGINT else ""), "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits are kept on Linux only")
def test_memory_beyond_the_limit_fails_the_text_alone() -> None:
    def size(texts: list[str]) -> list[float]:
        return [float(len(bytearray(2**31 if text == "GA" else 2**20))) for text in texts]

    with box(size, memory=0.5, on_error="nan") as reward:
        values = reward(TOKENS[:3])
    assert values[:2].tolist() == [2**20] * 2
    assert bool(values[2].isnan())
    assert (reward.counts.failed, reward.counts.timed_out) == (1, 0)


def test_texts_may_be_scored_without_tokens() -> None:
    reward = box(lambda texts: [SCORES[text] for text in texts])
    assert reward.score(["TA", "AA", "TA"]) == [4, 1, 4]
    assert reward.counts.evaluated == 2


@pytest.mark.parametrize("memory", [0, -1.0, math.inf, math.nan])
def test_impossible_memory_limits_are_refused(memory: float) -> None:
    with pytest.raises(ValueError, match="expected GiB > 0"):
        box(len, memory=memory)


def test_a_worker_that_grows_keeps_its_function(tmp_path: Path) -> None:
    """loky would replace a process that has grown by 300 MB since its first task, which is to get the function."""
    pytest.importorskip("psutil", reason="loky looks at memory with psutil only")

    def grow(texts: list[str]) -> list[float]:
        kept = getattr(math, "_kept_by_a_test", [])
        math._kept_by_a_test = kept  # type: ignore[attr-defined]
        if not kept:
            kept.append(np.ones(50_000_000))
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(1.2)  # loky looks once a second
        return [SCORES[text] for text in texts]

    with no_worker_left(tmp_path / "pids"), box(grow, timeout=60.0, batch_size=1) as reward:
        assert reward(TOKENS[:1]).tolist() == EXPECTED[:1]
        assert reward(TOKENS[1:3]).tolist() == EXPECTED[1:3]
    assert (reward.counts.failed, reward.counts.timed_out) == (0, 0)
    assert len(set((tmp_path / "pids").read_text().split())) == 1
