"""Target: from logits to one score per sample; it never looks at the network."""
