"""deepinv's own tests, and which of them run on our classes.

Every test function of seven modules of `deepinv/tests` (deepinv 0.5) has a row. A `Run` says what
of deepinv's gives way to ours, and must pass without skipping; a sentence says why the test cannot
apply. `test_peer.py` runs the rows and checks that none is missing.

| module | pass | cannot apply |
|---|---|---|
| test_models | 15 | 26 |
| test_optim | 8 | 20 |
| test_sampling | 8 | 4 |
| test_unfolded | 2 | 0 |
| test_distributed | 16 | 22 |
| test_metric | 1 | 12 |
| test_noise_model | 3 | 3 |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import deepinv
from peer import ours

CPU = {"device_mode": "cpu", "world_size": 1, "skip_reason": None}
TWO_PROCESSES = {**CPU, "world_size": 2}


@dataclasses.dataclass(frozen=True)
class Run:
    """One upstream test on ours.

    Attributes:
        ours: what replaces which name; a bare name is one of the upstream module.
        arguments: values of the test's arguments (parameters or fixtures) in place of deepinv's;
            its other parameters keep all their values.
        note: where more changes than the class.
        called: False where the test only makes ours.
    """

    ours: dict[str, Callable]
    arguments: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    note: str = ""
    called: bool = True


def because(reason: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, reason)


ONE = {"denoiser": ["gmdm"]}
CHOSEN = {"choose_denoiser": ours.denoiser}
OTHERS = [
    *("DnCNN", "DRUNet", "GSDRUNet", "SCUNet", "SwinIR", "PromptIR", "DiffUNet", "Restormer"),
    *("NCSNpp", "ADMUNet", "DScCP", "FFDNet", "DiffusersDenoiserWrapper", "BM3D", "MedianFilter"),
    *("TVDenoiser", "TGVDenoiser", "WaveletDenoiser", "WaveletDictDenoiser"),
]

MODELS = {
    "test_denoiser_color": Run(CHOSEN, ONE),
    "test_denoiser_gray": Run(CHOSEN, ONE),
    "test_denoiser_1_channel": Run(CHOSEN, ONE),
    "test_denoiser_sigma_gray": Run(CHOSEN, ONE),
    "test_denoiser_sigma_color": Run(CHOSEN, ONE),
    "test_equivariant": Run({"deepinv.models.DRUNet": ours.denoiser}),
    "test_TV_models_identity": Run(
        {"deepinv.models.TVDenoiser": ours.denoiser, "deepinv.models.TGVDenoiser": ours.denoiser}
    ),
    "test_drunet_inputs": Run(
        {"deepinv.models.DRUNet": ours.denoiser}, {"dim": [2]}, note="no volumes"
    ),
    "test_ncsnpp_net": Run(
        {"deepinv.models.NCSNpp": ours.denoiser},
        {"precond": [False], "use_fp16": [False]},
        note="not as the network inside a preconditioner, which calls it with other scales",
    ),
    "test_dsccp_net": Run(
        {"deepinv.models.DScCP": ours.denoiser}, {"spatials": [(37, 28)]}, note="no volumes"
    ),
    "test_denoiser_perf": Run(
        {
            "deepinv.models.EPLLDenoiser": ours.best_denoiser,
            **{f"deepinv.models.{name}": ours.Oracle for name in OTHERS},
        },
        note="ours against EPLL's floors of 2.5, 6 and 7.5 dB; in the other denoisers' places "
        "stands the clean image",
    ),
    "test_denoiser_perf_noise_map": Run(CHOSEN, ONE),
    "test_complex_wrapper": Run({"deepinv.models.DRUNet": ours.denoiser}),
    "test_gaussian_noise_estimators": Run(
        {"deepinv.models.PatchCovarianceNoiseEstimator": ours.estimator},
        {"channels": [3], "sigma": [0.01, 0.5]},
        note="for time; tests/plugins/test_noise_estimator.py has all",
    ),
    "test_anscombe_transform": Run({"deepinv.models.DRUNet": ours.denoiser}),
    **because(
        "of the inside of another model of deepinv's",
        *("test_TVs_adjoint", "test_wavelet_adjoints", "test_wavelet_models_identity"),
        *("test_bm3d_consistency", "test_wavelet_denoiser_ths", "test_wavelet_decomposition"),
        *("test_drunet_options", "test_diffunetmodel", "test_icnn", "test_diffuser_wrapper"),
        *("test_swinir_upsample_without_upsampler", "test_kernel_identification"),
        "test_client_mocked",
    ),
    **because(
        "of a network that reconstructs or super-resolves; ours denoises",
        *("test_PDNet", "test_dip_like", "test_time_agnostic_net", "test_ram_scale"),
        *("test_restoration_models", "test_pannet", "test_super_resolution_nets"),
        *("test_srresnet_inputs", "test_wiener_deconvolution", "test_direct_model"),
    ),
    **because("trains a denoiser that is called without a noise level", "test_varnet"),
    **because("of volumes; ours are images", "test_3d_denoisers", "test_initialize_3d_from_2d"),
}

WAVELET = "deepinv.models.WaveletDenoiser"
ON_TWO_UNKNOWNS = "its problem has two unknowns; ours needs an image as large as a patch"

OPTIM = {
    "test_pnp_algo": Run({WAVELET: ours.quick}),
    "test_priors_algo": Run({"get_prior": ours.prior}, {"prior_name": ["gmdm"]}),
    "test_red_algo": Run({WAVELET: ours.quick}),
    "test_dpir": Run({"deepinv.optim.dpir.DRUNet": ours.denoiser}),
    "test_patch_prior": Run(
        {
            "deepinv.optim.EPLL": ours.Nothing,
            "deepinv.optim.PatchNR": ours.Nothing,
            "deepinv.optim.PatchPrior": ours.prior_at(0.1),
        },
        note="at the level of its noise; what the test passes as a level is a weight",
    ),
    "test_data_fidelity_l2": Run({"L2": ours.weighted}),
    "test_datafid_stacking": Run({"deepinv.optim.L2": ours.weighted}),
    "test_MLEM_OSEM_BSREM": Run(
        {"deepinv.optim.prior.RDP": ours.prior_at(0.2)},
        {
            "physics_class": [deepinv.physics.Tomography],
            "algorithm, pre_split, num_subsets, normalize": [
                (deepinv.optim.BSREM, pre_split, subsets, normalize)
                for pre_split, subsets, normalize in [
                    (False, 2, False),
                    (True, 2, False),
                    (False, 1, False),
                    (False, 2, True),
                    (True, 2, True),
                ]
            ],
        },
        note="BSREM, as the others take no prior; without the operators of optional packages",
    ),
    **because(ON_TWO_UNKNOWNS, "test_optim_algo", "test_CP_K", "test_CP_datafidsplit"),
    **because(
        "of another data term or prior of deepinv's",
        *("test_data_fidelity_indicator", "test_data_fidelity_l1", "test_data_fidelity_zero"),
        *("test_zero_prior", "test_tvprior_gradient", "test_data_fidelity_amplitude_loss"),
        "test_itoh_fidelity",
    ),
    **because(
        "asks whether an iterative denoiser has converged; ours has no loop", "test_denoiser"
    ),
    **because(
        "of a solver, without prior or denoiser",
        *("test_fixed_point_backtracking", "test_BlindRL", "test_least_square_solvers"),
        *("test_linear_system", "test_condition_number", "test_correct_global_phase"),
        *("test_least_squares_implicit_backward", "test_sirt"),
        "test_least_squares_implicit_backward_nonleaf_buffer_grad",
    ),
}

GAUSSIAN = {
    "GaussianScore": ours.GaussianPrior,
    "GaussianDenoiser": ours.GaussianDenoiser,
    "deepinv.sampling.DDRM": ours.short_ddrm,
}

SAMPLING = {
    "test_sampling_algo": Run(
        GAUSSIAN,
        {"imsize": [(1, 8, 9)]},
        note="a mixture of one class, which is a Gaussian; DDRM takes 4 steps for 100. "
        "Weak: deepinv allows a relative error of 5, so that a wrong sign passes",
    ),
    "test_build_algo": Run(GAUSSIAN, {"imsize": [(1, 8, 9)]}, note="likewise"),
    "test_algo": Run({"deepinv.models.DiffUNet": ours.denoiser}),
    "test_algo_inpaint": Run({"deepinv.models.DRUNet": ours.denoiser}),
    "test_sde": Run({}, {"denoiser_class": [ours.quick]}),
    "test_diffusion_reproducibility": Run({"NCSNpp": ours.denoiser}),
    "test_noisy_data_fidelity": Run({"deepinv.models.DRUNet": ours.periodic}),
    "test_pigdm_decomposable_physics": Run({"deepinv.models.DRUNet": ours.denoiser}),
    **because(
        "of the times and formulas of a diffusion, with no denoiser or an affine one",
        *("test_sigma_scale_prime_matches_finite_difference", "test_T_is_settable"),
        *("test_sample_init_uses_given_time_step", "test_ancestral_solver_matches_ddpm_ddim"),
    ),
}

ONE_LEVEL = "a wavelet denoiser's thresholds, one a sub-band, are read as their mean"

UNFOLDED = {
    "test_unfolded": Run({WAVELET: ours.OneLevel}, {"imsize": [(1, 17, 15)]}, note=ONE_LEVEL),
    "test_DEQ": Run(
        {WAVELET: ours.OneLevel},
        {"imsize": [(1, 17, 15)], "default_params_algo": [False], "default_data_fidelity": [False]},
        note=ONE_LEVEL,
    ),
}

SPREAD = {"run_distributed_test": ours.run_distributed}
SPREAD_UNCALLED = {"run_distributed_test": partial(ours.run_distributed, called=False)}
ALONE = {"device_config": [CPU]}

DISTRIBUTED = {
    "test_distribute_processor": Run(
        SPREAD, {"device_config": [CPU, TWO_PROCESSES], "denoiser_spec": ["gmdm"]}
    ),
    "test_processor_different_patch_sizes": Run(SPREAD, ALONE),
    "test_processor_max_batch_size": Run(SPREAD, ALONE),
    "test_gather_false_processor": Run(SPREAD, {**ALONE, "denoiser_spec": ["gmdm"]}),
    "test_distribute_auto_type_detection": Run({"SimpleDenoiser": ours.denoiser}, called=False),
    "test_distribute_base_optim": Run(SPREAD, {**ALONE, "num_operators": [2]}),
    "test_distribute_module_type_baseoptim": Run(SPREAD_UNCALLED, ALONE, called=False),
    "test_distribute_module_type_rejects_non_unfold": Run(SPREAD_UNCALLED, ALONE, called=False),
    "test_unrolled_backward": Run(SPREAD, {**ALONE, "num_operators": [2]}),
    "test_unrolled_backward_checkpointed_batches": Run(SPREAD, {**ALONE, "num_operators": [2]}),
    "test_distribute_data_fidelity": Run(SPREAD, ALONE),
    "test_data_fidelity_vs_stacked": Run(SPREAD, ALONE),
    "test_data_fidelity_different_fidelities": Run(SPREAD, ALONE),
    "test_gather_false_data_fidelity": Run(SPREAD, ALONE),
    "test_distribute_helper_data_fidelity": Run(SPREAD, ALONE),
    "test_distributed_data_fidelity_backward": Run(SPREAD, {**ALONE, "num_operators": [1, 3]}),
    **because("of volumes; ours are images", "test_processor_3d"),
    **because(
        "reads the weights of its own convolution",
        "test_distributed_processor_backward",
        "test_distributed_processor_backward_multiple_calls",
    ),
    **because(
        "of operators and processes, without prior, denoiser or data term",
        *("test_distribute_physics", "test_compute_norm", "test_compute_norm_local_vs_global"),
        *("test_a_dagger", "test_a_dagger_local_vs_global", "test_adjoint_operations"),
        *("test_gather_false_operations", "test_gather_false_physics_operations"),
        *("test_gather_strategy_validation", "test_consistency_single_vs_multiprocess"),
        *("test_empty_local_set", "test_distributed_context_device_modes"),
        *("test_distributed_context_local_indices", "test_distributed_context_collectives"),
        *("test_distributed_physics_backward", "test_distributed_gradient_sync_higher_order"),
        *("test_distributed_parameter_sync_higher_order", "test_distributed_parameter_autodetect"),
        "test_distribute_module_autodetect_rejects_generic",
    ),
}

METRIC = {
    "test_no_reference_metrics": Run(
        {
            "choose_no_reference_metric": ours.likelihood,
            "deepinv.physics.BlurFFT": ours.StrongerNoise,
        },
        {"metric_name": ["gmdm"]},
        note="with strong noise for its blur, which likelihood takes for an improvement: smooth "
        "images are the most probable",
    ),
    **because("compares with a reference; ours needs none", "test_full_reference_metrics"),
    **because(
        "of another metric of deepinv's",
        *("test_functional", "test_metric_kwargs", "test_center_crop", "test_snr", "test_gmsd"),
        *("test_niqe_fit", "test_niqe_other_implementations", "test_brisque_reference"),
        *("test_brisque_input_validation", "test_nima", "test_nima_input_validation"),
    ),
}

NOISE_MODEL = {
    "test_concatenation": Run({"choose_noise": ours.noise, "NOISES": ["gmdm"]}),
    "test_rng": Run({"choose_noise": ours.noise}, {"name": ["gmdm"]}),
    "test_gaussian_noise_device_inference": Run(
        {"deepinv.physics.GaussianNoise": ours.noise},
        {"rng_kind": ["none", "consistent"]},
        called=False,
    ),
    **because("of another noise", "test_laplace_noise_moments", "test_poisson_noise_params"),
    **because("adds noise models; ours cannot be added", "test_gaussian_noise_arithmetics"),
}

TABLE = {
    "test_models": MODELS,
    "test_optim": OPTIM,
    "test_sampling": SAMPLING,
    "test_unfolded": UNFOLDED,
    "test_distributed": DISTRIBUTED,
    "test_metric": METRIC,
    "test_noise_model": NOISE_MODEL,
}
