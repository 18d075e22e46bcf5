"""Scene: what is drawn, an image with its maps on one grid; it draws nothing."""
