"""How tools/mutate.py runs a notebook and its mutants: one process runs the cells in order, and forks once per mutant.

A fork runs the changed cell and those after it, in a session of its own, with a temporary folder that is put back as it
was, so that nothing of one mutant reaches the next. It needs fork (Linux, macOS).
"""

import json
import linecache
import os
import queue
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from flow import Flows, under

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Runner:
    "Runs the cells of a notebook in this process as nbdev_test does, and may note which of their lines are executed."

    def __init__(self, notebook):
        self.cells, self.lines, self.reach = notebook.cells, set(), []
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        self.names = vars(main)
        self.names.update(display=lambda *x, **k: None, get_ipython=lambda: None)
        sys.argv[1:], sys.path[:0] = [], [str(notebook.root), str(notebook.path.parent)]
        os.environ.update({name: "1" for name in THREADS}, IN_TEST="1", MPLBACKEND="Agg")
        os.chdir(notebook.path.parent)

    def execute(self, k, source=None):
        "Run cell `k`, or this source in its place."
        name, source = f"<cell {k}>", self.cells[k].source if source is None else source
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec", dont_inherit=True), self.names)
        if plt := sys.modules.get("matplotlib.pyplot"):
            plt.close("all")

    def record(self, k):
        "Run cell `k` and note which lines it reaches, as (cell, qualified name of the function, line)."
        todo, reach = {}, set()

        def line(frame, event, _):
            if event == "line":
                code = frame.f_code
                todo[code].discard(frame.f_lineno)
                for name in {code.co_qualname, code.co_name}:  # @patch puts the class before the name
                    self.lines.add((int(code.co_filename[6:-1]), name, frame.f_lineno))
            return line

        def call(frame, *_):
            code = frame.f_code
            if code.co_filename.startswith("<cell "):
                reach.update((int(code.co_filename[6:-1]), name) for name in (code.co_qualname, code.co_name))
                lines = todo.setdefault(code, {n for *_, n in code.co_lines() if n})
                return line if lines else None

        sys.settrace(call)
        try:
            self.execute(k)
        finally:
            sys.settrace(None)
        self.reach.append(sorted(x for x in reach if x[1] != "<module>"))


@contextmanager
def forked(body):
    "A child in its own session that runs `body(say)`, where `say` sends an object; gives its pid and what it says."
    inlet, outlet = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(inlet)
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            body(lambda x: os.write(outlet, (json.dumps(x) + "\n").encode()))
        finally:
            os._exit(0)
    os.close(outlet)
    try:
        with open(inlet, "rb") as lines:
            yield pid, lines
    finally:
        stop(pid)


def stop(pid):
    "End a child and what it has started."
    for end in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.waitpid(pid, 0)):
        try:
            end()
        except (ProcessLookupError, ChildProcessError, PermissionError):
            pass


@contextmanager
def kept(folder):
    "Put the folder back as it was, should the body change it."
    look = lambda: sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in Path(folder).rglob("*"))
    before, copy = look(), f"{folder}.kept"
    if before:
        shutil.copytree(folder, copy, symlinks=True)
    yield
    if look() != before:
        for path in Path(folder).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if before:
            shutil.copytree(copy, folder, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def desk():
    "A temporary folder which is the default of `tempfile` as well."
    with tempfile.TemporaryDirectory(prefix="mutate") as folder:
        Path(folder, "tmp").mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder, "tmp"))
        yield tempfile.tempdir


def record(notebook, say):
    "Run the notebook once and say what each cell reaches and takes."
    with desk():
        runner = Runner(notebook)
        for k, cell in enumerate(notebook.cells):
            start, cpu = time.time(), time.process_time()
            try:
                runner.record(k)
            except BaseException as e:
                return say({"failed": f"{cell.id}: {type(e).__name__}: {e}"})
            say({"wall": time.time() - start, "cpu": time.process_time() - cpu})
        say({"lines": sorted(runner.lines), "reach": runner.reach})


