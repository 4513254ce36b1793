"""Installs SimHive for real: into a copy of the installed robohive, with a cache of its own."""

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlhive.envs import simhive
from rlhive.envs.simhive_sources import Source, git_files, local_files, pinned_commits, robohive_directory

COMMAND = [sys.executable, "-m", "rlhive.envs.simhive"]


@pytest.fixture(scope="session")
def exact_tree():
    return simhive.ensure()


@pytest.fixture
def robohive(tmp_path):
    """The environment variables that put a copy of the installed robohive, without models, in use."""
    package = tmp_path / "site" / "robohive"
    shutil.copytree(robohive_directory(), package, ignore=shutil.ignore_patterns("simhive", "__pycache__"))
    variables = {name: value for name, value in os.environ.items() if name != "RLHIVE_SIMHIVE"}
    path = os.pathsep.join([str(package.parent), *sys.path[1:]])
    return {**variables, "PYTHONPATH": path, "RLHIVE_CACHE": str(tmp_path / "cache")}


def run(env, *arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=300, **options
    )


def places(env):
    """The tree and the link to it."""
    site = Path(env["PYTHONPATH"].split(os.pathsep)[0])
    return Path(env["RLHIVE_CACHE"]) / "simhive-0.7.0", site / "robohive" / "simhive"


def assert_nothing_installed(env):
    tree, link = places(env)
    assert not tree.exists() and not link.is_symlink()
    assert not list(tree.parent.glob("*.partial-*"))


def one_line_error(finished):
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    return finished.stderr.strip().splitlines()[-1]


def small_tree(root, **files):
    for name, text in {"a.xml": "<mujoco/>", "meshes/b.stl": "solid", **files}.items():
        (root / "Part_sim" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "Part_sim" / name).write_text(text)
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def local_source(path, manifest, megabytes=0):
    return [Source("here", megabytes, lambda scratch: local_files(path, manifest))]


def test_directory_installs_verifies_and_is_repaired(robohive, exact_tree):
    env = {**robohive, "RLHIVE_SIMHIVE": str(exact_tree)}
    tree, link = places(env)
    assert run(env).returncode == 0
    assert link.resolve() == tree and (link / "simhive-version").read_text() == "0.7.0"
    verified = run(env, "--verify")
    assert verified.returncode == 0 and "suites: a" not in verified.stdout

    (tree / "franka_sim" / "assets" / "chain0.xml").unlink()
    (tree / "Adroit" / "Adroit_hand.xml").write_text("<mujoco/>")
    damaged = run(env, "--verify")
    assert damaged.returncode == 1
    assert "missing  franka_sim/assets/chain0.xml  (suites: arms, fm, multi_task)" in damaged.stdout
    assert "differs  Adroit/Adroit_hand.xml  (suites: hands)" in damaged.stdout

    assert run(env).returncode == 0
    assert run(env, "--verify").returncode == 0


