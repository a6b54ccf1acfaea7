"""What the support set decides: encoding, thresholds, rules, intervals."""
