"""Checks what this machine has and lacks for RLHive, with a fix for each problem.

`python -m rlhive.doctor` ends with exit code 1 if training from states, the main job, cannot run here.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# Only modules that need no packages: one may be missing, so the checks import them.
from rlhive import ffmpeg
from rlhive.command import Parser, finish
from rlhive.command_line import command_line
from rlhive.fresh_process import answer_of
from rlhive.gl_backend import FAST_FLAGS, FAST_QUALITY
from rlhive.machine import free_memory, has_compiler
from rlhive.paths import cache_dir

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OK, NOTE, FAIL = "ok", "note", "FAIL"

_PROBE_SECONDS = 120.0
_REINSTALL = '`uv sync`, or README.md, "Install as a package", in a fresh environment'

_IMPORT_TORCH = """
import rlhive, torch, tensordict, torchrl
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
try:
    import torchrl._torchrl
    problem = ""
except ImportError as error:
    problem = " ".join(str(error).split())
print(", ".join(names) if torch.cuda.is_available() else "none", problem, sep="|")
"""
_STEP = """
import os
os.environ.pop("RLHIVE_CACHE", None)  # use the installed models; do not install them in another place
import rlhive
from rlhive.envs.robohive import RoboHive
environment = RoboHive("FrankaReachRandom-v0", seed=0)
environment.reset()
environment.step(environment.env.action_space.sample())
"""
_RENDER = """
import sys, time, mujoco
from OpenGL import GL
path, flags, quality_of = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
model = mujoco.MjModel.from_xml_path(path) if path else mujoco.MjModel.from_xml_string("<mujoco/>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
took = []
for quality in ("full", "fast"):
    for name in quality_of if quality == "fast" else ():
        setattr(model.vis.quality, name, 0)
    with mujoco.Renderer(model, 240, 320) as renderer:
        for flag in flags if quality == "fast" else ():
            renderer.scene.flags[getattr(mujoco.mjtRndFlag, flag)] = False
        for _ in range(2):
            start = time.perf_counter()
            renderer.update_scene(data)
            renderer.render()
        took.append(f"{1000 * (time.perf_counter() - start):.0f} ms ({quality})")
        device = GL.glGetString(GL.GL_RENDERER).decode().partition(" (")[0]
print(f"a frame of 320x240 takes {' or '.join(took)} on {device}")
"""


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        state: "ok", "note" (something optional is missing), or "FAIL" (training cannot run).
        subject: what was checked.
        text: what was found.
        fix: what to do about it, empty if there is nothing to do.
    """

    state: str
    subject: str
    text: str
    fix: str = ""


def check_python() -> Iterator[Finding]:
    """The interpreter, and whether it stores bytecode."""
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    fix = "" if good else "RLHive and RoboHive run on Python 3.11 and 3.12: `uv python pin 3.12`"
    yield Finding(OK if good else FAIL, "Python", f"{sys.version.split()[0]} ({sys.executable})", fix)
    if sys.dont_write_bytecode:
        text = "not written, so every start compiles the sources of torch and TorchRL again, which takes 9 s"
        yield Finding(NOTE, "bytecode", text, "`unset PYTHONDONTWRITEBYTECODE`")


def check_compiler() -> Iterator[Finding]:
    """The compiler that compiled updates need."""
    good = has_compiler()
    text = "there" if good else "none: long runs train without compiled updates, at about half the speed"
    yield Finding(OK if good else NOTE, "C++ compiler", text, "" if good else "`apt-get install g++`")


def check_machine() -> Iterator[Finding]:
    """Cores, free memory and free disk."""
    yield Finding(OK, "cores", f"{len(os.sched_getaffinity(0))} usable by this process")
    yield Finding(OK, "memory", f"{free_memory() / 1e9:.1f} GB free for this process")
    yield _check_disk("cache", cache_dir, "set RLHIVE_CACHE to a directory of your own")
    yield _check_disk("here", Path.cwd, "`cd` to a directory of your own")


def _check_disk(purpose: str, place: Callable[[], Path], remedy: str) -> Finding:
    subject = f"disk ({purpose})"
    try:
        path = place()
        existing = next(above for above in (path, *path.parents) if above.exists())
        free = shutil.disk_usage(existing).free / 1e9
    except OSError as error:
        return Finding(FAIL, subject, f"cannot be used: {error}", remedy)
    if not existing.is_dir():
        return Finding(FAIL, subject, f"{existing} is a file, not a directory", remedy)
    fix = "" if free > 1 else f"free some space, or {remedy}"
    return Finding(NOTE if fix else OK, subject, f"{free:.1f} GB free for {path}", fix)


def check_packages() -> Iterator[Finding]:
    """Installed versions, compared with those that RLHive was tried with."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("rlhive-torch") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(NOTE, "rlhive-torch", "runs without being installed", _REINSTALL)
        project = Path(__file__).parent.parent / "pyproject.toml"
        text = project.read_text(encoding="utf-8") if project.exists() else "project.dependencies = []"
        lines = tomllib.loads(text)["project"]["dependencies"]
    for requirement in map(Requirement, [*lines, "mujoco", "gymnasium"]):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _check_package(requirement)


def _check_package(requirement: Requirement) -> Finding:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(FAIL, requirement.name, "not installed", _REINSTALL)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(OK, requirement.name, version)
    return Finding(NOTE, requirement.name, f"{version}, tried with {requirement.specifier}", _REINSTALL)


def check_torch() -> Iterator[Finding]:
    """Whether torch and TorchRL load, TorchRL's compiled part included, and the GPU."""
    good, answer = _probe(_IMPORT_TORCH)
    if not good:
        yield Finding(FAIL, "torch", f"torch, tensordict and torchrl do not load: {answer}", _REINSTALL)
        return
    gpu, _, problem = answer.partition("|")
    yield Finding(OK, "torch", "torch, tensordict and torchrl load")
    text = f"does not load, so no prioritized replay: {problem}" if problem else "loads"
    yield Finding(NOTE if problem else OK, "torchrl C++ part", text, _REINSTALL if problem else "")
    if gpu == "none":
        fix = "none is needed; with a GPU and its driver, `DEVICE='cuda'` trains on it"
        yield Finding(NOTE, "GPU", "none: training runs on the CPU", fix)
    else:
        yield Finding(OK, "GPU", gpu)


def check_simhive() -> Iterator[Finding]:
    """The robot models."""
    from rlhive.envs import simhive

    try:
        found = simhive.status()
    except simhive.SimHiveError as error:
        yield Finding(FAIL, "SimHive", str(error), _REINSTALL)
        return
    fix = f"`{command_line('rlhive.envs.simhive')}` installs it"
    if found.path is None:
        yield Finding(FAIL, "SimHive", "not installed", fix)
        return
    suites = sorted({suite for name in found.differing for suite in simhive.suites_touched(name)})
    wrong = f"{simhive.count_differing(len(found.differing))}, which touches {', '.join(suites)}"
    text = f"{wrong if suites else 'the exact models'} in {found.path} ({found.source})"
    yield Finding(FAIL if suites else OK, "SimHive", text, fix if suites else "")
    if not simhive.is_in_place():
        text = f"not in {cache_dir()}, which RLHIVE_CACHE names: training will install it there"
        yield Finding(NOTE, "SimHive", text, f"`unset RLHIVE_CACHE` to train with {found.path}")


def check_environment() -> Iterator[Finding]:
    """Whether an environment steps in a fresh process with torch imported first, as in training."""
    if not shutil.which("git") and "GIT_PYTHON_REFRESH" not in os.environ:
        fix = "`apt-get install git`, or `export GIT_PYTHON_REFRESH=quiet`"
        yield Finding(NOTE, "git", "not found, and robohive's GitPython needs it", fix)
    if _robohive_with_models() is None:
        return
    good, answer = _probe(_STEP)
    text = "FrankaReachRandom-v0 steps, torch imported before mujoco" if good else answer
    fix = "" if good else "see the lines above; in your own code `import rlhive` before mujoco and robohive"
    yield Finding(OK if good else FAIL, "environment", text, fix)


def check_rendering() -> Iterator[Finding]:
    """Both headless GL backends, with the Franka arm's scene if its model is installed, and which one draws."""
    robohive = _robohive_with_models()
    path = str(robohive / "envs/arms/franka/assets/franka_reach_v0.xml") if robohive else ""
    working = []
    for backend, package in (("egl", "libegl1 libgl1-mesa-dri"), ("osmesa", "libosmesa6")):
        good, answer = _probe(_RENDER, path, " ".join(FAST_FLAGS), " ".join(FAST_QUALITY), MUJOCO_GL=backend)
        working += [backend] * good
        fix = "" if good else f"only images and videos need it: `apt-get install {package}`"
        yield Finding(
            OK if good else NOTE, f"GL {backend}", answer if good else f"does not render: {answer}", fix
        )
    yield _check_backend(os.environ.get("MUJOCO_GL", "").strip().lower(), working)


def _check_backend(chosen: str, working: list[str]) -> Finding:
    if chosen:
        good = chosen in working
        fix = "" if good else "`unset MUJOCO_GL`, and the first backend that works is used"
        text = f"{chosen} draws images" if good else f"{chosen}, which is not known to draw images here"
        return Finding(OK if good else NOTE, "MUJOCO_GL", text, fix)
    if not working:
        return Finding(NOTE, "MUJOCO_GL", "not set, and nothing draws images", "see the lines above")
    return Finding(OK, "MUJOCO_GL", f"not set: {working[0]} draws images")


def check_ffmpeg() -> Iterator[Finding]:
    """Whether videos can be written."""
    try:
        ffmpeg.check_ffmpeg("--video")
        yield Finding(OK, "ffmpeg", "runs, of imageio-ffmpeg")
    except ValueError as error:
        yield Finding(NOTE, "ffmpeg", "no videos can be written", str(error))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_machine,
    check_packages,
    check_compiler,
    check_ffmpeg,
    check_simhive,
    check_torch,
    check_environment,
    check_rendering,
)


