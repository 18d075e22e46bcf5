"""Memory: graphs that save fewer tensors; predictions and gradients never change."""
