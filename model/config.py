"""The `models.<name>` section of a config: what a model is made of, checked before anything is compiled.

Sizes carry the letters of the shape legend: D model width, H query heads, K key/value heads, h head width,
F feed-forward width, E experts, N recurrent states, V vocabulary, A action width, C chunk length.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Mixer = Literal["local", "global", "recurrent"]
FeedForward = Literal["dense", "moe", "dense_moe"]  # dense_moe: both side by side, see model.dense_moe
Kernels = Literal["auto", "reference", "gpu", "tpu"]

# The kinds of layer that each section describes.
_KINDS = {
    "local_attention": ("local",),
    "global_attention": ("global",),
    "recurrent": ("recurrent",),
    "dense": ("dense", "dense_moe"),
    "moe": ("moe", "dense_moe"),
}


def _require(condition: bool, field: str, given: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{field} is {given!r}; allowed: {allowed}")


def _positive(section: object, *fields: str) -> None:
    for field in fields:
        _require(getattr(section, field) > 0, field, getattr(section, field), "positive numbers")


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """Root-mean-square normalisation, everywhere in a model."""

    epsilon: float = 1e-6
    offset: bool = True  # multiply by 1 + scale, as Gemma up to 3; False: by scale, as most others

    def __post_init__(self):
        _positive(self, "epsilon")


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention; one section for `local` layers and one for `global` layers."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None  # keys a query sees, itself included; local layers only
    rope_base: float = 10_000.0
    rope_scale: float = 1.0  # positions are divided by it
    rope_fraction: float = 1.0  # share of the pairs that turn, highest frequencies first
    qk_norm: bool = True
    value_norm: bool = False  # values over their root mean square, without a scale
    tied_values: bool = False  # values are projected as keys are; they are neither turned nor scaled
    query_scale: float | None = None  # None: head_dim ** -0.5
    softcap: float | None = None  # logits = softcap * tanh(logits / softcap)
    sink: bool = False  # one learned logit a head that takes probability and gives nothing

    def __post_init__(self):
        _positive(self, "num_heads", "num_kv_heads", "rope_base", "rope_scale")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "num_heads",
            self.num_heads,
            f"a multiple of num_kv_heads ({self.num_kv_heads})",
        )
        share = self.rope_fraction
        _require(0 < share <= 1, "rope_fraction", share, "above 0, and at most 1 (all pairs)")
        even = self.head_dim > 0 and self.head_dim % 2 == 0
        _require(even, "head_dim", self.head_dim, "a positive even number, as RoPE needs pairs")
        _require(self.window is None or self.window > 0, "window", self.window, "a positive number of keys")
        for field in ("query_scale", "softcap"):
            value = getattr(self, field)
            _require(value is None or value > 0, field, value, "a positive number or None")


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
    """S5 layer (Smith et al. 2023) with the resets of arXiv 2303.03982."""

    num_states: int  # complex states kept after conjugate symmetry: half of the HiPPO matrix's size
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    def __post_init__(self):
        _positive(self, "num_states")
        _require(0 < self.dt_min < self.dt_max, "dt_min", self.dt_min, f"between 0 and dt_max ({self.dt_max})")


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """Gated feed-forward: GeGLU (gelu) or SwiGLU (silu)."""

    hidden_dim: int
    activation: Literal["gelu", "silu"] = "gelu"

    def __post_init__(self):
        _positive(self, "hidden_dim")


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Dropless top-k mixture of gated experts."""

    num_experts: int
    top_k: int
    hidden_dim: int  # of one expert
    shared_dim: int = 0  # of the shared expert that every token takes; 0 = none
    activation: Literal["gelu", "silu"] = "silu"
    router: Literal["softmax", "sigmoid"] = "softmax"
    router_norm: bool = False  # the router reads x / rms(x) * scale / sqrt(D) with a learned scale
    expert_scale: bool = False  # one learned factor an expert, on its weight after renormalisation
    balance_loss: float = 0.01  # weight of the load-balancing loss (Switch, eq. 4); 0 = off
    bias_rate: float = 0.0  # step of the loss-free balancing bias (arXiv 2408.15664); 0 = off
    z_loss: float = 1e-3  # weight of the router z-loss (ST-MoE, eq. 5); 0 = off

    def __post_init__(self):
        _require(self.num_experts > 1, "num_experts", self.num_experts, "at least 2; use a dense feed-forward for 1")
        _require(0 < self.top_k <= self.num_experts, "top_k", self.top_k, f"1 .. num_experts ({self.num_experts})")
        _positive(self, "hidden_dim")
        _require(self.shared_dim >= 0, "shared_dim", self.shared_dim, "0 (none) or a positive integer")
        for field in ("balance_loss", "bias_rate", "z_loss"):
            _require(getattr(self, field) >= 0, field, getattr(self, field), "0 (off) or positive")


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Encoder-free images: a small residual convolutional stem inside each patch (Gato, section 2.2)."""

    height: int
    width: int
    patch_size: int
    stem_stride: int = 4  # stride of the stem's first convolution
    stem_dim: int = 32
    kind: Literal["stem"] = "stem"

    def __post_init__(self):
        _positive(self, "height", "width", "patch_size", "stem_stride", "stem_dim")
        _check_grid(self, "patch_size", self.patch_size)
        _require(
            self.patch_size % self.stem_stride == 0,
            "stem_stride",
            self.stem_stride,
            f"a divisor of patch_size ({self.patch_size})",
        )

    @property
    def num_patches(self) -> int:
        return (self.height // self.patch_size) * (self.width // self.patch_size)

    @property
    def num_slots(self) -> int:
        return self.num_patches


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """SigLIP encoder (arXiv 2303.15343) with its patches averaged to soft tokens (Gemma 3, section 2.1).

    The defaults are SigLIP So400m/14, as the Gemma 3 of 4B, 12B and 27B have it: 4,096 patches, 256 slots.
    """

    kind: Literal["siglip"]
    height: int = 896
    width: int = 896
    patch_size: int = 14
    pool: int = 4  # patches along each side that one slot is the mean of
    encoder_dim: int = 1152
    num_layers: int = 27
    hidden_dim: int = 4304
    num_heads: int = 16
    epsilon: float = 1e-6  # of its layer norms and of the norm before the projector

    def __post_init__(self):
        _positive(self, *(field.name for field in dataclasses.fields(self) if field.name != "kind"))
        _check_grid(self, "patch_size", self.patch_size)
        _check_grid(self, "pool", self.pool * self.patch_size)
        heads = f"a divisor of encoder_dim ({self.encoder_dim})"
        _require(self.encoder_dim % self.num_heads == 0, "num_heads", self.num_heads, heads)

    @property
    def num_patches(self) -> int:
        return (self.height // self.patch_size) * (self.width // self.patch_size)

    @property
    def num_slots(self) -> int:
        return self.num_patches // self.pool**2


def _check_grid(image: ImageConfig | SiglipConfig, field: str, cell: int) -> None:
    """Cells of that many pixels along each side must fill the picture."""
    fits = image.height % cell == 0 and image.width % cell == 0
    whole = "a divisor of" if field == "patch_size" else f"a number that times patch_size ({image.patch_size}) divides"
    _require(fits, field, getattr(image, field), f"{whole} height and width ({image.height} x {image.width})")


@dataclasses.dataclass(frozen=True)
class RobotConfig:
    """Sizes that every embodiment fits in; each embodiment has its own input and output projection."""

    num_embodiments: int
    width: int  # A, the widest proprioception or action
    chunk: int  # C, actions predicted at once

    def __post_init__(self):
        _positive(self, *(field.name for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class BinsHeadConfig:
    """Parallel per-dimension bins: one categorical distribution for each action dimension and chunk step."""

    num_bins: int = 256
    low: float = -3.0  # of normalised actions
    high: float = 3.0

    def __post_init__(self):
        _require(self.num_bins > 1, "num_bins", self.num_bins, "at least 2")
        _require(self.low < self.high, "low", self.low, f"below high ({self.high})")


@dataclasses.dataclass(frozen=True)
class L1HeadConfig:
    """Regression of whole chunks (OpenVLA-OFT, arXiv 2502.19645)."""

    hidden_dim: int

    def __post_init__(self):
        _positive(self, "hidden_dim")


@dataclasses.dataclass(frozen=True)
class FlowHeadConfig:
    """Flow-matching action expert that attends to the backbone's keys and values (pi0, arXiv 2410.24164)."""

    width: int
    hidden_dim: int
    num_steps: int = 10  # Euler steps at inference
    prefix: int = 0  # given actions that a chunk may begin with, see model.heads.real_time

    def __post_init__(self):
        _positive(self, "width", "hidden_dim", "num_steps")
        _require(self.prefix >= 0, "prefix", self.prefix, "0 (none), or a number of actions")
        _require(self.width % 2 == 0, "width", self.width, "even, as flow times enter as pairs of sine and cosine")


