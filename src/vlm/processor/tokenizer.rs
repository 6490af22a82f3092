//! Tokenizers that know the bytes of every token: byte-level BPE and SentencePiece.

use std::{borrow::Cow, collections::HashMap, ops::Range};

use sha2::{Digest, Sha256};
use tokenizers::{
    AddedToken, Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper, PostProcessor,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Token, Tokenizer,
    normalizer::Range as TextRange, pre_tokenizer::OffsetType, tokenizer::OffsetReferential,
};

use super::{
    rendered::{PromptPiece, RenderedPrompt},
    token_bytes::Spelling,
};
use crate::util::digest::hex;

/// Maximum id of a token, so that a file cannot ask for tables of any size.
const MAX_ID: u32 = 1 << 22;

/// Error in loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(pub(super) String);

/// Tokenizer with the exact bytes of every token: the concatenated bytes of an answer's tokens are
/// the answer.
///
/// The first token of an answer may begin with a space, as `▁A` of a SentencePiece vocabulary does.
/// Decoders of Hugging Face drop it, at the very start of a text alone; here it is a byte as any
/// other ([`Self::leading_space`]).
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    bytes: Vec<Vec<u8>>,
    added: AddedTokens,
    /// Steps before the model for text that continues other text: no space is put before it.
    continuation: Steps<'static>,
    leading_space: bool,
    /// Tokens that the post-processor puts before a prompt.
    prefix: Vec<u32>,
    ends: Vec<u32>,
    digest: String,
}

impl TextTokenizer {
    /// Loads a `tokenizer.json` with a byte-level BPE. `eos` is the token that ends an answer;
    /// special tokens have no bytes.
    ///
    /// # Errors
    /// When the file is not a tokenizer, or does not contain `eos`.
    pub fn from_bytes(json: &[u8], eos: &str) -> Result<Self, TokenizerError> {
        Self::new(parse(json)?, eos)
    }

    /// Loads the `tokenizer.json` of a checkpoint, of which `ends` are the tokens that end an
    /// answer (`eos_token_id` of its `generation_config.json` or `config.json`).
    ///
    /// # Errors
    /// When the file is not a tokenizer of a kind that is known, or does not contain the ends.
    pub fn from_checkpoint(json: &[u8], ends: &[u32]) -> Result<Self, TokenizerError> {
        Self::build(parse(json)?, ends.to_vec())
    }

    /// Wraps a loaded tokenizer.
    ///
    /// # Errors
    /// When `eos` is not in its vocabulary.
    pub fn new(inner: Tokenizer, eos: &str) -> Result<Self, TokenizerError> {
        let eos = inner
            .token_to_id(eos)
            .ok_or_else(|| TokenizerError(format!("the vocabulary has no token '{eos}'")))?;
        Self::build(inner, vec![eos])
    }

