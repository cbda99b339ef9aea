"""Whether somebody looks: is a front end attached to this kernel that can draw a panel?"""

from __future__ import annotations

import os
import sys
from typing import Any

#: ``on`` or ``off`` overrides what is found out.
PANELS_VARIABLE = "TRAINKIT_PANELS"


def attached(shell: Any = None) -> bool:
    """Whether the cell that runs was sent by a front end that shows widgets.

    JupyterLab, Notebook 7 and VS Code say in the request which cell they run; nbclient, papermill, nbval and
    a terminal do not, and for them every panel is text.

    Args:
        shell: the IPython shell; without it the one of this process.
    """
    wish = os.environ.get(PANELS_VARIABLE, "").lower()
    if wish in ("on", "off"):
        return wish == "on"
    kernel = getattr(shell or ipython_shell(), "kernel", None)
    if kernel is None:
        return False
    if "google.colab" in sys.modules:
        return True
    parent = kernel.get_parent("shell") or {}
    return "cellId" in (parent.get("metadata") or {})


def ipython_shell() -> Any:
    """Return the IPython shell of this process, or None; IPython is not imported for it."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()
