"""Few-shot benchmarks: episodes, baselines, results, page."""
