"""Which metrics share a chart, and what its lines are called: decided once, for panels, pictures and text."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

TRAINING, VALIDATION, TEST = "training", "validation", "test"
#: Words within the names of metrics for the rows that they were computed on.
_SPLITS = {
    **dict.fromkeys(["train", "training"], TRAINING),
    **dict.fromkeys(["val", "valid", "validation", "eval", "evaluation", "dev"], VALIDATION),
    **dict.fromkeys(["test", "testing"], TEST),
}
_WORDS = "|".join(sorted(_SPLITS, key=len, reverse=True))
#: In the front of a name or of a part of its path, or at the end: ``val_loss``, ``gan/val/loss``, ``Loss/val``.
_SPLIT = re.compile(rf"(?:^|(?<=/))({_WORDS})[_/.:\- ](?=.)|(?<=.)[_/.:\- ]({_WORDS})$", re.IGNORECASE)
_ORDER = (TRAINING, VALIDATION, TEST)
#: What is logged but is not a result: shown last.
_SETTINGS = frozenset({"lr", "learning_rate"})
#: Of more charts than these not all are seen at once.
_MANY = 9
#: So many charts whose names differ in one part are a family.
SMALLEST_FAMILY = 4


class Line(NamedTuple):
    """One metric on a chart.

    Attributes:
        name: of the metric.
        label: what the legend calls it; empty where the chart's title says it all.
        split: ``training``, ``validation`` or ``test``; what the name does not tell is training.
    """

    name: str
    label: str
    split: str


class Chart(NamedTuple):
    """Metrics that belong together: the same quantity on training, validation and test rows."""

    title: str
    lines: list[Line]


def charts(names: Iterable[str]) -> list[Chart]:
    """Return the charts of some metrics, in the order in which the metrics were first logged, learning rates last.

    Of many, those that there is one of for each layer, class or the like come after the others.

    >>> found = charts(["lr", "loss", "val_loss", "eval/acc"])
    >>> [(chart.title, [line.label for line in chart.lines]) for chart in found]
    [('loss', ['training', 'validation']), ('acc', ['validation']), ('lr', [''])]
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        title, split = quantity_of(name)
        found.setdefault(title, []).append((name, split))
    families = Counter(map(without_numbers, found)) if len(found) > _MANY else Counter()
    ordered = sorted(
        found, key=lambda title: (families[without_numbers(title)] >= SMALLEST_FAMILY, title in _SETTINGS)
    )
    return [_chart(title, found[title]) for title in ordered]


@functools.lru_cache(maxsize=4096)
def without_numbers(title: str) -> str:
    """Return what charts of one family have in common.

    >>> without_numbers("layer12/grad_norm")
    'layer*/grad_norm'
    """
    return re.sub(r"\d+", "*", title)


@functools.lru_cache(maxsize=4096)
def quantity_of(name: str) -> tuple[str, str]:
    """Return what a metric measures, and on which rows; the latter is empty if its name does not tell.

    >>> quantity_of("val_loss"), quantity_of("gan/eval/loss"), quantity_of("Loss/test"), quantity_of("value")
    (('loss', 'validation'), ('gan/loss', 'validation'), ('Loss', 'test'), ('value', ''))
    """
    match = _SPLIT.search(name)
    if match is None:
        return name, ""
    return name[: match.start()] + name[match.end() :], _SPLITS[(match[1] or match[2]).lower()]


def _chart(title: str, members: list[tuple[str, str]]) -> Chart:
    splits = Counter(split or TRAINING for _, split in members)
    lines = []
    for name, split in sorted(members, key=lambda member: _ORDER.index(member[1] or TRAINING)):
        shown = split or TRAINING
        label = split if len(members) == 1 else shown
        lines.append(Line(name, name if splits[shown] > 1 else label, shown))
    return Chart(title, lines)


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the metrics of each chart, by its title.

    >>> groups(["lr", "loss", "accuracy", "val_loss"])
    {'loss': ['loss', 'val_loss'], 'accuracy': ['accuracy'], 'lr': ['lr']}
    """
    return {chart.title: [line.name for line in chart.lines] for chart in charts(names)}


def paired(metrics: Mapping[str, float]) -> Iterable[tuple[str, float]]:
    """Yield the metrics, each on validation rows after the same on training rows.

    >>> [name for name, _ in paired({"loss": 1, "accuracy": 1, "val_loss": 1})]
    ['loss', 'val_loss', 'accuracy']
    """
    for names in groups(metrics).values():
        for name in names:
            yield name, metrics[name]
