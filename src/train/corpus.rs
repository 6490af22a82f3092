//! Captions and questions as training rows.

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
    template::{ChatTemplate, Message},
    tokenizer::TextTokenizer,
};

/// The token that ends an answer.
pub const END: &str = "<|end|>";

const SPECIAL: [&str; 4] = ["<|pad|>", "<|user|>", "<|assistant|>", END];

/// Ways to ask for a description, one a line; repeated lines are asked more often.
const CAPTION_PROMPTS: &str = include_str!("caption_prompts.txt");

/// How questions begin: so that they, too, are whole words to the tokenizer.
const QUESTION_PHRASES: &str = "is there a\nis there an\nare there any\nwhat color is the\nwhat \
                                color are the\nhow many\nwhat is the\nwhat are the\nwhere is \
                                the\nwho is\n\
doing\nwearing\nYes.\nNo.\ndoes the\ncan you see\nphoto\nphotograph\npicture\nimage\nplease\nin \
the image?\nin the photo?\nin this picture?";

/// The phrases that prompts are made of.
pub fn prompt_phrases() -> impl Iterator<Item = &'static str> {
    CAPTION_PROMPTS.lines().chain(QUESTION_PHRASES.lines())
}

/// Returns `true` if a prompt is one of those that ask for a description of the whole image, or
/// none at all, which asks for one too.
pub fn asks_for_description(prompt: &str) -> bool {
    let bare = |text: &str| text.trim().trim_end_matches(['.', '?', '!']).to_lowercase();
    let prompt = bare(prompt);
    prompt.is_empty() || CAPTION_PROMPTS.lines().any(|line| bare(line) == prompt)
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

/// Turns an image's captions into rows.
pub struct Corpus<'a> {
    tokenizer: &'a TextTokenizer,
    template: &'a ChatTemplate,
    questions: &'a QaBuilder<'a>,
    /// Most question/answer pairs a row.
    pub questions_per_image: usize,
}

impl<'a> Corpus<'a> {
    /// A corpus in the given vocabulary and template.
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

    /// Tokens of a user's turn, up to where the answer begins.
    pub fn prompt(
        tokenizer: &TextTokenizer,
        template: &ChatTemplate,
        text: &str,
    ) -> Result<Vec<u32>, TrainError> {
        let message = Message {
            role: "user".into(),
            content: text.into(),
        };
        let prompt = template
            .render(&[message])
            .map_err(|e| TrainError::Run(e.to_string()))?;
        tokenizer
            .encode(&prompt)
            .map_err(|e| TrainError::Run(e.to_string()))
    }

    /// A sentence and the token that ends it.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let mut tokens = self
            .tokenizer
            .encode(text)
            .map_err(|e| TrainError::Run(e.to_string()))?;
        tokens.push(self.tokenizer.eos());
        Ok(tokens)
    }

    /// A random way to ask for a description.
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

    /// All captions behind one request for a description, and some questions; the choice is a
    /// function of `seed`.
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