@dataclasses.dataclass(frozen=True)
class LocalDecoderConfig:
    """Small decoder that acts at every control step between two looks of the backbone (Gemini Robotics, arXiv
    2503.20020, section 3.1)."""

    width: int
    hidden_dim: int
    num_layers: int = 2
    steps: int = 1  # control steps that one step of the backbone's chunk lasts

    def __post_init__(self):
        _positive(self, *(field.name for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A stack: embed -> `num_layers` blocks -> heads. Patterns are repeated and truncated to `num_layers`."""

    model_dim: int
    num_layers: int
    pattern: tuple[Mixer, ...]
    ffn: tuple[FeedForward, ...]
    local_attention: AttentionConfig | None = None
    global_attention: AttentionConfig | None = None
    recurrent: RecurrentConfig | None = None
    dense: DenseConfig | None = None
    moe: MoEConfig | None = None
    image: ImageConfig | SiglipConfig | None = None
    robot: RobotConfig | None = None
    bins: BinsHeadConfig | None = None
    l1: L1HeadConfig | None = None
    flow: FlowHeadConfig | None = None
    local_decoder: LocalDecoderConfig | None = None
    reward: bool = False  # a head that scores conversations, see model.heads.reward
    norm: NormConfig = dataclasses.field(default_factory=NormConfig)
    norms: Literal["pre", "sandwich"] = "pre"  # sandwich: RMSNorm before and after each sub-layer (Gemma 3)
    layer_scale: bool = False  # each layer's output times one learned number
    scale_embeddings: bool = True  # multiply by sqrt(D)
    num_codes: int = 0  # ids after those of text, if they are numbers in order: neighbours then begin alike
    num_other_codes: int = 0  # ids after those, which are no numbers in order (such as FAST's)
    tied_head: bool = True
    final_softcap: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters are float32
    remat: Literal["none", "block", "dots"] = "none"
    scan: bool = True  # one compiled body for all repeats of the pattern; caches need False, see model.layers
    kernels: Kernels = "auto"  # backend of the operations in pallas_kernels; a forced one must serve every call

    def __post_init__(self):
        _positive(self, "model_dim", "num_layers")
        _require(len(self.pattern) > 0, "pattern", self.pattern, "at least one of 'local', 'global', 'recurrent'")
        _require(len(self.ffn) > 0, "ffn", self.ffn, "at least one of 'dense', 'moe', 'dense_moe'")
        cap = self.final_softcap
        _require(cap is None or cap > 0, "final_softcap", cap, "a positive number or None")
        _require(self.num_codes >= 0, "num_codes", self.num_codes, "0 or more")
        _require(self.num_other_codes >= 0, "num_other_codes", self.num_other_codes, "0 or more")
        if self.num_other_codes and not self.num_codes:
            raise ValueError("num_other_codes has no effect where num_codes is 0; remove it")
        used = set(self.mixers) | set(self.feed_forwards)
        for section, kinds in _KINDS.items():
            given, using = getattr(self, section) is not None, [kind for kind in kinds if kind in used]
            if using and not given:
                raise ValueError(f"{section} is None but the layers use {using[0]!r}; give the section {section}")
            if given and not using:
                names = " or ".join(map(repr, kinds))
                raise ValueError(f"{section} is given but none of the {self.num_layers} layers is {names}; remove it")
        if self.local_attention is not None and self.local_attention.window is None:
            raise ValueError("local_attention.window is None; a local layer needs the number of keys it sees")
        if self.global_attention is not None and self.global_attention.window is not None:
            raise ValueError("global_attention.window has no effect on global layers; remove it or use 'local' layers")
        for head in ("bins", "l1", "flow"):
            if getattr(self, head) is not None and self.robot is None:
                raise ValueError(f"{head} is given but robot is None; a head for actions needs the section robot")
        if self.flow is not None and self.robot is not None and self.flow.prefix >= self.robot.chunk:
            raise ValueError(
                f"flow.prefix is {self.flow.prefix}, a chunk has {self.robot.chunk} actions; leave one to learn"
            )
        if self.local_decoder is not None and not (self.flow or self.bins or self.l1):
            raise ValueError("local_decoder corrects chunks, but flow, bins and l1 are all None; give one of them")
        if self.flow is not None and not {"local", "global"} & used:
            raise ValueError("flow attends to keys and values, but no layer is 'local' or 'global'; add one to pattern")

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The mixer of each layer."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.num_layers))

    @property
    def feed_forwards(self) -> tuple[FeedForward, ...]:
        """The feed-forward of each layer."""
        return tuple(self.ffn[i % len(self.ffn)] for i in range(self.num_layers))

    @property
    def num_repeats(self) -> int:
        """Whole periods that one scan runs through; the layers after them, or all of them, stand one by one."""
        return self.num_layers // self.period if self.scan else 0

    @property
    def period(self) -> int:
        """Layers after which both patterns repeat: what one step of the scan over layers holds."""
        return math.lcm(len(self.pattern), len(self.ffn))

    @property
    def longest_span(self) -> int:
        """Most slots that see each other in both directions: those of an image."""
        return 1 if self.image is None else self.image.num_slots

    def attention(self, mixer: str) -> AttentionConfig:
        """The attention section of a `local` or `global` layer."""
        config = self.local_attention if mixer == "local" else self.global_attention
        assert config is not None
        return config
