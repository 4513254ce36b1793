"""What all commands have in common before they start."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from rlhive import WORKER_NAME
from rlhive import command as commands
from rlhive.command import let_threads_sleep
from rlhive.command_line import command_line
from rlhive.core import files, interrupt

LIMIT = "; the limit on processes and threads is reached (ulimit -u, or the container's)\n"


def test_the_threads_of_a_command_sleep_soon():
    command = [sys.executable, "-m", "rlhive.train", "--gin_file=sac.gin", "--gin.ENV_NAME='no-such-robot'"]
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["OMP_DISPLAY_ENV"] = "verbose"  # OpenMP prints what it was told when torch loads it
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr
    assert "GOMP_SPINCOUNT = '1000'" in output and "no-such-robot" in output


# Without torch, as in a worker.
LOAD = f"""import multiprocessing, runpy
multiprocessing.current_process().name = {WORKER_NAME!r}
command = runpy.run_path({commands.__file__!r})
"""
AT_THE_END = f"""{LOAD}
import atexit, sys, threading, time

def main(argv):
    atexit.register(lambda: print("registered"))
    threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
    print("main", end=" ")
    return 3

command["start"]("test", main, lambda: None, sys.argv)
"""


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_a_command_ends_as_python_does():
    command = [sys.executable, "-c", AT_THE_END]
    ended = subprocess.run(command, env=BUFFERED, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "main thread\nregistered\n", "")


def test_a_command_whose_reader_left_fails_without_a_traceback():
    command = [sys.executable, "-c", AT_THE_END]
    with subprocess.Popen(command, env=BUFFERED, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        ran.stdout.close()
        assert ran.wait(60) == 3
        assert ran.stderr.read() == b""


def test_a_command_without_stdout_or_stderr_does_its_work():
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-c", AT_THE_END]
        assert subprocess.run(command, env=BUFFERED, capture_output=True, check=False).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "buffering"),
    [
        (("rlhive.envs", "--list"), {}),
        (("rlhive.envs", "--list", "door"), {}),  # which fits into the buffer of stdout
        (("rlhive.envs", "--list"), {"PYTHONUNBUFFERED": "1"}),
        (("rlhive.doctor",), {}),
        (("rlhive.train", "--help"), {}),
    ],
)
def test_commands_end_quietly_when_their_reader_leaves(arguments, buffering):
    command = [sys.executable, "-m", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=BUFFERED | buffering, **pipes) as ran:
        ran.stdout.close()
        assert (ran.stderr.read(), ran.wait(60)) == (b"", 1)


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (SystemExit(), 0, ""),
        (SystemExit(4), 4, ""),
        (SystemExit("why"), 1, "test: why\n"),
        (ValueError("why"), 2, "test: why\n"),
        (RuntimeError("why"), 1, "test: why\n"),
        (RuntimeError("g++:\n  error"), 1, "test: g++: error\n"),
        (ZeroDivisionError("why"), 1, "test: why\n"),
        (FileNotFoundError("why"), 1, "test: why\n"),
        (BrokenPipeError("of another process"), 1, "test: of another process\n"),
        (KeyboardInterrupt(), 130, "test: interrupted\n"),
        (MemoryError(), 1, "test: out of memory\n"),
        (MemoryError("no 9 GB"), 1, "test: out of memory: no 9 GB\n"),
        (
            ImportError("lib.so:\n failed"),
            1,
            f"test: cannot import: lib.so: failed; `{command_line('rlhive.doctor')}` checks the installation\n",
        ),
        (
            ImportError("lib.so: failed to map segment from shared object"),
            1,
            "test: out of address space (ulimit -v): lib.so: failed to map segment from shared object\n",
        ),
        (
            OSError(
                "no space: '/dev/shm'\n  In call to configurable 'replay' (<class 'x'>)\n  In call to configurable 'a'"
            ),
            1,
            "test: no space: '/dev/shm'\n",
        ),
        (
            BlockingIOError(11, "Resource temporarily unavailable"),
            1,
            f"test: [Errno 11] Resource temporarily unavailable{LIMIT}",
        ),
        (
            BlockingIOError(
                "[Errno 11] Unable to synchronously open file (unable to lock file, errno = 11, error message = "
                "'Resource temporarily unavailable')"
            ),
            1,
            "test: [Errno 11] Unable to synchronously open file (unable to lock file, errno = 11, error message = "
            "'Resource temporarily unavailable')\n",
        ),
        (RuntimeError("can't start new thread"), 1, f"test: can't start new thread{LIMIT}"),
    ],
)
def test_each_way_to_end_has_its_code_and_its_line(ending, code, said, capsys):
    def main():
        raise ending

    assert commands._exit_code("test", main) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("return 3", 3, ""),
        ("raise KeyboardInterrupt", 130, "test: interrupted\n"),
        ("signal.raise_signal(signal.SIGTERM)", 143, "test: interrupted by SIGTERM\n"),
        ("signal.raise_signal(signal.SIGHUP)", 129, "test: interrupted by SIGHUP\n"),
        (
            """try:
        signal.raise_signal(signal.SIGTERM)
    finally:  # `timeout` signals the process group as well
        signal.raise_signal(signal.SIGTERM)
        print("cleaned up", file=sys.stderr)""",
            143,
            "cleaned up\ntest: interrupted by SIGTERM\n",
        ),
    ],
)
def test_a_command_ends_so(ending, code, said):
    script = f"{LOAD}import signal, sys\ndef main(argv):\n    {ending}\n"
    script += "command['start']('test', main, int, sys.argv)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", said)


def test_only_a_signal_that_is_repeated_at_once_is_ignored(monkeypatch):
    """One later ends a command that went on, as where the first was raised while Python let go of an object."""
    receive = commands._make_interrupt()
    with pytest.raises(KeyboardInterrupt):
        receive(signal.SIGTERM, None)
    receive(signal.SIGHUP, None)
    monkeypatch.setattr(interrupt, "SAME_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt, match=str(int(signal.SIGTERM))):
        receive(signal.SIGTERM, None)


def test_a_command_that_is_interrupted_while_it_waits_for_its_threads_ends(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    ended: list[object] = []
    monkeypatch.setattr(threading, "_shutdown", interrupted)
    monkeypatch.setattr(commands.atexit, "_run_exitfuncs", lambda: ended.append("cleaned up"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    commands.leave(0)
    commands.leave(2)
    assert ended == ["cleaned up", commands.INTERRUPTED, "cleaned up", 2]


def test_what_runs_at_the_end_is_not_broken_off_by_a_second_ctrl_c():
    script = f"""{LOAD}
