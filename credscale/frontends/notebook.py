"""Notebooks built from runbooks, checked for staleness, executed by papermill.

The function is the source: docstring to title, signature to the parameters cell, comments to prose, one statement per
cell. Whoever wants another notebook changes the runbook.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import signal
import tempfile
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, Refused, Stopped
from credscale.core.journal import read_journal, run_status
from credscale.core.signals import uninterrupted
from credscale.frontends.session import JOURNAL, RUNNER, finish_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from credscale.core.journal import Event
    from credscale.core.runbook import Runbook
    from credscale.frontends.session import Request

FRAME = {"environment": "", "ticket": "", "confirm": "", "run_folder": ""}
RESEND_SECONDS = 3.0  # an idle kernel ignores an interrupt


def path_of(runbook: Runbook) -> Path:
    """Return where a runbook's notebook lies: in ``$CREDSCALE_NOTEBOOKS`` or ``notebooks``."""
    return Path(os.environ.get("CREDSCALE_NOTEBOOKS", "notebooks")) / f"{runbook.function.__name__}.ipynb"


def build(runbook: Runbook) -> str:
    """Return a runbook's notebook as text.

    Args:
        runbook: its module's source is read.
    """
    import nbformat.v4 as v4

    source = inspect.getsource(inspect.getmodule(runbook.function) or runbook.function)
    tree = ast.parse(source)
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == runbook.function.__name__
    )
    cells = [v4.new_markdown_cell(_title(runbook)), _parameters(runbook), _setup(runbook, tree)]
    for prose, code, step in _statements(source, function):
        if prose:
            cells.append(v4.new_markdown_cell(prose))
        metadata = {"credscale": {"step": step}} if step else {}
        cells.append(v4.new_code_cell(code, metadata=metadata))
    cells.append(v4.new_code_cell(f"close_run(ctx, {runbook.function.__name__})"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"  # random ids would make every build look stale
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _title(runbook: Runbook) -> str:
    first, _, rest = (inspect.getdoc(runbook.function) or runbook.name).partition("\n")
    rest = rest.split("\nArgs:")[0].strip()
    built = f"*Built from `{runbook.module.replace('.', '/')}.py` by `invoke notebooks.build`; edit that file instead.*"
    return "\n\n".join(part for part in (f"# {first}", rest, built) if part)


def _parameters(runbook: Runbook) -> Any:
    import nbformat.v4 as v4

    defaults = {name: parameter.default for name, parameter in runbook.parameters.items()}
    # one that must be given is None until papermill or a person gives it
    values = FRAME | {name: None if value is inspect.Parameter.empty else value for name, value in defaults.items()}
    texts = {name: json.dumps(value) if isinstance(value, str) else repr(value) for name, value in values.items()}
    code = "\n".join(f"{name} = {text}" for name, text in texts.items())
    return v4.new_code_cell(code, metadata={"tags": ["parameters"]})


def _setup(runbook: Runbook, tree: ast.Module) -> Any:
    import nbformat.v4 as v4

    name = runbook.function.__name__
    imports = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "credscale.core.runbook", "typing")
    ]
    imports += ["from credscale.frontends.session import close_run, open_run", f"from {runbook.module} import {name}"]
    params = ", ".join(f"{parameter}={parameter}" for parameter in runbook.parameters)
    opened = f"ctx = open_run({name}, environment, ticket, confirm, run_folder, dict({params}))"
    return v4.new_code_cell("\n".join([*imports, "", opened]), metadata={"tags": ["setup"]})


def _statements(source: str, function: ast.FunctionDef) -> Iterator[tuple[str, str, str]]:
    """Yield prose, code and step name of each statement after the docstring."""
    lines = source.splitlines()
    body = function.body[1:] if ast.get_docstring(function) else function.body
    previous = function.body[0].end_lineno if body is not function.body else function.lineno
    for statement in body:
        above = [line.strip() for line in lines[previous or 0 : statement.lineno - 1]]
        prose = "\n".join(line.removeprefix("#").removeprefix(" ") for line in above if line.startswith("#"))
        code = textwrap.dedent("\n".join(lines[statement.lineno - 1 : statement.end_lineno]))
        step = ""
        if isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call):
            step = ast.unparse(statement.value.func)
        if isinstance(statement, ast.Assign):
            code += f"\n{ast.unparse(statement.targets[0])}"  # an assignment alone would display nothing
        yield prose, code, step
        previous = statement.end_lineno


def stale(runbooks: list[Runbook]) -> list[Path]:
    """Return the notebooks that are missing or differ from what their runbooks would build now."""
    return [path_of(runbook) for runbook in runbooks if _differs(path_of(runbook), build(runbook))]


def _differs(path: Path, built: str) -> bool:
    return not path.is_file() or path.read_text(encoding="utf-8") != built


def _events(journal: Path) -> Iterable[Event]:
    """Return what a journal holds; a kernel that died early has not made one."""
    return read_journal(journal) if journal.exists() else ()


