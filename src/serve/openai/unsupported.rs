//! Unsupported request fields. Ignoring them would change what an answer means, so they are
//! rejected by name unless their value is neutral.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Value, json};

use super::lenient::{ShortValue, is_empty};
use crate::serve::error::{ApiError, excerpt};

/// An unsupported field.
#[derive(Debug)]
pub(crate) struct UnsupportedField {
    /// Name of the field; with a trailing `*`, a prefix of names.
    pub(crate) name: &'static str,
    /// Neutral values in JSON, besides `null`.
    neutral_json: &'static [&'static str],
    /// `true` if `false`, `""`, `[]` and `{}` are neutral too.
    empty: bool,
    /// Advice for the error message; may be empty.
    advice: &'static str,
}

/// Declares a field of which only empty values are neutral.
const fn field(name: &'static str, advice: &'static str) -> UnsupportedField {
    UnsupportedField {
        name,
        neutral_json: &[],
        empty: true,
        advice,
    }
}

/// Declares a field of which these and empty values are neutral.
const fn field_unless(
    name: &'static str,
    neutral_json: &'static [&'static str],
    advice: &'static str,
) -> UnsupportedField {
    UnsupportedField {
        name,
        neutral_json,
        empty: true,
        advice,
    }
}

/// Declares a field of which only these values are neutral.
const fn field_unless_exactly(
    name: &'static str,
    neutral_json: &'static [&'static str],
    advice: &'static str,
) -> UnsupportedField {
    UnsupportedField {
        name,
        neutral_json,
        empty: false,
        advice,
    }
}

const TOP: &str = "its fields belong at the top level of the request";
const TEXT: &str = "answers are plain text";
const PENALTY: &str = "presence_penalty and frequency_penalty are";
const SAMPLING: &str = "temperature, top_p and top_k are";
const LENGTH: &str = "max_completion_tokens is";
const LAST: &str = "the last message must be the user's";
const TEMPLATE: &str = "the prompt is made by the model's own template";
const GUARD: &str = "the extension is called guard";

