"""The dashboard over HTTP. It answers only GET requests to this machine's own names, and reads only the run's folder."""

import ipaddress
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.analysis.dashboard.completions_page import PAGE_ROWS, completions_context
from cluster.analysis.dashboard.group_page import group_context
from cluster.analysis.dashboard.ledger_rows import (
    GROUP_COLUMNS,
    LIST_COLUMNS,
    neighbour_groups,
    read_completions,
    rows_of_group,
)
from cluster.analysis.dashboard.overview import Overview, OverviewReader
from cluster.analysis.dashboard.overview_page import overview_context
from cluster.analysis.dashboard.problems_page import ORDERS, problems_context
from cluster.analysis.dashboard.query import Query
from cluster.analysis.dashboard.search import Finder, verdict_counts
from cluster.analysis.dashboard.watch import LedgerWatch, Snapshot
from cluster.analysis.render import code_style, render
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
STATIC = Path(__file__).parent / "static"
CODE_STYLE = f"{code_style('default')}\n@media (prefers-color-scheme: dark) {{ {code_style('github-dark')} }}\n"
MAX_FILE_ERRORS = 3  # errors that a page lists individually


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """The run and its ledger at the time of a request."""

    name: str
    overview: Overview
    ledger: Snapshot
    step_age_seconds: int | None  # since the last step finished

    @property
    def errors(self) -> list[str]:
        """Messages about files that cannot be read."""
        file_errors = self.ledger.errors
        num_more = len(file_errors) - MAX_FILE_ERRORS
        return [
            *([self.overview.error] if self.overview.error else []),
            *file_errors[:MAX_FILE_ERRORS],
            *([f"{num_more} more files cannot be read"] if num_more > 0 else []),
        ]


