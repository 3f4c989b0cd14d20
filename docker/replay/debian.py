"""The base image: a fresh Debian by debootstrap, from the mirror that this machine uses; and how steps reach its registries."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from errors import NotPossibleError, ReplayError
from shell import run

RELEASES = {"debian:12": "bookworm", "debian:13": "trixie"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_FILES = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
TOOLS = ("apt-get", "chroot", "debootstrap", "docker-compose", "ip", "mount", "setpriv", "unshare")


def check_machine() -> None:
    """Raises: NotPossibleError: a tool, or the right to mount, is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NotPossibleError(f"there is no {', '.join(missing)} here; on Debian: apt-get install debootstrap docker-compose")
    if os.geteuid() != 0:
        raise NotPossibleError("only root can mount and change users; run it with sudo")


def make_base(image: str, target: Path) -> None:
    """Puts what `FROM image` stands for into `target`.

    Raises:
        ReplayError: it is no image of a Debian release.
        NotPossibleError: this machine knows no mirror of that release.
    """
    release = next((name for prefix, name in RELEASES.items() if image.startswith((f"{prefix}.", f"{prefix}-"))), None)
    if release is None:
        raise ReplayError(f"FROM {image} is none of Debian's {', '.join(RELEASES)}; only these can be made here")
    sources = _sources(release)
    run(["debootstrap", "--variant=minbase", release, target, sources[0].split()[1]])
    (target / "etc/apt/sources.list").write_text("\n".join([*sources, ""]))


def _sources(release: str) -> list[str]:
    """Lines of sources.list for a release, its updates and its security fixes, as this machine's apt has them."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages", "Component: main"])
    found = {line.split()[1]: line.split()[0] for line in listed.splitlines() if line.split()[1].startswith(release)}
    if release not in found:
        raise NotPossibleError(f"this machine's apt knows no mirror of Debian {release}")
    return [f"deb {found[name]} {name} main" for name in sorted(found)]  # the release itself sorts first


def registry_access(run_folder: Path) -> Mapping[str, str]:
    """Variables by which pip inside reaches what it reaches outside.

    Args:
        run_folder: of the root that steps run in, where files may be left for the time of a step.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, run_folder / "certificates.crt")
        variables["PIP_CERT"] = "/run/certificates.crt"
    found = [path for name in PIP_FILES if (path := Path(name).expanduser()).exists()]
    if found:
        (run_folder / "pip.conf").write_text("".join(path.read_text() for path in found[:1]))
        variables["PIP_CONFIG_FILE"] = "/run/pip.conf"
    return variables
