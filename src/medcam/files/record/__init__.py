"""The JSON record of how maps were made; never runs a model or loads a pickle."""
