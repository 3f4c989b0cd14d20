"""Training: data in memory, a resumable loop, one TOML file for each network."""
