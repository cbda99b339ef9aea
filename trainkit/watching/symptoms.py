"""What tells early that a run goes wrong: rules over numbers, without a disk, a clock or a thread.

Every threshold is here, with its reason.  A false alarm is worse than a late word: a person who was warned for
nothing does not read the next warning.
"""

from __future__ import annotations

import functools
import math
import re
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: A loss whose median over ten values is ten times the largest of its first ten has left the range of an
#: untrained model.  (Searches for a learning rate give up at 4 times the best loss so far, fastai and Lightning
#: alike; the best loss of a healthy run may be close to zero, the first ones are not.)
LOSS_GROWTH = 10.0
#: Gradient norms of healthy runs move by a factor of ten, at a warm-up or when a layer wakes up.  Those of a run
#: that diverges grow exponentially, and pass any factor soon.
GRADIENT_GROWTH = 100.0
_MANY = 10
#: What the norm is called that was not logged, but found in the run's model.
FOUND_NORM = "gradient norm"
#: A metric other than a loss may be undefined now and then: no positive example in the rows, nothing to validate.
UNDEFINED_IN_A_ROW = 3
#: A mixed-precision scaler begins with a scale that is too large, and halves it from 2**16 at every infinite
#: gradient (torch.amp.GradScaler): up to 17 infinite norms in a row are its way to work.
INFINITE_NORMS_IN_A_ROW = 20

#: "Mostly" is more than half of the time.  (The profiler of torch speaks of it from 5 % on; that much is seldom
#: worth a word to somebody who did not ask.)
WAITING = 0.5

#: A checkpoint is written beside the old one; there should be room for it and for what others write meanwhile.
CHECKPOINTS_OF_ROOM = 2
#: Less than this is little on any disk: the notebook, the outputs and the metrics grow too.
LEAST_FREE_BYTES = 32 * 1024**2

#: earlyoom begins to end processes when 10 % of the memory is available and 10 % of the swap is free.
LEAST_MEMORY = 0.10
#: On a large machine a tenth is far from the end; a GiB is not much for the next batch, copy or worker.
ENOUGH_MEMORY_BYTES = 1024**3

#: A thread that holds the interpreter lets go of it when another has asked for this long (sys.getswitchinterval
#: is 5 ms): a thread that always wakes half of that late shares the interpreter with one that never waits.
LATE_SHARE_OF_SWITCH = 0.5
#: The notebook computes for more of the time than not.
BUSY = 0.5
#: A job that is ready to compute for more of the time than this is not kept from it by the interpreter.
KEPT_BUSY = 0.85


class Word(NamedTuple):
    """A warning, or the news that its cause is over.

    Attributes:
        cause: a name that stays the same as long as it is the same matter.
        message: plain words, with what to do.
        over: whether the matter has passed.
    """

    cause: str
    message: str
    over: bool = False


class Growth:
    """Whether a positive number has grown out of the range that it began with.

    Args:
        factor: from how many times the largest of the first ten values on.

    >>> growth = Growth(10.0)
    >>> [growth.grown(value) for value in [1.0, 2.0] * 5 + [30.0] * 5][-2:]
    [False, True]
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.now = 0.0
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=_MANY)
        self._large = False

    def grown(self, value: float) -> bool:
        """Take note of a value, and tell whether the last ten are out of range."""
        if not math.isfinite(value):
            return self._large
        self._last.append(value)
        if len(self._first) < _MANY:
            self._first.append(value)
            return False
        if min(self._first) <= 0:
            return False  # what passes through zero has no scale
        self.now = sorted(self._last)[len(self._last) // 2]  # the module statistics takes long to import
        # Back to a fifth of the limit before it counts as over, so that a value near the limit does not flicker.
        limit = self.factor * max(self._first)
        self._large = self.now > (limit / 5 if self._large else limit)
        return self._large


class Divergence:
    """What the logged numbers tell.

    Only the loss that is minimised can diverge: a part of it, such as a term with a warm-up, may grow meanwhile.

    Attributes:
        hears_gradients: whether the run logs a norm of its gradients itself.
        watched: the metric that determines the best step, and its mode.
    """

    def __init__(self) -> None:
        self._growth: dict[str, Growth] = {}
        self._undefined: dict[str, int] = {}
        self._told: set[str] = set()
        self._losses: set[str] = set()
        self.hears_gradients = False
        self.watched: tuple[str, str] = ("", "min")

    def hear(self, step: int, numbers: Mapping[str, float], non_finite: Mapping[str, int]) -> list[Word]:
        """Judge what was logged since the last call.

        Args:
            step: of the newest line.
            numbers: the last value of each metric that was logged since.
            non_finite: metrics that had a value of NaN or infinity since, each with the first step of it.
        """
        words = []
        self._losses.update(name for name in numbers if name not in self._undefined and _is_loss(name))
        for name, value in numbers.items():
            gradient = _is_gradient_norm(name)
            self.hears_gradients = self.hears_gradients or (gradient and name != FOUND_NORM)
            infinite = name in non_finite
            self._undefined[name] = self._undefined.get(name, 0) + 1 if infinite else 0
            patience = INFINITE_NORMS_IN_A_ROW if gradient else 1 if "loss" in name else UNDEFINED_IN_A_ROW
            cause = f"not finite: {name}"
            if self._undefined[name] >= patience:
                self._told.add(cause)
                words.append(Word(cause, _not_finite(name, non_finite[name], gradient=gradient)))
            elif cause in self._told and not infinite:
                self._told.discard(cause)
                words.append(Word(cause, f"{_called(name)} is finite again since step {step}", over=True))
            if gradient or self._is_minimised(name):
                words += self._grown(name, value, step, GRADIENT_GROWTH if gradient else LOSS_GROWTH)
        return words

    def _is_minimised(self, name: str) -> bool:
        """Whether a metric is the loss that the training minimises: all of it, and not a part."""
        # A validation loss grows when a model learns its training rows by heart: another matter, other remedies.
        words = _words(name)
        if not words.isdisjoint(_VALIDATION):
            return False
        if name == self.watched[0]:
            return self.watched[1] == "min"
        return "loss" in words and (words <= _WHOLE or (words <= _WHOLE | _CRITERIA and self._losses == {name}))

    def _grown(self, name: str, value: float, step: int, factor: float) -> list[Word]:
        growth = self._growth.setdefault(name, Growth(factor))
        cause = f"growing: {name}"
        if growth.grown(value):
            self._told.add(cause)
            return [
                Word(
                    cause,
                    f"{_called(name)} is {growth.now:.3g} at step {step}, more than {factor:g} times what it was "
                    "in the first steps: the training diverges. Try a lower lr, warm it up, or clip the gradients",
                )
            ]
        if cause in self._told:
            self._told.discard(cause)
            return [Word(cause, f"{_called(name)} is back at {growth.now:.3g} at step {step}", over=True)]
        return []


def _called(name: str) -> str:
    return "the loss" if name == "loss" else name


def _is_gradient_norm(name: str) -> bool:
    """Whether a metric is a norm of gradients, as the frameworks call it: grad_norm, grad/norm, gradient_norm."""
    return "grad" in name and "norm" in name


#: What names of a whole loss are made of, as in train/total_loss.
_WHOLE = frozenset(
    {
        "loss",
        "total",
        "train",
        "training",
        "step",
        "epoch",
        "batch",
        "iter",
        "running",
        "avg",
        "average",
        "mean",
        "smooth",
        "smoothed",
        "ema",
        "sum",
        "overall",
        "full",
        "all",
        "final",
    }
)
#: What the only loss of a run may be named after.  Terms that are usually added to another loss (kl, l1, l2, aux,
#: reg, ...) are not among them.
_CRITERIA = frozenset(
    {
        "ce",
        "cross",
        "entropy",
        "crossentropy",
        "xent",
        "nll",
        "bce",
        "mse",
        "rmse",
        "mae",
        "huber",
        "hinge",
        "ctc",
        "lm",
        "mlm",
        "logits",
    }
)
_VALIDATION = frozenset({"val", "valid", "validation", "test", "testing", "eval", "evaluation", "dev", "holdout"})


@functools.lru_cache(maxsize=1024)
def _words(name: str) -> frozenset[str]:
    """Return the words that a metric's name is made of.

    >>> sorted(_words("train/totalLoss_0")), sorted(_words("MSELoss")), sorted(_words("valloss"))
    (['loss', 'total', 'train'], ['loss', 'mse'], ['loss', 'val'])
    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return frozenset(" ".join(parts).lower().replace("loss", " loss ").split())


