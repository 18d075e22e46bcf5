"""Registry of rules: one dict by the name of the operation."""

from __future__ import annotations

from medcam.engine.model.placement.rules.call import Rule, elementwise, numbers_only, same
from medcam.engine.model.placement.rules.concatenation import concatenation, stack
from medcam.engine.model.placement.rules.indexing import index, index_select, roll
from medcam.engine.model.placement.rules.mixing import (
    attention,
    choice,
    copied,
    matrix_product,
    ordering,
    recurrent,
    reduction,
    running,
    whole_sequence,
    written,
)
from medcam.engine.model.placement.rules.sampling import (
    adaptive_pooling,
    convolution,
    interpolation,
    padding,
    pixel_shuffle,
    pixel_unshuffle,
    pooling,
    unpooling,
)
from medcam.engine.model.placement.rules.views import (
    col2im,
    expand,
    flip,
    halves,
    im2col,
    permute,
    repeat,
    reshape,
    restrided,
    rot90,
    select,
    slicing,
    split,
    squeeze,
    transpose,
    unbind,
    unfold,
    unsqueeze,
)

_SAME = (
    "clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "lift", "_lazy_clone",
    "positive", "softmax", "_softmax", "_log_softmax", "_safe_softmax", "tril", "triu",
    "view_as_real_copy", "native_dropout", "_fused_dropout",
    "channel_shuffle", "native_channel_shuffle", "_conj", "conj", "_neg_view", "resolve_conj",
    "bernoulli", "rrelu_with_noise", "rrelu_with_noise_", "celu", "selu", "_cdist_forward",
    "masked_fill", "masked_fill_", "to", "pin_memory", "renorm", "_masked_softmax", "_pin_memory",
    "index_fill", "log_sigmoid_forward",
)  # fmt: skip
"""Operations whose result lies where the first argument does."""

_RUNNING = ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")

_WRITES = (
    "index_put", "_index_put_impl", "_unsafe_index_put", "scatter", "scatter_add",
    "scatter_reduce", "masked_scatter", "slice_scatter", "select_scatter", "index_add",
    "index_copy", "index_reduce", "put",
)  # fmt: skip
"""Operations that write values at chosen indices."""

_NORMS = (
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional", "native_layer_norm", "native_group_norm",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_impl_index", "batch_norm_elemt",
    "_batch_norm_with_update", "_batch_norm_no_update", "_fused_rms_norm",
)  # fmt: skip
"""Normalisations, whose argument is called ``input``."""

_REDUCTIONS = (
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "norm", "prod", "any", "all", "argmax", "argmin",
    "nansum", "median", "nanmedian", "mode", "aminmax",
)  # fmt: skip
"""Sums, maxima and the like over axes."""

_ELEMENTWISE = (
    "_prelu_kernel", "copysign", "hardswish", "mish", "threshold", "gelu", "heaviside", "polar",
    "complex", "rsub", "_add_relu", "floor_divide", "huber_loss", "mse_loss", "smooth_l1_loss",
    "eq", "ne", "ge", "gt", "le", "lt", "abs", "__irshift__", "gcd", "lcm",
    "elu", "hardshrink", "hardsigmoid", "hardtanh", "isfinite", "ldexp", "leaky_relu", "rad2deg",
    "relu6", "softplus", "softshrink",
)  # fmt: skip
"""Operations on each value that PyTorch, or PyTorch 2.4, does not tag as pointwise."""
_NO_IMAGE = (
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like",
    "new_zeros", "new_ones", "new_full", "zero", "fill", "normal", "uniform", "random",
    "exponential", "log_normal", "geometric", "cauchy", "_local_scalar_dense", "is_nonzero",
    "bincount", "histc", "nonzero", "count_nonzero", "equal", "isin", "allclose", "arange",
    "zeros", "ones", "full", "_has_same_storage_numel", "is_same_size",
)  # fmt: skip
"""Operations whose result holds nothing of the image."""
_RESHAPES = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "flatten",
    "unflatten",
)  # fmt: skip
"""Operations that regroup the axes."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, same()),
    **dict.fromkeys(_RUNNING, running),
    **dict.fromkeys(_WRITES, written),
    "sort": ordering,
    "where": choice,
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_NO_IMAGE, numbers_only),
    **dict.fromkeys(_NORMS, same("input")),
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_RESHAPES, reshape),
    "convolution": convolution,
    "_convolution": convolution,
    **{f"max_pool{n}d_with_indices": pooling(n) for n in (2, 3)},
    **{f"max_pool{n}d": pooling(n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": pooling(n) for n in (1, 2, 3)},
    **{f"_adaptive_avg_pool{n}d": adaptive_pooling(n) for n in (2, 3)},
    **{f"adaptive_avg_pool{n}d": adaptive_pooling(n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": adaptive_pooling(n) for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": interpolation("nearest") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": interpolation("nearest-exact") for n in (1, 2, 3)},
    "upsample_linear1d": interpolation("linear"),
    "upsample_bilinear2d": interpolation("linear"),
    "upsample_trilinear3d": interpolation("linear"),
    "upsample_bicubic2d": interpolation("linear"),
    "_upsample_bilinear2d_aa": interpolation("linear"),
    "_upsample_bicubic2d_aa": interpolation("linear"),
    "constant_pad_nd": padding,
    **{f"reflection_pad{n}d": padding for n in (1, 2, 3)},
    **{f"replication_pad{n}d": padding for n in (1, 2, 3)},
    "permute": permute,
    "as_strided": restrided,
    "transpose": transpose,
    "t": transpose,
    "numpy_T": transpose,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "repeat": repeat,
    "slice": slicing,
    "select": select,
    "split": split,
    "split_with_sizes": split,
    "unsafe_split": split,
    "unsafe_split_with_sizes": split,
    "unbind": unbind,
    "cat": concatenation,
    "stack": stack,
    "mm": matrix_product("self", "mat2"),
    "bmm": matrix_product("self", "mat2"),
    "addmm": matrix_product("mat1", "mat2"),
    "baddbmm": matrix_product("batch1", "batch2"),
    "linear": matrix_product("input", "weight"),
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_flash_attention": attention,
    "_scaled_dot_product_efficient_attention": attention,
    "_scaled_dot_product_cudnn_attention": attention,
    "_scaled_dot_product_fused_attention_overrideable": attention,
    "_scaled_dot_product_attention_math": attention,
    "_scaled_dot_product_attention_math_for_mps": attention,
    "_flash_attention_forward": attention,
    "_cudnn_attention_forward": attention,
    "roll": roll,
    "flip": flip,
    "rot90": rot90,
    "col2im": col2im,
    "index_select": index_select,
    "index": index,
    "unfold": unfold,
    "im2col": im2col,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "mkldnn_rnn_layer": recurrent,
    "_cudnn_rnn": recurrent,
    "copy": copied,
    "copy_": copied,
    "_transformer_encoder_layer_fwd": whole_sequence("src"),
    "_native_multi_head_attention": whole_sequence("query"),
    "max_unpool2d": unpooling,
    "max_unpool3d": unpooling,
    "glu": halves,
    "_unsafe_index": index,
}
"""The rule of each operation, by its name without the overload.

An operation in place, whose name ends in an underscore, has the rule of the other. Further
operations are elementwise if PyTorch tags them so (``torch.Tag.pointwise``); the places after any
other operation are unknown.
"""
