//! Training rows of captions and derived questions.

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokenizers::{
    AddedToken, Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{
    TrainError,
    qa::QaBuilder,
    rows::{ResponseBranch, TextRow},
    text::normalize_caption,
};
use crate::eval::data::flickr8k::Image;
use crate::vlm::{
    processor::tokenizer::TextTokenizer,
    processor::{message::Message, template::ChatTemplate},
};

/// End-of-answer token.
pub const END: &str = "<|end|>";

const SPECIAL: [&str; 4] = ["<|pad|>", "<|user|>", "<|assistant|>", END];

/// Requests for a description, one per line; repeated lines are drawn more often.
const CAPTION_PROMPTS: &str = include_str!("caption_prompts.txt");

/// Common phrases of questions and answers, so that the tokenizer learns them as whole words.
const QUESTION_PHRASES: &str = "is there a\nis there an\nare there any\nwhat color is the\nwhat \
                                color are the\nhow many\nwhat is the\nwhat are the\nwhere is \
                                the\nwho is\n\
doing\nwearing\nYes.\nNo.\ndoes the\ncan you see\nphoto\nphotograph\npicture\nimage\nplease\nin \
the image?\nin the photo?\nin this picture?";

/// Phrases that prompts are built from.
pub fn prompt_phrases() -> impl Iterator<Item = &'static str> {
    CAPTION_PROMPTS.lines().chain(QUESTION_PHRASES.lines())
}

/// Returns `true` if a prompt is one of the known requests for a description, or empty, which also
/// requests one.
pub fn asks_for_description(prompt: &str) -> bool {
    let normalized = |text: &str| text.trim().trim_end_matches(['.', '?', '!']).to_lowercase();
    let prompt = normalized(prompt);
    prompt.is_empty()
        || CAPTION_PROMPTS
            .lines()
            .any(|line| normalized(line) == prompt)
}

/// Trains a byte-level BPE on `lines`.
///
/// # Errors
/// When the trainer fails.
pub fn train_tokenizer(lines: &[String], vocab_size: usize) -> Result<Tokenizer, TrainError> {
    let failed = |e: tokenizers::Error| TrainError::Run(format!("training the tokenizer: {e}"));
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = SPECIAL.map(|t| AddedToken::from(t, true)).to_vec();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    tokenizer
        .train(&mut trainer, lines.iter())
        .map_err(failed)?;
    Ok(tokenizer)
}

/// Builder of training rows from captioned images.
pub struct Corpus<'a> {
    tokenizer: &'a TextTokenizer,
    template: &'a ChatTemplate,
    questions: &'a QaBuilder<'a>,
    /// Maximum question-answer pairs per row.
    pub questions_per_image: usize,
}

impl<'a> Corpus<'a> {
    /// Creates a builder for a tokenizer and a chat template.
    pub fn new(
        tokenizer: &'a TextTokenizer,
        template: &'a ChatTemplate,
        questions: &'a QaBuilder<'a>,
        questions_per_image: usize,
    ) -> Self {
        Self {
            tokenizer,
            template,
            questions,
            questions_per_image,
        }
    }

    /// Tokens of a prompt: the rendered user message up to where the answer begins.
    pub fn prompt(
        tokenizer: &TextTokenizer,
        template: &ChatTemplate,
        text: &str,
    ) -> Result<Vec<u32>, TrainError> {
        let message = Message::text("user", text);
        let prompt = template
            .render(&[message])
            .map_err(|e| TrainError::Run(e.to_string()))?;
        tokenizer
            .encode(&prompt)
            .map_err(|e| TrainError::Run(e.to_string()))
    }

    /// Tokens of a sentence and the end token.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let mut tokens = self
            .tokenizer
            .encode(text)
            .map_err(|e| TrainError::Run(e.to_string()))?;
        tokens.push(self.tokenizer.eos());
        Ok(tokens)
    }

    /// Tokens of a randomly chosen request for a description.
    pub fn caption_prompt(
        tokenizer: &TextTokenizer,
        template: &ChatTemplate,
        rng: &mut impl Rng,
    ) -> Result<Vec<u32>, TrainError> {
        let prompts: Vec<&str> = CAPTION_PROMPTS.lines().collect();
        Self::prompt(
            tokenizer,
            template,
            prompts.choose(rng).copied().unwrap_or_default(),
        )
    }

    /// Row of all captions behind one request for a description, and some questions; deterministic
    /// in `seed`.
    pub fn row(&self, image: &Image, seed: u64) -> Result<TextRow, TrainError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let prompt = Self::caption_prompt(self.tokenizer, self.template, &mut rng)?;
        let mut branches = Vec::new();
        for caption in &image.captions {
            branches.push(ResponseBranch {
                after_prompt: true,
                tokens: self.answer(&normalize_caption(caption))?,
                learn_from: 0,
            });
        }
        for qa in self
            .questions
            .pairs(image, &mut rng, self.questions_per_image)
        {
            let mut tokens = Self::prompt(self.tokenizer, self.template, &qa.question)?;
            let learn_from = tokens.len();
            tokens.extend(self.answer(&qa.answer)?);
            branches.push(ResponseBranch {
                after_prompt: false,
                tokens,
                learn_from,
            });
        }
        Ok(TextRow { prompt, branches })
    }
}
