"""Reading and writing media files. The only package that uses PyAV; knows nothing of networks or engines."""
