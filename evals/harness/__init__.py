"""The base models' benchmarks: lm-eval's tasks and scorers, with our engine behind them."""
