"""How the optimizers follow when ``lr`` or ``weight_decay`` of a job is changed while it runs.

What is set is the value that the code began with: a schedule multiplies from it, and groups of parameters keep
their proportions.

- An optimizer whose groups all have one value gets the new one.
- Where groups differ, the one that has what the job's parameter was (else the highest) gets the new value, the
  others in proportion; a group that had 0, such as the biases' weight decay, stays at 0.
- With a tracked scheduler the new ``lr`` takes the place of its base: the present rate changes in proportion, so
  that a schedule at half its height goes on at half the new height.  ``ReduceLROnPlateau`` has no base; it goes
  on from the new rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainkit.training.params import FOLLOWED

#: What schedulers keep in the groups of an optimizer besides ``lr``; all of it is in proportion to the base.
_SCHEDULED = ("initial_lr", "max_lr", "min_lr")


def follow(things: Iterable[Any], changes: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Change the tracked optimizers, and the bases of the tracked schedulers.

    Args:
        things: all that is tracked.
        changes: parameters with their new values.
        before: what these were.

    Returns:
        What does not follow, in words.
    """
    tracked = list(things)
    doubts = []
    for name in FOLLOWED:
        value = changes.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        for optimizer in tracked:
            groups = [each for each in getattr(optimizer, "param_groups", []) if name in each]
            if not groups:
                continue
            schedulers = [each for each in _flat(tracked) if getattr(each, "optimizer", None) is optimizer]
            peaks = next((each.max_lrs for each in schedulers if name == "lr" and hasattr(each, "max_lrs")), None)
            bases = [float(base) for base in peaks or [_base(group, name) for group in groups]]
            factors = _change(groups, bases, name, float(value), before.get(name))
            if name == "lr":
                for scheduler in schedulers:
                    _rebase(scheduler, factors)
                if not schedulers and any("initial_lr" in group for group in groups):
                    doubts.append(
                        "lr was set, but the optimizer has a scheduler that is not tracked, which may undo it; "
                        "run.track(scheduler=...) lets it follow"
                    )
    return doubts


def _change(groups: list[dict[str, Any]], bases: list[float], name: str, value: float, before: Any) -> list[float]:
    """Give groups a new value; return by what factor each group's base has changed."""
    reference = before if before in bases and before else max(bases)
    factors = []
    for group, base in zip(groups, bases, strict=True):
        alike = base == reference or reference == 0
        new_base = value if alike else base * (value / reference)
        factor = new_base / base if base else 1.0
        factors.append(factor)
        if name == "lr" and "initial_lr" in group and base:
            for key in _SCHEDULED:
                if key in group:
                    group[key] = new_base if group[key] == base else group[key] * factor
            _put(group, name, new_base if float(group[name]) == base else float(group[name]) * factor)
        else:
            _put(group, name, new_base)
    return factors


def _base(group: Mapping[str, Any], name: str) -> float:
    """What a schedule multiplies from: its peak where it has one, else where it began, else the value itself."""
    if name == "lr" and "initial_lr" in group:
        return float(group.get("max_lr", group["initial_lr"]))
    return float(group[name])


def _put(group: dict[str, Any], name: str, value: float) -> None:
    if hasattr(group[name], "fill_"):  # compiled steps keep it in a tensor
        group[name].fill_(value)
    else:
        group[name] = value


def _rebase(scheduler: Any, factors: list[float]) -> None:
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        values = getattr(scheduler, name, None)
        if isinstance(values, list) and len(values) == len(factors):
            values[:] = [value * factor for value, factor in zip(values, factors, strict=True)]


def _flat(things: Iterable[Any]) -> Iterable[Any]:
    """All schedulers, those within others too."""
    for thing in things:
        yield thing
        yield from _flat(getattr(thing, "_schedulers", []))
