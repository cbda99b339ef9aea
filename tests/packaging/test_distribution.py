"""The distribution: its name, and the locks with which the README's commands install it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from trainkit.errors import DISTRIBUTION, missing_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Which extras each lock covers.
LOCKS = {"run": [], "test": ["test", "lint"], "ray": ["test", "lint", "ray"]}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: Another project owns this name on the package index: installing it, or an extra of it, runs its code.
FOREIGN = re.compile(r"(?<![\w./-])trainkit\[[a-z]|\bpip3? install (-\S+ )*[\'\"]?trainkit\b")


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and content of every file of the checkout that a reader or a user may see."""
    listed = subprocess.check_output(["git", "ls-files"], cwd=CHECKOUT, text=True).splitlines()
    assert "README.md" in listed
    for name in listed:
        if name.endswith((".py", ".md", ".ipynb", ".toml", ".txt", ".js", ".json", ".sh", ".yml", "run", "lock")):
            yield name, (CHECKOUT / name).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, list[Requirement]]:
    """Return what a lock pins, by normalised name; a name may be there once per Python version."""
    pinned: dict[str, list[Requirement]] = {}
    for line in (CHECKOUT / ".ci" / "locks" / f"{lock}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(normal(requirement.name), []).append(requirement)
    return pinned


def normal(name: str) -> str:
    """Return the normalised name of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(python: str) -> dict[str, str]:
    """Return the markers of a Python version on Linux."""
    return {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}


def pinned_version(candidates: list[Requirement], python: str) -> str | None:
    """Return the version that a lock gives a package on a Python version; None where it is not installed."""
    fitting = [one for one in candidates if one.marker is None or one.marker.evaluate(environment(python))]
    assert len(fitting) <= 1, (fitting, python)
    return next(iter(fitting[0].specifier)).version if fitting else None


def requirements(extras: list[str]) -> Iterator[Requirement]:
    """Yield what pyproject.toml asks for, with the extras that an extra of this project names."""
    for text in [
        *PROJECT["dependencies"],
        *(one for extra in extras for one in PROJECT["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(text)
        if normal(requirement.name) == normal(PROJECT["name"]):
            yield from requirements(sorted(requirement.extras))
        else:
            yield requirement


def test_no_install_line_names_the_foreign_project() -> None:
    """Every printed install line, also of extras, uses the name of this distribution."""
    own = Path(__file__).relative_to(CHECKOUT).as_posix()
    found = [
        f"{name}: {line.strip()}"
        for name, text in texts()
        if name != own
        for line in text.splitlines()
        if FOREIGN.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["pip install trainkit", "pip install -U 'trainkit[ray]'", "needs `trainkit[ray]`", '"trainkit[notebook]"'],
)
def test_the_check_of_install_lines_sees_each_form(line: str) -> None:
    """The check above is not a formality."""
    assert FOREIGN.search(line)
    assert not FOREIGN.search(line.replace("trainkit", DISTRIBUTION))


def test_errors_print_the_name_that_pyproject_declares() -> None:
    """The name is declared once for packaging and once for messages; they agree."""
    assert PROJECT["name"] == DISTRIBUTION
    for extra in PROJECT["optional-dependencies"]:
        assert f"pip install '{PROJECT['name']}[{extra}]'" in str(missing_extra("this needs that", extra))


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_what_pyproject_requires(lock: str) -> None:
    """Each direct requirement has pins in the allowed range, on every supported Python; else run .ci/lock."""
    pinned = pins(lock)
    for requirement in requirements(LOCKS[lock]):
        candidates = pinned.get(normal(requirement.name), [])
        for python in PYTHONS:
            if requirement.marker is None or requirement.marker.evaluate(environment(python)):
                version = pinned_version(candidates, python)
                assert version is not None, (requirement, python)
                assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_every_version_and_name_no_index(lock: str) -> None:
    """Each line is one exact version; where it comes from is the reader's choice."""
    for requirement in (one for group in pins(lock).values() for one in group):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert requirement.url is None
        assert requirement.marker is None or isinstance(requirement.marker, Marker)
    assert "://" not in (CHECKOUT / ".ci" / "locks" / f"{lock}.txt").read_text()


def test_locks_agree() -> None:
    """The three locks give a package the same version, so that one environment can grow into the next."""
    for smaller, larger in (("run", "test"), ("test", "ray")):
        more = pins(larger)
        for name, group in pins(smaller).items():
            for python in PYTHONS:
                if (version := pinned_version(group, python)) is not None:
                    assert version == pinned_version(more[name], python), (name, python)


def test_readme_commands_install_with_the_locks() -> None:
    """Also what builds the package is locked: pip reads the two variables, the older and the newer one."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for heading, lock in (("main", "run"), ("test", "test")):
        command = readme.split(f"<!-- the {heading} command -->")[1].split("```")[1]
        for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
            assert f"{variable}=.ci/locks/{lock}.txt" in command