def test_archive_and_truncated_archive(robohive, exact_tree, tmp_path):
    archive = tmp_path / "models.tar"
    with tarfile.open(archive, "w") as file:
        file.add(exact_tree, arcname="some-folder")
    env = {**robohive, "RLHIVE_SIMHIVE": str(archive)}
    with archive.open("r+b") as file:
        file.truncate(archive.stat().st_size // 2)
    assert "is not a whole tar archive" in one_line_error(run(env))
    assert_nothing_installed(env)

    with tarfile.open(archive, "w") as file:
        file.add(exact_tree, arcname="some-folder")
    assert run(env).returncode == 0
    assert run(env, "--verify").returncode == 0


@pytest.mark.parametrize(
    ("content", "message"), [(b"not a tar", "not a whole tar archive"), (None, "does not exist")]
)
def test_bad_local_source_is_one_line(robohive, tmp_path, content, message):
    given = tmp_path / "models.tar.xz"
    if content is not None:
        given.write_bytes(content)
    env = {**robohive, "RLHIVE_SIMHIVE": str(given)}
    assert message in one_line_error(run(env))
    assert_nothing_installed(env)


def test_directory_that_is_not_simhive_is_refused(robohive, tmp_path):
    small_tree(tmp_path / "other")
    env = {**robohive, "RLHIVE_SIMHIVE": str(tmp_path / "other")}
    assert "1248 of 1250 files missing or wrong" in one_line_error(run(env))
    assert_nothing_installed(env)


def test_killed_installation_is_redone(robohive, exact_tree):
    env = {**robohive, "RLHIVE_SIMHIVE": str(exact_tree)}
    tree, link = places(env)
    process = subprocess.Popen(COMMAND, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tree.parent.glob("*.partial-*/tree/*/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tree.parent.glob("*.partial-*")), (
        "killed before or after the copy: the test has shown nothing"
    )
    assert not tree.exists() and not link.is_symlink()

    assert run(env).returncode == 0
    assert run(env, "--verify").returncode == 0
    assert not list(tree.parent.glob("*.partial-*"))


def test_two_processes_at_once_install_once(robohive, exact_tree):
    env = {**robohive, "RLHIVE_SIMHIVE": str(exact_tree)}
    both = [subprocess.Popen(COMMAND, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("installing SimHive 0.7.0 in" in message for message in messages) == 1
    assert run(env, "--verify").returncode == 0


def test_two_threads_at_once_install_once_and_no_other_process_is_told_of(tmp_path, monkeypatch, capsys):
    manifest = small_tree(tmp_path / "models")
    (tmp_path / "robohive" / simhive._OUTSIDE).parent.mkdir(parents=True)
    (tmp_path / "robohive" / simhive._OUTSIDE).touch()
    tree, left = tmp_path / "cache" / "tree", tmp_path / "cache" / "tree.partial-x"
    left.mkdir(parents=True)

    def slowly(scratch):
        time.sleep(0.2)  # the other thread comes meanwhile
        assert not left.exists()
        yield from local_files(tmp_path / "models", manifest)

    monkeypatch.setattr(simhive, "sources", lambda: [Source("here", 0, slowly)])
    monkeypatch.setattr(simhive, "read_manifest", lambda: manifest)
    with ThreadPoolExecutor() as threads:
        both = [
            threads.submit(simhive._install_and_link, tmp_path / "robohive" / "simhive", tree, again=False)
            for _ in range(2)
        ]
    assert [one.result() for one in both] == [tree, tree]
    said = capsys.readouterr().err
    assert said.count("installing SimHive") == 1 and "another process" not in said


KILLED = """
import os, sys
from rlhive.envs.simhive_sources import _run
_run(["sh", "-c", "echo $$ > pid; exec sleep 60"], seconds=60, environment={})
"""


def test_what_an_installation_started_ends_with_it_where_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    child = Path("/proc") / (tmp_path / "pid").read_text().strip()
    while child.exists() and (child / "stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_network_is_one_line_within_seconds(robohive):
    closed = "http://127.0.0.1:9/"
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{closed}.insteadOf"}
    index = {"UV_DEFAULT_INDEX": closed, "UV_NO_CONFIG": "1", "UV_HTTP_RETRIES": "0", "PIP_INDEX_URL": closed}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    env = {**robohive, **git, "GIT_CONFIG_VALUE_0": "https://github.com/", **index, **pip}
    start = time.monotonic()
    message = one_line_error(run(env))
    assert time.monotonic() - start < 30
    assert "git:" in message and "package index:" in message and "set RLHIVE_SIMHIVE" in message
    assert_nothing_installed(env)


def test_writing_that_fails_midway_is_one_line(robohive, exact_tree):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    env = {**robohive, "RLHIVE_SIMHIVE": str(exact_tree)}
    message = one_line_error(run(env, preexec_fn=limit_file_size))
    assert "cannot install SimHive in" in message and "set RLHIVE_CACHE" in message
    assert_nothing_installed(env)


def test_too_few_open_files_are_not_mended_by_another_directory(tmp_path, monkeypatch):
    def full(place):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(place))

    for called in ("_locked", "check_writable"):
        with monkeypatch.context() as patch:
            patch.setattr(simhive, called, full)
            with pytest.raises(simhive.SimHiveError, match=r"Too many open files; .*\(ulimit -n\)$"):
                simhive._install_and_link(tmp_path / "simhive", tmp_path / "tree", again=False)


def test_a_full_disk_of_the_link_is_not_mended_by_its_owner(tmp_path, monkeypatch):
    def full(directory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))

    monkeypatch.setattr(simhive, "check_writable", full)
    message = (
        rf"^cannot link SimHive into robohive: No space left on device; make that possible in {tmp_path}$"
    )
    with pytest.raises(simhive.SimHiveError, match=message):
        simhive._install_and_link(tmp_path / "simhive", tmp_path / "tree", again=False)


def test_a_link_that_cannot_be_made_is_refused_before_anything_is_installed(tmp_path, monkeypatch):
    def refuse(directory):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    monkeypatch.setattr(simhive, "check_writable", refuse)
    link, tree = tmp_path / "simhive", tmp_path / "cache" / "tree"
    with pytest.raises(simhive.SimHiveError, match=rf"Permission denied; run `ln -sfn {tree} {link}`"):
        simhive._install_and_link(link, tree, again=False)
    assert not list(tmp_path.iterdir())


def test_small_disk_is_refused_before_anything_is_written(tmp_path):
    manifest = small_tree(tmp_path / "models")
    with pytest.raises(simhive.SimHiveError, match=r"MB free and installing SimHive takes .* RLHIVE_CACHE"):
        simhive.install(tmp_path / "tree", local_source(tmp_path / "models", manifest, 10**9), manifest)
    assert not (tmp_path / "tree").exists()


def test_directory_in_place_of_the_link_is_left_alone(robohive, exact_tree):
    env = {**robohive, "RLHIVE_SIMHIVE": str(exact_tree)}
    _, link = places(env)
    link.mkdir()
    (link / "mine.txt").write_text("mine")
    assert "is a directory, not SimHive 0.7.0" in one_line_error(run(env))
    assert (link / "mine.txt").read_text() == "mine"


def test_only_the_manifests_files_of_an_archive_are_written(tmp_path):
    manifest = small_tree(tmp_path / "models")
    archive = tmp_path / "models.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "models", arcname=".")
        file.add(tmp_path / "models" / "Part_sim" / "a.xml", arcname="../escaped.xml")
        link = tarfile.TarInfo("Part_sim/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    (tmp_path / "place").mkdir()
    simhive.install(tmp_path / "place" / "tree", local_source(archive, manifest), manifest)
    written = {
        str(p.relative_to(tmp_path / "place")) for p in (tmp_path / "place").rglob("*") if not p.is_dir()
    }
    own = {"tree/simhive-version", "tree/.rlhive-source"}
    assert written == {f"tree/{name}" for name in manifest} | own
    assert not (tmp_path / "escaped.xml").exists()


def test_git_source_fetches_the_pinned_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    identity = "[user]\n name = t\n email = t@example.org\n[uploadpack]\n allowAnySHA1InWant = true\n"
    (tmp_path / "gitconfig").write_text(identity)
    origin = tmp_path / "origin"
    manifest = small_tree(tmp_path, **{"a.xml": "<mujoco>pinned\r\n</mujoco>"})
    (tmp_path / "Part_sim").rename(origin)
    git = ["git", "-C", str(origin)]
    subprocess.run([*git, "init", "-q"], check=True)
    for message in ("pinned", "newer"):
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", message], check=True)
        (origin / "a.xml").write_text("<newer/>")
    sha = subprocess.check_output([*git, "rev-parse", "HEAD~1"], text=True).strip()
    script = tmp_path / "robohive_init.py"
    call = f"fetch_git(repo_url='{origin.as_uri()}', commit_hash='{sha}', clone_directory='Part_sim')\n"
    script.write_text(call)

    manifest.pop("gitconfig")
    source = Source("git", 0, lambda scratch: git_files(scratch, manifest, pinned_commits(script)))
    simhive.install(tmp_path / "tree", [source], manifest)
    assert simhive.differing_files(tmp_path / "tree", manifest) == []


def test_robohive_names_thirteen_commits(exact_tree):
    commits = pinned_commits(robohive_directory().parent / "robohive_init.py")
    assert len({commit.folder for commit in commits}) == 13
    assert all(len(commit.sha) == 40 and commit.url.startswith("https://") for commit in commits)
    assert {commit.folder for commit in commits} == {
        path.name for path in exact_tree.iterdir() if path.is_dir()
    }


STEP_EVERYTHING = """
import random, sys, rlhive, torch
import gymnasium, robohive
from rlhive.envs.names import list_names
from rlhive.envs.pixels import own_pixels
known = [name for name in list_names() if own_pixels(name) is None]  # those with encoders load them
myo = [name for name in known if name.startswith(("myo", "Myo", "motor"))]
names = sorted(set(known) - set(myo)) + random.Random(0).sample(myo, 30)
names.append("myoChallengeDieReorientP1-v0")  # reads a file beside SimHive
failed = []
for name in names:
    try:
        environment = gymnasium.make(name)
        environment.reset(seed=0)
        for _ in range(3):
            environment.step(environment.action_space.sample())
        environment.close()
    except Exception as error:
        failed.append(f"{name}: {error!r}")
sys.exit("; ".join(failed) or 0)
"""


@pytest.mark.slow
def test_index_route_builds_every_state_environment(robohive):
    closed = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.http://127.0.0.1:9/.insteadOf"}
    env = {**robohive, **closed, "GIT_CONFIG_VALUE_0": "https://github.com/"}
    installed = run(env)
    assert installed.returncode == 0 and "(package index)" in installed.stdout, installed.stderr
    verified = run(env, "--verify")
    assert verified.returncode == 0
    assert verified.stdout.startswith("missing  object_sim/objects.png  (suites: none)\n")
    command = [sys.executable, "-c", STEP_EVERYTHING]
    stepped = subprocess.run(command, env=env, capture_output=True, text=True, timeout=550)
    assert stepped.returncode == 0, stepped.stderr[-2000:]
