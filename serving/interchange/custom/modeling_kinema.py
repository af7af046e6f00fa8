"""A Kinema model for HF transformers: local and global attention, S5, dense and routed feed-forwards, for text.

Shapes as in Kinema: B rows, T tokens, D width, H query heads, K key/value heads, h head width, E experts, F their
width, N states. There is no cache: each token that `generate` adds reads the whole text again.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_kinema import KinemaConfig

ACTIVATIONS = {"gelu": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}


def weight(*shape):
    return nn.Parameter(torch.zeros(shape))


def normalised(x, epsilon):
    """x over its root mean square, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


class RMSNorm(nn.Module):
    def __init__(self, dim, config):
        super().__init__()
        self.epsilon, self.offset = config.norm["epsilon"], config.norm["offset"]
        self.scale = weight(dim)

    def forward(self, x):
        return (normalised(x, self.epsilon) * (self.scale.float() + self.offset)).to(x.dtype)


class Attention(nn.Module):
    """A query sees itself and the keys before it; of a window, the last `window` of these."""

    def __init__(self, section, config):
        super().__init__()
        self.section, self.epsilon, D = section, config.norm["epsilon"], config.model_dim
        H, K, h = section["num_heads"], section["num_kv_heads"], section["head_dim"]
        self.query, self.key, self.out = weight(D, H, h), weight(D, K, h), weight(H, h, D)
        if not section["tied_values"]:
            self.value = weight(D, K, h)
        if section["qk_norm"]:
            self.query_norm, self.key_norm = RMSNorm(h, config), RMSNorm(h, config)
        if section["sink"]:
            self.sink = weight(H)

    def forward(self, x):
        section, T = self.section, x.shape[1]
        q = torch.einsum("btd,dnh->bnth", x, self.query)
        k = torch.einsum("btd,dnh->bnth", x, self.key)
        v = torch.einsum("btd,dnh->bnth", x, self.key if section["tied_values"] else self.value)
        if section["qk_norm"]:
            q, k = self.query_norm(q), self.key_norm(k)
        if section["value_norm"]:
            v = normalised(v, self.epsilon).to(v.dtype)
        share = section["num_heads"] // section["num_kv_heads"]
        k, v = rotated(k, section).repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        scale = section["query_scale"] or section["head_dim"] ** -0.5
        scores = (rotated(q, section).float() @ k.float().transpose(-1, -2)) * scale
        if section["softcap"]:
            scores = section["softcap"] * torch.tanh(scores / section["softcap"])
        before = torch.arange(T, device=x.device)[:, None] - torch.arange(T, device=x.device)
        seen = (before >= 0) & (before < (section["window"] or T))
        scores = scores.masked_fill(~seen, -math.inf)
        out = scores.softmax(-1).to(v.dtype) @ v
        if section["sink"]:  # a key of that score and of value 0
            out = (out * torch.sigmoid(scores.logsumexp(-1) - self.sink.float()[:, None])[..., None]).to(v.dtype)
        return torch.einsum("bnth,nhd->btd", out, self.out)


def rotated(x, section):
    """RoPE over halves; only the share of pairs with the highest frequencies turns."""
    half = x.shape[-1] // 2
    pair = torch.arange(half, device=x.device)
    frequency = section["rope_base"] ** (-pair.float() / half)
    frequency = torch.where(pair < int(section["rope_fraction"] * half), frequency, 0.0)
    angle = torch.arange(x.shape[-2], device=x.device).float()[:, None] / section["rope_scale"] * frequency
    first, second = x.float().chunk(2, -1)
    sin, cos = angle.sin(), angle.cos()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class Recurrent(nn.Module):
    """S5 (arXiv 2208.04933): h_t = A h_{t-1} + B u_t, y_t = 2 Re(C h_t) + d u_t, then a gated linear unit."""

    def __init__(self, section, config):
        super().__init__()
        D, N = config.model_dim, section["num_states"]
        self.log_decay, self.frequency, self.log_dt = weight(N), weight(N), weight(N)
        self.input_re, self.input_im = weight(D, N), weight(D, N)
        self.output_re, self.output_im = weight(N, D), weight(N, D)
        self.skip, self.gate, self.out = weight(D), weight(D, D), weight(D, D)

    def forward(self, x):
        eigenvalue = torch.complex(-self.log_decay.float().exp(), self.frequency.float())
        a = torch.exp(eigenvalue * self.log_dt.float().exp())
        u = torch.complex((x @ self.input_re).float(), (x @ self.input_im).float())
        h = self.scan(a, (a - 1) / eigenvalue * u)
        y = 2 * (h.real.to(x.dtype) @ self.output_re - h.imag.to(x.dtype) @ self.output_im)
        y = F.gelu(y + self.skip * x, approximate="tanh")
        return (y * torch.sigmoid(y @ self.gate)) @ self.out

    def scan(self, a, h):
        """h_t = a h_{t-1} + x_t by doubling: after step i, h_t holds its last 2^i inputs."""
        span = 1
        while span < h.shape[1]:
            h = torch.cat([h[:, :span], h[:, span:] + a * h[:, :-span]], 1)
            a, span = a * a, 2 * span
        return h


