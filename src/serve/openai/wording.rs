//! Translation of serde's error messages to the API's terms, with quoted values shortened.

use std::borrow::Cow;

use crate::{
    config::nearest,
    serve::error::{ApiError, excerpt},
};

/// Error code and text for an invalid value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InputMistake {
    pub(super) code: &'static str,
    /// Predicate that follows the field's name.
    pub(super) what: String,
    /// Name of the invalid field within the one being read, if it is a nested one.
    pub(super) field: Option<String>,
}

/// Translates a message of serde.
pub(super) fn mistake(message: &str) -> InputMistake {
    let wrong = |code, what: String| InputMistake {
        code,
        what,
        field: None,
    };
    let quoted = |text: &str| text.strip_suffix('`').map(str::to_owned);
    if let Some(field) = message.strip_prefix("missing field `").and_then(quoted) {
        return InputMistake {
            code: "missing_required_parameter",
            what: "is missing".to_owned(),
            field: Some(field),
        };
    }
    if let Some(field) = message.strip_prefix("duplicate field `").and_then(quoted) {
        return InputMistake {
            code: "invalid_value",
            what: "is given twice".to_owned(),
            field: Some(field),
        };
    }
    // The expectation comes last; its text is ours.
    let Some((found, expected)) = message
        .rsplit_once(", expected ")
        .or_else(|| Some((message.strip_suffix(", there are no fields")?, "")))
    else {
        return wrong("invalid_value", translate_other(message).into_owned());
    };
    if let Some(found) = found.strip_prefix("invalid type: ") {
        return wrong(
            "invalid_type",
            format!(
                "must be {}, not {}",
                expected_type(expected),
                describe_value(found)
            ),
        );
    }
    if let Some(found) = found.strip_prefix("invalid value: ") {
        return wrong(
            "invalid_value",
            format!(
                "must be {}, not {}",
                expected_type(expected),
                describe_value(found)
            ),
        );
    }
    let names = || {
        expected
            .trim_start_matches("one of ")
            .split('`')
            .skip(1)
            .step_by(2)
    };
    let list = || names().collect::<Vec<_>>().join(", ");
    if let Some(name) = found.strip_prefix("unknown variant `").and_then(quoted) {
        return wrong(
            "invalid_value",
            format!(
                "is `{}`; it must be {}{}",
                excerpt(&name),
                if names().count() > 1 { "one of " } else { "" },
                list()
            ),
        );
    }
    if let Some(name) = found.strip_prefix("unknown field `").and_then(quoted) {
        // Long names are unlike any field, and slow to compare.
        let near = Some(&name)
            .filter(|name| name.len() <= 64)
            .and_then(|name| nearest(name, names()));
        let hint = near.map_or_else(
            || format!("the fields are {}", list()),
            |near| format!("did you mean '{near}'?"),
        );
        return wrong("invalid_value", format!("is not a known field; {hint}"));
    }
    wrong(
        "invalid_value",
        "has a value that cannot be read".to_owned(),
    )
}

/// Translates messages without an expectation.
fn translate_other(message: &str) -> Cow<'_, str> {
    const WORDS: &[(&str, &str)] = &[
        (
            "invalid digit found in string",
            "must be an integer of at least 0",
        ),
        (
            "cannot parse integer from empty string",
            "must be an integer of at least 0",
        ),
        ("number too large to fit in target type", "is too large"),
        ("number too small to fit in target type", "is too small"),
        (
            "provided string was not `true` or `false`",
            "must be true or false",
        ),
    ];
    match WORDS.iter().find(|(theirs, _)| *theirs == message) {
        Some((_, ours)) => (*ours).into(),
        None => message
            .strip_prefix("expected ")
            .map_or(message.into(), |wanted| format!("must be {wanted}").into()),
    }
}

/// Translates serde's expected type; custom visitors already use the API's terms.
fn expected_type(expected: &str) -> Cow<'_, str> {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "an integer of at least 0".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "string" | "a borrowed string" | "a character" | "variant identifier" | "string or map" => {
            "a string".into()
        }
        "a sequence" => "an array".into(),
        "a map" | "map" => "an object".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ if expected.starts_with("enum ") => "a string".into(),
        _ => expected.into(),
    }
}

