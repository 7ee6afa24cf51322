"""Tests of the project by package, load and benchmarks."""