class Dense(nn.Module):
    def __init__(self, dim, hidden_dim, activation):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate, self.up, self.down = weight(dim, hidden_dim), weight(dim, hidden_dim), weight(hidden_dim, dim)

    def forward(self, x):
        return (self.activation(x @ self.gate) * (x @ self.up)) @ self.down


class MoE(nn.Module):
    """The top-k experts by score plus bias, weighted by their scores alone, and the shared expert."""

    def __init__(self, section, config):
        super().__init__()
        self.section, self.epsilon, D = section, config.norm["epsilon"], config.model_dim
        E, width = section["num_experts"], section["hidden_dim"]
        self.activation, self.router = ACTIVATIONS[section["activation"]], weight(D, E)
        self.gate_up, self.down = weight(E, D, 2 * width), weight(E, width, D)
        self.register_buffer("bias", torch.zeros(E))
        if section["router_norm"]:
            self.router_scale = weight(D)
        if section["expert_scale"]:
            self.expert_scale = weight(E)
        if section["shared_dim"]:
            self.shared = Dense(D, section["shared_dim"], section["activation"])

    def forward(self, x, routed=None):
        """`routed` is what the router reads, if not what the experts do."""
        shape, x = x.shape, x.flatten(0, 1)
        expert, share = self.route(x if routed is None else routed.flatten(0, 1))
        y = torch.zeros_like(x)
        for e in range(self.section["num_experts"]):
            row, choice = torch.where(expert == e)
            gate, up = (x[row] @ self.gate_up[e]).chunk(2, -1)
            out = (self.activation(gate) * up) @ self.down[e]
            y.index_add_(0, row, out * share[row, choice, None].to(x.dtype))
        return (y + self.shared(x) if self.section["shared_dim"] else y).view(shape)

    def route(self, x):
        """Experts [M,k] and their weights, which sum to 1 before any expert scale; in float32."""
        x = x.float()
        if self.section["router_norm"]:
            x = normalised(x, self.epsilon) * self.router_scale.float() * x.shape[-1] ** -0.5
        logits = x @ self.router.float()
        scores = logits.softmax(-1) if self.section["router"] == "softmax" else logits.sigmoid()
        expert = (scores + self.bias.float()).topk(self.section["top_k"], -1).indices
        share = scores.gather(-1, expert)
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-9)
        return expert, share * self.expert_scale.float()[expert] if self.section["expert_scale"] else share


