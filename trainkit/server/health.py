"""Whether the server is there: the one thing that it tells to everybody."""

from __future__ import annotations

import time

import trainkit
from trainkit.server.messages import HealthAnswer


def health(now: float | None = None) -> HealthAnswer:
    """Return that all is well, and when."""
    return HealthAnswer(
        timestamp=time.time() if now is None else now, service="trainkit", version=trainkit.__version__
    )
