"""Streams: one input, one output, and what happens to a frame between the two."""
