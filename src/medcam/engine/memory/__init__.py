"""Memory: graphs that keep less; predictions and gradients are never changed."""
