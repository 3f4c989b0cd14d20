"""A process that publishes one stream: `python -m server.streams.egress FD IDS`, where FD is one end of a socketpair,
and IDS, as JSON, what its lines in the log belong to.

It exists to be killed: FFmpeg may wait for a target for ever, and holds the interpreter meanwhile. Messages
(`server.streams.wire`):

    relay:  {"url", "address"}, once; then frames: whole FLV tags, the header of the file before the first
    egress: {"sent": n} once the n-th of them is in the hands of the system; it ends when the target is gone

Knows nothing of what it sends.
"""

import json
import socket
import sys

from engines import logs
from engines.parent import die_with_parent
from server.media.errors import MediaError
from server.media.quiet import hush
from server.media.rtmp import RtmpTarget
from server.streams.wire import Channel, Kind


def main(channel: Channel) -> None:
    """Publishes until nothing more comes, or the target is gone."""
    hush()
    received = channel.receive()
    if received is None:
        return
    target, sent = RtmpTarget(**json.loads(bytes(received[1]))), 0
    try:
        while (received := channel.receive()) is not None:
            assert received[0] is Kind.FRAME
            target.write(bytes(received[1]))
            sent += 1
            channel.send_json({"sent": sent})
        target.close()
    except (MediaError, OSError):
        pass  # the relay sees that this process has ended, and tries again


if __name__ == "__main__":
    die_with_parent()
    logs.configure()
    logs.belong(json.loads(sys.argv[2]))
    main(Channel(socket.socket(fileno=int(sys.argv[1]))))
