"""Training by score matching: of image denoisers and of single patches.

`image_denoiser.ScoreTrainer` and `convolutional.ConvolutionalTrainer` for `fit`;
`product_loss.denoising_score_matching`, the loss of patches (Eq. 4).
"""
