"""``logging.basicConfig`` of a notebook counts for its jobs in other processes, too."""

from __future__ import annotations

import logging
import sys
from typing import Any


def logging_setup() -> dict[str, Any] | None:
    """Return how this process logs to its output; None if it was not set up, or logs elsewhere."""
    root = logging.getLogger()
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams):
            break
    else:
        return None
    loggers = {
        name: logger for name, logger in root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {
        "level": root.level,
        "handler_level": handler.level,
        # A class of the user's may be of a module that the other process cannot import.
        "formatter": handler.formatter if type(handler.formatter) is logging.Formatter else None,
        "levels": {name: logger.level for name, logger in loggers.items() if logger.level != logging.NOTSET},
    }


def set_up_logging(setup: dict[str, Any] | None) -> None:
    """Log to stderr as the process does that returned the setup, unless this one logs already."""
    root = logging.getLogger()
    if setup is None or root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setLevel(setup["handler_level"])
    handler.setFormatter(setup["formatter"])
    root.addHandler(handler)
    root.setLevel(setup["level"])
    for name, level in setup["levels"].items():
        logging.getLogger(name).setLevel(level)
