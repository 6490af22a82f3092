//! Decoding of `data:` URLs, as lenient as browsers: the content decides the type, not the media
//! type.

use std::borrow::Cow;

use base64::{
    DecodeError, Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::serve::error::{ApiError, excerpt};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes a `data:` URL (RFC 2397): percent-encoded bytes, or base64 in either alphabet, with or
/// without padding, line breaks and percent-encoding. The media type is ignored.
///
/// # Errors
/// 400 naming `path` if it is no data URL, is malformed, or decodes to more than `max_bytes`.
pub(super) fn decode(url: &str, path: &str, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let invalid = |code, what: String| ApiError::param(path, code, format!("'{path}': {what}"));
    let Some((head, data)) = url.get(5..).and_then(|rest| rest.split_once(',')) else {
        let what = format!(
            "`{}` is not a data: URL such as data:image/jpeg;base64,...",
            excerpt(url)
        );
        return Err(invalid("invalid_image_url", what));
    };
    let is_base64 = head
        .split(';')
        .skip(1)
        .any(|parameter| parameter.trim().eq_ignore_ascii_case("base64"));
    let too_large = |len: usize| {
        invalid(
            "image_too_large",
            format!("the image has {len} bytes, more than the {max_bytes} allowed"),
        )
    };
    let file = if is_base64 {
        // Nearly all data is plain base64, which needs no copy.
        let clean = match BASE64.decode(data) {
            Err(_) => normalize_base64(data),
            Ok(file) => {
                return if file.len() > max_bytes {
                    Err(too_large(file.len()))
                } else {
                    Ok(file)
                };
            }
        };
        BASE64.decode(&clean).map_err(|e| {
            invalid(
                "invalid_base64",
                format!("the data are not valid base64: {}", describe(&e)),
            )
        })?
    } else {
        percent_decode(data.as_bytes()).into_owned()
    };
    if file.len() > max_bytes {
        Err(too_large(file.len()))
    } else {
        Ok(file)
    }
}

/// Normalizes base64 from URLs, mails and command lines to the standard alphabet.
fn normalize_base64(data: &str) -> Vec<u8> {
    let standard = |byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    percent_decode(data.as_bytes())
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| standard(*byte))
        .collect()
}

/// Decodes `%2B` and the like; a `%` without two hex digits is kept.
fn percent_decode(data: &[u8]) -> Cow<'_, [u8]> {
    if !data.contains(&b'%') {
        return Cow::Borrowed(data);
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (mut out, mut rest) = (Vec::with_capacity(data.len()), data);
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        out.push(escaped.map_or(*first, |(high, low)| (high * 16 + low) as u8));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    Cow::Owned(out)
}

fn describe(error: &DecodeError) -> String {
    match error {
        DecodeError::InvalidByte(_, b'=') => "`=` before the end".to_owned(),
        DecodeError::InvalidByte(at, byte) => match char::from(*byte) {
            c if c.is_ascii_graphic() => format!("`{c}` at position {at}"),
            _ => format!("a character at position {at}"),
        },
        _ => "the last group of four characters is incomplete".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, max_bytes: usize) -> (String, &'static str) {
        let error = decode(url, "p", max_bytes).unwrap_err().body.error;
        assert_eq!(error.param.as_deref(), Some("p"));
        (error.message, error.code.unwrap())
    }

    #[test]
    fn data_urls_are_decoded_whatever_their_media_type() {
        for url in [
            "data:image/png;base64,-_8A".replace("-_", "+/"),
            "DATA:Image/JPEG;BASE64,+/8A".to_owned(),
            "data:;base64,+/8A".to_owned(),
            "data:application/octet-stream;base64,+/8A".to_owned(),
            "data:image/jpeg;charset=utf-8;base64,+/8A".to_owned(),
            "data:image/pjpeg; base64 ,+/8A".to_owned(),
            "data:image/jpeg;base64;charset=utf-8,+/8A".to_owned(),
            "data:image/png;base64,-_8A".to_owned(),
            "data:image/png;base64,%2B%2f8A".to_owned(),
            "data:image/png;base64,+/\r\n 8A\n".to_owned(),
            "data:image/png,%fb%FF%00".to_owned(),
        ] {
            assert_eq!(decode(&url, "p", 3).unwrap(), [0xfb, 0xff, 0], "{url}");
        }
        for (data, file) in [
            ("AA==", &[0][..]),
            ("AA", &[0]),
            ("AA%3D%3D", &[0]),
            ("AAE", &[0, 1]),
            ("AB==", &[0]),
            ("", &[]),
        ] {
            assert_eq!(
                decode(&format!("data:image/png;base64,{data}"), "p", 6).unwrap(),
                file,
                "{data}"
            );
        }
        assert_eq!(decode("data:,a%b%2,", "p", 6).unwrap(), b"a%b%2,");
        assert_eq!(decode("data:base64,AAAA", "p", 6).unwrap(), b"AAAA");
    }

    #[test]
    fn malformed_data_urls_are_rejected_with_a_reason() {
        for (url, code, why) in [
            (
                "data:image/png;base64,AAECAAECAAEC",
                "image_too_large",
                "9 bytes, more than the 6",
            ),
            (
                "data:image/png;base64,AAEC\nAAEC\nAAEC",
                "image_too_large",
                "9 bytes, more than the 6",
            ),
            ("data:image/png,1234567", "image_too_large", "7 bytes"),
            (
                "data:image/png;base64,AAECA",
                "invalid_base64",
                "is incomplete",
            ),
            (
                "data:image/png;base64,AA!C",
                "invalid_base64",
                "`!` at position 2",
            ),
            (
                "data:image/png;base64,AA==AAEC",
                "invalid_base64",
                "before the end",
            ),
            (
                "data:image/png;base64,AAß=",
                "invalid_base64",
                "a character at position 2",
            ),
            (
                "data:image/png;base64",
                "invalid_image_url",
                "not a data: URL",
            ),
            ("data:", "invalid_image_url", "not a data: URL"),
        ] {
            let (message, actual) = refused(url, 6);
            assert!(actual == code && message.contains(why), "{url}: {message}");
        }
        let long = format!("data:image/png;base64{}", "A".repeat(1 << 20));
        assert!(refused(&long, 6).0.len() < 300);
    }
}
