"""What the forkserver loads before it forks, so that a worker has it at once. Imported there and nowhere else."""

import gc
import importlib
import os

# Processes with threads cannot be forked safely, and this library starts some when it is loaded. Workers multiply no matrices.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

MODULES = (
    "PIL.ImageOps",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.WebPImagePlugin",
    "server.cli",  # the main module of the api process, which multiprocessing runs again in each worker under another name
    "server.media.decode",
    "server.media.encode",
    "server.streams.pictures",
    "server.streams.worker",
    "simplejpeg",
)

for _name in MODULES:
    importlib.import_module(_name)

gc.freeze()
