"""What users meet: the command line, the streams, the media files. Rests on `engines` and `models`."""
