"""Images of environments, drawn by MuJoCo into the caller's memory, with one GL context per process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlhive.command_line import command_line
from rlhive.core.pixel_spec import PixelSpec
from rlhive.envs.pixels import no_camera
from rlhive.fresh_process import answer_of
from rlhive.gl_backend import FAST_FLAGS, FAST_QUALITY, check_backend

BACKENDS = ("egl", "osmesa")
MAX_RENDERERS = 4  # processes that draw at once, each with a GL context; many contexts have hung on a GPU

_TRY = "from mujoco.{0} import GLContext; GLContext(1, 1).make_current()"
_TRY_SECONDS = 60.0
_MAX_GEOMS = 10_000  # as in RoboHive's renderer


def choose_backend() -> str:
    """The GL backend: MUJOCO_GL if set; else the first of egl and osmesa that works here, and MUJOCO_GL is set to it.

    Call it before mujoco is imported. It tries a backend in another process (half a second): one that failed in this
    process would block the next.

    Raises:
        RuntimeError: no backend works.
        ValueError: MUJOCO_GL names no backend that draws.
    """
    if chosen := check_backend(draws=True):
        return chosen
    problems = []
    for backend in BACKENDS:
        problem = _try(backend)
        if not problem:
            os.environ["MUJOCO_GL"] = backend  # for mujoco in this process and in the workers
            return backend
        problems.append(f"{backend}: {problem}")
    raise RuntimeError(
        f"no GL backend can draw images here ({'; '.join(problems)}); "
        f"`{command_line('rlhive.doctor')}` says what to install"
    )


def _try(backend: str) -> str:
    """What is wrong with `backend` here, in one line; empty when it works."""
    good, answer = answer_of(_TRY.format(backend), seconds=_TRY_SECONDS, MUJOCO_GL=backend)
    return "" if good else answer


@contextlib.contextmanager
def rendering_errors() -> Iterator[None]:
    """Turns whatever a GL backend raises (each has its own errors) into one line with the fix."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(
            f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} cannot render here ({reason}); "
            f"`{command_line('rlhive.doctor')}` says what to do"
        ) from error


class View:
    """The cameras of one environment, and what they see.

    Args:
        name: id of the environment; environments of one id share a renderer.
        env: RoboHive's environment.
        spec: the images.

    Raises:
        ValueError: the model lacks one of the cameras.
    """

    def __init__(self, name: str, env: Any, spec: PixelSpec) -> None:
        self.name, self.spec = name, spec
        self.model, self.data = env.sim_obsd.model.ptr, env.sim_obsd.data.ptr
        self.cameras = [camera_id(name, self.model, camera) for camera in spec.cameras]
        self.options = view_options(env)
        self._renderer: Renderer | None = None

    def draw(self, pixels: np.ndarray, depth: np.ndarray | None = None) -> None:
        """Write the images, u8 [cameras,H,W,3], and with `depth` the distances in metres, f32 [cameras,H,W].

        Raises:
            RuntimeError: drawing does not work here.
        """
        with rendering_errors():
            if self._renderer is None:
                self._renderer = _shared_renderer(self.name, self.model, self.spec)
            self._renderer.prepare(self.model)
            for index, camera in enumerate(self.cameras):
                self._renderer.draw(self.model, self.data, self.options, camera, pixels[index])
                if depth is not None:
                    self._renderer.measure(self.model, self.data, self.options, camera, depth[index])


