"""How pictures are scored: one protocol, used by every figure that the project prints."""
