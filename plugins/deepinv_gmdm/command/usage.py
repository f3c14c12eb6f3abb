"""What `--help` says below the arguments of each command."""

FORMATS = """\
pictures: PNG, JPEG and what else Pillow reads; TIFF (8, 12, 16 bit, floats, colour, stacks); .npy,
          .npz; with pip install 'gmdm-prior[formats]' also DICOM, FITS, MRC, NIfTI, 16-bit colour
          PNG. Results have format, depth, pages and resolution of the picture (JPEG becomes PNG).
range:    8 bit 0,255; 16 bit 0,65535 (0,4095 where no value is above that); floats 0,1; DICOM what
          its bits mean (CT -1024,3071 HU). Anything else needs data_range
"""

ALL = """\
examples:
  gmdm restore deblur                                    a config that comes with the package
  gmdm restore deblur measurement=blurry.png physics.kernel=psf.png        your own picture
  gmdm restore my.yaml prior=tv out=tv                   your own config, another prior
  gmdm denoise noisy.png                                 the noise is read off the picture
  gmdm denoise noisy.png sigma=25/255 out=clean.png
  gmdm denoise noisy.png noise=poisson                   its kind is known (white, correlated)
  gmdm noise noisy.png map=true                          what the noise is like, and where
  gmdm COMMAND --help                                    every key of a command
`python -m deepinv_gmdm` is the same as `gmdm`; `gmdm-train --help` fits a prior to your images.
"""

RESTORE = f"""\
Of your own measurement (measurement=) or of a picture that is measured first (image=, to try out).
Writes to the folder `out` the restored picture in the format of the measurement, restored.png and
comparison.png to look at, progress.png (what solver=hqs did), config.yaml and metrics.json.

main keys (gmdm restore NAME --show lists all of them):
  measurement    your file: a picture; .npy, .npz or HDF5 (.h5, with key=) of k-space or a sinogram
  truth          the picture as it should be, where you have it: metrics then hold PSNR
  image          a picture to be measured by simulation instead
  physics        what was done to it: blur, inpainting, super_resolution, mri, tomography, …
  physics.kernel         blur: the picture of a point; it is made to sum to one
  physics.mask           inpainting: nonzero where pixels are seen; mri: where k-space is
  physics.angles         tomography: how many, or a file of degrees
  physics.coil_maps      mri: complex sensitivities (coils, H, W)
  physics.factor         super_resolution: how many times smaller the measurement is
  physics.boundary       blur: open (a real picture) or circular (periodic)
  physics.noise.sigma    a number, or auto: read off the measurement. Of pictures a share of the
                         range, such as 5/255; of k-space and sinograms in the file's units
  physics.noise.name     gaussian, or poisson and poisson_gaussian: photons were counted; their
                         physics.noise.gain is read off the picture too, unless it is given
  data_range     low,high or auto: the values of black and white, but for 8 and 16 bit
  axis, pages, key       of volumes, of stacks (each or shared noise), of .npz and HDF5
  prior, solver, out, overwrite, device

{FORMATS}
examples:
  gmdm restore deblur measurement=blurry.jpg physics.kernel=psf.png
  gmdm restore inpainting measurement=scan.png physics.mask=mask.png physics.noise.sigma=2/255
  gmdm restore mri measurement=kspace.npy physics.mask=mask.npy
  gmdm restore tomography measurement=sinogram.npy physics.angles=angles.txt
"""

DENOISE = f"""\
options:
  sigma        the standard deviation of the noise as a share of the range from black to white,
               such as 25/255; auto: read off the picture; map: a level for every pixel [auto]
  noise        its kind with sigma=auto: white, correlated, poisson (photons) or auto [auto]
  out          the file to write, of several pictures a folder [NAME-denoised here]
  weights      a bundled name or a .safetensors file [gray]
  method       hqs or average [hqs]
  adapt        true: learn from the picture too; for texture, at up to five times the time [false]
  data_range   low,high or auto: the values of black and white [what the type says; see below]
  pages        of a stack, each: its own noise, or shared: one level for all [each]
  axis         of a volume, which axis counts the slices [0; of NIfTI 2]
  key          which array of a .npz file
  overwrite    true: replace a file that is there; an input never is [false]

{FORMATS}
examples:
  gmdm denoise noisy.png sigma=25/255 out=clean.png
  gmdm denoise night.jpg
  gmdm denoise *.tif pages=shared out=clean
  gmdm denoise slice.dcm data_range=-200,300
"""

NOISE = f"""\
options:
  map          true: the level of every pixel too, drawn beside the picture [false]
  out          where the map is drawn, with autocovariance and curve [NAME-noise.png here]
  noise        its kind, where it is known: white, correlated, poisson or auto [auto]
  weights      a bundled name or a .safetensors file [gray-likelihood]
  data_range   low,high or auto: the values of black and white [what the type says; see below]
  axis, key    as of denoise
  overwrite    true: replace a drawing that is there [false]

{FORMATS}
examples:
  gmdm noise noisy.png
  gmdm noise night.jpg map=true
"""

PLUGINS = """\
Priors, denoisers and noise estimators of deepinv, of this package and of other distributions.
example:
  gmdm plugins
"""
