"""Small networks of transformers, built from configurations: a row for each architecture whose folders are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compressor.sources import InputSpec

IDS = InputSpec((1, 16), "int64", {1: "sequence"})
PIXELS = InputSpec((1, 3, 32, 32))
TEXT = {"input_ids": IDS, "attention_mask": IDS}
IMAGE = {"pixel_values": PIXELS}

BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BERT |= {"max_position_embeddings": 40}
LLAMA = {**BERT, "num_key_value_heads": 1, "pad_token_id": 0}
VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
WHISPER = {"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "num_mel_bins": 8}
WHISPER |= {"max_source_positions": 20, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1}
WHISPER |= {"eos_token_id": 2, "decoder_start_token_id": 1}
WAV2VEC2 = {**BERT, "conv_dim": (16, 16), "conv_stride": (4, 2), "conv_kernel": (8, 3), "num_feat_extract_layers": 2}
WAV2VEC2 |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
DEBERTA = {**BERT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}


SCALAR = "The update tensor should have shape"
"""Of Core ML Tools' torch frontend, about a scalar that is written into a tensor."""


@dataclass(frozen=True)
class Network:
    """kind, config: names in transformers. settings: of the configuration. inputs: as they are declared.

    instead: why it goes to Core ML through the ONNX graph alone; empty where the torch frontend takes it.
    """

    kind: str
    config: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, InputSpec] = field(default_factory=lambda: TEXT)
    instead: str = ""

    @property
    def routes(self) -> tuple[str, ...]:
        """The frontends of Core ML that are tested with it."""
        key = next(name for name, one in NETWORKS.items() if one is self)
        return ("torch", "onnx") if key in BOTH else ("torch",) if key in TORCH else ("onnx",) if self.instead else ()

    def build(self) -> Any:
        """The module, its parameters all away from what they begin with, so that none is a constant by chance."""
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.settings)
        config._attn_implementation = "eager"  # what is exported; others differ in queries that see no key
        model = _kind(self.kind)(config).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point() and "running_var" not in name:
                    tensor.add_(0.05 * torch.randn(tensor.shape))
        return model


def _kind(name: str) -> Any:
    import transformers

    if name == "WhisperEncoder":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder
    return getattr(transformers, name)


BOTH = {"BERT", "DistilBERT", "GPT-2", "T5 (encoder)", "ViT", "Whisper (encoder)"}
TORCH = {"DeiT", "ESM", "GPT-NeoX", "Mixtral", "ResNet", "Swin"}
"""The frontends of Core ML that networks are tested with."""
NETWORKS: Mapping[str, Network] = {
    "ALBERT": Network("AlbertModel", "AlbertConfig", {**BERT, "embedding_size": 16}),
    "BEiT": Network(
        "BeitForImageClassification", "BeitConfig", {**VIT, "use_relative_position_bias": True}, IMAGE, SCALAR
    ),
    "BERT": Network("BertForSequenceClassification", "BertConfig", BERT),
    "CLIP (text)": Network("CLIPTextModel", "CLIPTextConfig", {**BERT, "eos_token_id": 2}, {"input_ids": IDS}),
    "CLIP (vision)": Network("CLIPVisionModel", "CLIPVisionConfig", VIT, IMAGE),
    "ConvNeXT": Network("ConvNextForImageClassification", "ConvNextConfig", {**STAGES, "num_stages": 2}, IMAGE),
    "DeBERTa-v2": Network("DebertaV2Model", "DebertaV2Config", DEBERTA),
    "DeiT": Network("DeiTForImageClassification", "DeiTConfig", VIT, IMAGE),
    "DINOv2": Network("Dinov2Model", "Dinov2Config", VIT, IMAGE),
    "DistilBERT": Network(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 40},
    ),
    "ELECTRA": Network("ElectraForTokenClassification", "ElectraConfig", {**BERT, "embedding_size": 16}),
    "ESM": Network("EsmForMaskedLM", "EsmConfig", {**BERT, "pad_token_id": 1, "mask_token_id": 3}),
    "GPT-2": Network(
        "GPT2LMHeadModel", "GPT2Config", {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
    ),
    "GPT-NeoX": Network("GPTNeoXForCausalLM", "GPTNeoXConfig", BERT),
    "Llama": Network("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "Mixtral": Network("MixtralForCausalLM", "MixtralConfig", {**LLAMA, "num_local_experts": 4}),
    "MobileViT": Network(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 32,
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
        },
        IMAGE,
    ),
    "MPNet": Network("MPNetModel", "MPNetConfig", BERT),
    "Qwen3": Network("Qwen3ForCausalLM", "Qwen3Config", {**LLAMA, "head_dim": 16}),
    "ResNet": Network(
        "ResNetForImageClassification",
        "ResNetConfig",
        {**STAGES, "embedding_size": 16, "hidden_sizes": [32, 64]},
        IMAGE,
    ),
    "RoBERTa": Network("RobertaForSequenceClassification", "RobertaConfig", BERT),
    "SegFormer": Network(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            **STAGES,
            "num_encoder_blocks": 2,
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 32,
        },
        IMAGE,
    ),
    "Swin": Network(
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4},
        IMAGE,
    ),
    "T5 (encoder)": Network("T5EncoderModel", "T5Config", T5),
    "ViT": Network("ViTForImageClassification", "ViTConfig", VIT, IMAGE),
    "ViTMAE": Network(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {
            **VIT,
            "mask_ratio": 0.0,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 64,
        },
        {**IMAGE, "noise": InputSpec((1, 16))},
    ),
    "Wav2Vec2": Network("Wav2Vec2ForCTC", "Wav2Vec2Config", WAV2VEC2, {"input_values": InputSpec((1, 400))}),
    "Whisper (encoder)": Network("WhisperEncoder", "WhisperConfig", WHISPER, {"input_features": InputSpec((1, 8, 40))}),
    "YOLOS": Network(
        "YolosForObjectDetection", "YolosConfig", {**VIT, "image_size": [32, 32], "num_detection_tokens": 4}, IMAGE
    ),
}


def feeds(network: Network, length: int, padded: int = 0) -> dict[str, Any]:
    """Inputs with `length` for the axis that varies, the last `padded` places masked."""
    random = np.random.default_rng(length)
    made: dict[str, Any] = {}
    for name, spec in network.inputs.items():
        shape = tuple(length if axis in spec.dynamic else size for axis, size in enumerate(spec.shape))
        if name == "attention_mask":
            made[name] = (np.arange(length) < length - padded).astype(np.int64)[None]
        elif spec.dtype == "int64":
            made[name] = random.integers(3, 60, shape)
        else:
            made[name] = random.normal(size=shape).astype(np.float32)
    return made
