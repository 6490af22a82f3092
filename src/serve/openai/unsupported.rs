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
    taken: &'static [&'static str],
    /// `true` if `false`, `""`, `[]` and `{}` are neutral too.
    empty: bool,
    /// Advice for the error message; may be empty.
    instead: &'static str,
}

/// Declares a field of which only empty values are neutral.
const fn any(name: &'static str, instead: &'static str) -> UnsupportedField {
    UnsupportedField {
        name,
        taken: &[],
        empty: true,
        instead,
    }
}

/// Declares a field of which these and empty values are neutral.
const fn but(
    name: &'static str,
    taken: &'static [&'static str],
    instead: &'static str,
) -> UnsupportedField {
    UnsupportedField {
        name,
        taken,
        empty: true,
        instead,
    }
}

/// Declares a field of which only these values are neutral.
const fn only(
    name: &'static str,
    taken: &'static [&'static str],
    instead: &'static str,
) -> UnsupportedField {
    UnsupportedField {
        name,
        taken,
        empty: false,
        instead,
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
    any("extra_body", "it is an argument of OpenAI's client for Python; its fields, such as guard, \
                       belong at the top level of the request"),
    any("options", TOP),
    any("parameters", TOP),
    any("sampling_params", TOP),
    any("generation_config", TOP),
    any("generationConfig", TOP),
    any("system", "send a message of role system"),
    any("images", "send image_url parts in messages"),
    // Tools and other forms of answers.
    any("tools", ""),
    but("tool_choice", &["\"none\"", "\"auto\""], ""),
    any("functions", ""),
    but("function_call", &["\"none\"", "\"auto\""], ""),
    any("audio", ""),
    but("modalities", &["[\"text\"]"], TEXT),
    but("response_format", &["{\"type\":\"text\"}"], TEXT),
    only("web_search_options", &[], ""),
    any("prediction", ""),
    but("reasoning_effort", &["\"none\"", "\"minimal\""], "the model does not reason"),
    any("reasoning", "the model does not reason"),
    any("enable_thinking", "the model does not reason"),
    but("verbosity", &["\"medium\""], "max_completion_tokens bounds an answer"),
    any("suffix", ""),
    any("echo", ""),
    any("prompt_logprobs", "/v1/score has log-probabilities of given texts"),
    any("return_token_ids", "logprobs lists tokens with their bytes"),
    any("return_tokens_as_token_ids", "logprobs lists tokens with their bytes"),
    only("skip_special_tokens", &["true"], ""),
    any("include_stop_str_in_output", ""),
    // Constrained decoding.
    any("guided_json", TEXT),
    any("guided_regex", TEXT),
    any("guided_choice", TEXT),
    any("guided_grammar", TEXT),
    any("guided_*", TEXT),
    any("structured_outputs", TEXT),
    any("structural_tag", TEXT),
    any("grammar", TEXT),
    any("json_schema", TEXT),
    any("regex", TEXT),
    any("ebnf", TEXT),
    any("format", TEXT),
    // Prefill and other prompts.
    any("continue_final_message", LAST),
    only("add_generation_prompt", &["true"], LAST),
    any("prefix", LAST),
    any("prefill", LAST),
    any("chat_template", TEMPLATE),
    any("chat_template_kwargs", TEMPLATE),
    any("documents", "put their text into a message"),
    any("mm_processor_kwargs", ""),
    any("truncate_prompt_tokens", ""),
    // Adapters.
    any("lora", "the field model names what is served"),
    any("lora_path", "the field model names what is served"),
    any("lora_request", "the field model names what is served"),
    any("adapter", "the field model names what is served"),
    any("adapter_id", "the field model names what is served"),
    // Penalties.
    any("logit_bias", ""),
    but("repetition_penalty", &["1"], PENALTY),
    but("repeat_penalty", &["1"], PENALTY),
    but("encoder_repetition_penalty", &["1"], PENALTY),
    but("length_penalty", &["1"], ""),
    but("no_repeat_ngram_size", &["0"], PENALTY),
    but("dry_multiplier", &["0"], PENALTY),
    any("bad_words", ""),
    any("bad_words_ids", ""),
    any("banned_tokens", ""),
    any("logits_processors", ""),
    // Sampling.
    but("min_p", &["0"], SAMPLING),
    but("typical_p", &["1", "0"], SAMPLING),
    but("typ_p", &["1", "0"], SAMPLING),
    but("tfs_z", &["1"], SAMPLING),
    but("top_a", &["0"], SAMPLING),
    but("top_n_sigma", &["0", "-1"], SAMPLING),
    but("epsilon_cutoff", &["0"], SAMPLING),
    but("eta_cutoff", &["0"], SAMPLING),
    but("penalty_alpha", &["0"], SAMPLING),
    but("xtc_probability", &["0"], SAMPLING),
    but("dynatemp_range", &["0"], SAMPLING),
    but("smoothing_factor", &["0"], SAMPLING),
    but("mirostat", &["0"], SAMPLING),
    but("mirostat_mode", &["0"], SAMPLING),
    but("best_of", &["1"], "guard.candidates writes several answers and gives the best"),
    any("use_beam_search", SAMPLING),
    but("num_beams", &["1"], SAMPLING),
    but("num_return_sequences", &["1"], "n is"),
    // End of an answer.
    but("min_tokens", &["0"], ""),
    but("min_new_tokens", &["0"], ""),
    but("min_length", &["0"], ""),
    any("ignore_eos", ""),
    any("stop_token_ids", "stop takes strings"),
    any("stop_sequences", "stop is"),
    any("max_new_tokens", LENGTH),
    any("max_output_tokens", LENGTH),
    any("max_length", LENGTH),
    but("n_predict", &["-1"], LENGTH),
];

/// Entry for misspellings of `guard`.
const MISSPELT_GUARD: UnsupportedField = any("guard", GUARD);

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
            .or_else(|| is_almost_guard(name).then_some(&MISSPELT_GUARD))
    }

    /// Returns all neutral values.
    pub(crate) fn neutral(&self) -> Vec<Value> {
        let empty = [Value::Null, json!(false), json!(""), json!([]), json!({})];
        let empty = empty.into_iter().take(if self.empty { 5 } else { 1 });
        // A test checks that all of them parse.
        empty
            .chain(
                self.taken
                    .iter()
                    .filter_map(|text| serde_json::from_str(text).ok()),
            )
            .collect()
    }

    fn takes(&self, value: &Value) -> bool {
        let same = |taken: Value| {
            taken
                .as_f64()
                .zip(value.as_f64())
                .map_or(&taken == value, |(a, b)| a == b)
        };
        (self.empty && is_empty(value)) || self.neutral().into_iter().any(same)
    }

    fn refuse(&self, name: &str) -> ApiError {
        let name = excerpt(name);
        let taken = if self.taken.is_empty() {
            String::new()
        } else {
            format!(" with another value than {}", self.taken.join(" or "))
        };
        let instead = if self.instead.is_empty() {
            String::new()
        } else {
            format!("; {}", self.instead)
        };
        ApiError::unsupported(
            name.as_str(),
            format!("'{name}'{taken} is not supported by this server{instead}"),
        )
    }

    /// Returns the description for the OpenAPI document.
    pub(crate) fn description(&self) -> String {
        let instead = if self.instead.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.instead)
        };
        format!("Not supported{instead}: only neutral values are accepted.")
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
            if self.refused.is_none() && !value.is_some_and(|value| field.takes(&value)) {
                self.refused = Some(field.refuse(&name));
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
    fn values_that_ask_for_nothing_are_json_and_taken() {
        for field in UNSUPPORTED {
            assert_eq!(
                field.neutral().len(),
                if field.empty { 5 } else { 1 } + field.taken.len(),
                "{}",
                field.name
            );
            assert!(
                field.neutral().iter().all(|value| field.takes(value)),
                "{}",
                field.name
            );
            assert!(
                !field.takes(&json!("something"))
                    && !field.takes(&json!(7))
                    && !field.takes(&json!([[]])),
                "{}",
                field.name
            );
        }
        let takes = |name: &str, value: Value| UnsupportedField::find(name).unwrap().takes(&value);
        assert!(
            takes("repetition_penalty", json!(1))
                && takes("repetition_penalty", json!(1.0))
                && !takes("repetition_penalty", json!(1.1))
        );
        assert!(
            takes("response_format", json!({"type": "text"}))
                && !takes("response_format", json!({"type": "text", "x": 1}))
        );
        assert!(
            takes("add_generation_prompt", json!(true))
                && !takes("add_generation_prompt", json!(false))
        );
        assert!(!takes("web_search_options", json!({})));
    }

    #[test]
    fn misspelt_guards_are_found_and_other_names_are_not() {
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
