"""In the processes of a job, ``__main__`` has what the notebook defines, so that pickle finds it."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from trainkit.files.paths import JobPaths
from trainkit.runners import main_module
from trainkit.runners.task import (
    Task,
    definitions_in,
    dump_outcome,
    dump_task,
    load_task,
    main_of,
    read_task,
    write_task,
)

CELLS = """
import enum, torch
MEAN = 3
LARGE = torch.zeros(200_000)
counter = 0

class Net(torch.nn.Module):
    pass

class Deep(Net):
    class Inner:
        pass

class Kind(enum.Enum):
    FIRST = 1

def double(x):
    return 2 * x * MEAN

def mentions_large(x):
    return x + LARGE.sum()

def fit(run):
    global counter
    counter += 1
    return double(counter), Net(), __file__
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A ``__main__`` with some cells run in it."""
    main = types.ModuleType("__main__")
    main.__file__ = "/somewhere/script.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setenv(main_module.TASK_VARIABLE, "")
    exec(compile(CELLS, "<cell>", "exec"), vars(main))
    return main


def in_a_worker(task: Task) -> tuple[Task, Any]:
    """Send a task, and return it with the new ``__main__``."""
    loaded = load_task(dump_task(task))
    return loaded, sys.modules["__main__"]


@pytest.mark.parametrize("name", ["Net", "Deep", "Kind", "double", "fit"])
def test_definition_is_found_in_main_mentioned_or_not(notebook: Any, name: str) -> None:
    written = pickle.dumps(getattr(notebook, name))
    _, main = in_a_worker(Task(notebook.fit, {}))
    assert main is not notebook
    found = pickle.loads(written)
    assert found is getattr(main, name)
    assert pickle.loads(pickle.dumps(found)) is found


def test_objects_of_the_task_are_the_ones_in_main(notebook: Any) -> None:
    task, main = in_a_worker(Task(notebook.fit, {"collate": notebook.double, "model": notebook.Deep()}))
    assert task.function is main.fit
    assert task.arguments["collate"] is main.double
    assert type(task.arguments["model"]) is main.Deep
    assert main.Deep.__mro__[1] is main.Net
    for thing in (task.function, task.arguments["collate"], task.arguments["model"], main.Deep.Inner()):
        pickle.loads(pickle.dumps(thing))


def test_globals_of_functions_are_those_of_main(notebook: Any) -> None:
    task, main = in_a_worker(Task(notebook.fit, {}))
    doubled, model, file = task.function(None)
    assert (doubled, main.counter, notebook.counter) == (6, 1, 0)
    assert type(model) is main.Net
    assert file == "/somewhere/script.py"
    main.MEAN = 5
    assert main.double(1) == 10


def test_definitions_that_mention_much_do_not_travel_unless_the_task_mentions_them(notebook: Any) -> None:
    data = dump_task(Task(notebook.fit, {}))
    assert "mentions_large" not in definitions_in(data)
    assert len(data) < 100_000
    _, main = in_a_worker(Task(notebook.fit, {}))
    with pytest.raises(AttributeError, match="module '__main__' has no attribute 'mentions_large'"):
        _ = main.mentions_large


def test_all_definitions_together_are_bounded(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "DEFINITIONS_BYTES", 3000)
    assert 0 < sum(map(len, definitions_in(dump_task(Task(notebook.fit, {}))).values())) <= 3000


def test_definition_that_cannot_be_pickled_keeps_nothing_back(notebook: Any) -> None:
    exec("import threading\ndef locks(): return LOCK\nLOCK = threading.Lock()", vars(notebook))
    _, main = in_a_worker(Task(notebook.fit, {}))
    assert issubclass(main.Deep, main.Net)
    assert not hasattr(main, "locks")


def test_large_definition_that_the_task_mentions_is_found_in_its_file(notebook: Any) -> None:
    data = dump_task(Task(notebook.mentions_large, {}))
    assert main_of(data)["mentions_large"](1) == 1


def test_notebook_that_resumes_in_a_thread_keeps_its_main(notebook: Any) -> None:
    data = dump_task(Task(notebook.fit, {}))
    notebook.counter = 7
    task = load_task(data, own_process=False)
    assert sys.modules["__main__"] is notebook
    assert task.function(None)[0] == 6
    assert notebook.counter == 7


def test_job_that_submits_a_job_passes_definitions_on(notebook: Any) -> None:
    _, main = in_a_worker(Task(notebook.fit, {}))
    _, second = in_a_worker(Task(main.fit, {}))
    assert second is not main
    assert issubclass(second.Deep, second.Net)


def test_function_that_a_job_returns_has_globals_of_its_own(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, main = in_a_worker(Task(notebook.fit, {}))
    returned = dump_outcome(main.double, None, returned=True)
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    notebook.MEAN = 100
    function, _, _ = pickle.loads(returned)
    assert function(1) == 6
    assert notebook.MEAN == 100


def test_process_that_a_job_spawns_finds_definitions(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = JobPaths(tmp_path, "x")
    paths.folder.mkdir(parents=True)
    write_task(paths, Task(notebook.mentions_large, {"of": notebook.double}))
    task = read_task(paths)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.map(task.arguments["of"], [1, 2]) == [6, 12]
        assert pool.map(sys.modules["__main__"].mentions_large, [1]) == [1]  # type: ignore[attr-defined]


SCRIPT = """
import multiprocessing, sys, torch
import trainkit as tk

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

class Numbers(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return torch.tensor([float(index)])

def square(x): return x * x

def fit(run, path, model, function):
    from torch.utils.data import DataLoader
    torch.save(model, path + ".new")
    torch.load(path + ".new", weights_only=False)
    loaded = torch.load(path, weights_only=False)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        forked = pool.map(function, [3])
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    return forked, [batch.sum().item() for batch in loader], loaded

if __name__ == "__main__":
    torch.save(Net(), sys.argv[1])
    ranks = int(sys.argv[2])
    job = tk.submit(fit, path=sys.argv[1], model=Net(), function=square, runner="process", ranks=ranks)
    forked, spawned, model = job.result()
    assert (forked, spawned) == ([9], [6.0]), (forked, spawned)
    assert type(model) is Net, type(model)
"""


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.ranks)])
def test_job_of_a_script_pickles_its_classes_and_functions(root: Path, tmp_path: Path, ranks: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(tmp_path / "net.pt"), str(ranks)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
