"""The HTTP and WebSocket interface: one file per resource. Opens no media and touches no engine: worker processes do."""
