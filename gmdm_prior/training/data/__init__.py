"""Training data: images, patches and the noise they contain."""
