"""The backends, in the order in which `auto` prefers them. Each is imported only when it is asked for."""

from importlib import import_module

from engines.runner import Backend, BackendUnavailableError

CPU_BACKENDS = ("openvino", "onnxruntime")

BACKENDS = ("tensorrt", "torch", "onnxruntime-cuda", *CPU_BACKENDS)


def find_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        BackendUnavailableError: there is none of that name; the message lists what there is.
    """
    if name not in BACKENDS:
        raise BackendUnavailableError(f"there is no engine {name}; there are auto, {', '.join(BACKENDS)}")
    backend: Backend = import_module(f"engines.backends.{name.replace('-', '_')}").BACKEND
    return backend
