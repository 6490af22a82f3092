//! Tokenizers from the metadata of GGUF files, which keep a vocabulary but no `tokenizer.json`.
//!
//! Meanings of the keys: `docs/gguf.md` of ggml-org/ggml; pre-tokenizers: `llama-vocab.cpp` of
//! ggml-org/llama.cpp and the `tokenizer.json` of the models that they are named after.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::tokenizer::{TextTokenizer, TokenizerError};

/// Maximum number of characters of a piece in a SentencePiece vocabulary.
const MAX_PIECE: usize = 256;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Words of LLaMA 3 and Qwen2 differ in the number of digits that stand together.
const WORDS_BEFORE_DIGITS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}";
const WORDS_BEHIND_DIGITS: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokenizer in the metadata of a GGUF file; the fields are the keys `tokenizer.ggml.…`.
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `pre`: name of the way in which `gpt2` cuts a text into words.
    pub pre: Option<String>,
    /// `tokens`: text of every token.
    pub tokens: Vec<String>,
    /// `token_type`, as many as tokens or none.
    pub types: Vec<i32>,
    /// `scores`, as many as tokens; of `llama` alone.
    pub scores: Vec<f32>,
    /// `merges`: pairs with a space between them; of `gpt2` alone.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`, and `eot_token_id` and `eom_token_id` where there are.
    pub ends: Vec<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `padding_token_id`.
    pub padding: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl GgufTokenizer {
    /// Builds the tokenizer.
    ///
    /// # Errors
    /// When a key is missing, does not fit the others or has a value that is not known.
    pub fn build(&self) -> Result<TextTokenizer, TokenizerError> {
        let tokens = self.tokens.len();
        for (key, len) in [
            ("token_type", self.types.len()),
            ("scores", self.scores.len()),
        ] {
            if len != 0 && len != tokens {
                return Err(fault(key, &format!("has {len} values for {tokens} tokens")));
            }
        }
        let mut vocabulary = HashMap::with_capacity(tokens);
        for (token, id) in self.tokens.iter().zip(0u32..) {
            vocabulary.entry(token.as_str()).or_insert(id);
        }
        let (steps, begins) = match self.model.as_str() {
            "gpt2" => self.byte_level(&vocabulary)?,
            "llama" => (self.sentence_piece(&vocabulary)?, true),
            other => return Err(fault("model", &format!("is '{other}', not gpt2 or llama"))),
        };
        let mut file = steps;
        file["version"] = "1.0".into();
        file["added_tokens"] = self.added_tokens();
        if self.add_bos.unwrap_or(begins) {
            file["post_processor"] = self.post_processor()?;
        }
        TextTokenizer::from_checkpoint(file.to_string().as_bytes(), &self.ends)
    }

    /// Returns the special tokens that a chat template may name, with their variables.
    pub fn named_tokens(&self) -> Vec<(String, String)> {
        let named = [
            ("bos_token", self.bos),
            ("eos_token", self.ends.first().copied()),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        let token = |(name, id): (&str, Option<u32>)| {
            let text = self.tokens.get(id? as usize)?;
            Some((name.to_owned(), text.clone()))
        };
        named.into_iter().filter_map(token).collect()
    }

    /// Byte-level BPE, and whether such tokenizers put `<s>` before a text by default.
    fn byte_level(&self, vocabulary: &HashMap<&str, u32>) -> Result<(Value, bool), TokenizerError> {
        let bytes = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let sequence = |steps: [Value; 2]| json!({"type": "Sequence", "pretokenizers": steps});
        let words = |digits: &str| {
            let regex = format!("{WORDS_BEFORE_DIGITS}{digits}{WORDS_BEHIND_DIGITS}");
            let split = json!({
                "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                "invert": false,
            });
            sequence([split, bytes(false)])
        };
        let pre = self.pre.as_deref().unwrap_or("default");
        let (pre_tokenizer, normalizer, whole_words) = match pre {
            "default" | "gpt-2" => (bytes(true), Value::Null, false),
            "smollm" => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                (sequence([digits, bytes(true)]), Value::Null, false)
            }
            "qwen2" => (words(""), json!({"type": "NFC"}), false),
            "llama-bpe" | "llama3" | "llama-v3" => (words("{1,3}"), Value::Null, true),
            other => {
                let known = "default, gpt-2, smollm, qwen2 or llama-bpe";
                return Err(fault("pre", &format!("is '{other}', not {known}")));
            }
        };
        let pair = |merge: &String| {
            // A pair's first part may begin with a space.
            let skip = merge.chars().next()?.len_utf8();
            let at = skip + merge[skip..].find(' ')?;
            Some((merge[..at].to_owned(), merge[at + 1..].to_owned()))
        };
        let merges: Vec<_> = self
            .merges
            .iter()
            .map(|merge| pair(merge).ok_or_else(|| fault("merges", "has an entry of one part")))
            .collect::<Result<_, _>>()?;
        let file = json!({
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "decoder": bytes(true),
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": merges,
                "ignore_merges": whole_words,
            },
        });
        Ok((file, whole_words))
    }

    fn sentence_piece(&self, vocabulary: &HashMap<&str, u32>) -> Result<Value, TokenizerError> {
        if self.scores.is_empty() {
            return Err(fault("scores", "is missing"));
        }
        let mut normalizers =
            vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        if self.add_space_prefix.unwrap_or(true) {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        }
        let unknown = self.unknown.and_then(|id| self.tokens.get(id as usize));
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": self.scored_merges(vocabulary)?,
                "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
            },
        }))
    }

    /// Merges of a vocabulary with scores: every way to make a piece of two others, the pieces of
    /// the highest score first (`convert_slow_tokenizer.py` of transformers).
    fn scored_merges(
        &self,
        vocabulary: &HashMap<&str, u32>,
    ) -> Result<Vec<(&str, &str)>, TokenizerError> {
        let mut merges = Vec::new();
        for (id, (piece, &score)) in self.tokens.iter().zip(&self.scores).enumerate() {
            if self.is_added(id) {
                continue;
            }
            if piece.chars().count() > MAX_PIECE {
                let found = format!("has a piece of more than {MAX_PIECE} characters, number {id}");
                return Err(fault("tokens", &found));
            }
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if let (Some(&l), Some(&r)) = (vocabulary.get(left), vocabulary.get(right)) {
                    merges.push((score, left, right, (l, r)));
                }
            }
        }
        merges.sort_by(|a, b| {
            let len = |text: &str| text.chars().count();
            b.0.total_cmp(&a.0)
                .then_with(|| len(b.1).cmp(&len(a.1)))
                .then_with(|| a.3.cmp(&b.3))
        });
        Ok(merges.into_iter().map(|(_, l, r, _)| (l, r)).collect())
    }

    fn is_added(&self, id: usize) -> bool {
        let kind = self.types.get(id);
        kind.is_some_and(|kind| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind))
    }

    fn added_tokens(&self) -> Value {
        let token = |(id, text): (usize, &String)| {
            self.is_added(id).then(|| {
                json!({
                    "id": id, "content": text, "special": self.types[id] != USER_DEFINED,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
        };
        let named = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(_, text)| !text.is_empty());
        named.filter_map(token).collect()
    }

    fn post_processor(&self) -> Result<Value, TokenizerError> {
        let Some((bos, text)) = self
            .bos
            .and_then(|id| Some((id, self.tokens.get(id as usize)?)))
        else {
            return Err(fault("bos_token_id", "is missing or not a token"));
        };
        let first = json!({"SpecialToken": {"id": text, "type_id": 0}});
        Ok(json!({
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                first,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
        }))
    }
}

fn fault(key: &str, what: &str) -> TokenizerError {
    TokenizerError(format!("GGUF metadata: tokenizer.ggml.{key} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::processor::{
        fixtures,
        message::Message,
        rendered::{PromptPiece, RenderedPrompt},
        template::ChatTemplate,
    };

    fn fixture(path: &str) -> Value {
        let text = std::fs::read(fixtures().join("models").join(path)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn prompt(text: &str) -> RenderedPrompt {
        RenderedPrompt {
            pieces: vec![PromptPiece::Template(text.to_owned())],
        }
    }

    /// Metadata that a converter makes of a `tokenizer.json`.
    fn converted(file: &Value) -> GgufTokenizer {
        let vocabulary = file["model"]["vocab"].as_object().unwrap();
        let added = file["added_tokens"].as_array().unwrap();
        let mut tokens: Vec<(u64, String)> = vocabulary
            .iter()
            .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
            .chain(added.iter().map(|token| {
                (
                    token["id"].as_u64().unwrap(),
                    token["content"].as_str().unwrap().to_owned(),
                )
            }))
            .collect();
        tokens.sort();
        tokens.dedup();
        let merges: Vec<[String; 2]> =
            serde_json::from_value(file["model"]["merges"].clone()).unwrap();
        let rank = |token: &str| merges.iter().position(|merge| merge.concat() == token);
        let kind = |id: u64| match id {
            0 => UNKNOWN,
            _ if added.iter().any(|token| token["id"] == id) => CONTROL,
            _ => 1,
        };
        GgufTokenizer {
            types: tokens.iter().map(|&(id, _)| kind(id)).collect(),
            scores: tokens
                .iter()
                .map(|(_, token)| -(rank(token).unwrap_or(1000) as f32))
                .collect(),
            merges: merges.iter().map(|merge| merge.join(" ")).collect(),
            tokens: tokens.into_iter().map(|(_, token)| token).collect(),
            bos: Some(1),
            ends: vec![2],
            unknown: Some(0),
            ..GgufTokenizer::default()
        }
    }

    #[test]
    fn scored_vocabulary_has_the_ids_of_transformers() {
        let mut metadata = converted(&fixture("llava-old/tokenizer.json"));
        metadata.model = "llama".to_owned();
        let tokenizer = metadata.build().unwrap();
        for case in fixture("llava-old/expected.json")["tokenizer"]
            .as_array()
            .unwrap()
        {
            let ids = tokenizer
                .encode_prompt(&prompt(case["text"].as_str().unwrap()))
                .unwrap();
            assert_eq!(json!(ids), case["ids"], "{}", case["text"]);
        }
        assert_eq!(
            metadata.named_tokens()[1],
            ("eos_token".to_owned(), "</s>".to_owned())
        );
    }

    #[test]
    fn merged_vocabulary_has_the_ids_of_transformers() {
        let mut metadata = converted(&fixture("smolvlm/tokenizer.json"));
        metadata.model = "gpt2".to_owned();
        metadata.pre = Some("smollm".to_owned());
        let tokenizer = metadata.build().unwrap();
        for case in fixture("smolvlm/expected.json")["tokenizer"]
            .as_array()
            .unwrap()
        {
            let ids = tokenizer
                .encode_prompt(&prompt(case["text"].as_str().unwrap()))
                .unwrap();
            assert_eq!(json!(ids), case["ids"], "{}", case["text"]);
        }
    }

    #[test]
    fn digits_stand_together_as_the_pre_tokenizer_says() {
        let tokens = ["1", "11", "111", "1111"].map(str::to_owned).to_vec();
        let merges = ["1 1", "11 1", "11 11"].map(str::to_owned).to_vec();
        let cut = |pre: &str| {
            let metadata = GgufTokenizer {
                model: "gpt2".to_owned(),
                pre: Some(pre.to_owned()),
                tokens: tokens.clone(),
                merges: merges.clone(),
                ends: vec![0],
                add_bos: Some(false),
                ..GgufTokenizer::default()
            };
            metadata.build().unwrap().encode_text("1111").unwrap()
        };
        assert_eq!(cut("gpt-2"), [3]);
        assert_eq!(cut("smollm"), [0; 4]);
        assert_eq!(cut("qwen2"), [0; 4]);
        assert_eq!(cut("llama-bpe"), [2, 0]);
    }

    #[test]
    fn metadata_that_does_not_fit_is_an_error_that_names_the_key() {
        let good = GgufTokenizer {
            model: "llama".to_owned(),
            tokens: vec!["<unk>".to_owned(), "<s>".to_owned(), "a".to_owned()],
            types: vec![2, 3, 1],
            scores: vec![0.0; 3],
            bos: Some(1),
            ends: vec![1],
            unknown: Some(0),
            ..GgufTokenizer::default()
        };
        assert_eq!(good.build().unwrap().vocab_size(), 3);
        type Change = fn(&mut GgufTokenizer);
        let cases: [(&str, Change); 8] = [
            ("ggml.model", |file| file.model = "t5".to_owned()),
            ("ggml.pre", |file| {
                file.model = "gpt2".to_owned();
                file.pre = Some("other".to_owned());
            }),
            ("ggml.token_type", |file| file.types.truncate(1)),
            ("ggml.scores", |file| file.scores.clear()),
            ("ggml.bos_token_id", |file| file.bos = Some(9)),
            ("ggml.tokens", |file| file.tokens[2] = "a".repeat(10_000)),
            ("ggml.merges", |file| {
                file.model = "gpt2".to_owned();
                file.merges = vec!["a".to_owned()];
            }),
            ("token 7", |file| file.ends = vec![7]),
        ];
        for (key, change) in cases {
            let mut file = good.clone();
            change(&mut file);
            let error = file.build().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    /// Needs SmolLM2-135M-Instruct as a GGUF file, at the path in `CANDOR_SMOLLM2`.
    #[test]
    fn smollm2_has_the_ids_of_transformers() {
        use candle_core::quantized::gguf_file::{Content, Value as Field};

        let Ok(path) = std::env::var("CANDOR_SMOLLM2") else {
            return;
        };
        let content = Content::read(&mut std::fs::File::open(path).unwrap()).unwrap();
        let field = |key: &str| content.metadata.get(&format!("tokenizer.{key}")).unwrap();
        let list = |key: &str| field(key).to_vec().unwrap().clone();
        let text = |value: &Field| value.to_string().unwrap().clone();
        let id = |key: &str| field(key).to_u32().unwrap();
        let metadata = GgufTokenizer {
            model: text(field("ggml.model")),
            pre: Some(text(field("ggml.pre"))),
            tokens: list("ggml.tokens").iter().map(text).collect(),
            types: list("ggml.token_type")
                .iter()
                .map(|kind| kind.to_i32().unwrap())
                .collect(),
            merges: list("ggml.merges").iter().map(text).collect(),
            bos: Some(id("ggml.bos_token_id")),
            ends: vec![id("ggml.eos_token_id")],
            add_bos: Some(field("ggml.add_bos_token").to_bool().unwrap()),
            ..GgufTokenizer::default()
        };
        let tokenizer = metadata.build().unwrap();
        let template =
            ChatTemplate::with_tokens(&text(field("chat_template")), metadata.named_tokens());
        let template = template.unwrap();
        for case in fixture("smollm2.json")["prompts"].as_array().unwrap() {
            let prompt = match case["messages"].as_array() {
                None => RenderedPrompt {
                    pieces: vec![PromptPiece::User(case["text"].as_str().unwrap().to_owned())],
                },
                Some(messages) => {
                    let part = |of: &Value, key: &str| of[key].as_str().unwrap().to_owned();
                    let message = |of| Message::text(&part(of, "role"), part(of, "content"));
                    let messages: Vec<Message> = messages.iter().map(message).collect();
                    template.render_prompt(&messages, None).unwrap()
                }
            };
            let ids = tokenizer.encode_prompt(&prompt).unwrap();
            assert_eq!(json!(ids), case["ids"], "{}", case["name"]);
            if let Some(rendered) = case.get("rendered") {
                assert_eq!(json!(prompt.text()), *rendered);
            }
            let greedy: Vec<u32> = serde_json::from_value(case["greedy"]["ids"].clone()).unwrap();
            let stop = greedy.iter().position(|&id| tokenizer.is_end(id));
            let answer = tokenizer.decode(&greedy[..stop.unwrap_or(greedy.len())]);
            assert_eq!(json!(answer), case["greedy"]["text"], "{}", case["name"]);
        }
    }
}
