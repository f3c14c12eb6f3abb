"""Training by score matching: of image denoisers and of single patches."""
