//! Canonical names of the tensors in GGUF files (`constants.py` of llama.cpp's package `gguf`).

/// Parts outside of layers: a language model's, a tower's and a projector's.
const PARTS: [(&str, &str); 12] = [
    ("token_embd", "text.model.embed_tokens"),
    ("output_norm", "text.model.norm"),
    ("output", "text.lm_head"),
    ("v.class_embd", "vision.embeddings.class_embedding"),
    ("v.patch_embd", "vision.embeddings.patch_embedding"),
    ("v.position_embd", "vision.embeddings.position_embedding"),
    ("v.pre_ln", "vision.pre_layrnorm"),
    ("v.post_ln", "vision.post_layernorm"),
    ("mm.0", "projector.linear_1"),
    ("mm.1", "projector.linear_1"),
    ("mm.2", "projector.linear_2"),
    ("mm.model.fc", "projector.modality_projection.proj"),
];

/// Parts of a decoder layer.
const TEXT_LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Parts of a tower's layer.
const VISION_LAYER: [(&str, &str); 8] = [
    ("ln1", "layer_norm1"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_out", "self_attn.out_proj"),
    ("ln2", "layer_norm2"),
    ("ffn_up", "mlp.fc1"),
    ("ffn_down", "mlp.fc2"),
];

/// Returns the canonical name of a tensor, `None` for one that no model needs. `swapped`: the
/// tower's layers name their two feed-forward matrices the other way round, as llama.cpp's older
/// converter did.
pub(super) fn canonical(name: &str, swapped: bool) -> Option<String> {
    let (part, last) = match name.rsplit_once('.') {
        Some((part, last @ ("weight" | "bias"))) => (part, format!(".{last}")),
        _ => (name, String::new()),
    };
    let find = |parts: &[(&str, &'static str)], part: &str| {
        let found = parts.iter().find(|(theirs, _)| *theirs == part);
        found.map(|(_, ours)| *ours)
    };
    if let Some(ours) = find(&PARTS, part) {
        return Some(format!("{ours}{last}"));
    }
    let (layers, parts, rest) = match (part.strip_prefix("blk."), part.strip_prefix("v.blk.")) {
        (Some(rest), _) => ("text.model.layers", TEXT_LAYER.as_slice(), rest),
        (_, Some(rest)) => ("vision.encoder.layers", VISION_LAYER.as_slice(), rest),
        _ => return None,
    };
    let (layer, part) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let ours = match (swapped, find(parts, part)?) {
        (true, "mlp.fc1") => "mlp.fc2",
        (true, "mlp.fc2") => "mlp.fc1",
        (_, ours) => ours,
    };
    Some(format!("{layers}.{layer}.{ours}{last}"))
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn names_are_those_of_other_checkpoints() {
        for (name, want) in [
            ("token_embd.weight", "text.model.embed_tokens.weight"),
            ("output_norm.weight", "text.model.norm.weight"),
            ("output.weight", "text.lm_head.weight"),
            (
                "blk.0.attn_norm.weight",
                "text.model.layers.0.input_layernorm.weight",
            ),
            (
                "blk.29.attn_q.bias",
                "text.model.layers.29.self_attn.q_proj.bias",
            ),
            (
                "blk.3.ffn_down.weight",
                "text.model.layers.3.mlp.down_proj.weight",
            ),
            ("v.class_embd", "vision.embeddings.class_embedding"),
            (
                "v.patch_embd.bias",
                "vision.embeddings.patch_embedding.bias",
            ),
            (
                "v.blk.7.attn_out.bias",
                "vision.encoder.layers.7.self_attn.out_proj.bias",
            ),
            (
                "v.blk.7.ffn_up.weight",
                "vision.encoder.layers.7.mlp.fc1.weight",
            ),
            ("v.pre_ln.weight", "vision.pre_layrnorm.weight"),
            ("mm.0.bias", "projector.linear_1.bias"),
            ("mm.2.weight", "projector.linear_2.weight"),
            (
                "mm.model.fc.weight",
                "projector.modality_projection.proj.weight",
            ),
        ] {
            assert_eq!(canonical(name, false).as_deref(), Some(want));
        }
        for name in [
            "",
            "blk.x.attn_q.weight",
            "blk.0",
            "blk.0.other.weight",
            "rope_freqs.weight",
        ] {
            assert_eq!(canonical(name, false), None, "{name}");
        }
    }

    #[test]
    fn swapped_matrices_of_the_tower_are_put_right() {
        let first = canonical("v.blk.1.ffn_down.bias", true).unwrap();
        assert_eq!(first, "vision.encoder.layers.1.mlp.fc1.bias");
        let text = canonical("blk.1.ffn_down.weight", true).unwrap();
        assert_eq!(text, "text.model.layers.1.mlp.down_proj.weight");
    }
}
