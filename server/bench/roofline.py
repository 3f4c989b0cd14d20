"""The least time that a frame can take on a device: its arithmetic and its bytes against what the device reaches on both.

The peaks are measured, in the same run as everything else: the best of some matrix products, and a large copy. A product is no
strict upper bound: some convolution algorithms (Winograd) do with fewer multiplications than are counted here.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engines.backends import find_backend
from engines.runner import INPUTS, EngineSpec, Precision, plane_shapes
from server.bench.measure import Work, digits, fastest

Device = Literal["cpu", "cuda"]

Peaks = dict[str, dict[str, float]]
"""Device -> precision or "copy" -> operations, or bytes read and written, a second."""

VALUE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}  # rows and columns of the matrices: no one size is best everywhere
COPY_BYTES = 1 << 28  # more than any cache


@dataclass(frozen=True)
class Needs:
    """What one frame cannot do without.

    Attributes:
        multiply_adds: of all convolutions of the graph, those that convert colours included.
        frame_bytes: the planes that come in and go out, uint8.
        weights: numbers in the convolutions.
    """

    multiply_adds: int
    frame_bytes: int
    weights: int

    def floor_ms(self, precision: Precision, peaks: dict[str, float]) -> float | None:
        """The longer of the arithmetic and the traffic, at a device's `peaks`; None if one is not known."""
        if precision not in peaks:
            return None
        arithmetic = 2 * self.multiply_adds / peaks[precision]
        return digits(1000 * max(arithmetic, (self.frame_bytes + self.weights * VALUE_BYTES[precision]) / peaks["copy"]))


def count(spec: EngineSpec) -> Needs:
    """Reads a spec's FP32 graph (for one size) and counts."""
    assert spec.width and spec.height
    path = spec.graphs.files["fp32"]
    planes = plane_shapes(spec.form, spec.height, spec.width)
    frames = sum(map(prod, planes)) + sum(map(prod, spec.output_planes(spec.height, spec.width)))
    convolutions = list(_convolutions(path, spec, planes))
    return Needs(sum(c[0] for c in convolutions), frames, sum(c[1] for c in convolutions))


def _convolutions(path: Path, spec: EngineSpec, planes: tuple[tuple[int, ...], ...]) -> Iterable[tuple[int, int]]:
    """Multiply-adds and weights of each convolution."""
    model = openvino().Core().read_model(path)
    lead = (1,) if spec.form == "rgb" else (1, 1)
    model.reshape({name: [*lead, *shape] for name, shape in zip(INPUTS[spec.form], planes, strict=True)})
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            weight = tuple(node.input(1).get_shape())  # [out, in, k, k] or [groups, out, in, k, k]
            yield prod(node.output(0).get_shape()) * prod(weight[-3:]), prod(weight)


@dataclass(frozen=True)
class Meter:
    """Something that keeps a device as busy as it can be, in one respect.

    Attributes:
        device: cpu or cuda.
        what: a precision, or "copy".
        amount: operations, or bytes, of one time.
        work: does it.
    """

    device: Device
    what: str
    amount: float
    work: Work


def meters(device: Device, precisions: Iterable[Precision], cores: int) -> list[Meter]:
    """Some for each precision, and one for the memory."""
    product, copy = {"cpu": (_cpu_product, _cpu_copy), "cuda": (_cuda_product, _cuda_copy)}[device]
    found = [
        Meter(device, precision, 2 * side**3, fastest(product(precision, side, cores)))
        for precision in precisions
        for side in SIDES[device]
    ]
    return [*found, Meter(device, "copy", 2 * COPY_BYTES, fastest(copy(cores)))]


def peaks_of(used: Sequence[Meter], rounds_ms: Sequence[Sequence[float]]) -> Peaks:
    """The best of all rounds."""
    peaks: Peaks = {}
    for meter, values in zip(used, rounds_ms, strict=True):
        device = peaks.setdefault(meter.device, {})
        device[meter.what] = max(device.get(meter.what, 0.0), digits(1000 * meter.amount / min(values)))
    return peaks


def openvino() -> Any:
    """The library, loaded as the backend loads it."""
    find_backend("openvino").version()
    import openvino as library

    return library


def _cpu_product(precision: Precision, side: int, cores: int) -> Callable[[], object]:
    """OpenVINO's product of a square matrix and a constant one; only the largest number leaves it."""
    library = openvino()
    ops, codes = library.opset13, np.random.default_rng(0).integers(0, 128, (side, side), np.uint8)
    matrix = ops.parameter([side, side], np.uint8 if precision == "int8" else np.float32)
    if precision == "int8":  # as quantised graphs spell it
        left = ops.fake_quantize(ops.convert(matrix, "f32"), *map(np.float32, (0, 255, 0, 255)), 256)
        right = ops.multiply(ops.convert(ops.constant(codes.astype(np.int8)), "f32"), np.float32(0.01))
    else:
        left, right = matrix, ops.constant(codes.astype(np.float32))
    product = ops.reduce_max(ops.matmul(left, right, False, False), [0, 1], True)
    floats = "bf16" if precision == "bf16" else "f32"  # that are no INT8
    properties = {"INFERENCE_PRECISION_HINT": floats, "INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": 1}
    request = library.Core().compile_model(library.Model([product], [matrix]), "CPU", properties).create_infer_request()
    request.set_input_tensor(library.Tensor(codes if precision == "int8" else codes.astype(np.float32)))
    call: Callable[[], object] = request.infer
    return call


def _cpu_copy(cores: int) -> Callable[[], object]:
    source, target = (np.ones((cores, COPY_BYTES // cores), np.uint8) for _ in range(2))
    threads = ThreadPoolExecutor(cores)  # NumPy copies without the interpreter's lock
    return lambda: list(threads.map(np.copyto, target, source))


def _cuda_product(precision: Precision, side: int, cores: int) -> Callable[[], object]:
    import torch

    if precision == "int8":
        codes = torch.ones((side, side), dtype=torch.int8, device="cuda")
        return _waited(lambda: torch._int_mm(codes, codes.T))
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    matrix = torch.randn((side, side), dtype=kinds[precision], device="cuda")
    return _waited(lambda: matrix @ matrix)


def _cuda_copy(cores: int) -> Callable[[], object]:
    import torch

    source, target = (torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    return _waited(lambda: target.copy_(source))


def _waited(call: Callable[[], object]) -> Callable[[], object]:
    """`call`, over only when the device has done it."""
    import torch

    def work() -> None:
        call()
        torch.cuda.synchronize()

    return work
