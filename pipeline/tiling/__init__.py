"""Where tiles and units lie, which are worth computing, how they become one map."""
