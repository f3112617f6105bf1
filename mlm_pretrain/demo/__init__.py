"""A page to play with a model in the browser: `models` finds what a place holds, `answers` and `attributions` are
functions from text to data, `html` shows the data as safe HTML, `page` is the Gradio page, `space` puts it on the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HOST, PORT = "127.0.0.1", 7860


def serve(places: Sequence[str | Path], host: str = HOST, port: int = PORT) -> None:
    """Serve the page until the process is stopped.

    Args:
        places: run directories, folders of models, or Hub repositories.
        host: the address to listen on; by default only this machine reaches it.

    Raises:
        UserError: Gradio isn't installed, there is no such model, or the port is taken.
    """
    # Gradio takes a second to import, and is an extra.
    from mlm_pretrain.demo.server import run

    run(places, host, port)