/// Describes the given value briefly.
fn describe_value(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match kind {
        "null" | "unit" | "Option" => "null".to_owned(),
        "sequence" => "an array".to_owned(),
        "map" => "an object".to_owned(),
        "boolean" => value.trim_matches('`').to_owned(),
        "integer" => format!("the number {}", excerpt(value.trim_matches('`'))),
        "floating" => format!(
            "the number {}",
            excerpt(value.trim_start_matches("point ").trim_matches('`'))
        ),
        "string" => format!("the string {}", excerpt(value)),
        _ => "this".to_owned(),
    }
}

/// Returns the 400 for a query parameter from serde's message.
pub(crate) fn query_error(message: &str) -> ApiError {
    let message = message
        .split_once("query string: ")
        .map_or(message, |(_, message)| message);
    let (name, message) = message
        .split_once(": ")
        .filter(|(name, _)| !name.contains([' ', '`']))
        .unwrap_or(("", message));
    let InputMistake { code, what, field } = mistake(message);
    let name = excerpt(field.as_deref().unwrap_or(name));
    if name.is_empty() {
        return ApiError::invalid(
            "invalid_query",
            format!("the URL's parameters cannot be read: {what}"),
        );
    }
    ApiError::param(name.as_str(), code, format!("'{name}' {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_use_the_apis_terms_and_are_short() {
        let long = format!("{:?}", "x, expected y ".repeat(100_000));
        let long_field = format!("unknown field `{}`, expected `mode`", "k".repeat(100_000));
        for (theirs, code, ours) in [
            (
                "invalid type: string \"hot\", expected f64",
                "invalid_type",
                "must be a number, not the string \"hot\"",
            ),
            (
                "invalid type: floating point `1.5`, expected an integer",
                "invalid_type",
                "must be an integer, not the number 1.5",
            ),
            (
                "invalid type: sequence, expected struct ImageUrl",
                "invalid_type",
                "must be an object, not an array",
            ),
            (
                "invalid type: null, expected a map",
                "invalid_type",
                "must be an object, not null",
            ),
            (
                "invalid type: boolean `true`, expected a string",
                "invalid_type",
                "must be a string, not true",
            ),
            (
                "invalid value: integer `-1`, expected usize",
                "invalid_value",
                "must be an integer of at least 0, not the number -1",
            ),
            (
                "unknown variant `x`, expected one of `off`, `flag`",
                "invalid_value",
                "is `x`; it must be one of off, flag",
            ),
            (
                "unknown variant `x`, expected `off` or `flag`",
                "invalid_value",
                "is `x`; it must be one of off, flag",
            ),
            (
                "unknown field `mdoe`, expected one of `mode`, `window`",
                "invalid_value",
                "is not a known field; did you mean 'mode'?",
            ),
            (
                "has more than 4 items",
                "invalid_value",
                "has more than 4 items",
            ),
            (
                "expected a string or an array of strings",
                "invalid_value",
                "must be a string or an array of strings",
            ),
            (
                &long_field,
                "invalid_value",
                "is not a known field; the fields are mode",
            ),
        ] {
            let InputMistake {
                code: found,
                what,
                field: None,
            } = mistake(theirs)
            else {
                panic!("{theirs}")
            };
            assert_eq!((found, what.as_str()), (code, ours));
        }
        let cut = mistake(&format!("invalid type: string {long}, expected i64"));
        assert!(
            cut.what.len() < 200
                && cut
                    .what
                    .starts_with("must be an integer, not the string \"x, exp"),
            "{}",
            cut.what
        );
        let missing = InputMistake {
            code: "missing_required_parameter",
            what: "is missing".into(),
            field: Some("role".into()),
        };
        assert_eq!(mistake("missing field `role`"), missing);
    }

    #[test]
    fn query_errors_name_the_parameter() {
        for (theirs, param, ours) in [
            (
                "Failed to deserialize query string: limit: invalid digit found in string",
                "limit",
                "'limit' must be an integer of at least 0",
            ),
            (
                "Failed to deserialize query string: missing field `user`",
                "user",
                "'user' is missing",
            ),
            (
                "Failed to deserialize query string: order: unknown variant `up`, expected `asc` \
                 or `desc`",
                "order",
                "'order' is `up`; it must be one of asc, desc",
            ),
            (
                "Failed to deserialize query string: duplicate field `limit`",
                "limit",
                "'limit' is given twice",
            ),
        ] {
            let error = query_error(theirs).body.error;
            assert_eq!(
                (error.param.as_deref(), error.message.as_str()),
                (Some(param), ours)
            );
        }
    }
}
