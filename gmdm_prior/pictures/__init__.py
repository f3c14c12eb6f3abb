"""Figures of models; matplotlib is imported when one is drawn."""
