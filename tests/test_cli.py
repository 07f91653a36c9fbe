"""The command line: what it understands, and that it says everything that is wrong at once, before anything is run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiltflow import __version__
from tiltflow.__main__ import main
from tiltflow.cli import combinations, compose
from tiltflow.options import options, read
from tiltflow.schema import ConfigError
from tiltflow.settings import prepare

PLUGIN = '''
from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Share:
    """Fraction of one base."""

    base: int
    alphabet = "ACGT"

    def __post_init__(self):
        if not 0 <= self.base <= 3:
            raise ValueError(f"base is {self.base}; expected 0 to 3")

    def __call__(self, x):
        return (x == self.base).double().mean(-1)


class Protein:
    alphabet = "ACDEFGHIKLMNPQRSTVWY"

    def __call__(self, x):
        return torch.zeros(len(x))


def share(x, base=1):
    return (x == base).double().mean(-1)


def score(texts):
    return [text.count("GC") for text in texts]


def words(x):
    return "no number"


def nan(x):
    return torch.full((len(x),), float("nan"))


def column(x):
    return torch.zeros(len(x), 1)


def fails(x):
    raise RuntimeError("the assay is closed")


shell = os.system
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = "usercode_" + tmp_path.name.replace("-", "_")
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    return name


@pytest.fixture
def problems(tiny_prior: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """`problems(*arguments)` -> what is wrong by key, for a job that is right without the arguments."""

    def ask(*arguments: str) -> dict[str, str]:
        fine = ["reward=gc", f"domain.prior={tiny_prior}", f"out={tmp_path}", "natural=0"]
        jobs, wrong = combinations([*fine, *arguments], False)
        composed = compose(jobs[0])
        try:
            prepare(composed.config, problems=[*wrong, *composed.problems])
        except ConfigError as error:
            return {problem.key: problem.text for problem in error.problems}
        return {}

    return ask


def test_a_right_job_has_no_problem(problems: Callable[..., dict[str, str]]) -> None:
    assert problems() == {}


@pytest.mark.parametrize(
    ("argument", "key", "words"),
    [
        ("n=0", "n", "0; expected a whole number of at least 1"),
        ("n=many", "n", "'many'; expected a whole number"),
        ("n=3.5", "n", "expected a whole number"),
        ("n=true", "n", "expected a whole number"),
        ("n=null", "n", "expected a whole number"),
        ("alpha=0", "alpha", "expected a positive number"),
        ("alpha=-1", "alpha", "expected a positive number"),
        ("alpha=inf", "alpha", "expected a positive number"),
        ("alpha=nan", "alpha", "expected a positive number"),
        ("seed=-1", "seed", "expected a whole number from 0"),
        ("steps=0", "steps", "at least 1"),
        ("batch=0", "batch", "at least 1"),
        ("failures=ignore", "failures", "expected raise or exclude"),
        ("candidates=4", "candidates", "unknown key"),
        ("~seed", "seed", "missing; expected a whole number"),
        ("~sead", "~sead", "no such key"),
        ("n={a: 1}", "n", "expected a whole number"),
        ("n.x=1", "n", "expected a whole number"),
        ("n", "'n'", "cannot be read"),
        ("method.candidates=0", "method.candidates", "at least 1"),
        ("method.candidates=lots", "method.candidates", "'lots'; expected a whole number"),
        ("method.candidate=4", "method.candidate", "did you mean candidates?"),
        ("method=smcc", "method", "did you mean smc?"),
        ("method=null", "method", "expected a steering method"),
        ("method._target_=tiltflow.core.Cost", "method", "expected a steering method"),
        ("method.selection=best", "method.selection", "expected one of"),
        ("reward=gcc", "reward", "did you mean gc?"),
        ("reward.low=0.9", "reward", "0 <= low <= high <= 1"),
        ("reward.low=little", "reward.low", "expected a number"),
        ("reward.window=200", "reward", "expected at most that many"),
        ("value={_target_: tiltflow.core.Rollout, n: 0}", "value", "at least 1"),
        ("value=mean", "value", "no choice 'mean'"),
        ("domain=rna", "domain", "did you mean dna?"),
        ("domain.template=NNXN", "domain.template", "X"),
        ("domain.template=N20", "domain.template", "80"),
        ("domain.forbidden=BsaI", "domain.forbidden", "expected a list"),
        ("domain.forbidden=[BsaX]", "domain.forbidden", "did you mean"),
        ("domain.prior=nobody", "domain.prior", "nobody"),
        ("domain.prior=/nowhere/prior.safetensors", "domain.prior", "No file"),
        ("compute.threads=0", "compute.threads", "at least 1"),
        ("compute.device=abacus", "compute.device", "abacus"),
        ("out=/dev/null/runs", "out", "cannot write"),
        ("plugins=mypackage", "plugins", "a list such as"),
        ("plugins=[no_such_package]", "plugins", "no package"),
        ("seed=1,2", "seed", "-m makes a run for each"),
        ("seed=[1", "'seed=[1'", "cannot be read"),
        ("n=${seeed}", "n", "seeed"),
        ("heldout.condition=YPD", "heldout", ""),
        ("hydra.verbose=true", "hydra", "unknown key"),
        ("reward@heldout=gc", "'reward@heldout=gc'", "expected key=value"),
    ],
)
def test_each_mistake_is_named(
    argument: str, key: str, words: str, problems: Callable[..., dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    found = problems(argument)
    assert key in found, found
    assert words in found[key]
    assert capfd.readouterr().err == ""  # nobody else speaks


def test_a_number_that_is_passed_on_is_complained_of_once(problems: Callable[..., dict[str, str]]) -> None:
    assert set(problems("steps=0")) == {"steps"}
    assert set(problems("steps=0", "domain.steps=-1")) == {"steps", "domain.steps"}


def test_all_mistakes_are_told_at_once(problems: Callable[..., dict[str, str]]) -> None:
    found = problems(
        "n=0",
        "alpha=-1",
        "method=svd",
        "reward.sign=1",
        "value.n=lots",
        "domain.forbidden=[BsaX]",
        "sede=1",
        "out=/proc/x",
    )
    assert set(found) == {"n", "alpha", "method", "reward.sign", "value.n", "domain.forbidden", "sede", "out"}


def test_keys_of_a_choice_that_does_not_exist_are_not_blamed(problems: Callable[..., dict[str, str]]) -> None:
    assert set(problems("reward=motive", "reward.motifs=[TATA]")) == {"reward"}


def test_a_template_that_contradicts_a_forbidden_site(problems: Callable[..., dict[str, str]]) -> None:
    found = problems("domain.template=N20 GAATTC N*", "domain.forbidden=[EcoRI]")
    assert "EcoRI" in found["domain.template"]
    assert problems("domain.template=N20 GAATTC N*", "domain.forbidden=[BsaI]") == {}


def test_foreign_files_are_no_priors(problems: Callable[..., dict[str, str]], tmp_path: Path, tiny_prior: Path) -> None:
    from tiltflow.core.storage import save_tensors

    torn, foreign = tmp_path / "torn.safetensors", tmp_path / "foreign.safetensors"
    torn.write_bytes(tiny_prior.read_bytes()[:-100])
    save_tensors(foreign, {}, {"kind": "something else"})
    assert "not a whole safetensors file" in problems(f"domain.prior={torn}")["domain.prior"]
    assert "something else" in problems(f"domain.prior={foreign}")["domain.prior"]


# --- rewards of the user's own -----------------------------------------------------------------------------------


def test_a_class_of_a_named_package_is_a_reward(plugin: str, problems: Callable[..., dict[str, str]]) -> None:
    own = ("reward=own", f"reward._target_={plugin}.Share", "reward.base=2")
    assert problems(*own, f"plugins=[{plugin}]") == {}
    assert f"add plugins=[{plugin}]" in problems(*own)["reward._target_"]


def test_a_function_is_a_reward_with_partial(plugin: str, problems: Callable[..., dict[str, str]]) -> None:
    own = ("reward=own", f"reward._target_={plugin}.share", f"plugins=[{plugin}]")
    assert "_partial_=true" in problems(*own)["reward.x"]
    assert problems(*own, "reward._partial_=true") == {}
    assert problems(*own, "reward._partial_=true", "reward.base=3") == {}


def test_a_function_on_texts_is_a_black_box(plugin: str, problems: Callable[..., dict[str, str]]) -> None:
    own = ("reward=blackbox", f"reward.function={plugin}.score")
    assert problems(*own, f"plugins=[{plugin}]") == {}
    assert f"add plugins=[{plugin}]" in problems(*own)["reward.function"]
    assert "full name of a function" in problems("reward=blackbox")["reward.function"]


@pytest.mark.parametrize(
    ("target", "key", "words"),
    [
        ("{}.Protein", "reward", "takes tokens of 'ACDEFGHIKLMNPQRSTVWY'"),
        ("{}.nobody", "reward._target_", "there is no public"),
        ("{}.shell", "reward._target_", "outside tiltflow and the plugins"),
        ("os.system", "reward._target_", "add plugins=[os]"),
        ("tiltflow.rewards.compose.math.exp", "reward._target_", "cannot import"),
        ("tiltflow.core.storage.write_text", "reward._target_", "no public"),
        ("tiltflow.core.schedules", "reward._target_", "expected a class or function"),
        ("tiltflow.__main__.main", "reward._target_", "no public"),
        ("tiltflow", "reward._target_", "expected the full name"),
        ("tiltflow..core", "reward._target_", "expected the full name"),
        ("3", "reward._target_", "expected the full name"),
    ],
)
def test_what_a_config_may_not_call(
    target: str, key: str, words: str, plugin: str, problems: Callable[..., dict[str, str]]
) -> None:
    found = problems("reward=own", f"reward._target_={target.format(plugin)}", f"plugins=[{plugin}]")
    assert words in found[key], found


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("words", "expected 2 numbers"),
        ("nan", "returned NaN"),
        ("column", "squeeze"),
        ("fails", "RuntimeError: the assay is closed"),
    ],
)
def test_a_reward_is_tried_before_the_run(
    function: str, words: str, plugin: str, problems: Callable[..., dict[str, str]]
) -> None:
    found = problems(
        "reward=own", f"reward._target_={plugin}.{function}", "reward._partial_=true", f"plugins=[{plugin}]"
    )
    assert words in found["reward"]


def test_a_package_that_cannot_be_imported_says_why(tmp_path: Path, problems: Callable[..., dict[str, str]]) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "usercode_broken.py").write_text("import no_such_module_anywhere\n")
    sys.path.append(str(folder))
    try:
        found = problems("reward=own", "reward._target_=usercode_broken.Reward", "plugins=[usercode_broken]")
    finally:
        sys.path.remove(str(folder))
    assert "No module named 'no_such_module_anywhere'" in found["reward._target_"]


# --- how arguments are understood ---------------------------------------------------------------------------------


def config(*arguments: str) -> dict[str, Any]:
    composed = compose(arguments)
    assert composed.problems == []
    return composed.config


def test_values_go_where_they_belong() -> None:
    found = config("method=smc", "method.particles=4", "alpha=1e-3", "+method.interval=2", "n=${seed}", "seed=5")
    assert found["method"]["particles"] == 4
    assert found["method"]["interval"] == 2
    assert (found["alpha"], found["n"]) == (1e-3, 5)


def test_the_rewards_file_brings_alpha_and_the_command_line_overrules_it() -> None:
    assert config("reward=gc")["alpha"] == 0.01
    assert config("alpha=3", "reward=gc")["alpha"] == 3


def test_a_domain_brings_the_options_that_fit_it_and_the_command_line_overrules_them() -> None:
    assert compose(["domain=molecules", "reward=qed"]).choices["value"] == "posterior_mean"
    assert compose(["domain=molecules", "reward=qed", "value=rollout"]).choices["value"] == "rollout"
    assert compose(["domain=dna"]).choices["value"] == "completions"
    for domain, fitting in read("usual").items():
        assert domain in options("domain")
        assert all(option in options(group) for group, option in fitting.items())


def test_held_out_oracles_follow_the_reward() -> None:
    assert config("reward.condition=SC-Ura")["heldout"]["condition"] == "SC-Ura"
    assert config("heldout=null")["heldout"] is None


def test_templates_need_no_more_than_the_quotes_of_the_shell() -> None:
    assert config("domain.template=N20 TATAWAW N53")["domain"]["template"] == "N20 TATAWAW N53"
    assert config("domain.template={10: TATAWA, 40: CCGN11CGG}")["domain"]["template"] == {
        10: "TATAWA",
        40: "CCGN11CGG",
    }
    assert config('domain.template="10:TATA, 40:CCG"')["domain"]["template"] == "10:TATA, 40:CCG"


def test_another_class_does_not_inherit_the_keys_of_the_one_it_replaces() -> None:
    found = config("reward=gc", "reward.base=1", "reward._target_=mine.Share")["reward"]
    assert found == {"_target_": "mine.Share", "base": 1}


def test_terms_of_a_composite_are_reached_by_number() -> None:
    assert config("reward=composite", "reward.terms.1.weight=0.5")["reward"]["terms"][1]["weight"] == 0.5
    assert compose(["reward=composite", "reward.terms.9.weight=1"]).problems[0].key == "reward.terms.9.weight"


def test_composing_does_not_remember_earlier_values() -> None:
    assert config("method.candidates=3")["method"]["candidates"] == 3
    assert config()["method"]["candidates"] == 16


def test_many_runs_are_the_product_of_the_lists() -> None:
    jobs, problems = combinations(["method=svdd,smc", "n=4", "seed=range(0,3)", 'domain.template="1:A, 3:C"'], True)
    assert problems == []
    assert len(jobs) == 6
    assert jobs[0] == ["method=svdd", "n=4", "seed=0", 'domain.template="1:A, 3:C"']
    assert [config(*job)["seed"] for job in jobs] == [0, 1, 2] * 2
    assert "interval" in str(combinations(["n=interval(0,1)"], True)[1][0]).lower()


# --- the command itself -------------------------------------------------------------------------------------------


def test_mistakes_end_with_code_2_and_no_traceback(
    capsys: pytest.CaptureFixture[str], tiny_prior: Path, tmp_path: Path
) -> None:
    assert main(["n=0", "alpha=-1", "method=svd", "reward=gc", f"domain.prior={tiny_prior}", f"out={tmp_path}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "3 problems in the configuration, nothing was run" in printed.err.splitlines()[0]
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["pretrian", "--hepl", "svdd", "-x", ""])
def test_words_that_are_no_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert "expected key=value or a command" in capsys.readouterr().err


def test_close_words_are_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrian"])
    assert "did you mean pretrain?" in capsys.readouterr().err


def test_a_mistake_in_one_of_many_runs_names_the_run(capsys: pytest.CaptureFixture[str], tiny_prior: Path) -> None:
    common = ["reward=gc", f"domain.prior={tiny_prior}"]
    assert main(["-m", "method=svdd,smc", "method.candidates=2", *common]) == 2
    assert "[method=smc]" in capsys.readouterr().err


def test_config_prints_everything_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], tiny_prior: Path, tmp_path: Path
) -> None:
    import yaml

    assert main(["--config", "reward=gc", "n=3", f"domain.prior={tiny_prior}", f"out={tmp_path}"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["n"] == 3
    assert printed["method"] == {"_target_": "tiltflow.core.SVDD", "candidates": 16, "selection": "softmax"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["pretrain", "--help"], ["n=0", "--help"]])
def test_help_is_quick_to_come(arguments: list[str], tmp_path: Path) -> None:
    code = f"""