import atexit, signal, sys

def end():
    signal.raise_signal(signal.SIGINT)
    print("ended")

def main(argv):
    atexit.register(end)
    raise KeyboardInterrupt

command["start"]("test", main, lambda: None, sys.argv)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "ended\n", "test: interrupted\n")


def test_a_command_ignores_the_signals_that_it_was_told_to_ignore():
    script = f"{LOAD}import signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does\n"
    script += "def main(argv):\n    signal.raise_signal(signal.SIGHUP)\n    return 3\n"
    script += "command['start']('test', main, int, sys.argv)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_working_directory_that_is_gone_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert commands._exit_code("test", commands._check_directory) == 0
    (tmp_path / "gone").rmdir()
    assert commands._exit_code("test", commands._check_directory) == 2
    assert capsys.readouterr().err == "test: the working directory was removed: cd to one that exists\n"


def test_a_limit_is_named_once():
    error = RuntimeError("can't start new thread")
    assert commands.reason(RuntimeError(commands.reason(error))) == commands.reason(error)


def test_help_is_no_failure():
    for name in ("train", "evaluate", "report"):
        command = [sys.executable, "-m", f"rlhive.{name}", "--help"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("start", [True, False])
def test_what_the_terminal_cannot_show_is_written_escaped(start):
    said = "sys.stdout.write('… ü'); sys.stderr.write('… ü')"
    script = f"{LOAD}import sys\ndef main(*_):\n    {said}\n    return 0\n"
    script += "command['start']('test', main, int, sys.argv)" if start else "command['finish']('test', main)"
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**BUFFERED, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"\\u2026 \\xfc", b"\\u2026 \\xfc")