def recorded(notebook):
    "Seconds of each cell (wall, CPU), the lines executed as {(cell, qualified name): lines}, and the way of the names."
    times, lines = [], {}
    with forked(lambda say: record(notebook, say)) as (_, said):
        for x in map(json.loads, said):
            if "failed" in x:
                raise SystemExit(f"{notebook.path.name} itself fails in cell {x['failed']}")
            if "lines" in x:
                for cell, name, line in x["lines"]:
                    lines.setdefault((cell, name), set()).add(line)
                return times, lines, Flows([c.source for c in notebook.cells], x["reach"])
            times.append((x["wall"], x["cpu"]))
    raise SystemExit(f"{notebook.path.name} ended in cell {notebook.cells[len(times)].id} without an error")


def is_covered(mutant, lines):
    "Whether a line of the statement was executed in the code that is changed, or within it."
    first, last = mutant.span
    if not mutant.scope:
        return True  # a default of a function, set where the function is defined
    inside = [
        at
        for (cell, name), at in lines.items()
        if cell == mutant.cell and (under(name, mutant.scope) or under(name.partition(".")[2], mutant.scope))
    ]
    return any(first <= n <= last for at in inside for n in at)


def bounded():
    "Four gigabytes more than now, and no more: a mutant may ask for any amount."
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 4 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):
        pass  # no such file, or a lower limit already


def attempt(runner, times, start, last, source, say):
    "Run this source as cell `start`, then the cells up to `last`; says each number before, at the end an error or ''."
    parent = os.getppid()
    bounded()
    for k in range(start, last + 1):
        if os.getppid() != parent:
            return  # nobody waits for an answer
        say(k)
        wall, cpu = times[k]
        signal.setitimer(signal.ITIMER_PROF, 3 + 3 * cpu)  # each of the two ends this process
        signal.setitimer(signal.ITIMER_REAL, 60 + 10 * wall)
        try:
            runner.execute(k, source if k == start else None)
        except BaseException as e:
            return say(type(e).__name__)
    say("")


def trial(runner, times, start, last, source):
    "What becomes of the notebook with this source as cell `start`: result, number of the last cell, error."
    with forked(lambda say: attempt(runner, times, start, last, source, say)) as (pid, said):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        stop(pid)  # what it has started
        *_, at, end = [start, *map(json.loads, said)]
    if isinstance(end, str):
        return ("killed" if end else "survived"), at, end
    late = status in (-signal.SIGPROF, -signal.SIGALRM)
    return ("timeout" if late else "killed"), end, ("" if late else f"exit {status}")


def work(notebook, times, share, check, say):
    "Run the notebook, and at each cell its part of this share: (mutant, last cell to run)."
    with desk() as folder:
        runner = Runner(notebook)
        for k in range(max(share) + 1):
            if check and k == min(share):  # the forks themselves do no harm
                result, at, error = trial(runner, times, k, len(times) - 1, notebook.cells[k].source)
                if result != "survived":
                    return say({"failed": f"{notebook.cells[at].id} of an unchanged fork: {result} {error}"})
            for mutant, last in share.get(k, ()):
                start = time.time()
                with kept(folder):
                    result, at, error = trial(runner, times, k, last, mutant.source)
                by = notebook.cells[at].id
                say({"key": mutant.key, "result": result, "by": by, "error": error, "seconds": time.time() - start})
            try:
                runner.execute(k)
            except BaseException as e:
                return say({"failed": f"{notebook.cells[k].id}: {type(e).__name__}: {e}"})


def tried(notebook, times, flows, chosen, workers):
    "The results of these mutants, as they come; each worker runs the notebook once and forks for its share."
    answers = queue.SimpleQueue()
    with ExitStack() as stack:
        files = []
        for w in range(min(workers, len(chosen))):
            share = {}
            for m in chosen[w::workers]:
                share.setdefault(m.cell, []).append((m, flows.last(m)))
            body = partial(work, notebook, times, share, w == 0)
            files.append(stack.enter_context(forked(body))[1])
        for file in files:
            read = lambda file=file: [*map(answers.put, file), answers.put(b"null")]
            threading.Thread(target=read, daemon=True).start()
        left = len(chosen)
        while files:
            answer = json.loads(answers.get())
            if answer is None:
                files.pop()
            elif "failed" in answer:
                raise SystemExit(f"{notebook.path.name} itself fails in cell {answer['failed']}")
            else:
                left -= 1
                yield answer
        if left:
            raise SystemExit(f"{notebook.path.name}: a worker ended early, {left} mutants have no result; run again")
