"""Parameters that are named like secrets: the function gets them, nothing that others read has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files.masking import MASK, has_mask, is_secret, unmasked
from trainkit.files.plain import to_jsonable

SECRET = "s3cr3t-value"

NAMES = [
    "token",
    "hf_token",
    "HF_TOKEN",
    "accessToken",
    "access-token",
    "password",
    "db_password",
    "PASSWD",
    "secret",
    "client_secret",
    "api_key",
    "apiKey",
    "APIKEY",
    "openai_api_key",
    "AWS_SECRET_ACCESS_KEY",
    "private_key",
    "key",
    "credential",
    "credentials",
    "auth",
    "token2",
]
PLAIN_NAMES = [
    "n_tokens",
    "tokens",
    "max_token_length",
    "key_dim",
    "monkey",
    "keys",
    "keyword",
    "pad_token",
    "eos_token",
    "mask_token",
    "eos_token_id",
    "sort_key",
    "target_key",
    "cache_key",
    "query_key",
    "rng_key",
    "time_key",
    "tokenizer",
    "passwordless",
    "secretary",
    "lr",
    "hidden",
    "author",
    "authors",
    "n_keys",
    "token_type",
    "turkey",
    "_",
    "0",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret(name, SECRET)
    assert to_jsonable({"outer": [{name: SECRET}]}) == {"outer": [{name: MASK}]}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_plain_name_is_not_taken_for_one_of_a_secret(name: str) -> None:
    assert not is_secret(name, SECRET)
    assert to_jsonable({name: SECRET}) == {name: SECRET}


@pytest.mark.parametrize(
    ("name", "value"),
    [("key", 3), ("eos_token", 50256), ("token", 1.5), ("password", None), ("token", ""), ("secret", True)],
)
def test_what_is_no_secret_by_its_value_is_shown(name: str, value: Any) -> None:
    """An index, a number of a vocabulary, or nothing at all."""
    assert to_jsonable({name: value}) == {name: value}


@pytest.mark.parametrize("value", [SECRET, 1234, [SECRET], {"a": SECRET}, SECRET.encode(), Path(SECRET)])
def test_every_kind_of_value_of_a_password_is_masked(value: Any) -> None:
    assert to_jsonable({"password": value}) == {"password": MASK}


@pytest.mark.parametrize(
    "thing",
    [
        argparse.Namespace(lr=0.1, api_key=SECRET),
        argparse.Namespace(api_key="it's " + SECRET),
        argparse.Namespace(api_key=SECRET * 1000),
        type("Config", (), {"__repr__": lambda self: f'Config("token": "{SECRET}")'})(),
    ],
)
def test_the_repr_of_an_object_is_masked(thing: Any) -> None:
    """Options often travel as one object."""
    assert "s3cr3t" not in str(to_jsonable({"args": thing}))


@given(st.recursive(st.integers() | st.text(), lambda inner: st.dictionaries(st.sampled_from(NAMES), inner)))
def test_what_is_masked_comes_back(value: Any) -> None:
    """And nothing else is changed."""
    assert unmasked(to_jsonable(value), value) == value


def texts_of(job: tk.Job) -> str:
    """Everything of a job that others may read."""
    files = [job.paths.record, *job.paths.folder.glob("*.json*")]
    return "".join(file.read_text() for file in files if file != job.paths.plan) + repr(job) + job.summary()


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_the_function_gets_a_secret_and_no_file_has_it(root: Path, runner: str) -> None:
    """As an argument and in run.params, also in a branch with another one and in a replay of that."""

    class Counter:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def fit(run: Any, api_key: str, hub: dict[str, str], lr: float) -> list[str]:
        run.track(counter=Counter())
        for _ in run.epochs(2):
            for _ in run.batches(range(3)):
                run.log(loss=1.0)
        return [api_key, run.params.api_key, hub["token"], run.params["hub"]["token"]]

    job = tk.submit(fit, api_key=SECRET, hub={"token": SECRET}, lr=0.1, runner=runner)
    assert job.result(60) == [SECRET] * 4
    assert job.record.params == {"api_key": MASK, "hub": {"token": MASK}, "lr": 0.1}
    branch = job.branch(api_key="an0ther", lr=0.2, runner=runner)
    assert branch.result(60) == ["an0ther", "an0ther", SECRET, SECRET]
    assert branch.paths.plan.stat().st_mode & 0o077 == 0
    again = branch.replay(runner=runner)
    assert again.result(60) == ["an0ther", "an0ther", SECRET, SECRET]
    for each in (job, branch, again):
        assert not any(secret in texts_of(each) for secret in (SECRET, "an0ther"))
        assert has_mask(each.status()["params"])


def test_what_the_record_shows_never_comes_back_as_the_secret(root: Path) -> None:
    """A branch with parameters as its original shows them has the secrets themselves, and the other changes."""

    class Counter:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def fit(run: Any, api_key: str, hub: dict[str, str], lr: float) -> list[Any]:
        run.track(counter=Counter())
        for _ in run.epochs(2):
            run.log(loss=1.0)
        return [api_key, hub, run.params.api_key, run.params["hub"]]

    job = tk.submit(fit, api_key=SECRET, hub={"token": SECRET, "repo": "a"}, lr=0.1)
    job.result(60)
    branch = job.branch({**job.record.params, "hub": {"token": MASK, "repo": "b"}})
    hub = {"token": SECRET, "repo": "b"}
    assert branch.result(60) == [SECRET, hub, SECRET, hub]
    assert branch.replay().result(60) == [SECRET, hub, SECRET, hub]
    other = branch.branch(api_key="an0ther")
    other.result(60)
    last = other.branch(other.record.params)
    assert last.result(60) == ["an0ther", hub, "an0ther", hub]


@pytest.mark.parametrize("given", [{"api_key": MASK}, {"hub": [{"token": MASK}]}])
def test_a_new_job_is_not_given_what_a_record_shows_of_a_secret(root: Path, given: dict[str, Any]) -> None:
    def fit(run: Any, api_key: str = "", hub: Any = None) -> None: ...

    with pytest.raises(OptionError, match=r"in the place of a secret"):
        tk.submit(fit, given)
    assert tk.jobs() == []


def test_a_secret_is_not_set_on_a_running_job(root: Path) -> None:
    """The request would be in a file that others may read."""

    def fit(run: Any, api_key: str, hub: dict[str, str]) -> None:
        for _ in run.batches(iter(int, 1)):
            run.log(loss=1.0)

    job = tk.submit(fit, api_key=SECRET, hub={"token": SECRET})
    for change in ({"api_key": "an0ther"}, {"hub": {"token": "an0ther"}}):
        with pytest.raises(OptionError, match=r"job\.branch\("):
            job.set(**change)
    job.stop()
    job.wait(60)
    assert "an0ther" not in texts_of(job)
