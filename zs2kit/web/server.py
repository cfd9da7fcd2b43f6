"""The server of the page: on this machine only, and only for its own page."""

from __future__ import annotations

import mimetypes
import socket
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zs2kit.errors import UsageError
from zs2kit.web.jobs import Jobs

LOCAL = {"localhost", "127.0.0.1", "::1"}
# What the browser may load. Gradio has scripts inside the page, and makes small ones from text.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Refuses requests that the page itself wouldn't make: from other sites, or to another host name.

    Another site can make a browser send requests to this server; and by DNS rebinding, it can point a name of
    its own at this machine and read the answers. The headers Origin and Host give this away. An upload for
    which there is no room is refused, too.
    """

    def __init__(self, app: ASGIApp, jobs: Jobs) -> None:
        self.app = app
        self.jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket" or (why := _refused(scope["path"], headers)):
            await _refuse(send, why if scope["type"] == "http" else "", scope["type"])
            return
        length = headers.get("content-length", "")
        if upload and not (length.isdecimal() and self.jobs.make_room(int(length))):
            await _refuse(send, "there is no room for this; remove edits that you no longer need", status=413)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        await self.app(scope, receive, with_headers)


def _refused(path: str, headers: dict[str, str]) -> str:
    """Why a request is refused; empty if it isn't."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if _name_of(f"//{host}") not in LOCAL:
        return "this page is for its own machine: use http://127.0.0.1"
    if origin is not None and origin != f"http://{host}":
        return "another site may not use this page"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and path != "/":
        return "another site may not use this page"
    if "://" in path or "/proxy=" in path:  # Gradio would fetch what is at that address
        return "only files of this page can be downloaded"
    return ""


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _refuse(send: Send, why: str, kind: str = "http", status: int = 403) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})


def make_app(page: gr.Blocks, jobs: Jobs, largest: int, **looks: Any) -> ASGIApp:
    """Return the whole server: the page, and the files of its jobs.

    largest: how many bytes an upload may have. looks: the page's theme, css and head.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/files/{number}/{name}")
    def file(number: int, name: str) -> FileResponse:
        job = jobs.find(number)
        path = job.files().get(name) if job else None
        if path is None:
            raise HTTPException(404)
        kind = mimetypes.guess_type(name)[0] or ""
        shown = kind.startswith(("image/", "video/")) and "svg" not in kind  # what can't bring a script
        return FileResponse(
            path,
            filename=name,
            media_type=kind if shown else "application/octet-stream",
            content_disposition_type="inline" if shown else "attachment",
        )

    gr.mount_gradio_app(
        app,
        page,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=largest,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **looks,
    )
    return Guard(app, jobs)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine only; port 0 is any free one.

    Raises `UsageError` if something else listens there.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UsageError(f"port {port} can't be used: {error.strerror}", "give another `port`") from error
    return listening


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until the process is interrupted."""
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
