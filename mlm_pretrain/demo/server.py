"""Serving the page: on this machine alone unless told otherwise, with nothing sent or fetched elsewhere."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.demo.hosts import KnownHosts, known_names
from mlm_pretrain.demo.html import STYLE
from mlm_pretrain.demo.models import find
from mlm_pretrain.errors import UserError, first_line

FONTS = ("system-ui", "sans-serif")
MONOSPACED = ("ui-monospace", "Consolas", "monospace")


def run(places: Sequence[str | Path], host: str, port: int) -> None:
    """As `mlm_pretrain.demo.serve`."""
    _check(host, port)
    # Before Gradio is imported: it sends usage figures and asks for newer versions otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs Gradio, which isn't installed: pip install 'mlm-pretrain[demo]'") from None
    from starlette.middleware import Middleware

    from mlm_pretrain.demo.page import Page

    models = find(places)
    blocks = Page(models).blocks()
    names = known_names(host)
    theme = gradio.themes.Default(primary_hue="blue", font=FONTS, font_mono=MONOSPACED)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            css=STYLE,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            app_kwargs={"middleware": [] if names is None else [Middleware(KnownHosts, names=names)]},
            max_file_size=1,  # bytes; the page takes no files
        )
    except OSError as error:
        raise UserError(f"{host}:{port}: can't be listened on ({first_line(error)}); give another --port") from None
    if not _is_local(host):
        warn(f"whoever reaches this machine's port {port} can use the page")
    say(f"{', '.join(model.name for model in models)}: http://{'localhost' if _is_local(host) else host}:{port}")
    say("Ctrl-C ends it")
    blocks.block_thread()


def _check(host: str, port: int) -> None:
    """
    Raises:
        UserError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{host}:{port}: can't be listened on ({reason}); give another --port or --host") from None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
