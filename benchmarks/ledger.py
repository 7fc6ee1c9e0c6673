"""``make bench-ledger``: the dashboard, ``caravan report`` and ``caravan health`` on a run of a million completions.

The recorder of real runs writes the ledger (``benchmarks.synthetic_ledger``), about 290 completions per file. The baseline of
each request to the dashboard is a script that reads the needed columns of the whole folder with pyarrow. Wall seconds and CPU
seconds are measured; CPU seconds depend less on other load of the machine.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from benchmarks.harness import Log, measure_and_print, option_parser
from benchmarks.synthetic_ledger import NEEDLE, make_ledger
from cluster.ledger.run_folder import RunFolder

CARAVAN = (sys.executable, "-c", "from cluster.cli.main import run; run()")
NUM_REQUESTS = 5  # per fast page
MIB = 1 << 20

Row = Mapping[str, Any]


class ServedDashboard:
    """A running dashboard whose response times are measured."""

    def __init__(self, address: str, process: psutil.Process) -> None:
        self._address, self._process = address, process

    def get(self, path: str) -> str:
        """Return a page."""
        with urllib.request.urlopen(self._address + path) as answer:
            return str(answer.read().decode())

    def measure(self, action: Callable[[], Any], times: int = 1) -> dict[str, float]:
        """Measure an action: median seconds, and mean CPU seconds of the server."""
        before = self._process.cpu_times()
        seconds = statistics.median(timed(action)[0] for _ in range(times))
        after = self._process.cpu_times()
        return {"seconds": seconds, "cpu_seconds": (after.user + after.system - before.user - before.system) / times}

    def measure_repeated(self, path: str) -> dict[str, float]:
        """Measure NUM_REQUESTS requests of a page."""
        return self.measure(lambda: self.get(path), NUM_REQUESTS)

    def complete_count(self, path: str) -> int:
        """Return the number of matching completions once the search is complete."""
        while "completions so far; searched" in (page := self.get(path)):
            pass
        return num_completions(page)

    @property
    def cpu_seconds(self) -> float:
        """Return CPU seconds of the server since its start."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    @property
    def memory_mib(self) -> float:
        """Return resident memory of the server."""
        return float(self._process.memory_info().rss / MIB)


def num_completions(page: str) -> int:
    """Read the number of matching completions from a page."""
    found = re.search(r'<p id="count">\s*<b>([\d,]+)</b> completions', page)
    if found is None:
        raise ValueError("the dashboard's page has no number of completions")
    return int(found[1].replace(",", ""))


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the result of a call."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


