"""Runs the service as an operator would, with a real Prometheus beside it, and reads every panel of the dashboards."""