/// Unsupported fields, in the order of `docs/api.md`.
#[rustfmt::skip]
pub(crate) const UNSUPPORTED: &[UnsupportedField] = &[
    // Arguments of clients and other APIs.
    field("extra_body", "it is an argument of OpenAI's client for Python; its fields, such as \
                         guard, belong at the top level of the request"),
    field("options", TOP),
    field("parameters", TOP),
    field("sampling_params", TOP),
    field("generation_config", TOP),
    field("generationConfig", TOP),
    field("system", "send a message of role system"),
    field("images", "send image_url parts in messages"),
    // Tools and other forms of answers.
    field("tools", ""),
    field_unless("tool_choice", &["\"none\"", "\"auto\""], ""),
    field("functions", ""),
    field_unless("function_call", &["\"none\"", "\"auto\""], ""),
    field("audio", ""),
    field_unless("modalities", &["[\"text\"]"], TEXT),
    field_unless("response_format", &["{\"type\":\"text\"}"], TEXT),
    field_unless_exactly("web_search_options", &[], ""),
    field("prediction", ""),
    field_unless("reasoning_effort", &["\"none\"", "\"minimal\""], "the model does not reason"),
    field("reasoning", "the model does not reason"),
    field("enable_thinking", "the model does not reason"),
    field_unless("verbosity", &["\"medium\""], "max_completion_tokens bounds an answer"),
    field("suffix", ""),
    field("echo", ""),
    field("prompt_logprobs", "/v1/score has log-probabilities of given texts"),
    field("return_token_ids", "logprobs lists tokens with their bytes"),
    field("return_tokens_as_token_ids", "logprobs lists tokens with their bytes"),
    field_unless_exactly("skip_special_tokens", &["true"], ""),
    field("include_stop_str_in_output", ""),
    // Constrained decoding.
    field("guided_json", TEXT),
    field("guided_regex", TEXT),
    field("guided_choice", TEXT),
    field("guided_grammar", TEXT),
    field("guided_*", TEXT),
    field("structured_outputs", TEXT),
    field("structural_tag", TEXT),
    field("grammar", TEXT),
    field("json_schema", TEXT),
    field("regex", TEXT),
    field("ebnf", TEXT),
    field("format", TEXT),
    // Prefill and other prompts.
    field("continue_final_message", LAST),
    field_unless_exactly("add_generation_prompt", &["true"], LAST),
    field("prefix", LAST),
    field("prefill", LAST),
    field("chat_template", TEMPLATE),
    field("chat_template_kwargs", TEMPLATE),
    field("documents", "put their text into a message"),
    field("truncate_prompt_tokens", ""),
    // Adapters.
    field("lora", "the field model names what is served"),
    field("lora_path", "the field model names what is served"),
    field("lora_request", "the field model names what is served"),
    field("adapter", "the field model names what is served"),
    field("adapter_id", "the field model names what is served"),
    // Penalties.
    field("logit_bias", ""),
    field_unless("repetition_penalty", &["1"], PENALTY),
    field_unless("repeat_penalty", &["1"], PENALTY),
    field_unless("encoder_repetition_penalty", &["1"], PENALTY),
    field_unless("length_penalty", &["1"], ""),
    field_unless("no_repeat_ngram_size", &["0"], PENALTY),
    field_unless("dry_multiplier", &["0"], PENALTY),
    field("bad_words", ""),
    field("bad_words_ids", ""),
    field("banned_tokens", ""),
    field("logits_processors", ""),
    // Sampling.
    field_unless("min_p", &["0"], SAMPLING),
    field_unless("typical_p", &["1", "0"], SAMPLING),
    field_unless("typ_p", &["1", "0"], SAMPLING),
    field_unless("tfs_z", &["1"], SAMPLING),
    field_unless("top_a", &["0"], SAMPLING),
    field_unless("top_n_sigma", &["0", "-1"], SAMPLING),
    field_unless("epsilon_cutoff", &["0"], SAMPLING),
    field_unless("eta_cutoff", &["0"], SAMPLING),
    field_unless("penalty_alpha", &["0"], SAMPLING),
    field_unless("xtc_probability", &["0"], SAMPLING),
    field_unless("dynatemp_range", &["0"], SAMPLING),
    field_unless("smoothing_factor", &["0"], SAMPLING),
    field_unless("mirostat", &["0"], SAMPLING),
    field_unless("mirostat_mode", &["0"], SAMPLING),
    field_unless("best_of", &["1"], "guard.candidates writes several answers and gives the best"),
    field("use_beam_search", SAMPLING),
    field_unless("num_beams", &["1"], SAMPLING),
    field_unless("num_return_sequences", &["1"], "n is"),
    // End of an answer.
    field_unless("min_tokens", &["0"], ""),
    field_unless("min_new_tokens", &["0"], ""),
    field_unless("min_length", &["0"], ""),
    field("ignore_eos", ""),
    field("stop_token_ids", "stop takes strings"),
    field("stop_sequences", "stop is"),
    field("max_new_tokens", LENGTH),
    field("max_output_tokens", LENGTH),
    field("max_length", LENGTH),
    field_unless("n_predict", &["-1"], LENGTH),
];

/// Entry for misspellings of `guard`.
const MISSPELLED_GUARD: UnsupportedField = field("guard", GUARD);

impl UnsupportedField {
    /// Returns the entry that covers a field name.
    fn find(name: &str) -> Option<&'static Self> {
        let is = |field: &&Self| {
            field
                .name
                .strip_suffix('*')
                .map_or(name == field.name, |start| name.starts_with(start))
        };
        UNSUPPORTED
            .iter()
            .find(is)
            .or_else(|| is_almost_guard(name).then_some(&MISSPELLED_GUARD))
    }

    /// Returns all neutral values.
    pub(crate) fn neutral(&self) -> Vec<Value> {
        let empty = [Value::Null, json!(false), json!(""), json!([]), json!({})];
        let empty = empty.into_iter().take(if self.empty { 5 } else { 1 });
        // A test checks that all of them parse.
        empty
            .chain(
                self.neutral_json
                    .iter()
                    .filter_map(|text| serde_json::from_str(text).ok()),
            )
            .collect()
    }

    fn accepts(&self, value: &Value) -> bool {
        let same = |neutral_json: Value| {
            neutral_json
                .as_f64()
                .zip(value.as_f64())
                .map_or(&neutral_json == value, |(a, b)| a == b)
        };
        (self.empty && is_empty(value)) || self.neutral().into_iter().any(same)
    }

    fn error(&self, name: &str) -> ApiError {
        let name = excerpt(name);
        let neutral_json = if self.neutral_json.is_empty() {
            String::new()
        } else {
            format!(
                " with another value than {}",
                self.neutral_json.join(" or ")
            )
        };
        let advice = if self.advice.is_empty() {
            String::new()
        } else {
            format!("; {}", self.advice)
        };
        ApiError::unsupported(
            name.as_str(),
            format!("'{name}'{neutral_json} is not supported by this server{advice}"),
        )
    }

    /// Returns the description for the OpenAPI document.
    pub(crate) fn description(&self) -> String {
        let advice = if self.advice.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.advice)
        };
        format!("Not supported{advice}: only neutral values are accepted.")
    }
}