@contextmanager
def served(run: Path) -> Iterator[tuple[ServedDashboard, float]]:
    """Serve a dashboard. Yields it and the seconds from start to first page."""
    began = time.perf_counter()
    with subprocess.Popen(
        [*CARAVAN, "dashboard", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        dashboard = ServedDashboard(server.stdout.readline().strip(), psutil.Process(server.pid))
        dashboard.get("completions")
        yield dashboard, time.perf_counter() - began
        server.terminate()


def plain_table(run: str, columns: Sequence[str]) -> Any:
    """Read columns of all files with pyarrow."""
    import pyarrow.parquet as pq

    return pq.read_table(Path(run) / "rollouts", columns=list(columns))


def plain_filter(run: str) -> int:
    """Count the completions of FILTER with pyarrow."""
    import pyarrow.compute as pc

    table = plain_table(run, ("step", "verdict", "total_reward"))
    wanted = pc.and_(pc.equal(table["verdict"], "wrong"), pc.greater_equal(table["total_reward"], 0.6))
    rows = table.filter(wanted).sort_by([("total_reward", "descending"), ("step", "descending")])
    return int(rows.num_rows)


def plain_search(run: str) -> int:
    """Count the completions of SEARCH with pyarrow."""
    needle = NEEDLE.lower()
    return sum(needle in (text or "").lower() for text in plain_table(run, ("text",))["text"].to_pylist())


def plain_group(run: str, group_id: str) -> int:
    """Count the completions of a group with pyarrow."""
    import pyarrow.compute as pc

    table = plain_table(run, ("group_id", "text", "total_reward", "advantage", "verdict"))
    return len(table.filter(pc.equal(table["group_id"], group_id)).to_pylist())


def plain_report(run: str) -> int:
    """Sum up the problems as a report does, row by row, without examples and plots."""
    sums: dict[str, float] = defaultdict(float)
    num: Counter[str] = Counter()
    table = plain_table(
        run, ("problem_id", "total_reward", "verdict", "sampling_seconds", "grading_seconds", "degenerate")
    )
    for row in table.to_pylist():
        num[row["problem_id"]] += 1
        sums[row["problem_id"]] += row["total_reward"] or 0.0
    return len(sums)


def plain_health(run: str) -> int:
    """Read the metrics of all steps."""
    return len([json.loads(line) for line in RunFolder(Path(run)).metrics.read_text(encoding="utf-8").splitlines()])


FILTER = "completions?verdict=wrong&min_reward=0.6&order=best"
SEARCH = f"completions?code={NEEDLE}"


def run_as_script(name: str, *arguments: str) -> dict[str, Any]:
    """Run a baseline in its own process. Returns its measurements and output."""
    script = f"import json; from benchmarks.ledger import {name}; print(json.dumps({name}(*{arguments!r})))"
    return measure_process([sys.executable, "-c", script])


def measure_process(command: Sequence[str]) -> dict[str, Any]:
    """Run a process. Returns its seconds, CPU seconds and last line."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "output": done.stdout.strip().rpartition("\n")[2]}


def run(ledger: Path, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    num_files = len(RunFolder(ledger).rollout_files())
    group_id = f"s{num_files // 2:06d}-g03"
    group = f"group?id={group_id}"
    found: dict[str, Any] = {"num_files": num_files}
    log("starting the dashboard")
    with served(ledger) as (dashboard, first_page):
        _, page = timed(lambda: dashboard.get("completions"))
        began = time.perf_counter()
        while "reading the ledger" in page:
            time.sleep(0.5)  # about as often as the page refreshes itself
            page = dashboard.get("completions")
        whole = first_page + time.perf_counter() - began
        found["num_completions"] = num_completions(page)
        log("measuring the dashboard")
        found["first_page"] = {"seconds": first_page}
        found["whole_ledger"] = {"seconds": whole, "cpu_seconds": dashboard.cpu_seconds}
        found["overview"] = dashboard.measure(lambda: dashboard.get(""))
        found["filter"] = dashboard.measure(lambda: dashboard.get(FILTER))
        found["page_40"] = dashboard.measure_repeated(f"{FILTER}&page=40")
        found["search_first"] = first = dashboard.measure(lambda: dashboard.get(SEARCH))
        rest = dashboard.measure(lambda: dashboard.complete_count(SEARCH))
        found["search"] = {name: first[name] + rest[name] for name in rest}
        found["search_again"] = dashboard.measure_repeated(SEARCH)
        found["group"] = dashboard.measure_repeated(group)
        found["memory_mib"] = dashboard.memory_mib
        answers = {"filter": dashboard.complete_count(FILTER), "search": dashboard.complete_count(SEARCH)}
    for name, arguments in (("filter", ()), ("search", ()), ("group", (group_id,)), ("report", ()), ("health", ())):
        log(f"the pyarrow baseline: {name}")
        found[f"plain_{name}"] = run_as_script(f"plain_{name}", str(ledger), *arguments)
    for name, number in answers.items():
        if str(number) != (baseline := found[f"plain_{name}"]["output"]):
            raise SystemExit(f"{name}: the dashboard finds {number} completions, the baseline {baseline}")
    with tempfile.TemporaryDirectory() as out:
        for name, command in (("report", ("report", str(ledger), "--out", out)), ("health", ("health", str(ledger)))):
            log(f"caravan {name}")
            found[name] = measure_process([*CARAVAN, *command])
    return found


def table(found: Mapping[str, Any]) -> Table:
    """Return the table of a result."""
    times_table = Table(title=f"{found['num_completions']:,} completions in {found['num_files']:,} files: seconds")
    for name in ("", "Caravan", "CPU", "plain", "CPU", "plain / Caravan"):
        times_table.add_column(name, justify="right" if name else "left")
    rows = (
        ("dashboard: first page", "first_page", None),
        ("dashboard: whole ledger read", "whole_ledger", None),
        ("overview", "overview", None),
        ("filter by outcome and reward, sorted", "filter", "plain_filter"),
        ("page 40 of this filter", "page_40", None),
        ("search in code: first matches", "search_first", None),
        ("search in code: all matches", "search", "plain_search"),
        ("the same search again", "search_again", "plain_search"),
        ("a group side by side", "group", "plain_group"),
        ("caravan report", "report", "plain_report"),
        ("caravan health", "health", "plain_health"),
    )
    for label, name, plain in rows:
        own = found[name]
        cells = [f"{own['seconds']:.2f}", f"{own['cpu_seconds']:.2f}" if "cpu_seconds" in own else ""]
        if plain:
            other = found[plain]
            ratio = other["seconds"] / own["seconds"]
            cells += [f"{other['seconds']:.2f}", f"{other['cpu_seconds']:.2f}", f"{ratio:.1f}x"]
        times_table.add_row(label, *cells)
    times_table.caption = (
        f"The dashboard uses {found['memory_mib']:,.0f} MiB at the end. The plain baseline reads the columns that it needs each\n"
        "time; for report it only sums up problems, without plots; for health it only reads the metrics."
    )
    return times_table


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-ledger", __doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="completions (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="folder of the ledger, kept afterwards; an existing ledger is used")
    options = parser.parse_args()

    def measure(log: Log) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="bench-ledger-") as temporary:
            ledger = options.folder or Path(temporary) / "run"
            if not RunFolder(ledger).summary.is_file():
                make_ledger(ledger, options.rows, log)
            return run(ledger, log)

    measure_and_print(measure, lambda result: [table(result)])


if __name__ == "__main__":
    main()
