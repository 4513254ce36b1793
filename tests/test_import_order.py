"""Imports in fresh processes: triton, which torch loads, crashes the process when a GL driver is there before it."""

import ctypes.util
import os
import subprocess
import sys

import pytest

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
RENDER = """
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0
"""


def python(code, gl=None, **variables):
    """Runs code, or a list of arguments, in a fresh interpreter; `gl` is its MUJOCO_GL."""
    if gl and not ctypes.util.find_library(LIBRARIES[gl]):
        pytest.skip(f"lib{LIBRARIES[gl]} is not installed, see README.md")
    env = {
        name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    if gl:
        env["MUJOCO_GL"] = gl
    env |= variables
    arguments = code if isinstance(code, list) else ["-c", code]
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def assert_refused(finished, module):
    assert finished.returncode == 1, finished
    message = finished.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: {module} was imported before ")
    assert "put `import rlhive`" in message


@pytest.mark.parametrize("gl", LIBRARIES)
def test_gl_backend_of_mujoco_first_is_refused(gl):
    assert_refused(python("import mujoco, rlhive", gl), f"mujoco.{gl}")


def test_gl_backend_before_rlhive_is_refused_after_torch_too():
    assert_refused(python("import torch, mujoco, rlhive", "egl"), "mujoco.egl")


def test_opengl_first_is_refused():
    assert_refused(python("import OpenGL, rlhive"), "OpenGL")


@pytest.mark.parametrize("gl", LIBRARIES)
def test_rlhive_first_renders_and_loads_torchrl_afterwards(gl):
    say = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    finished = python(f"import rlhive\n{say}\nimport mujoco\n{RENDER}\nimport torchrl", gl)
    assert finished.returncode == 0, finished.stderr
    loaded = finished.stdout.split()
    assert "torch" in loaded
    assert not {"mujoco", "OpenGL", "dm_control", "robohive"} & set(loaded)  # nothing that draws


def test_package_run_with_dash_m_is_protected_too(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import rlhive")
    (tmp_path / "package" / "main.py").write_text(f"import mujoco\n{RENDER}\nimport tensordict")
    path = os.pathsep.join([str(tmp_path), *sys.path[1:]])
    finished = python(["-m", "package.main"], "egl", PYTHONPATH=path)
    assert finished.returncode == 0, finished.stderr


def test_mujoco_without_a_gl_backend_may_come_first():
    finished = python("import mujoco, rlhive")
    assert finished.returncode == 0, finished.stderr


def test_packages_list_their_names_before_they_load_them():
    packages = "rlhive.data, rlhive.deploy, rlhive.envs, rlhive.policy_fn"
    code = f"""import sys, {packages}
for package in ({packages}):
    print(package.__name__, set(package.__all__) - set(dir(package)), "__file__" in dir(package))
print({{"gin", "h5py", "mujoco", "robohive", "torchrl"}} & set(sys.modules))
"""
    listed = [f"{name} set() True" for name in packages.split(", ")]
    assert python(code).stdout.splitlines() == [*listed, "set()"]