    fn build(mut inner: Tokenizer, ends: Vec<u32>) -> Result<Self, TokenizerError> {
        // A prompt's length is limited where it is refused, not cut or filled.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        if ends.is_empty() {
            return Err(TokenizerError(
                "there is no token that ends an answer".to_owned(),
            ));
        }
        if let Some(end) = ends.iter().find(|&&end| inner.id_to_token(end).is_none()) {
            return Err(TokenizerError(format!(
                "the vocabulary has no token {end} to end an answer"
            )));
        }
        let vocabulary = inner.get_vocab(true);
        let last = vocabulary.values().copied().max().unwrap_or_default();
        if last >= MAX_ID {
            return Err(TokenizerError(format!("token {last} is beyond {MAX_ID}")));
        }
        let added = AddedTokens::new(&inner);
        let spelling = Spelling::of(&inner)?;
        let bytes = (0..=last)
            .map(|id| match (inner.id_to_token(id), added.by_id.get(&id)) {
                (_, Some(token)) if token.special => Vec::new(),
                (_, Some(token)) => token.content.clone().into_bytes(),
                (Some(token), None) => spelling.bytes(&token),
                (None, None) => Vec::new(),
            })
            .collect();
        Ok(Self {
            bytes,
            leading_space: spelling == Spelling::SentencePiece,
            continuation: Steps::continuing(&inner)?,
            prefix: prefix(&inner)?,
            digest: vocabulary_digest(&inner, &ends),
            added,
            ends,
            inner,
        })
    }

    /// Token ids of `text`; special tokens written in it (`<|user|>`) are encoded as such.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the tokens of a prompt: those of its whole text, with special tokens only where the
    /// template, not a message, writes one, and what the tokenizer puts before a text, such as
    /// `<s>`, unless the template begins with it.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_prompt(&self, prompt: &RenderedPrompt) -> Result<Vec<u32>, TokenizerError> {
        let text = prompt.text();
        let parts = self.added.split(&text, &template_stretches(&prompt.pieces));
        let steps = Steps {
            normalizer: self.inner.get_normalizer().map(Cow::Borrowed),
            pre_tokenizer: self.inner.get_pre_tokenizer().map(Cow::Borrowed),
        };
        let ids = self.run(&text, &parts, &steps)?;
        if ids.starts_with(&self.prefix) {
            return Ok(ids);
        }
        Ok([self.prefix.as_slice(), &ids].concat())
    }

    /// Token ids of `text` as plain text that continues other text: special tokens written in it
    /// are spelled out, and the bytes of the tokens together equal the text. A SentencePiece
    /// vocabulary puts no space before it, so the answer `▁A▁dog` is the text " A dog".
    ///
    /// # Errors
    /// When the tokenizer fails on the text, or its vocabulary cannot spell it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.run(text, &[(0..text.len(), None)], &self.continuation)?;
        if !self.spells(&ids, text) {
            return Err(TokenizerError(
                "the vocabulary cannot spell this text".to_owned(),
            ));
        }
        Ok(ids)
    }

    /// Runs the tokenizer's own steps on `text`, cut into `parts`: tokens that are known, and
    /// text without special tokens.
    fn run(
        &self,
        text: &str,
        parts: &[(Range<usize>, Option<u32>)],
        steps: &Steps<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut cut = PreTokenizedString::from(text);
        let split = |_: usize, whole: NormalizedString| {
            let part = |(range, id): &(Range<usize>, Option<u32>)| {
                let slice = whole.slice(TextRange::Original(range.clone()))?;
                let token = |id| vec![Token::new(id, String::new(), (0, slice.len()))];
                Some((slice.clone(), id.map(token)))
            };
            Ok(parts.iter().filter_map(part).collect::<Vec<_>>())
        };
        cut.split(split).map_err(failed)?;
        if let Some(normalizer) = &steps.normalizer {
            cut.normalize(|text| normalizer.normalize(text))
                .map_err(failed)?;
        }
        if let Some(pre_tokenizer) = &steps.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut cut).map_err(failed)?;
        }
        cut.tokenize(|text| self.tokenize_plain(text.get()))
            .map_err(failed)?;
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::None);
        let tokens = splits
            .iter()
            .flat_map(|(_, _, tokens)| tokens.iter().flatten());
        Ok(tokens.map(|token| token.id).collect())
    }

    /// Tokens of a word. The vocabulary of a model may hold special tokens too; a word that spells
    /// one is cut within it.
    fn tokenize_plain(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.inner.get_model();
        let tokens = model.tokenize(text)?;
        if !tokens
            .iter()
            .any(|token| self.added.is_spelled(token.id, text))
        {
            return Ok(tokens);
        }
        let (mut tokens, mut from) = (Vec::new(), 0);
        for (at, first) in text.char_indices() {
            if self.added.longest_at(&text[at..]).is_some() {
                tokens.extend(model.tokenize(&text[from..at + first.len_utf8()])?);
                from = at + first.len_utf8();
            }
        }
        tokens.extend(model.tokenize(&text[from..])?);
        Ok(tokens)
    }

    /// Returns `true` if the bytes of `ids` together are those of `text`.
    pub fn spells(&self, ids: &[u32], text: &str) -> bool {
        ids.iter()
            .flat_map(|&id| self.bytes(id))
            .eq(text.as_bytes())
    }

    /// SHA-256 of the vocabulary in order of ids, and of the end tokens, as 64 hexadecimal digits:
    /// tokenizers with the same digest give every id the same meaning.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Id of a special token or word piece.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text of token `id` in the vocabulary, `<0x0A>` and `</s>` included.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Bytes of token `id`; empty for special and unknown tokens.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Text of `ids`; invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| self.bytes(id).iter().copied())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns `true` if words begin with a space even at the start of a text, as those of
    /// SentencePiece do: whoever shows an answer drops the first byte if it is a space.
    pub fn leading_space(&self) -> bool {
        self.leading_space
    }

    /// First of the tokens that end an answer.
    pub fn eos(&self) -> u32 {
        self.ends.first().copied().unwrap_or_default()
    }

    /// Tokens that end an answer; at least one.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Returns `true` if `id` ends an answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Size of the vocabulary, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }
}

