"""Windows: volumes that the network sees in parts; it never runs a model outside a window."""
