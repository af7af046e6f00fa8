"""The config of a Kinema model for HF transformers: the sections of Kinema's own `ModelConfig`, as dictionaries."""

from transformers import PretrainedConfig


class KinemaConfig(PretrainedConfig):
    """`pattern` and `ffn` are repeated and cut to `num_layers`."""

    model_type = "kinema"
    attribute_map = {"hidden_size": "model_dim", "num_hidden_layers": "num_layers"}  # noqa: RUF012

    def __init__(
        self,
        model_dim=1,
        num_layers=0,
        vocab_size=1,
        pattern=("global",),
        ffn=("dense",),
        local_attention=None,
        global_attention=None,
        recurrent=None,
        dense=None,
        moe=None,
        norm=None,
        norms="pre",
        layer_scale=False,
        scale_embeddings=True,
        num_codes=0,
        tied_head=True,
        final_softcap=None,
        **others,
    ):
        self.model_dim, self.num_layers, self.vocab_size = model_dim, num_layers, vocab_size
        self.pattern, self.ffn = list(pattern), list(ffn)
        self.local_attention, self.global_attention, self.recurrent = local_attention, global_attention, recurrent
        self.dense, self.moe = dense, moe
        self.norm, self.norms, self.layer_scale = norm or {"epsilon": 1e-6, "offset": True}, norms, layer_scale
        self.scale_embeddings, self.num_codes = scale_embeddings, num_codes
        self.tied_head, self.final_softcap = tied_head, final_softcap
        super().__init__(**others)