import json, sys
from tiltflow.__main__ import main
assert main({arguments!r}) == 0
print(json.dumps([name for name in ("torch", "hydra", "omegaconf", "numpy", "rich", "matplotlib") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert f"tiltflow{' pretrain' if 'pretrain' in arguments else f' {__version__}'}" in done.stdout


# --- strings that nobody foresaw ----------------------------------------------------------------------------------

ALPHABET = "abn=.,[]{}()'\"\\$~+@:/ 01-_*é\n\t${}"
KEYS_ = st.sampled_from(
    ["n", "alpha", "method", "method.candidates", "reward", "reward.low", "domain.template", "x", ""]
)
NASTY = [
    "os.system",
    "tiltflow.core.SVDD",
    "{_target_: tiltflow.core.SMC}",
    "${n}",
    "${x}",
    "???",
    "1e400",
    "nan",
    "[[[]]]",
]
STRINGS = st.one_of(
    st.builds("{}={}".format, KEYS_, st.sampled_from(NASTY)),
    st.text(max_size=20),
    st.text(ALPHABET, max_size=20),
    st.builds("{}={}".format, KEYS_, st.text(max_size=15)),
    st.builds("{}={}".format, KEYS_, st.text(ALPHABET, max_size=15)),
)


@settings(max_examples=300)
@given(st.lists(STRINGS, min_size=1, max_size=3), st.booleans())
def test_any_arguments_give_a_configuration_or_problems(arguments: list[str], many: bool) -> None:
    """Whatever comes, reading and checking end in objects or in a ConfigError, never in anything else."""
    # Without a reward nothing heavy can be built; everything else is checked as always.
    jobs, wrong = combinations(["reward=own", "domain.prior=/nowhere.safetensors", *arguments], many)
    for job in jobs[:3]:
        composed = compose(job)
        with pytest.raises(ConfigError) as caught:
            prepare(composed.config, problems=[*wrong, *composed.problems])
        assert all(problem.key.strip() and problem.text.strip() for problem in caught.value.problems)


@settings(max_examples=100)
@given(st.lists(STRINGS, min_size=1, max_size=2))
def test_any_arguments_of_a_pretraining_give_problems(arguments: list[str]) -> None:
    from tiltflow.pretrain import prepare as check

    (only,), wrong = combinations(["data_dir=/nowhere", *arguments], False)
    composed = compose(only, "pretrain")
    with pytest.raises(ConfigError) as caught:
        check(composed.config, composed.choices["part"], [*wrong, *composed.problems])
    assert all(problem.key.strip() and problem.text.strip() for problem in caught.value.problems)
