"""What the scripts share: images, rivals, timing, tables, figures and one command line reader."""
