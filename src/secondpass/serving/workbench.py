"""The workbench's page: plain files that a browser loads, and what it may do with them.

Knows: the files of the folder `ui`, their types and digests, the policy that they are sent with. Refuses to know: what
the page shows; it asks for that by the routes that everybody uses. The files hold nothing of the user's, so they need
no key. By the policy nothing is loaded from elsewhere, no text can become markup or script, and no other page can put
this one into a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

__all__ = ["POLICY", "REPORT_POLICY", "routes"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# of a report, which brings its own script: it runs apart from the page, and can ask for nothing
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str
    etag: str


def routes() -> list[Route]:
    """The page at /ui/, its files beside it; / and /ui lead there."""
    known = _files()

    async def file(request: Request) -> Response:
        return _answer(known, request, request.path_params.get("name", _INDEX))

    async def lead(_: Request) -> Response:
        return RedirectResponse("/ui/", 307)

    return [Route("/ui/", file), Route("/ui/{name}", file), Route("/ui", lead), Route("/", lead)]


def _files() -> dict[str, _File]:
    found = {}
    for one in files("secondpass.serving").joinpath("ui").iterdir():
        kind = _TYPES.get("." + one.name.rpartition(".")[2])
        if kind is not None:
            content = one.read_bytes()
            found[one.name] = _File(content, kind, f'"{blake2b(content, digest_size=16).hexdigest()}"')
    return found


def _answer(known: Mapping[str, _File], request: Request, name: str) -> Response:
    one = known.get(name)
    if one is None:
        return Response("no such file\n", 404, media_type="text/plain")
    headers = {
        "ETag": one.etag,
        "Cache-Control": "no-cache",  # asked for anew each time, and sent only if it has changed
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    given = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if one.etag in given or "*" in given:
        return Response(status_code=304, headers=headers)
    return Response(one.content, media_type=one.kind, headers=headers)
