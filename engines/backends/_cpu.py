"""How work is spread over CPU cores, whichever library does it. On a CPU a batch of one is best: more only adds delay."""

from collections.abc import Sequence

from engines.runner import Frame, Goal, Layout, Plane, Planes


def cpu_layouts(goal: Goal, cores: int) -> list[Layout]:
    """One frame on all cores for latency; a frame a core for throughput: threads that never wait for each other waste nothing.

    Half as many are worth a trial: two threads of one core share its multipliers, and others work here too.
    """
    counts = sorted({cores, max(1, cores // 2)}, reverse=True)
    if goal == "latency":
        return [Layout(1, threads) for threads in counts]
    return [Layout(lanes, cores // lanes) for lanes in counts]


class CpuRunner:
    """What runners on a CPU have in common; see `engines.runner.Runner`."""

    def infer(self, frames: Sequence[Frame]) -> None:
        """See `engines.runner.Runner.infer`."""
        for frame in frames:
            self.infer_one(frame.inputs, frame.outputs)

    def infer_one(self, inputs: Planes, outputs: Planes) -> None:
        """Upscales the planes of one frame. Raises: InferenceError."""
        raise NotImplementedError

    def pin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.pin`; the CPU needs nothing."""

    def unpin(self, memory: Plane) -> None:
        """See `engines.runner.Runner.unpin`."""
