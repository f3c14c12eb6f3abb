"""Pictures in files of any common kind: `read`, `write`, and what they hold, `Picture`.

Each other file is one kind: `pillow` (PNG, JPEG, …), `tiff`, `npy`, `dicom`, `fits`, `mrc`,
`nifti`. Their libraries are imported when a file of that kind is read or written.
"""

from gmdm_prior.files.formats.choose import kind_of, read, write
from gmdm_prior.files.formats.picture import Picture

__all__ = ["Picture", "kind_of", "read", "write"]
