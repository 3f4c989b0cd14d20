"""The networks: architectures, checkpoints, folding, export, training and evaluation.

Knows nothing of engines, codecs or servers. Nothing here imports torch when the package itself is imported: listing
models and scoring pictures works without it.
"""
