"""`python -m server.probe`: asks the service of these settings whether it lives. The health check of its container."""

import ssl
import sys
from urllib.error import URLError
from urllib.request import urlopen

from models.errors import FourfoldError
from server.settings import Settings, read_settings

TIMEOUT_SECONDS = 4
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> int:
    """The exit code: 0 it answered, 1 it did not, or nobody knows where it is; one line on stderr says why."""
    try:
        with urlopen(address(read_settings()), timeout=TIMEOUT_SECONDS, context=_any_certificate()):  # noqa: S310
            return 0
    except (URLError, OSError, FourfoldError) as error:
        print(f"the service does not answer: {error}", file=sys.stderr)
        return 1


def address(settings: Settings) -> str:
    """Of its liveness, as seen from the machine that it runs on.

    Raises:
        FourfoldError: it listens on whatever port is free.
    """
    if not settings.port:
        raise FourfoldError("FOURFOLD_PORT=0 takes any free port; give one that can be asked")
    host = ANY_ADDRESS.get(settings.host, settings.host)
    where = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.tls_cert else 'http'}://{where}:{settings.port}/health/live"


def _any_certificate() -> ssl.SSLContext:
    """It is for the name that clients use, not for the address that is asked here."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main())
