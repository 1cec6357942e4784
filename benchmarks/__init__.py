"""What ratelease costs, and how well it uses a limit. `python -m benchmarks` runs all of it; see README.md."""
