"""Episodes to train and evaluate with: from class folders or generated."""
