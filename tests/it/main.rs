//! The integration tests: one binary, one module an area.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod align;
mod attack;
mod bench;
mod bombs;
mod checkpoints;
mod cli;
mod cli_fuzz;
mod collector;
mod cycle;
mod documents;
mod engine;
mod eval;
mod eval_text;
mod examples;
mod feedback;
mod figures;
mod fuzz_corpus;
mod guard;
mod honesty;
mod http;
mod hub;
mod layers;
mod models_cli;
mod operations;
mod parity;
mod parity_decoder;
mod parity_vision;
mod preprocess;
mod reader;
mod recorded;
mod replicas;
mod reports;
mod served;
mod server_abstain;
mod server_api;
mod server_bad;
mod server_clients;
mod server_connections;
mod server_docs;
mod server_evidence;
mod server_exposure;
mod server_fair;
mod server_fetch;
mod server_guard;
mod server_hosts;
mod server_http;
mod server_keys;
mod server_life;
mod server_meaning;
mod server_metrics;
mod server_registry;
mod server_reload;
mod server_score;
mod server_tenants;
mod server_traces;
mod server_ui;
mod server_words;
mod smollm2;
mod snapshot;
mod store;
mod support;
mod train;
