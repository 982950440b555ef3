"""The operator's side: experiment plans, the conductor, benchmarks and the command line."""
