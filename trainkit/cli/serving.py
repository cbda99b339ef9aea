"""The word that serves jobs by HTTP: serve."""

from __future__ import annotations

import importlib

import click

from trainkit.cli.exits import Exit
from trainkit.cli.group import answers
from trainkit.errors import missing_extra


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3001, show_default=True, help="Port; 0 for any that is free.")
@click.option(
    "--token", help="Token; better set JUPYTER_TOKEN, which other users do not see; else one is made and printed."
)
@click.option("--base-url", default="/", show_default=True, help="Path below which the routes are.")
@answers
def serve(host: str, port: int, token: str | None, base_url: str, root: str | None, as_json: bool) -> int:
    """Serve the jobs by HTTP, until Ctrl-C; the jobs go on without the server.

    The same routes are in JupyterLab, once trainkit is installed beside it.
    """
    # By its name: no edge imports another, and Jupyter Server need not be installed.
    try:
        server = importlib.import_module("trainkit.server.app")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trainkit":
            raise
        raise missing_extra(f"trainkit serve needs {error.name}", "server") from None
    server.serve(host, port, root, token, base_url, announce_json=as_json)
    return Exit.OK