def test_output_that_cannot_be_written_is_a_failure_in_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rlhive.envs", "--list", "door"]
        ended = subprocess.run(
            command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "rlhive.envs: [Errno 28] No space left on device: 'stdout'\n",
    )


SPEAKS = f"""{LOAD}
import sys

def main(argv):
    sys.stdin.readline()
    print("heard by nobody", file=sys.stderr, flush=True)
    print("done")
    return 0

command["start"]("test", main, lambda: None, sys.argv)
"""


def test_a_command_goes_on_when_nobody_reads_stderr_any_more():
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", SPEAKS], **pipes) as ran:
        ran.stderr.close()
        ran.stdin.close()
        assert (ran.stdout.read(), ran.wait(60)) == (b"done\n", 0)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", SPEAKS]
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert (ran.stdout, ran.returncode) == (b"done\n", 0)


def test_messages_are_one_line_with_paths_as_they_are(capsys):
    assert commands._say("test", "no  such\n  directory:\n a   b", 2) == 2
    assert capsys.readouterr().err == "test: no  such directory: a   b\n"


def test_ctrl_c_while_a_command_is_imported_says_nothing(tmp_path):
    (tmp_path / "absl.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "rlhive.train", "--help"]  # which imports absl after rlhive
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_says_about_threads_counts(monkeypatch, name, value):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(name, value)
    let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT", "") == (value if name == "GOMP_SPINCOUNT" else "")


FAULTS = f"""{LOAD}
import resource

def pages_fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (8 << 20) for _ in range(3)]  # filled, and freed when this returns
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

command["keep_freed_memory"]()
pages_fetched()
print(pages_fetched())
"""


@pytest.mark.parametrize(
    ("environment", "keeps"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)]
)
def test_memory_that_was_freed_serves_again_unless_the_user_says_otherwise(environment, keeps):
    unset = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], env=unset | environment, capture_output=True, text=True, check=True
    )
    pages = 3 * (8 << 20) // 4096
    assert int(ran.stdout) < 0.01 * pages if keeps else int(ran.stdout) > 0.9 * pages


def test_python_without_docstrings_is_refused_in_one_line():
    script = f"{LOAD}command['start']('test', lambda argv: 0, int, ['test'])"
    ended = subprocess.run([sys.executable, "-OO", "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "test: Python without docstrings (-OO, PYTHONOPTIMIZE=2) cannot import torchrl: use -O, or unset it\n"
    )


def test_a_home_that_cannot_be_written_to_is_not_worth_a_line():
    script = f"{LOAD}command['log_to_stderr']('test')\nimport matplotlib"
    environment = {**os.environ, "MPLCONFIGDIR": "/dev/null/matplotlib"}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_text_is_written_alike_in_every_locale(tmp_path):
    script = "import runpy, sys\nrunpy.run_path(sys.argv[1])['write_text'](sys.argv[2], '\\xfc')"
    command = [sys.executable, "-c", script, files.__file__, str(tmp_path / "config.gin")]
    legacy = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(command, env=legacy, check=True)
    assert (tmp_path / "config.gin").read_bytes() == "ü".encode()


def test_a_file_is_replaced_beside_what_killed_processes_left_of_it(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = os.uname().nodename
    kept = (
        f".other.0f.{host}.{ended.pid}.tmp.h5",
        f".a[1].0f.{host}.{os.getppid()}.tmp.h5",
        f".a[1].0f.other-{host}.{ended.pid}.tmp.h5",
        ".a[1].text.tmp.h5",
        f".a1.0f.{host}.{ended.pid}.tmp.h5",
    )
    for name in (f".a[1].0f.{host}.{ended.pid}.tmp.h5", *kept):
        (tmp_path / name).touch()
    files.write_text(tmp_path / "a[1].h5", "new")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "a[1].h5"}
