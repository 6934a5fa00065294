"""The page's server: the standard library's, on the loopback address.

Whoever opens the page must know its key, which is part of the printed address: other people of this machine reach the loopback
address too. Names other than this machine's are refused, so that no site can have a browser ask in its place.
"""

import hmac
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.crash import note_crash
from pipeline.errors import PipelineError, UsageError, explain_os_error
from pipeline.optics.lens import OpticsError
from pipeline.storage.bounded import one_line
from pipeline.view.settings import Look, number_in, whole_in, word_in
from pipeline.view.workbench import Workbench

LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MOST_BYTES = 10_000  # of what the page sends
_FILES = {
    "": ("pipeline.view", "page/view.html", "text/html; charset=utf-8"),
    "view.css": ("pipeline.view", "page/view.css", "text/css; charset=utf-8"),
    "view.js": ("pipeline.view", "page/view.js", "text/javascript; charset=utf-8"),
    "report.css": ("pipeline.report", "templates/style.css", "text/css; charset=utf-8"),  # one look for both pages
}
_JSON, _JPEG, _TEXT = "application/json", "image/jpeg", "text/plain; charset=utf-8"
Query = dict[str, str]
Answer = tuple[str, bytes]


class ViewServer(ThreadingHTTPServer):
    """Serves one workbench until `shutdown`.

    Raises:
        UsageError: the port is taken, or not this user's to take.
    """

    daemon_threads = True

    def __init__(self, bench: Workbench, port: int) -> None:
        self.key = secrets.token_urlsafe(12)
        self.bench = bench
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} of {LOOPBACK} cannot be used: {explain_os_error(error)}; give another --port, or 0 for any"
            ) from None

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.key}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "BokehFlow", ""

    def do_GET(self) -> None:
        route, query = self._asked()
        if route is not None:
            self._answer(lambda: _get(self.server.bench, route, query))

    def do_POST(self) -> None:
        route, _ = self._asked()
        if route is None:
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TEXT, b"too much was sent")
            return
        body = self.rfile.read(int(length))
        self._answer(lambda: _post(self.server.bench, route, body))

    def _asked(self) -> tuple[str | None, Query]:
        """The route behind the key and the query; None after a refusal."""
        url = urlsplit(self.path)
        key, _, route = url.path.removeprefix("/").partition("/")
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _NAMES or not hmac.compare_digest(key.encode(), self.server.key.encode()):
            self.close_connection = True
            self._send(HTTPStatus.FORBIDDEN, _TEXT, b"Open the address that `python -m pipeline view` printed.")
            return None, {}
        return route, dict(parse_qsl(url.query))

    def _answer(self, make: Callable[[], Answer]) -> None:
        try:
            kind, body = make()
            self._send(HTTPStatus.OK, kind, body)
        except _NoSuchPageError:
            self._send(HTTPStatus.NOT_FOUND, _TEXT, b"there is nothing here")
        except (PipelineError, OpticsError) as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _TEXT, str(error).encode(errors="replace"))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page was closed, or no longer wants it
        except OSError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _TEXT, explain_os_error(error).encode(errors="replace"))
        except Exception as error:
            told = f"{one_line(error)}; this is a fault of the program, {note_crash(error)}"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, told.encode(errors="replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every move of a slider helps nobody."""


class _NoSuchPageError(Exception):
    pass


def _get(bench: Workbench, route: str, query: Query) -> Answer:
    if route in _FILES:
        package, name, kind = _FILES[route]
        return kind, resources.files(package).joinpath(name).read_bytes()
    if route == "state":
        return _as_json(bench.describe())
    if route == "scene":
        return _as_json(bench.describe_scene(word_in(query, "scene")))
    if route == "focus_at":
        where = number_in(query, "across"), number_in(query, "down")
        return _as_json(bench.focus_at(word_in(query, "scene"), whole_in(query, "frame"), *where))
    if route == "counted":
        return _as_json(bench.counted(Look.from_query(query)))
    if route in ("sharp", "depth"):
        return _JPEG, bench.picture(route, word_in(query, "scene"), whole_in(query, "frame"))
    if route in ("focus", "render", "network"):
        return _JPEG, bench.looked(route, Look.from_query(query))
    raise _NoSuchPageError


def _post(bench: Workbench, route: str, body: bytes) -> Answer:
    if route != "confirm":
        raise _NoSuchPageError
    try:
        value = json.loads(body)["max_coc_m"]
        max_coc_m = None if value is None else float(value)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError('confirm takes {"max_coc_m": METRES}, or null for the recommendation') from None
    return _as_json({"next": bench.confirm(max_coc_m)})


def _as_json(value: dict[str, Any]) -> Answer:
    return _JSON, json.dumps(value, allow_nan=False).encode()
