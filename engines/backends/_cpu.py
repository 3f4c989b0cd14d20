"""How work is spread over CPU cores, whichever library does it. On a CPU a batch of one is best: more only adds delay."""

from engines.runner import Goal, Layout


def cpu_layouts(goal: Goal, cores: int) -> list[Layout]:
    """One frame on all cores for latency; a frame a core for throughput: threads that never wait for each other waste nothing.

    Half as many are worth a trial: two threads of one core share its multipliers, and others work here too.
    """
    counts = sorted({cores, max(1, cores // 2)}, reverse=True)
    if goal == "latency":
        return [Layout(1, threads) for threads in counts]
    return [Layout(lanes, cores // lanes) for lanes in counts]
