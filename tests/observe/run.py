"""Looks at every panel while the service does well, and again while it has too much to do."""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from server.keyfile import Limits, add_key
from server.rtmp_server import RtmpServer, free_port
from tests.observe.judge import Judge, Say
from tests.observe.load import calm_load, load, overload, warm_up
from tests.observe.panels import Look, blank, look, read_lines
from tests.observe.verdicts import CARD_PANELS, RELAY, stays
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.service import RunningService, running_service

CALM_SECONDS, OVERLOAD_SECONDS = 90.0, 120.0  # at most, until everything shows
CALM_LOOKS, OVERLOAD_LOOKS = 5, 12  # at least
PAUSE_SECONDS = 1.0


def observe(folder: Path, say: Say) -> list[str]:
    """Runs the service, a Prometheus and the load; reads and judges every panel.

    Args:
        folder: an empty one.
        say: takes lines for a person to read.

    Returns:
        what is wrong.
    """
    keys, secret, rtmp_port = folder / "keys.json", folder / "secret", free_port()
    key = add_key(keys, "observer", ["admin"], None, Limits())
    seer = add_key(keys, "prometheus", ["metrics"], None, Limits())
    secret.write_text("observed")
    (folder / "prometheus").mkdir()
    settings = {"engine": "openvino", "precision": "fp32", "api_keys_file": keys, "hook_secret_file": secret, "max_streams": 16}
    with ExitStack() as stack:
        service = stack.enter_context(
            running_service(folder, key=key, rtmp_server=f"rtmp://127.0.0.1:{rtmp_port}", relay_max_load=100, **settings)
        )
        warm_up(service)
        rtmp = RtmpServer(folder / "nginx", service.url, secret.read_text(), rtmp_port)
        stack.callback(rtmp.stop)
        rtmp.start()
        prometheus = stack.enter_context(running_prometheus(folder / "prometheus", f"{service.host}:{service.port}", seer))
        works = stack.enter_context(load(service, *calm_load(folder, rtmp.rtmp_url)))
        calm, faults = _calm_looks(prometheus, say)
        if not faults:
            works.start(*overload())
            faults = _judged(prometheus, calm, say)
        return faults + works.failures + _other_faults(service, prometheus)


def _calm_looks(prometheus: Prometheus, say: Say) -> tuple[list[Look], list[str]]:
    """Waits until every panel shows something, and then looks some times; the looks, and what is wrong."""
    lines = [line for line in read_lines() if line.panel not in CARD_PANELS or shutil.which("nvidia-smi")]
    deadline, faults = time.monotonic() + CALM_SECONDS, list[str]()
    while (missing := blank(seen := look(prometheus, lines))) or not _all_run(seen):
        if time.monotonic() > deadline:
            faults = [f"{line.page}: {line.panel}: shows nothing: {line.query}" for line in missing] or [
                "the engine is not ready"
            ]
            break
        time.sleep(PAUSE_SECONDS)
    looks = [seen]
    while len(looks) < CALM_LOOKS:
        time.sleep(PAUSE_SECONDS)
        looks.append(look(prometheus, lines))
    say("Every panel, while all is well:\n")
    for line, samples in seen.items():
        say(f"{line.page:8} {line.panel:37} {line.query}")
        for sample in samples:
            say(f"{'':48} {line.show(sample)}")
    return looks, faults


def _all_run(seen: Look) -> bool:
    """Whether the engine is (it was not if it has just tried a network that it did not know), and the relay runs."""
    relayed = stays("it has to", where=RELAY | {"outcome": "delivered"}).value(seen, "live", "Frames by what became of them")
    return stays("it has to").value(seen, "engine", "Ready") == 1 and bool(relayed)


def _judged(prometheus: Prometheus, calm: list[Look], say: Say) -> list[str]:
    """Looks until everything has moved that has to; what is wrong."""
    say("\nThe same panels under an overload:\n")
    judge, looks, deadline = Judge(calm, say), 0, time.monotonic() + OVERLOAD_SECONDS
    while looks < OVERLOAD_LOOKS or (not judge.satisfied and time.monotonic() < deadline):
        time.sleep(PAUSE_SECONDS)
        judge.see(look(prometheus, list(calm[0])))
        looks += 1
    return judge.faults()


def _other_faults(service: RunningService, prometheus: Prometheus) -> list[str]:
    """What is wrong beside the panels."""
    rules = prometheus.rules()
    faults = [f"the alert {rule['name']} cannot be evaluated: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    if service.process.poll() is not None:
        faults.append("the service has ended")
    return faults
