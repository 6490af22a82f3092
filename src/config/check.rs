//! Validation of the configuration's values.

use std::{borrow::Cow, fmt::Display};

use crate::{feedback::queue::PriorityWeights, guard::ClassThresholds, telemetry::collector_url};

use super::{
    Auto, Config, FetchSection, GuardSection,
    address::{host_port, is_address, is_host, is_origin},
    keys,
    sections::{MAX_CHOICES, MAX_RATE, MOST_IMAGES, MOST_ITEMS, largest_image},
};

/// Returns the options with invalid values, each with what is wrong.
pub(super) fn check(config: &Config) -> Vec<(Cow<'static, str>, String)> {
    let mut found = Vec::new();
    let mut must = |ok: bool, key: &'static str, what: &dyn Display| {
        if !ok {
            found.push((Cow::Borrowed(key), what.to_string()));
        }
    };
    let Config {
        keys,
        server,
        limits,
        model,
        registry,
        admin,
        engine,
        generation,
        guard,
        score,
        images,
        fetch,
        feedback,
        receipts,
        queue,
        cycle,
        metrics,
        tracing,
        log,
    } = config;
    let addresses = [
        ("server.listen", Some(&server.listen)),
        (
            "server.operations_listen",
            server.operations_listen.as_ref(),
        ),
        ("metrics.listen", metrics.listen.as_ref()),
    ];
    for (key, address) in addresses {
        must(
            address.is_none_or(|a| is_address(a)),
            key,
            &"must be HOST:PORT, such as 127.0.0.1:8080",
        );
    }
    let twice = server.operations_listen != Auto::Auto && metrics.listen != Auto::Auto;
    must(
        !twice,
        "metrics.listen",
        &"is the older name of server.operations_listen; set only one of them",
    );
    let positive = [
        ("server.max_connections", server.max_connections as u64),
        ("server.max_concurrent", server.max_concurrent as u64),
        ("server.max_body_bytes", server.max_body_bytes as u64),
        (
            "server.max_body_memory_bytes",
            server.max_body_memory_bytes as u64,
        ),
        ("server.min_body_rate", server.min_body_rate),
        ("server.read_timeout_s", server.read_timeout_s),
        ("server.write_timeout_s", server.write_timeout_s),
        ("server.request_timeout_s", server.request_timeout_s),
        ("limits.max_choices", limits.max_choices as u64),
        ("engine.max_batch", engine.max_batch as u64),
        ("engine.max_prefills", engine.max_prefills as u64),
        ("engine.stall_after_s", engine.stall_after_s),
        ("queue.lease_s", queue.lease_s),
        ("queue.max_skips", queue.max_skips.into()),
        ("score.max_items", score.max_items as u64),
        ("score.max_tokens", score.max_tokens as u64),
        ("images.max_bytes", images.max_bytes as u64),
        ("images.max_per_request", images.max_per_request as u64),
        ("images.max_pixels", images.max_pixels),
        ("images.max_memory_bytes", images.max_memory_bytes),
    ];
    positive
        .iter()
        .for_each(|&(key, value)| must(value > 0, key, &"must be at least 1"));
    let positive_or_auto = [
        (
            "server.max_connections_per_address",
            server.max_connections_per_address,
        ),
        ("model.threads", model.threads),
        ("engine.prefill_chunk", engine.prefill_chunk),
        ("engine.context_len", engine.context_len),
        ("generation.max_tokens", generation.max_tokens),
        ("images.workers", images.workers),
    ];
    positive_or_auto.iter().for_each(|&(key, value)| {
        must(
            value != Auto::Value(0),
            key,
            &"must be at least 1, or \"auto\"",
        )
    });
    must(
        engine.kv_cache_bytes != Auto::Value(0),
        "engine.kv_cache_bytes",
        &"must be at least 1, or \"auto\"",
    );
    let bounded = [
        (
            "images.max_per_request",
            images.max_per_request,
            MOST_IMAGES,
        ),
        ("server.max_connections", server.max_connections, 1 << 20),
        ("server.max_concurrent", server.max_concurrent, 1 << 16),
        ("server.max_body_bytes", server.max_body_bytes, 1 << 30),
        (
            "server.max_body_memory_bytes",
            server.max_body_memory_bytes,
            1 << 40,
        ),
        ("limits.max_choices", limits.max_choices, MAX_CHOICES),
        (
            "limits.requests_per_minute",
            limits.requests_per_minute as usize,
            MAX_RATE as usize,
        ),
        (
            "limits.tokens_per_minute",
            limits.tokens_per_minute as usize,
            MAX_RATE as usize,
        ),
        ("engine.max_batch", engine.max_batch, 1 << 12),
        ("engine.max_waiting", engine.max_waiting, 1 << 16),
        ("score.max_items", score.max_items, MOST_ITEMS),
        ("score.max_tokens", score.max_tokens, 1 << 16),
        ("model.threads", model.threads.value().unwrap_or(1), 1 << 10),
        (
            "images.workers",
            images.workers.value().unwrap_or(1),
            1 << 10,
        ),
    ];
    bounded.iter().for_each(|&(key, value, most)| {
        must(value <= most, key, &format_args!("must be at most {most}"))
    });
    must(
        !server.key_file.is_empty(),
        "server.key_file",
        &"must be a file or off",
    );
    must(
        !model.name.is_empty(),
        "model.name",
        &"must name a bundle or a directory",
    );
    must(
        (0.0..=2.0).contains(&generation.temperature),
        "generation.temperature",
        &"must be between 0 and 2",
    );
    let invalid = server
        .cors_origins
        .iter()
        .find(|origin| !is_origin(origin))
        .map_or("", String::as_str);
    must(
        server.cors_origins.iter().all(|origin| is_origin(origin)),
        "server.cors_origins",
        &format_args!(
            "`{invalid}` is neither * nor an origin as browsers write it, such as \
             https://app.example.org or http://localhost:5173"
        ),
    );
    let invalid = server
        .allowed_hosts
        .iter()
        .find(|host| !is_host(host))
        .map_or("", String::as_str);
    must(
        server.allowed_hosts.iter().all(|host| is_host(host)),
        "server.allowed_hosts",
        &format_args!(
            "`{invalid}` is neither * nor the name or address of a host, without a port, such as \
             candor.example.org"
        ),
    );
    check_guard(guard, &mut must);
    let largest = largest_image(server.max_body_bytes);
    let (size, body) = (images.max_bytes, server.max_body_bytes);
    let what = format!(
        "is {size}, but must be at most {largest} for an image to fit, as base64, in \
         server.max_body_bytes, which is {body}"
    );
    must(size <= largest, "images.max_bytes", &what);
    check_fetch(fetch, &mut must);
    must(!cycle.dir.is_empty(), "cycle.dir", &"must be a folder");
    must(
        !registry.dir.is_empty(),
        "registry.dir",
        &"must be a folder or off",
    );
    must(
        admin.is_valid(),
        "admin.key_sha256",
        &"must be the 64 hex digits of the key's SHA-256, or off",
    );
    let is_database = ["sqlite:", "postgres:", "postgresql:"]
        .iter()
        .any(|scheme| feedback.store.starts_with(scheme));
    must(
        is_database || !feedback.enabled(),
        "feedback.store",
        &"must be sqlite:PATH, postgres://USER@HOST/DATABASE or off",
    );
    let is_folder_or_bucket = !feedback.images.is_empty()
        && (!feedback.images.contains("://") || feedback.images.starts_with("s3://"));
    must(
        is_folder_or_bucket,
        "feedback.images",
        &"must be a folder or s3://BUCKET/PREFIX",
    );
    let retention = humantime::parse_duration(&receipts.retention);
    must(
        retention.is_ok(),
        "receipts.retention",
        &"must be a time such as 7d, 12h or 0s",
    );
    for (key, share) in [
        ("queue.unassisted_share", queue.unassisted_share),
        ("queue.overlap_share", queue.overlap_share),
    ] {
        must(
            (0.0..=1.0).contains(&share),
            key,
            &"must be between 0 and 1",
        );
    }
    must(
        queue.lease_s <= 1 << 32,
        "queue.lease_s",
        &format_args!("must be at most {}", 1u64 << 32),
    );
    let PriorityWeights {
        closeness,
        disagreement,
        novelty,
    } = queue.weights;
    let weights = [
        ("queue.weights.closeness", closeness),
        ("queue.weights.disagreement", disagreement),
        ("queue.weights.novelty", novelty),
    ];
    weights.iter().for_each(|&(key, weight)| {
        must(
            (0.0..=1e6).contains(&weight),
            key,
            &"must be between 0 and 1000000",
        )
    });
    if let Some(url) = tracing.otlp_endpoint.as_ref().filter(|url| *url != "off") {
        let checked = collector_url(url);
        must(
            checked.is_ok(),
            "tracing.otlp_endpoint",
            &checked.err().unwrap_or_default(),
        );
    }
    must(
        (0.0..=1.0).contains(&tracing.sample_ratio),
        "tracing.sample_ratio",
        &"must be between 0 and 1",
    );
    must(
        !tracing.headers_file.is_empty(),
        "tracing.headers_file",
        &"must be a file or off",
    );
    let level = log.level.parse::<tracing_subscriber::EnvFilter>();
    must(
        level.is_ok() && !log.level.is_empty(),
        "log.level",
        &"must be error, warn, info, debug, trace or directives such as info,candor::engine=debug",
    );
    found.extend(
        keys::check(keys)
            .into_iter()
            .map(|(key, what)| (Cow::Owned(key), what)),
    );
    found
}

