"""Scene: what is to be drawn, an image and its maps on one grid; it draws nothing."""
