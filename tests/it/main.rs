//! The integration tests: one binary, one module an area.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod align;
mod cli;
mod cli_fuzz;
mod cycle;
mod engine;
mod eval;
mod eval_text;
mod feedback;
mod guard;
mod http;
mod parity;
mod parity_decoder;
mod parity_vision;
mod preprocess;
mod reports;
mod served;
mod server_api;
mod server_bad;
mod server_clients;
mod server_docs;
mod server_fetch;
mod server_guard;
mod server_http;
mod server_keys;
mod server_life;
mod server_meaning;
mod server_metrics;
mod server_registry;
mod server_reload;
mod server_score;
mod server_ui;
mod server_words;
mod store;
mod support;
mod train;