class DenseMoE(nn.Module):
    """Both side by side, each with its own norms; the router reads x without a norm."""

    def __init__(self, config):
        super().__init__()
        D, self.sandwich = config.model_dim, config.norms == "sandwich"
        self.dense_norm, self.moe_norm = RMSNorm(D, config), RMSNorm(D, config)
        if self.sandwich:
            self.dense_post_norm, self.moe_post_norm = RMSNorm(D, config), RMSNorm(D, config)
        self.dense = Dense(D, config.dense["hidden_dim"], config.dense["activation"])
        self.moe = MoE(config.moe, config)

    def forward(self, x):
        dense, moe = self.dense(self.dense_norm(x)), self.moe(self.moe_norm(x), routed=x)
        return self.dense_post_norm(dense) + self.moe_post_norm(moe) if self.sandwich else dense + moe


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); `sandwich` norms each branch once more at its end."""

    def __init__(self, config, mixer, ffn):
        super().__init__()
        D = config.model_dim
        self.ffn_kind, self.sandwich, self.scaled = ffn, config.norms == "sandwich", config.layer_scale
        self.mixer_norm = RMSNorm(D, config)
        if self.sandwich:
            self.mixer_post_norm, self.ffn_post_norm = RMSNorm(D, config), RMSNorm(D, config)
        if mixer == "recurrent":
            self.mixer = Recurrent(config.recurrent, config)
        else:
            self.mixer = Attention(config.local_attention if mixer == "local" else config.global_attention, config)
        if ffn != "dense_moe":
            self.ffn_norm = RMSNorm(D, config)
        if ffn == "dense":
            self.ffn = Dense(D, config.dense["hidden_dim"], config.dense["activation"])
        else:
            self.ffn = MoE(config.moe, config) if ffn == "moe" else DenseMoE(config)
        if self.scaled:
            self.layer_scale = weight()

    def forward(self, x):
        y = self.mixer(self.mixer_norm(x))
        x = x + (self.mixer_post_norm(y) if self.sandwich else y)
        y = self.ffn(x) if self.ffn_kind == "dense_moe" else self.ffn(self.ffn_norm(x))
        x = x + (self.ffn_post_norm(y) if self.sandwich else y)
        return x * self.layer_scale.to(x.dtype) if self.scaled else x


class Embedding(nn.Module):
    """A table; the last `num_codes` rows are numbers in order, with a part that is smooth in the number."""

    def __init__(self, config):
        super().__init__()
        self.num_codes, D = config.num_codes, config.model_dim
        self.table = weight(config.vocab_size, D)
        if self.num_codes:
            self.smooth = weight(1 + 2 * max(1, int(math.log2(self.num_codes))), D)

    def weights(self):
        if not self.num_codes:
            return self.table
        u = (torch.arange(self.num_codes, device=self.table.device).float() + 0.5) / self.num_codes
        waves = (self.smooth.shape[0] - 1) // 2
        angle = math.pi * u[:, None] * 2.0 ** torch.arange(waves, device=u.device)
        features = torch.cat([2 * u[:, None] - 1, angle.sin(), angle.cos()], 1)
        smooth = F.normalize(features, dim=1).to(self.smooth.dtype) @ self.smooth
        return torch.cat([self.table[: -self.num_codes], self.table[-self.num_codes :] + smooth])


class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = weight(config.vocab_size, config.model_dim)


class KinemaForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits of whole rows of text. A batch's rows must be of one length: what follows padding would be wrong."""

    config_class = KinemaConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.tokens = Embedding(config)
        kinds = (
            (config.pattern[i % len(config.pattern)], config.ffn[i % len(config.ffn)]) for i in range(config.num_layers)
        )
        self.layers = nn.ModuleList([Block(config, mixer, ffn) for mixer, ffn in kinds])
        self.norm = RMSNorm(config.model_dim, config)
        if not config.tied_head:
            self.token_head = Head(config)
        self.post_init()

    def _init_weights(self, module):
        """The folder has every weight."""

    def get_input_embeddings(self):
        return self.tokens

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **others):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **others):
        if attention_mask is not None and not attention_mask.bool().all():
            raise ValueError("attention_mask hides tokens; give rows of one length, one call for each length")
        table = self.tokens.weights()
        factor = torch.tensor(self.config.model_dim**0.5 if self.config.scale_embeddings else 1.0, dtype=table.dtype)
        x = table[input_ids] * factor
        hidden = []
        for layer in self.layers:
            hidden.append(x)
            x = layer(x)
        x = self.norm(x)
        logits = (x @ (table if self.config.tied_head else self.token_head.table).T).float()
        cap = self.config.final_softcap
        logits = cap * torch.tanh(logits / cap) if cap else logits
        return CausalLMOutput(logits=logits, hidden_states=(*hidden, x) if output_hidden_states else None)
