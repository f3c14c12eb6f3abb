"""Your own measurement: its file (`files`), its noise (`noise`), what it poses (`problem`)."""