def examine(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; a failure if a package is missing or this user may not read something."""
    subject = check.__name__.removeprefix("check_")
    try:
        yield from check()
    except ImportError as error:
        yield Finding(FAIL, subject, f"cannot be checked: {error}", _REINSTALL)
    except OSError as error:
        path = error.filename or "the working directory"
        yield Finding(FAIL, subject, str(error), f"make {path} readable for this user")


def _robohive_with_models() -> Path | None:
    """The directory of robohive, if its models are installed."""
    try:
        from rlhive.envs import simhive

        return simhive.robohive_directory() if simhive.is_installed() else None
    except (ImportError, RuntimeError):  # a package is missing, or robohive itself
        return None


def _probe(code: str, *arguments: str, **environment: str) -> tuple[bool, str]:
    return answer_of(code, *arguments, seconds=_PROBE_SECONDS, **environment)


def main() -> int:
    """Print every finding as soon as it is known; returns 1 if training cannot run."""
    Parser(prog="python -m rlhive.doctor", description=__doc__).parse_args()
    failures = 0
    for check in CHECKS:
        for finding in examine(check):
            failures += finding.state == FAIL
            sys.stdout.write(f"{finding.state:4}  {finding.subject:18} {finding.text}\n")
            if finding.fix:
                sys.stdout.write(f"{'':25}fix: {finding.fix}\n")
            sys.stdout.flush()
    verdict = f"training cannot run: {failures} to fix" if failures else "training can run"
    sys.stdout.write(f"\n{verdict}\n")
    return int(failures > 0)


if __name__ == "__main__":
    finish("rlhive.doctor", main)