def check_parameters(notebook: str, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook does not have: papermill would only warn and run without them.

    Raises:
        EnvironmentInvalid: names the first unknown parameter.
    """
    cells = json.loads(notebook)["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    known = {
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise EnvironmentInvalid(f"the notebook has no parameter {unknown[0]!r}. It has: {', '.join(sorted(known))}")


class Tail:
    """Read a growing journal: each call returns the events written since the last one."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def read(self) -> list[Event]:
        """Return the new whole lines as events."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._position += len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n")]


def write_input(request: Request) -> dict[str, Any]:
    """Write a run's input notebook and return the parameters that it is run with.

    Raises:
        Refused: the notebook in ``notebooks/`` is stale; nothing was changed.
        EnvironmentInvalid: it has not the parameters asked for.
    """
    notebook = require_fresh(request.runbook)
    frame = {"environment": str(request.environment.path), "ticket": request.ticket, "run_folder": str(request.folder)}
    check_parameters(notebook, request.params | frame)
    (request.folder / "input.ipynb").write_text(notebook, encoding="utf-8")
    return request.params | frame


def require_fresh(runbook: Runbook) -> str:
    """Return a runbook's notebook, which must be the one in ``notebooks/``.

    Raises:
        Refused: that one is stale; nothing was changed.
    """
    notebook, committed = build(runbook), path_of(runbook)
    if _differs(committed, notebook):
        raise Refused(
            f"{committed} does not match {runbook.module}. Nothing was changed. "
            "Build it again and look at the difference: invoke notebooks.build"
        )
    return notebook


def write_unexecuted(request: Request) -> None:
    """Write input and output notebook of a run without a kernel; sealing fills in the results."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    parameters = write_input(request)
    notebook = load_notebook_node(str(request.folder / "input.ipynb"))
    nbformat.write(parameterize_notebook(notebook, parameters), request.folder / "output.ipynb")


def run_notebook(request: Request, on_event: Callable[[Event], None]) -> None:
    """Execute a runbook's notebook in a kernel of its own; the journal tells how it ended.

    The operator's Ctrl-C is passed to the kernel, which records it and stops; a second one kills the kernel. A kernel
    that died is finished for: what the run must put back is put back here.

    Args:
        request: the run.
        on_event: receives the kernel's journal events as they come.

    Raises:
        Refused: the notebook is stale, or it has not the parameters asked for; nothing was changed.
    """
    worker = _Papermill(request.folder, write_input(request))
    journal = request.folder / JOURNAL
    tail = Tail(journal)
    worker.start()
    interrupts, resend_at = 0, 0.0
    while not worker.done.is_set():
        try:
            for event in tail.read():
                on_event(event)
            if interrupts and time.monotonic() >= resend_at and _signal_kernel(journal, interrupts):
                resend_at = time.monotonic() + RESEND_SECONDS
            worker.done.wait(0.1)
        except KeyboardInterrupt:
            interrupts, resend_at = interrupts + 1, 0.0
    with uninterrupted(drop=True):
        if run_status(_events(journal)) == "killed":
            finish_for(request, *_ending(journal, worker.error, interrupts))
    for event in tail.read():
        on_event(event)


class _Papermill(threading.Thread):
    """Papermill in a thread of its own, so that the main thread draws and takes Ctrl-C."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        super().__init__(name="papermill", daemon=True)
        self._folder, self._parameters = folder, parameters
        self.error: BaseException | None = None
        # An interrupted join() marks a living thread as ended in Python 3.11; an event tells the truth.
        self.done = threading.Event()

    def run(self) -> None:
        import papermill
        from traitlets.config import Config

        os.environ[RUNNER] = str(os.getpid())
        # TCP would let other users of this host listen, and the default is files in the working folder
        folder = tempfile.mkdtemp(prefix="credscale-")
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        try:
            papermill.execute_notebook(
                str(self._folder / "input.ipynb"),
                str(self._folder / "output.ipynb"),
                parameters=self._parameters,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                config=sockets,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which judges by the journal
            self.error = error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self.done.set()


def _signal_kernel(journal: Path, interrupts: int) -> bool:
    """Interrupt the kernel by the pid in its journal, or kill it at the second time; tell whether it could be done."""
    for event in _events(journal):
        if event["event"] == "run_started":
            with suppress(ProcessLookupError):  # gone already
                os.kill(event["pid"], signal.SIGINT if interrupts == 1 else signal.SIGKILL)
            return True
    return False


def _ending(journal: Path, error: BaseException | None, interrupts: int) -> tuple[str, str]:
    """Say how a run ended whose kernel wrote no last line: by its last step, or by what papermill saw."""
    failed, open_step = "", ""
    for event in _events(journal):
        if event["event"] == "step_started":
            open_step = event["step"]
        elif event["event"] == "step_finished":
            open_step = ""
            failed = f"{event['step']} failed: {event['error']}" if event["status"] == "failed" else ""
    if interrupts:
        return "interrupted", failed or "interrupted by the operator"
    if getattr(error, "ename", "") == Stopped.__name__:
        return "interrupted", str(getattr(error, "evalue", ""))
    if failed:
        return "failed", failed
    where = f" during {open_step}" if open_step else ""
    first = (str(error).strip().splitlines() or [""])[0] if error is not None else ""
    return "aborted", f"the notebook kernel ended{where} without finishing ({type(error).__name__}: {first})"
