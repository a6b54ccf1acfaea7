"""Leave-one-out on the support set: how to encode it, thresholds, separation rules, confidence intervals."""