fn parse(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_bytes(json).map_err(failed)
}

pub(super) fn failed(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError(error.to_string())
}

/// Byte ranges of the text that the template, not a message, wrote.
fn template_stretches(pieces: &[PromptPiece]) -> Vec<Range<usize>> {
    let (mut stretches, mut at) = (Vec::<Range<usize>>::new(), 0);
    for piece in pieces {
        let range = at..at + piece.text().len();
        at = range.end;
        match stretches.last_mut() {
            _ if piece.is_user() || range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => stretches.push(range),
        }
    }
    stretches
}

/// Steps of a tokenizer before its model.
#[derive(Debug)]
struct Steps<'a> {
    normalizer: Option<Cow<'a, NormalizerWrapper>>,
    pre_tokenizer: Option<Cow<'a, PreTokenizerWrapper>>,
}

impl Steps<'static> {
    /// Returns a tokenizer's steps without those that put a space before a text.
    fn continuing(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let normalizer = match tokenizer.get_normalizer() {
            None | Some(NormalizerWrapper::Prepend(_)) => None,
            Some(normalizer) => {
                let mut json = serde_json::to_value(normalizer).map_err(failed)?;
                if let Some(steps) = json["normalizers"].as_array_mut() {
                    steps.retain(|step| step["type"] != "Prepend");
                }
                Some(Cow::Owned(serde_json::from_value(json).map_err(failed)?))
            }
        };
        let pre_tokenizer = match tokenizer.get_pre_tokenizer() {
            None => None,
            Some(pre_tokenizer) => {
                let mut json = serde_json::to_value(pre_tokenizer).map_err(failed)?;
                without_prefix(&mut json);
                if let Some(steps) = json["pretokenizers"].as_array_mut() {
                    steps.iter_mut().for_each(without_prefix);
                }
                Some(Cow::Owned(serde_json::from_value(json).map_err(failed)?))
            }
        };
        Ok(Self {
            normalizer,
            pre_tokenizer,
        })
    }
}

fn without_prefix(step: &mut serde_json::Value) {
    if step["type"] == "Metaspace" {
        step["prepend_scheme"] = "never".into();
    } else if step["type"] == "ByteLevel" {
        step["add_prefix_space"] = false.into();
    }
}

/// Tokens that are found in a text before the model sees it.
#[derive(Debug)]
struct AddedTokens {
    by_id: HashMap<u32, AddedToken>,
    /// Texts of the tokens by their first bytes, the longest first.
    by_first: HashMap<u8, Vec<(String, u32)>>,
}

impl AddedTokens {
    fn new(tokenizer: &Tokenizer) -> Self {
        let by_id: HashMap<u32, AddedToken> =
            tokenizer.get_added_tokens_decoder().into_iter().collect();
        let mut by_first = HashMap::<u8, Vec<(String, u32)>>::new();
        for (&id, token) in &by_id {
            if let Some(&first) = token.content.as_bytes().first() {
                let texts = by_first.entry(first).or_default();
                texts.push((token.content.clone(), id));
            }
        }
        for texts in by_first.values_mut() {
            texts.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        }
        Self { by_id, by_first }
    }

    /// Returns `true` if `id` is an added token that `text` spells; the token for unknown
    /// characters is not spelled.
    fn is_spelled(&self, id: u32, text: &str) -> bool {
        let token = self.by_id.get(&id);
        token.is_some_and(|token| text.contains(&token.content))
    }

    /// Length and id of the longest token that `text` begins with.
    fn longest_at(&self, text: &str) -> Option<(usize, u32)> {
        let texts = self.by_first.get(text.as_bytes().first()?)?;
        let found = texts
            .iter()
            .find(|(token, _)| text.starts_with(token.as_str()));
        found.map(|(token, id)| (token.len(), *id))
    }

