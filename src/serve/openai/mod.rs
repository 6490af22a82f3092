//! OpenAI's chat completions API: request, validation, response.
//!
//! <https://platform.openai.com/docs/api-reference/chat>

pub mod check;
pub(crate) mod content;
mod data_url;
pub(crate) mod lenient;
pub mod request;
pub mod response;
pub(crate) mod schema;
pub(crate) mod unsupported;
pub(crate) mod wording;
