"""Running a network fast: knows tensors and frames in memory, knows no HTTP, no codecs and no files but its cache."""