    /// Cuts `text` into the tokens that lie within `stretches` and the text between them, by the
    /// rules of Hugging Face's `AddedVocabulary`: the leftmost, then the longest; white space
    /// beside a token belongs to it if it says so.
    fn split(&self, text: &str, stretches: &[Range<usize>]) -> Vec<(Range<usize>, Option<u32>)> {
        let (mut parts, mut from) = (Vec::new(), 0);
        for stretch in stretches {
            let mut at = stretch.start;
            while let Some(first) = text[at..stretch.end].chars().next() {
                let Some((len, id)) = self.longest_at(&text[at..stretch.end]) else {
                    at += first.len_utf8();
                    continue;
                };
                let (mut start, mut end) = (at, at + len);
                at = end;
                let Some(token) = self.by_id.get(&id) else {
                    continue;
                };
                let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                let within = in_word(text[..start].chars().next_back())
                    || in_word(text[end..].chars().next());
                if token.single_word && within {
                    continue;
                }
                if token.lstrip {
                    start = text[..start].trim_end().len().max(from);
                }
                if token.rstrip {
                    end = text.len() - text[end..].trim_start().len();
                }
                if from < start {
                    parts.push((from..start, None));
                }
                parts.push((start..end, Some(id)));
                from = end;
                at = end.min(stretch.end);
            }
        }
        if from < text.len() {
            parts.push((from..text.len(), None));
        }
        parts
    }
}

/// Tokens that a tokenizer's post-processor puts before a text.
fn prefix(tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    let Some(processor) = tokenizer.get_post_processor() else {
        return Ok(Vec::new());
    };
    let text = Encoding::from_tokens(vec![Token::new(u32::MAX, String::new(), (0, 0))], 0);
    let ids = processor.process(text, None, true).map_err(failed)?;
    let before = ids.get_ids().iter().take_while(|&&id| id != u32::MAX);
    Ok(before.copied().collect())
}

