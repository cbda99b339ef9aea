"""The same jobs by HTTP: a Jupyter Server extension, which ``trainkit serve`` runs alone.

The modules named after resources (``jobs``, ``commands``, ``launch``, ``streams``) hold plain functions over the
Python API, without tornado; ``messages`` says what they take and give; ``http`` is the one adapter between them
and the server; ``roots`` decides which folders and files a request may reach.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell Jupyter Server what to load."""
    from trainkit.server.app import TrainkitApp

    return [{"module": "trainkit.server.app", "app": TrainkitApp}]