fn check_guard(guard: &GuardSection, must: &mut impl FnMut(bool, &'static str, &dyn Display)) {
    for (key, share) in [
        ("guard.threshold", guard.threshold),
        ("guard.target_fpr", guard.target_fpr),
    ] {
        must(
            share.value().is_none_or(|s| (0.0..=1.0).contains(&s)),
            key,
            &"must be between 0 and 1, or \"auto\"",
        );
    }
    const CLASSES: [&str; 5] = [
        "guard.thresholds.object",
        "guard.thresholds.attribute",
        "guard.thresholds.count",
        "guard.thresholds.action",
        "guard.thresholds.relation",
    ];
    for (key, (_, share)) in CLASSES
        .into_iter()
        .zip(ClassThresholds::from(guard.thresholds).entries())
    {
        must(
            share.is_none_or(|s| (0.0..=1.0).contains(&s)),
            key,
            &"must be between 0 and 1, or \"auto\"",
        );
    }
    let both = guard.threshold != Auto::Auto && guard.target_fpr != Auto::Auto;
    must(
        !both,
        "guard.target_fpr",
        &"cannot be given together with guard.threshold",
    );
    must(
        (0.0..=1.0).contains(&guard.abstain_below),
        "guard.abstain_below",
        &"must be between 0 and 1",
    );
    must(
        guard.max_attempts <= 1_000_000,
        "guard.max_attempts",
        &"must be at most 1000000",
    );
}

fn check_fetch(fetch: &FetchSection, must: &mut impl FnMut(bool, &'static str, &dyn Display)) {
    must(
        fetch.timeout_s > 0,
        "fetch.timeout_s",
        &"must be at least 1",
    );
    must(
        fetch.max_redirects <= 3,
        "fetch.max_redirects",
        &"must be at most 3",
    );
    must(
        (1..=1024).contains(&fetch.max_concurrent),
        "fetch.max_concurrent",
        &"must be between 1 and 1024",
    );
    let bad = fetch.allow.iter().find(|entry| host_port(entry).is_none());
    must(
        bad.is_none(),
        "fetch.allow",
        &format_args!(
            "`{}` is not HOST:PORT, such as store.internal:443",
            bad.map_or("", |b| b)
        ),
    );
}