/// Returns `true` for likely misspellings of `guard`: another case, one edit, or a suffix.
fn is_almost_guard(name: &str) -> bool {
    if name == "guard" || name.len() > 32 {
        return false;
    }
    let lower = name.to_lowercase();
    lower.starts_with("guard") || strsim::damerau_levenshtein(&lower, "guard") <= 1
}

/// A request without its [`UNSUPPORTED`] fields, and the error for the first one with a value that
/// is not neutral.
pub(super) struct Screened<T> {
    pub(super) request: T,
    pub(super) refused: Option<ApiError>,
}

struct ScreenedVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ScreenedVisitor<T> {
    type Value = Screened<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut screen = Screen { map, refused: None };
        let request = T::deserialize(MapAccessDeserializer::new(&mut screen))?;
        Ok(Screened {
            request,
            refused: screen.refused,
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Screened<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ScreenedVisitor(std::marker::PhantomData))
    }
}

/// Map access that filters unsupported fields.
struct Screen<A> {
    map: A,
    refused: Option<ApiError>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Screen<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            let Some(field) = UnsupportedField::find(&name) else {
                return seed.deserialize(name.into_deserializer()).map(Some);
            };
            let ShortValue(value) = self.map.next_value()?;
            if self.refused.is_none() && !value.is_some_and(|value| field.accepts(&value)) {
                self.refused = Some(field.error(&name));
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_values_parse_and_are_accepted() {
        for field in UNSUPPORTED {
            assert_eq!(
                field.neutral().len(),
                if field.empty { 5 } else { 1 } + field.neutral_json.len(),
                "{}",
                field.name
            );
            assert!(
                field.neutral().iter().all(|value| field.accepts(value)),
                "{}",
                field.name
            );
            assert!(
                !field.accepts(&json!("something"))
                    && !field.accepts(&json!(7))
                    && !field.accepts(&json!([[]])),
                "{}",
                field.name
            );
        }
        let accepts =
            |name: &str, value: Value| UnsupportedField::find(name).unwrap().accepts(&value);
        assert!(
            accepts("repetition_penalty", json!(1))
                && accepts("repetition_penalty", json!(1.0))
                && !accepts("repetition_penalty", json!(1.1))
        );
        assert!(
            accepts("response_format", json!({"type": "text"}))
                && !accepts("response_format", json!({"type": "text", "x": 1}))
        );
        assert!(
            accepts("add_generation_prompt", json!(true))
                && !accepts("add_generation_prompt", json!(false))
        );
        assert!(!accepts("web_search_options", json!({})));
    }

    #[test]
    fn misspellings_of_guard_are_detected() {
        for name in [
            "Guard",
            "GUARD",
            "gaurd",
            "gard",
            "guards",
            "guard_mode",
            "guardMode",
            "guad",
            "quard",
            "guarrd",
        ] {
            assert!(is_almost_guard(name), "{name}");
        }
        for name in [
            "guard",
            "guid",
            "board",
            "card",
            "user",
            "store",
            "audio",
            "grammar",
            "stream",
            "metadata",
            &"guard".repeat(1_000_000),
        ] {
            assert!(!is_almost_guard(name), "{name:.40}");
        }
    }
}