class Dashboard:
    """Handlers of the pages of one run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.watch = LedgerWatch(RunFolder(run).rollouts)
        self.overviews = OverviewReader(run, self.watch)
        self.finder = Finder()
        self._process_id = secrets.token_hex(4)  # makes the ETags of two server processes differ

    def overview(self, request: Request) -> Response:
        """The report."""
        state = self._state()
        return self._page(
            request,
            state,
            "overview.html",
            lambda: overview_context(state.overview),
            tab="Overview",
            title=state.name,
            refresh="auto",
        )

    def completions(self, request: Request) -> Response:
        """The list of completions."""
        state = self._state()
        try:
            query = Query.parse(request.query_params.multi_items())
        except ConfigError as error:
            return self._error(state, str(error), 400)
        columns = state.ledger.columns
        result = self.finder.find(columns, query)
        num_pages = max(1, -(-len(result.rows) // PAGE_ROWS))
        query = query.with_page(min(query.page, num_pages))

        def context() -> dict[str, object]:
            first = (query.page - 1) * PAGE_ROWS
            rows = read_completions(columns, result.rows[first : first + PAGE_ROWS].tolist(), LIST_COLUMNS)
            return completions_context(
                query,
                result,
                rows,
                num_pages=num_pages,
                verdict_counts=verdict_counts(columns, query),
                problem_ids=columns.words["problem_id"],
            )

        return self._page(
            request,
            state,
            "completions.html",
            context,
            tab="Completions",
            title=f"{state.name}: completions",
            refresh="searching" if not result.is_complete else "ask" if state.ledger.is_complete else "reading",
            version=f"{state.ledger.version}-{result.num_searched}",
        )

    def group(self, request: Request) -> Response:
        """The completions of a group next to each other."""
        state = self._state()
        columns = state.ledger.columns
        group_id, code = request.query_params.get("id", ""), request.query_params.get("code", "")
        rows = rows_of_group(columns, group_id)
        if not rows and not state.ledger.is_complete:
            return self._error(state, f"group {group_id} is not among the completions read so far", 404, "reading")
        if not rows:
            return self._error(state, f"there is no group {group_id}", 404)

        def context() -> dict[str, object]:
            completions = read_completions(columns, rows, GROUP_COLUMNS)
            previous, following = neighbour_groups(columns, group_id)
            prompt = next((completion["prompt"] for completion in completions if completion["prompt"]), "")
            return group_context(completions, prompt=prompt, previous=previous, following=following, code=code)

        title = f"{columns.words['problem_id'][columns.codes['problem_id'][rows[0]]]} {group_id}"
        version = f"{len(rows)}-{rows[0]}"
        return self._page(
            request, state, "group.html", context, tab="Group", title=title, refresh="ask", version=version
        )

    def problems(self, request: Request) -> Response:
        """The table of problems."""
        state = self._state()
        order, part = request.query_params.get("order", "passed"), request.query_params.get("problem", "")
        if order not in ORDERS:
            return self._error(state, f"order: {order!r} is none of {', '.join(ORDERS)}", 400)
        report = state.overview.report
        problems = report.ledger.problems if report else ()
        return self._page(
            request,
            state,
            "problems.html",
            lambda: problems_context(problems, order=order, part=part),
            tab="Problems",
            title=f"{state.name}: problems",
            refresh="ask" if state.ledger.is_complete else "reading",
        )

    def plot(self, colours: Literal["light", "dark"], name: str) -> Response:
        """A plot of the overview."""
        svg = self.overviews.plot(name, is_dark=colours == "dark")
        if svg is None:
            return PlainTextResponse("there is no such plot", 404)
        headers = {"Content-Security-Policy": PLOT_POLICY, "Cache-Control": "max-age=3600"}
        return Response(svg, media_type="image/svg+xml", headers=headers)

    def _state(self) -> PageState:
        overview = self.overviews.newest()
        last_step_at = self.overviews.last_step_at(overview)
        return PageState(
            name=self.run.resolve().name,
            overview=overview,
            ledger=self.watch.snapshot,
            step_age_seconds=None if last_step_at is None else max(0, int(time.time() - last_step_at)),
        )

    def _page(
        self,
        request: Request,
        state: PageState,
        template: str,
        context: Callable[[], Mapping[str, object]],
        *,
        tab: str,
        title: str,
        refresh: str,
        version: str = "",
    ) -> Response:
        """Render a page, or answer 304 if the client has it; ``version`` covers what the page shows besides the overview."""
        ledger = state.ledger
        reading = "" if ledger.is_complete else str(ledger.version)
        etag = f'"{self._process_id}-{state.overview.version}-{len(ledger.errors)}-{reading}-{version}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        try:
            values = context()
        except RunFolderError as error:
            return self._error(state, str(error), 500)
        html = render(template, state=state, tab=tab, title=title, version=etag, refresh=refresh, **values)
        return HTMLResponse(html, headers={"ETag": etag})

    def _error(self, state: PageState, message: str, status: int, refresh: str = "ask") -> Response:
        html = render(
            "error.html", state=state, tab="", title=state.name, version='""', refresh=refresh, message=message
        )
        return HTMLResponse(html, status_code=status)


def application(run: Path, host: str = "localhost") -> FastAPI:
    """The ASGI application of a run's dashboard, which also answers to the name ``host``; reads the ledger while it runs."""
    dashboard = Dashboard(run)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        dashboard.watch.start()
        yield
        dashboard.watch.close()

    app = FastAPI(title="Caravan", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=4)
    app.add_middleware(HostGuard, host=host)
    app.add_api_route("/", dashboard.overview, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/completions", dashboard.completions, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/group", dashboard.group, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/problems", dashboard.problems, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/picture/{colours}/{name}.svg", dashboard.plot, methods=["GET", "HEAD"])

    @app.get("/code.css")
    def code_css() -> Response:
        return Response(CODE_STYLE, media_type="text/css")

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class HostGuard:
    """Middleware that refuses foreign Host headers and adds the security headers.

    Without it, a foreign page could point its host name at this machine's address (DNS rebinding) and read the pages.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._own_names = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if is_own_host(Headers(scope=scope).get("host", ""), self._own_names):
            await self._app(scope, receive, send_with_headers)
        else:
            error = "unknown host name: open the dashboard at the address that it printed\n"
            await PlainTextResponse(error, 421)(scope, receive, send_with_headers)


def is_own_host(host: str, own_names: set[str]) -> bool:
    """Check that a Host header names this machine: by one of its names, or by any IP address, which cannot be rebound."""
    name = host.lower().rpartition(":")[0] if not host.endswith("]") and ":" in host else host.lower()
    if name in own_names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
