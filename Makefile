# Sets up Fourfold in .venv and runs what a user or a contributor runs: make demo, make test, make check, make bench,
# make quality, make dashboards, make observe.

PYTHON ?= python3

.PHONY: demo test system check bench quality dashboards observe clean

demo: .venv/.base  ## upscales a sample and leaves the results in demo/
	.venv/bin/fourfold demo demo

test: .venv/.dev system
	.venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/mypy docker/grafana/dashboards
	.venv/bin/lint-imports

bench: .venv/.dev
	.venv/bin/fourfold bench engines
	.venv/bin/fourfold bench pipeline

quality: .venv/.dev  ## scores every model, writes docs/quality.md, and contact sheets to sheets/
	.venv/bin/python -m server.quality

dashboards: .venv/.dev  ## writes docker/grafana/dashboards/*.json from the code beside them
	.venv/bin/python docker/grafana/dashboards

observe: .venv/.dev system  ## runs the service under load with a Prometheus, and shows what every dashboard shows
	.venv/bin/python -m tests.observe

# Some tests judge written video by ffprobe, and one turns the clock by libfaketime; the service itself needs neither.
system:
	@if command -v ffprobe >/dev/null && ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		if command -v ffprobe >/dev/null; then exit 0; fi; \
		echo "ffprobe is missing and there is no apt-get here: install FFmpeg (it brings ffprobe), then try again" >&2; exit 1; \
	fi; \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	$$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends ffmpeg libfaketime

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
