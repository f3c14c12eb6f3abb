"""Files: models (`safetensors`, and `pogmdm` for those of PoGMDM), and `pictures`."""
