# Sets up Fourfold in .venv and runs what a user or a contributor runs: make demo, make test, make check, make bench, make quality.

PYTHON ?= python3

.PHONY: demo test system check bench quality clean

demo: .venv/.base  ## upscales a sample and leaves the results in demo/
	.venv/bin/fourfold demo demo

test: .venv/.dev system
	.venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.dev
	.venv/bin/fourfold bench engines
	.venv/bin/fourfold bench pipeline

quality: .venv/.dev  ## scores every model, writes docs/quality.md, and contact sheets to sheets/
	.venv/bin/python -m server.quality

# Some tests judge written video by ffprobe, one turns the clock by libfaketime, and some open the web page in Chromium; the service
# itself needs none of them.
system:
	@if command -v ffprobe >/dev/null && command -v chromium >/dev/null && \
		ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		if command -v ffprobe >/dev/null; then exit 0; fi; \
		echo "ffprobe is missing and there is no apt-get here: install FFmpeg (it brings ffprobe), then try again" >&2; exit 1; \
	fi; \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	$$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends ffmpeg libfaketime chromium

clean:
	rm -rf .venv demo sheets build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet -e .
	touch $@

# PyTorch first and at one version: figures and exported graphs are compared with it.
.venv/.dev: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet torch==2.13.0
	.venv/bin/python -m pip install --quiet -e '.[dev]'
	touch $@
