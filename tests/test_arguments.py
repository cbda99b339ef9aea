"""Options of a job and parameters of its function may have the same names; no value reaches the wrong one."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.api.arguments import telling_params_apart
from trainkit.api.verifying import verify_resume
from trainkit.errors import OptionError
from trainkit.files.record import Limits, Status

#: The options that no function takes over: a value for one is ambiguous where the function has that name too.
REFUSED = ["runner", "ranks", "gpus_per_rank", "retries", "address", "name", "job_id", "root"]


def taking(name: str) -> Any:
    """Return a function that has one parameter, and returns it."""
    namespace: dict[str, Any] = {}
    exec(f"def fit(run, {name}='default'): return {name}", namespace)
    return namespace["fit"]


def test_every_option_of_submit_has_a_rule() -> None:
    arguments = inspect.signature(tk.submit).parameters.values()
    options = {each.name for each in arguments if each.kind is each.KEYWORD_ONLY}
    assert options == {*REFUSED, "max_time", "patience", "on_done", "seed"}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("value", ["mine", None, 0, 1])
def test_option_that_is_also_a_parameter_is_refused(root: Path, name: str, value: object) -> None:
    with pytest.raises(
        OptionError, match=rf"{name}=.*is ambiguous.*{{'{name}': {value!r}}}.*{{}}, {name}={value!r}"
    ):
        tk.submit(taking(name), **{name: value})
    assert not (root / "artifacts").exists()


@pytest.mark.parametrize("name", [*REFUSED, "max_time", "patience", "on_done", "seed"])
def test_parameter_in_a_dict_is_the_functions(root: Path, name: str) -> None:
    job = tk.submit(taking(name), {name: 0})
    assert job.result() == 0
    assert job.record.params == {name: 0}
    assert job.record.limits == Limits()


@pytest.mark.parametrize("name", ["name", "root", "retries"])
def test_parameter_that_a_partial_has_bound_is_not_ambiguous(tmp_path: Path, name: str) -> None:
    value = {"name": "mine", "root": tmp_path, "retries": 0}[name]
    job = tk.submit(functools.partial(taking(name), **{name: "bound"}), **{name: value})
    assert job.result() == "bound"


def test_name_of_a_runner_is_the_option_and_the_parameter_is_reported(root: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"fit\(\) keeps its own value.*submit\(fit, {'runner': \.\.\.}, runner='thread'\)"
    ):
        job = tk.submit(taking("runner"), runner="thread")
    assert job.result() == "default"
    assert job.record.runner == "thread"


def test_parameter_and_option_of_one_name_can_both_be_given(root: Path) -> None:
    def fit(run: Any, name: str, patience: int, lr: float = 0.1) -> tuple[str, int, float]:
        return name, patience, lr

    job = tk.submit(fit, {"name": "resnet18", "patience": 2}, name="mine", patience=5, lr=0.5)
    assert job.result() == ("resnet18", 2, 0.5)
    assert (job.record.name, job.record.limits.patience) == ("mine", 5)


def test_option_with_an_empty_dict_is_an_option(root: Path) -> None:
    job = tk.submit(taking("name"), {}, name="mine")
    assert job.result() == "default"
    assert job.record.name == "mine"


def test_function_of_any_parameters_gets_those_of_a_dict(root: Path) -> None:
    def fit(run: Any, **params: Any) -> dict[str, Any]:
        return params

    job = tk.submit(fit, {"name": "resnet18", "params": 1}, name="mine", more=2)
    assert job.result() == {"name": "resnet18", "params": 1, "more": 2}
    assert job.record.name == "mine"
    assert tk.submit(fit, name="mine").result() == {}


@pytest.mark.parametrize("params", [3, "lr=1", [("lr", 1)], {1: 2}])
def test_params_that_are_not_a_dict_are_refused(root: Path, params: Any) -> None:
    with pytest.raises(OptionError, match=r"submit\(\) got .* for params; expected a dict"):
        tk.submit(taking("lr"), params)


def test_parameter_given_twice_is_refused(root: Path) -> None:
    with pytest.raises(OptionError, match="got 'lr' twice: 1 and 2"):
        tk.submit(taking("lr"), {"lr": 1}, lr=2)


def test_partial_keeps_its_values(root: Path) -> None:
    import functools

    job = tk.submit(functools.partial(taking("name"), name="resnet18"), {}, name="mine")
    assert job.result() == "resnet18"
    assert job.record.params == {"name": "resnet18"}


def test_verify_resume_refuses_its_own_options_as_parameters() -> None:
    with pytest.raises(OptionError, match=r"steps=7 is ambiguous.*verify_resume\(fit, {'steps': 7}\)"):
        verify_resume(taking("steps"), steps=7)


def test_seed_reaches_function_and_job(root: Path) -> None:
    job = tk.submit(taking("seed"), seed=3)
    assert job.result() == 3
    assert job.record.randomness.seed == 3
    job = tk.submit(taking("seed"), {"seed": 4}, seed=3)
    assert job.result() == 4
    assert job.record.randomness.seed == 3


def test_option_without_a_parameter_of_its_name_is_passed_on() -> None:
    @telling_params_apart(for_function=("own",))
    def start(
        function: Any, params: Any = None, /, *, own: int = 0, other: int = 0, **more: Any
    ) -> tuple[Any, ...]:
        return params, own, other, more

    def fit(run: Any, own: int) -> None: ...

    assert start(fit, own=1, other=2, more=3) == ({"own": 1, "more": 3}, 0, 2, {})
    assert start(fit, {"more": 3}, own=1, other=2) == ({"more": 3}, 1, 2, {})


@pytest.mark.parametrize("name", ["step", "name", "runner"])
def test_branch_tells_options_and_parameters_apart(root: Path, name: str) -> None:
    def fit(run: Any, step: int = 1, name: str = "a", runner: str = "b") -> tuple[Any, ...]:
        from torch import nn

        run.track(model=nn.Linear(1, 1))
        for _ in run.epochs(1):
            run.save_now()
        return step, name, runner

    job = tk.submit(fit)
    assert job.wait() is Status.COMPLETED
    with pytest.raises(OptionError, match=rf"branch\({name}=.*is ambiguous.*branch\({{'{name}': ...}}\)"):
        job.branch(**{name: 0 if name == "step" else "thread"})
    branched = job.branch({name: "changed"}, name="new")
    assert "changed" in branched.result()
    assert branched.name == "new"
