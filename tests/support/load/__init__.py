"""The load generator's client, its chat mix and its record, for the program `tests.load`, the benchmarks and the tests."""