def _is_loss(name: str) -> bool:
    words = _words(name)
    return "loss" in words and words.isdisjoint(_VALIDATION)


def _not_finite(name: str, step: int, *, gradient: bool) -> str:
    if "loss" in name or gradient:
        return (
            f"{_called(name)} is not finite since step {step}: what is learnt from here on is lost. "
            "Try a lower lr, clip the gradients, or look for missing or huge values in the data"
        )
    return (
        f"{name} is not finite since step {step}: it cannot be compared, and is never the best. "
        "Is something divided by zero, or a class missing in the rows it is computed on?"
    )


def disk_is_short(free_bytes: int, checkpoint_bytes: int, *, told: bool) -> bool:
    """Whether the disk has too little room for the next checkpoint and for what others write.

    Args:
        free_bytes: what is free.
        checkpoint_bytes: what the next checkpoint takes, with the model file; 0 if that is not known yet.
        told: whether it was short before; then a quarter more is needed until it is not.

    >>> disk_is_short(50_000_000, 30_000_000, told=False), disk_is_short(70_000_000, 30_000_000, told=False)
    (True, False)
    """
    needed = max(CHECKPOINTS_OF_ROOM * checkpoint_bytes, LEAST_FREE_BYTES)
    return free_bytes < needed * (1.25 if told else 1.0)


def memory_is_short(available_bytes: float, total_bytes: float, swap_free: float, *, told: bool) -> bool:
    """Whether the memory is about to run out.

    Args:
        available_bytes: what can still be had without swapping.
        total_bytes: what there is, or what the container may take.
        swap_free: which part of the swap is free; 0 where there is none.
        told: whether it was short before; then a quarter more is needed until it is not.

    >>> memory_is_short(150e6, 2e9, 0.0, told=False), memory_is_short(1.5e9, 100e9, 0.0, told=False)
    (True, False)
    """
    needed = min(LEAST_MEMORY * total_bytes, ENOUGH_MEMORY_BYTES)
    return available_bytes < needed * (1.25 if told else 1.0) and swap_free < LEAST_MEMORY


def is_starved(*, late_s: float, switch_s: float, notebook: float, job: float) -> bool:
    """Whether the notebook keeps the interpreter from the job.

    Args:
        late_s: how late the recorder's thread woke, on average, less what it waited for a core.
        switch_s: for how long a thread may keep the interpreter when another asks for it.
        notebook: which part of the time the notebook's thread computed, or was ready to.
        job: which part of the time the job's thread was.

    >>> is_starved(late_s=0.006, switch_s=0.005, notebook=0.9, job=0.1)
    True
    >>> is_starved(late_s=0.0002, switch_s=0.005, notebook=0.9, job=0.4)  # it computes outside of the interpreter
    False
    """
    return late_s > LATE_SHARE_OF_SWITCH * switch_s and notebook > BUSY and job < KEPT_BUSY