class Renderer:
    """The meshes and textures of one model in the GL driver's memory: 10 to 300 MB, so environments of one id share it.

    These differ in positions and colours, which are sent with every image, and in the heights of their terrain, which
    are sent again when they have changed.
    """

    def __init__(self, model: Any, height: int, width: int, quality: str) -> None:
        import mujoco

        self._gl = _gl_context()
        self._gl.make_current()
        self._context = _upload(model, height, width, quality)
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        if quality == "fast":
            for flag in FAST_FLAGS:
                self._scene.flags[getattr(mujoco.mjtRndFlag, flag)] = False
        self._camera = mujoco.MjvCamera()
        self._frame = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._depth = np.empty((height, width), np.float32)
        self._terrain = model.hfield_data.copy()
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        _open.add(self)

    def prepare(self, model: Any) -> None:
        """Make the GL context current, and send the terrain of `model` if it differs from the last one sent."""
        import mujoco

        self._gl.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        if not np.array_equal(self._terrain, model.hfield_data):
            self._terrain = model.hfield_data.copy()
            for index in range(model.nhfield):
                mujoco.mjr_uploadHField(model, self._context, index)

    def draw(self, model: Any, data: Any, options: Any, camera: int, out: np.ndarray) -> None:
        """Write what `camera` sees (-1: a free camera from afar) into `out` u8 [H,W,3]."""
        import mujoco

        self._render(model, data, options, camera)
        mujoco.mjr_readPixels(self._pixels, None, self._frame, self._context)
        out[...] = self._pixels[::-1]  # GL's first row is the lowest

    def measure(self, model: Any, data: Any, options: Any, camera: int, out: np.ndarray) -> None:
        """Write the distances in metres from the plane of `camera` into `out` f32 [H,W]."""
        import mujoco

        flags = self._scene.flags.copy()
        # As in mujoco.Renderer: flat colours make far distances more exact.
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            self._scene.flags[flag] = True
        self._render(model, data, options, camera)
        self._scene.flags[:] = flags
        mujoco.mjr_readPixels(None, self._depth, self._frame, self._context)
        out[...] = _metres(self._depth[::-1], model)

    def close(self) -> None:
        """Free the driver's memory; otherwise the garbage collector does."""
        self._free()
        self._gl = None

    def _render(self, model: Any, data: Any, options: Any, camera: int) -> None:
        import mujoco

        if camera < 0:
            mujoco.mjv_defaultFreeCamera(model, self._camera)
        else:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, options, None, self._camera, every, self._scene)
        mujoco.mjr_render(self._frame, self._scene, self._context)


def camera_id(name: str, model: Any, camera: str) -> int:
    """The index of the camera of that name in the model.

    Raises:
        ValueError: there is none; the message names all cameras.
    """
    import mujoco

    kind = mujoco.mjtObj.mjOBJ_CAMERA
    number = mujoco.mj_name2id(model, kind, camera)
    if number < 0:
        names = [mujoco.mj_id2name(model, kind, index) for index in range(model.ncam)]
        raise ValueError(no_camera(name, camera, list(filter(None, names))))
    return number


def view_options(env: Any) -> Any:
    """The options with which RoboHive draws `env`: some ids show the activity of muscles."""
    import mujoco

    options = mujoco.MjvOption()
    env.sim_obsd.renderer._update_renderer_settings(options)
    return options


_open: weakref.WeakSet[Renderer] = weakref.WeakSet()
_renderers: weakref.WeakValueDictionary[tuple[str, int, int, str], Renderer] = weakref.WeakValueDictionary()


def _shared_renderer(name: str, model: Any, spec: PixelSpec) -> Renderer:
    """The renderer that all environments of one id with the same kind of images share while one of them is open."""
    key = (name, spec.height, spec.width, spec.quality)
    renderer = _renderers.get(key)
    if renderer is None:
        renderer = _renderers[key] = Renderer(model, spec.height, spec.width, spec.quality)
    return renderer


@functools.cache
def _gl_context() -> Any:
    """The GL context of this process; its size does not matter, as images are drawn into separate buffers."""
    module = importlib.import_module(f"mujoco.{choose_backend()}")
    atexit.register(_leave)  # runs before the module's own exit function
    return module.GLContext(1, 1)


def _leave() -> None:
    """Frees everything in order when the process ends; later, the driver's modules are gone and freeing would fail."""
    for renderer in list(_open):
        renderer.close()
    _gl_context.cache_clear()


def _upload(model: Any, height: int, width: int, quality: str) -> Any:
    """The model's meshes and textures in the GL driver, with a buffer as large as one image.

    RoboHive's buffer is larger, which costs time and memory; the images are the same, bit for bit.
    """
    import mujoco

    size = {"offheight": height, "offwidth": width}
    drawing = dict.fromkeys(FAST_QUALITY if quality == "fast" else (), 0)
    with _changed(model.vis.global_, size), _changed(model.vis.quality, drawing):
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
    context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
    return context


@contextlib.contextmanager
def _changed(settings: Any, values: Mapping[str, int]) -> Iterator[None]:
    """Changes settings of a model inside the block."""
    before = {name: getattr(settings, name) for name in values}
    try:
        for name, value in values.items():
            setattr(settings, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def _free(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()


def _metres(depth: np.ndarray, model: Any) -> np.ndarray:
    """The reversed, non-linear depth buffer as f32 distances, computed as in mujoco.Renderer."""
    extent = model.stat.extent
    near, far = np.float32(model.vis.map.znear * extent), np.float32(model.vis.map.zfar * extent)
    scale = np.float32(-0.5) * (-(far + near) / (far - near)) - np.float32(0.5)
    offset = np.float32(-0.5) * (-(np.float32(2) * far * near) / (far - near))
    return (offset / (depth.astype(np.float64) + scale)).astype(np.float32)
