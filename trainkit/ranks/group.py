"""The ranks of a job: processes that train one model together, each on its share of every step.

Whoever starts them (torchrun, Ray Train) makes the process group of ``torch.distributed`` that gradients go
through.  What the ranks say to each other besides, a few bytes now and then, goes through a gloo group of its
own, so that it never mixes with the gradients and needs no GPU.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from trainkit.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

Value = TypeVar("Value")

#: Under which name the board has who waits.
_WORD = "trainkit-waits"

#: What a lost peer looks like in the text of an error of gloo's or NCCL's.
_LOST_PEER = ("gloo/transport", "NCCL")


class Board(Protocol):
    """What ranks use of a store of ``torch.distributed``."""

    def set(self, key: str, value: str, /) -> None:
        """Put a word up."""

    def check(self, keys: list[str], /) -> bool:
        """Whether there are words of these names."""

    def get(self, key: str, /) -> bytes:
        """Return a word that is there."""


class Ranks:
    """A job of one rank, which has nothing to agree upon with anybody.

    Attributes:
        rank: which one this is, from 0.
        world_size: how many there are.
        local_rank: which one of its machine.
        node: what its machine is called.
        waits_since: since when it waits for the others, on the clock of ``time.monotonic``; None if it does not.
    """

    rank = 0
    world_size = 1
    local_rank = 0
    node = ""
    waits_since: float | None = None

    @property
    def device(self) -> str | None:
        """The device of this rank, where that is not the user's choice."""
        return None

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank, on every rank."""
        return [value]

    def highest(self, values: list[int]) -> list[int]:
        """Return the highest of each value over all ranks, on every rank."""
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place."""
        return tensor

    def wrap(self, model: nn.Module, **options: Any) -> nn.Module:
        """Return a model whose gradients are the means over all ranks."""
        return model

    def say_that_it_waits(self, step: int) -> None:
        """Let the others know that this rank waits for them, after a step, unless it waits no more."""

    def who_waits(self) -> tuple[int, int] | None:
        """Return the rank that has said last that it waits, and after which step, if it still does."""
        return None

    def close(self) -> None:
        """Leave the others."""


#: That of every job that was not asked to have ranks.
ALONE = Ranks()


class Group(Ranks):
    """One of several ranks, once the process group of ``torch.distributed`` is made.

    Args:
        board: where ranks leave words for each other; used by nobody else, and by several threads.
        node: what this machine is called.
        local_rank: which one of its machine this is.
    """

    def __init__(self, board: Board, *, node: str | None = None, local_rank: int = 0) -> None:
        import torch.distributed as dist

        self._dist = dist
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.local_rank = local_rank
        self.node = node or socket.gethostname()
        self._group = dist.new_group(backend="gloo")
        self._board = board
        self._has_said = False
        self._saying = threading.Lock()

    @property
    def device(self) -> str | None:
        """Its GPU, if there is one for each rank of the machine, else the CPU."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 1 and self.local_rank == 0:
            return "cuda:0"  # a cluster shows to each rank its own only
        return f"cuda:{self.local_rank}" if self.local_rank < count else "cpu"

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank, on every rank."""
        values: list[Any] = [None] * self.world_size
        with self._waiting():
            self._dist.all_gather_object(values, value, group=self._group)
        return values

    def highest(self, values: list[int]) -> list[int]:
        """Return the highest of each value over all ranks, on every rank."""
        import torch

        tensor = torch.tensor(values)
        with self._waiting():
            self._dist.all_reduce(tensor, op=self._dist.ReduceOp.MAX, group=self._group)
        return tensor.tolist()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waits_since = time.monotonic()
        try:
            yield
        finally:
            with self._saying:
                self.waits_since = None
                if self._has_said:
                    self._has_said = False
                    self._board.set(_WORD, "")

    def say_that_it_waits(self, step: int) -> None:
        """Let the others know that this rank waits for them, after a step, unless it waits no more."""
        with self._saying:
            if self.waits_since is not None:
                self._has_said = True
                self._board.set(_WORD, f"{self.rank} {step}")

    def who_waits(self) -> tuple[int, int] | None:
        """Return the rank that has said last that it waits, and after which step, if it still does."""
        if not self._board.check([_WORD]) or not (word := self._board.get(_WORD)):
            return None
        rank, step = map(int, word.split())
        return rank, step

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place."""
        self._dist.all_reduce(tensor)
        return tensor

    def wrap(self, model: nn.Module, **options: Any) -> nn.Module:
        """Return the model in ``DistributedDataParallel``."""
        from torch.nn.parallel import DistributedDataParallel

        if isinstance(model, DistributedDataParallel):
            return model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise OptionError(f"run.prepare got a {type(model).__name__} that has no parameter to train")
        return DistributedDataParallel(model, **options)

    def close(self) -> None:
        """Leave the others."""
        self._dist.destroy_process_group()


def join_local(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Join the other ranks of this machine, if torchrun has started this process as one of several.

    They meet in a file, which ``TRAINKIT_RENDEZVOUS`` names: a ``TCPStore`` would listen beyond loopback.
    """
    if "RANK" not in environment or "TRAINKIT_RENDEZVOUS" not in environment:
        return ALONE
    import torch
    import torch.distributed as dist

    rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    local_rank = int(environment["LOCAL_RANK"])
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus >= world_size:
        torch.cuda.set_device(local_rank)
    meeting, board = (
        torch.distributed.FileStore(  # type: ignore[attr-defined]
            environment["TRAINKIT_RENDEZVOUS"] + suffix, world_size
        )
        for suffix in ("", "-board")
    )
    dist.init_process_group(
        "nccl" if gpus >= world_size else "gloo", store=meeting, rank=rank, world_size=world_size
    )
    return Group(board, local_rank=local_rank)


def unwrapped(thing: Any) -> Any:
    """Return the model that ``DistributedDataParallel`` wraps, or the thing itself.

    The names in its state then do not begin with ``module.``, so that one rank or many can read it.
    """
    kind = type(thing)
    wrapped = kind.__name__ in ("DistributedDataParallel", "DataParallel") and kind.__module__.startswith(
        "torch.nn"
    )
    return thing.module if wrapped else thing


def is_loss_of_a_peer(error: BaseException | None) -> bool:
    """Whether an exception says that another rank is gone, rather than that this one did something wrong.

    >>> is_loss_of_a_peer(RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection reset by peer"))
    True
    >>> is_loss_of_a_peer(ValueError("the data is wrong"))
    False
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        of_torch = type(error).__module__.startswith("torch") and type(error).__name__.startswith("Dist")
        if of_torch or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_PEER)):
            return True
        error = error.__cause__ or error.__context__
    return False
