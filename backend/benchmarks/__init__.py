"""Benchmarks that anyone can run; see RESULTS.md."""
