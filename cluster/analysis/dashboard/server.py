"""The pages over HTTP: GET alone, from the run's folder alone, and only for who asks for this machine by its own name."""

import ipaddress
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from pygments.formatters import HtmlFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.analysis.dashboard.completions import LISTED, SHOWN, neighbours, prompt_of, read_completions, rows_of_group
from cluster.analysis.dashboard.group_page import group_page
from cluster.analysis.dashboard.list_page import PAGE_ROWS, form, listing
from cluster.analysis.dashboard.overview import Overviews
from cluster.analysis.dashboard.overview_page import overview_page
from cluster.analysis.dashboard.page import State, page
from cluster.analysis.dashboard.problems_page import ORDERS, problems_page
from cluster.analysis.dashboard.query import Query
from cluster.analysis.dashboard.search import Finder, verdict_counts
from cluster.analysis.dashboard.watch import LedgerWatch
from cluster.analysis.report.html import text
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
STATIC = Path(__file__).parent / "static"
CODE_STYLE = (
    f"{HtmlFormatter(style='default').get_style_defs('pre')}\n"
    f"@media (prefers-color-scheme: dark) {{ {HtmlFormatter(style='github-dark').get_style_defs('pre')} }}\n"
)


class Dashboard:
    """What the pages are made of."""

    def __init__(self, run: Path) -> None:
        folder = RunFolder(run)
        self.run = run
        self.watch = LedgerWatch(folder.rollouts)
        self.overviews = Overviews(run, self.watch)
        self.finder = Finder()
        self._start = secrets.token_hex(4)  # versions of this process are not those of another one

    def overview(self, request: Request) -> Response:
        """The report."""
        state = self._state()
        return self._page(
            request,
            state,
            here="Overview",
            title=state.name,
            main=lambda: overview_page(state.overview),
            refresh="auto",
        )

    def completions(self, request: Request) -> Response:
        """The list."""
        state = self._state()
        try:
            query = Query.of(request.query_params.multi_items())
        except ConfigError as error:
            return self._refused(state, str(error), 400)
        columns = state.seen.columns
        found = self.finder.find(columns, query)
        num_pages = max(1, -(-len(found.rows) // PAGE_ROWS))
        query = query.of_page(min(query.page, num_pages))

        def main() -> str:
            first = (query.page - 1) * PAGE_ROWS
            rows = read_completions(columns, found.rows[first : first + PAGE_ROWS].tolist(), LISTED)
            asked = form(query, verdict_counts(columns, query), columns.words["problem_id"])
            return asked + listing(query, found, rows, num_pages)

        return self._page(
            request,
            state,
            here="Completions",
            title=f"{state.name}: completions",
            main=main,
            refresh="searching" if not found.is_complete else "ask" if state.seen.is_whole else "reading",
            of=f"{state.seen.version}-{found.num_searched}",
        )

    def group(self, request: Request) -> Response:
        """A group side by side."""
        state = self._state()
        columns = state.seen.columns
        group_id, code = request.query_params.get("id", ""), request.query_params.get("code", "")
        rows = rows_of_group(columns, group_id)
        if not rows:
            return self._refused(state, f"there is no group {group_id}", 404)

        def main() -> str:
            completions = read_completions(columns, rows, SHOWN)
            before, after = neighbours(columns, group_id)
            prompt = prompt_of(self.run, next((one["prompt_ids"] for one in completions if one["prompt_ids"]), ()))
            return group_page(completions, prompt=prompt, before=before, after=after, code=code)

        title = f"{columns.words['problem_id'][columns.codes['problem_id'][rows[0]]]} {group_id}"
        return self._page(
            request, state, here="Group", title=title, main=main, refresh="ask", of=f"{len(rows)}-{rows[0]}"
        )

    def problems(self, request: Request) -> Response:
        """The problems."""
        state = self._state()
        order, part = request.query_params.get("order", "passed"), request.query_params.get("problem", "")
        if order not in ORDERS:
            return self._refused(state, f"order: {order!r} is none of {', '.join(ORDERS)}", 400)
        run = state.overview.run
        problems = run.ledger.problems if run else ()
        return self._page(
            request,
            state,
            here="Problems",
            title=f"{state.name}: problems",
            main=lambda: problems_page(problems, order=order, part=part),
            refresh="ask" if state.seen.is_whole else "reading",
        )

    def picture(self, colours: Literal["light", "dark"], name: str) -> Response:
        """A picture of the overview."""
        svg = self.overviews.picture(name, is_dark=colours == "dark")
        if svg is None:
            return PlainTextResponse("there is no such picture", 404)
        headers = {"Content-Security-Policy": PICTURE_POLICY, "Cache-Control": "max-age=3600"}
        return Response(svg, media_type="image/svg+xml", headers=headers)

    def _state(self) -> State:
        overview = self.overviews.newest()
        return State(
            name=self.run.resolve().name,
            overview=overview,
            seen=self.watch.seen,
            stepped_at=self.overviews.stepped_at(overview),
        )

    def _page(
        self,
        request: Request,
        state: State,
        *,
        here: str,
        title: str,
        main: Callable[[], str],
        refresh: str,
        of: str = "",
    ) -> Response:
        """A page, or that it is as whoever asks knows it; ``of`` says what it depends on beside the overview."""
        seen = state.seen
        reading = "" if seen.is_whole else str(seen.version)
        version = f'"{self._start}-{state.overview.version}-{len(seen.broken)}-{reading}-{of}"'
        if request.headers.get("if-none-match") == version:
            return Response(status_code=304, headers={"ETag": version})
        try:
            made = main()
        except RunFolderError as error:
            return self._refused(state, str(error), 500)
        html = page(state, here=here, title=title, main=made, version=version, refresh=refresh)
        return HTMLResponse(html, headers={"ETag": version})

    def _refused(self, state: State, why: str, status: int) -> Response:
        html = page(
            state,
            here="",
            title=state.name,
            main=f'<p class="stop" id="refused">{text(why)}</p><p><a href="completions">all completions</a></p>',
            version='""',
            refresh="ask",
        )
        return HTMLResponse(html, status_code=status)


def application(run: Path, host: str = "localhost") -> FastAPI:
    """The dashboard of a run as an application that goes by this name too; reading begins when it is started."""
    dashboard = Dashboard(run)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        dashboard.watch.start()
        yield
        dashboard.watch.close()

    app = FastAPI(title="Caravan", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=4)
    app.add_middleware(Guard, host=host)
    app.add_api_route("/", dashboard.overview, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/completions", dashboard.completions, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/group", dashboard.group, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/problems", dashboard.problems, methods=["GET", "HEAD"], response_class=HTMLResponse)
    app.add_api_route("/picture/{colours}/{name}.svg", dashboard.picture, methods=["GET", "HEAD"])

    @app.get("/code.css")
    def code_css() -> Response:
        return Response(CODE_STYLE, media_type="text/css")

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class Guard:
    """Answers to this machine's own names alone, and tells the browser what pages may not do.

    A page from elsewhere may give its own name this machine's address, and would then read what is served here.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._own_names = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if is_own(Headers(scope=scope).get("host", ""), self._own_names):
            await self._app(scope, receive, guarded)
        else:
            told = "this machine has another name: open the dashboard by the address that it printed\n"
            await PlainTextResponse(told, 421)(scope, receive, guarded)


def is_own(host: str, own_names: set[str]) -> bool:
    """Whether a Host header names this machine: by an address, which nobody else can give away, or by a name of its own."""
    name = host.lower().rpartition(":")[0] if not host.endswith("]") and ":" in host else host.lower()
    if name in own_names:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