fn vocabulary_digest(tokenizer: &Tokenizer, ends: &[u32]) -> String {
    let mut hash = Sha256::new();
    for id in 0..tokenizer.get_vocab_size(true) as u32 {
        let token = tokenizer.id_to_token(id).unwrap_or_default();
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    for end in ends {
        hash.update(end.to_le_bytes());
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::processor::{message::Message, template::ChatTemplate};

    #[test]
    fn encode_text_has_no_special_tokens() {
        let bundled = include_bytes!("../../../models/candor-mini/tokenizer.json");
        let tokenizer = TextTokenizer::from_bytes(bundled, "<|end|>").unwrap();
        for text in [
            "A dog.",
            "A <|end|> dog",
            "<|<|user|>|>",
            "<|user|><|assistant|>",
            "é🐕\u{0}",
            "",
        ] {
            let ids = tokenizer.encode_text(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
            assert!(
                ids.iter().all(|&id| !tokenizer.bytes(id).is_empty()),
                "{text}"
            );
        }
        assert_eq!(
            tokenizer.encode_text("A dog.").unwrap(),
            tokenizer.encode("A dog.").unwrap()
        );
    }

    #[test]
    fn digest_differs_where_ids_or_the_end_token_do() {
        let bundled = include_bytes!("../../../models/candor-mini/tokenizer.json");
        let tokenizer = |json: &[u8], eos: &str| TextTokenizer::from_bytes(json, eos).unwrap();
        let digest = tokenizer(bundled, "<|end|>").digest().to_owned();
        assert_eq!(digest.len(), 64);
        assert_eq!(tokenizer(bundled, "<|end|>").digest(), digest);
        assert_ne!(tokenizer(bundled, "<|user|>").digest(), digest);
        let renamed = String::from_utf8_lossy(bundled).replace("<|user|>", "<|human|>");
        assert_ne!(tokenizer(renamed.as_bytes(), "<|end|>").digest(), digest);
    }

    fn folder(name: &str) -> std::path::PathBuf {
        crate::vlm::processor::fixtures().join("models").join(name)
    }

    fn expected(name: &str) -> serde_json::Value {
        let text = std::fs::read(folder(name).join("expected.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn checkpoint(name: &str, ends: &[u32]) -> TextTokenizer {
        let json = std::fs::read(folder(name).join("tokenizer.json")).unwrap();
        TextTokenizer::from_checkpoint(&json, ends).unwrap()
    }

    fn ids(value: &serde_json::Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn template_text(text: &str) -> RenderedPrompt {
        RenderedPrompt {
            pieces: vec![PromptPiece::Template(text.to_owned())],
        }
    }

    const CHECKPOINTS: [&str; 4] = ["llava-old", "llava-layers", "smolvlm", "idefics3"];

    #[test]
    fn texts_have_the_ids_of_transformers() {
        for name in CHECKPOINTS {
            let tokenizer = checkpoint(name, &[2]);
            for case in expected(name)["tokenizer"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let all = tokenizer.encode_prompt(&template_text(text)).unwrap();
                assert_eq!(all, ids(&case["ids"]), "{name} {text:?}");
                let user = RenderedPrompt {
                    pieces: vec![PromptPiece::User(text.to_owned())],
                };
                let plain = tokenizer.encode_prompt(&user).unwrap();
                let plain = plain.strip_prefix(tokenizer.prefix.as_slice()).unwrap();
                assert_eq!(plain, ids(&case["ids_plain"]), "{name} {text:?}");
                let decoded = tokenizer.decode(&all);
                let decoded = match tokenizer.leading_space() {
                    true => decoded.strip_prefix(' ').unwrap_or(&decoded),
                    false => &decoded,
                };
                assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}");
                match tokenizer.encode_text(text) {
                    Ok(ids) => assert_eq!(tokenizer.decode(&ids), text, "{name}"),
                    // It writes a space in this way and cannot write the character itself.
                    Err(_) => assert!(tokenizer.leading_space() && text.contains('▁'), "{text}"),
                }
            }
        }
    }

    #[test]
    fn prompts_have_the_ids_of_transformers() {
        let mut special = 0;
        for name in CHECKPOINTS {
            let tokenizer = checkpoint(name, &[2]);
            let read = |file| std::fs::read_to_string(folder(name).join(file));
            let config: serde_json::Value =
                serde_json::from_str(&read("tokenizer_config.json").unwrap()).unwrap();
            let llava = folder("llava-layers").join("chat_template.jinja");
            let template = match read("chat_template.jinja") {
                Ok(template) => template,
                Err(_) => match config["chat_template"].as_str() {
                    Some(template) => template.to_owned(),
                    None => std::fs::read_to_string(llava).unwrap(),
                },
            };
            let template = ChatTemplate::new(&template).unwrap();
            for case in expected(name)["cases"].as_array().unwrap() {
                let label = format!("{name} {}", case["name"]);
                let rendered = case["rendered"].as_str().unwrap();
                let mut prompt = match case.get("messages") {
                    Some(messages) => {
                        let messages: Vec<Message> =
                            serde_json::from_value(messages.clone()).unwrap();
                        template.render_prompt(&messages, Some("<image>")).unwrap()
                    }
                    None => {
                        let template = vec![false; rendered.chars().count()];
                        RenderedPrompt::cut(rendered, &template, Some("<image>"))
                    }
                };
                assert_eq!(prompt.text(), rendered, "{label}");
                let expansion = |i: usize| match name.starts_with("llava") {
                    true => "<image>".repeat(image_tokens(case) / prompt_images(case)),
                    false => tiles(case["rows"][i].as_u64(), case["columns"][i].as_u64()),
                };
                prompt.expand_images(expansion);
                let found = tokenizer.encode_prompt(&prompt).unwrap();
                assert_eq!(found, ids(&case["ids"]), "{label}");
                if let Some(parsed) = case.get("ids_if_special_tokens_were_parsed") {
                    assert_ne!(found, ids(parsed), "{label}");
                    special += 1;
                }
            }
        }
        assert!(special >= 3, "{special}");
    }

    fn image_tokens(case: &serde_json::Value) -> usize {
        let ranges: Vec<[usize; 2]> = serde_json::from_value(case["image_ranges"].clone()).unwrap();
        ranges.iter().map(|[start, end]| end - start).sum()
    }

    fn prompt_images(case: &serde_json::Value) -> usize {
        case["images"].as_array().unwrap().len()
    }

    /// Text of an image cut into tiles (`processing_idefics3.py`), of 4 tokens each.
    fn tiles(rows: Option<u64>, columns: Option<u64>) -> String {
        const IMAGE: &str = "<image><image><image><image>";
        const FAKE: &str = "<fake_token_around_image>";
        let mut text = String::new();
        for row in 1..=rows.unwrap() {
            for column in 1..=columns.unwrap() {
                text += &format!("{FAKE}<row_{row}_col_{column}>{IMAGE}");
            }
            text.push('\n');
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text + &format!("{FAKE}<global-img>{IMAGE}{FAKE}")
    }

    #[test]
    fn template_that_begins_with_the_first_token_gets_no_second() {
        let tokenizer = checkpoint("llava-old", &[2]);
        let prompt = |text| tokenizer.encode_prompt(&template_text(text)).unwrap();
        assert_eq!(prompt("<s>USER: a")[0], 1);
        assert_ne!(prompt("<s>USER: a")[1], 1);
        let user = RenderedPrompt {
            pieces: vec![PromptPiece::User("<s>".to_owned())],
        };
        let ids = tokenizer.encode_prompt(&user).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
    }

    #[test]
    fn special_token_of_two_messages_is_none() {
        let tokenizer = checkpoint("smolvlm", &[2]);
        let pieces = ["<|im_", "end|>"].map(|text| PromptPiece::User(text.to_owned()));
        let prompt = RenderedPrompt {
            pieces: pieces.to_vec(),
        };
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(tokenizer.decode(&ids), "<|im_end|>");
        let half = [
            PromptPiece::User("<|im_end".to_owned()),
            PromptPiece::Template("|>".to_owned()),
        ];
        let prompt = RenderedPrompt {
            pieces: half.to_vec(),
        };
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(tokenizer.decode(&ids), "<|im_end|>");
    }

    #[test]
    fn ends_are_several() {
        let tokenizer = checkpoint("smolvlm", &[368, 2]);
        assert_eq!(
            (tokenizer.eos(), tokenizer.ends()),
            (368, [368, 2].as_slice())
        );
        assert!(tokenizer.is_end(2) && !tokenizer.is_end(1));
        assert_eq!(tokenizer.bytes(9_999_999), b"");
        let json = std::fs::read(folder("smolvlm").join("tokenizer.json")).unwrap();
        for ends in [[].as_slice(), &[2, 369]] {
            assert!(TextTokenizer::from_checkpoint(&json, ends).is_err());
        }
    }

    #[test]
    fn byte_pieces_are_single_bytes() {
        let tokenizer = checkpoint("llava-layers", &[2]);
        assert_eq!(tokenizer.bytes(tokenizer.id("<0xE6>").unwrap()), [0xE6]);
        assert_eq!(tokenizer.bytes(tokenizer.id("▁the").unwrap()), b" the");
        assert_eq!(tokenizer.bytes(tokenizer.id("<s>").unwrap()), b"");
        let ids = tokenizer.encode_text("日 a").unwrap();
        assert_eq!(ids.len(), 4, "{ids:?}");
        assert_eq!(tokenizer.decode(&ids), "日 a");
    }

    #[test]
    fn id_beyond_any_vocabulary_is_an_error() {
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 4_000_000_000_u32}, "merges": []},
        });
        let error = TextTokenizer::from_checkpoint(json.to_string().as_bytes(), &[0]);
        assert!(error.unwrap_err().to_string().contains("4000000000"));
    }

    #[test]
    fn vocabulary_with_special_tokens_spells_them_out() {
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [{
                "id": 0, "content": "<s>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }],
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "model": {
                "type": "BPE", "ignore_merges": true, "merges": [],
                "vocab": {"<s>": 0, "<": 1, "s": 2, ">": 3},
            },
        });
        let tokenizer = TextTokenizer::from_checkpoint(json.to_string().as_bytes(), &[0]).unwrap();
        assert_eq!(tokenizer.encode_text("<s>").unwrap(), [1, 2, 3]);
        assert_eq!(tokenizer.encode("<s>").unwrap(), [0]);
    }
}
