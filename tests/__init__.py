"""Everything that proves the project: tests by room, load, benchmarks."""
