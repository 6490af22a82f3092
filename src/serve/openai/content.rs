//! Messages to text and one image.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    lenient::{Asks, Object, TextOr},
    request::{ImageUrl, Message, Part},
};
use crate::{
    serve::error::{ApiError, excerpt},
    vlm::template,
};

/// Most bytes of text in all messages together: far more than a context holds, and little enough to tokenize.
const TEXT_BYTES: usize = 256 * 1024;

/// The conversation's turns, and the file of its one image.
///
/// # Errors
/// 400 that names the message and the part.
pub(crate) fn flatten(messages: Vec<Object<Message<'_>>>, max_image_bytes: usize) -> Result<(Vec<template::Message>, Vec<u8>), ApiError> {
    if messages.is_empty() {
        return Err(ApiError::param("messages", "empty_array", "'messages' is empty; it must have a user message with an image"));
    }
    let (mut turns, mut image) = (Vec::with_capacity(messages.len()), None);
    for (i, Object(message)) in messages.into_iter().enumerate() {
        turns.push(turn(message, &format!("messages[{i}]"), &mut image)?);
    }
    if turns.iter().map(|t| t.content.len()).sum::<usize>() > TEXT_BYTES {
        let message = format!("the messages have more than the {TEXT_BYTES} bytes of text allowed");
        return Err(ApiError::param("messages", "context_length_exceeded", message));
    }
    let Some((path, url)) = image else {
        return Err(ApiError::param("messages", "image_missing", "'messages' have no image; exactly one image_url part is needed"));
    };
    Ok((turns, decode(&url, &path, max_image_bytes)?))
}

type Image<'a> = Option<(String, Cow<'a, str>)>;

fn turn<'a>(message: Message<'a>, path: &str, image: &mut Image<'a>) -> Result<template::Message, ApiError> {
    let role = match message.role.as_str() {
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        role @ ("tool" | "function") => {
            return Err(ApiError::unsupported(format!("{path}.role"), format!("'{path}.role': messages of role {role} are not supported")));
        }
        other => {
            let message = format!("'{path}.role': `{}` is not system, developer, user or assistant", excerpt(other));
            return Err(ApiError::param(format!("{path}.role"), "invalid_value", message));
        }
    };
    if message.tool_calls != Asks::Nothing {
        return Err(ApiError::unsupported(format!("{path}.tool_calls"), format!("'{path}.tool_calls': tools are not supported")));
    }
    let path = format!("{path}.content");
    let content = match message.content {
        None => return Err(ApiError::param(path.clone(), "missing_required_parameter", format!("'{path}' is missing"))),
        Some(TextOr::Text(text)) => text.into_owned(),
        Some(TextOr::List(parts)) => {
            let mut texts = Vec::new();
            for (i, Object(part)) in parts.into_iter().enumerate() {
                texts.extend(read_part(part, role, &format!("{path}[{i}]"), image)?);
            }
            texts.join("\n")
        }
    };
    Ok(template::Message { role: role.to_owned(), content })
}

/// The part's text, if it is one; an image is put into `image`.
fn read_part<'a>(part: Part<'a>, role: &str, path: &str, image: &mut Image<'a>) -> Result<Option<String>, ApiError> {
    let missing = |field: &str| {
        let path = format!("{path}.{field}");
        ApiError::param(path.clone(), "missing_required_parameter", format!("'{path}' is missing"))
    };
    match part.kind.as_str() {
        "text" => part.text.map(Some).ok_or_else(|| missing("text")),
        "image_url" => {
            let Object(link) = part.image_url.ok_or_else(|| missing("image_url"))?;
            let url = read_image(link, path)?;
            if role != "user" {
                return Err(ApiError::param(path, "invalid_value", format!("'{path}': only user messages can have an image")));
            }
            if let Some((first, _)) = image {
                let message = format!("'{path}' is a second image beside '{first}'; exactly one is supported");
                return Err(ApiError::param("messages", "too_many_images", message));
            }
            *image = Some((format!("{path}.image_url.url"), url));
            Ok(None)
        }
        other => {
            let (path, kind) = (format!("{path}.type"), excerpt(other));
            Err(ApiError::unsupported(path.clone(), format!("'{path}': parts of type `{kind}` are not supported; text and image_url are")))
        }
    }
}

fn read_image<'a>(image: ImageUrl<'a>, path: &str) -> Result<Cow<'a, str>, ApiError> {
    match image.detail.as_deref() {
        // Every image is seen at the model's one size.
        None | Some("auto" | "low" | "high") => Ok(image.url),
        Some(other) => {
            let path = format!("{path}.image_url.detail");
            let message = format!("'{path}': `{}` is not auto, low or high", excerpt(other));
            Err(ApiError::param(path, "invalid_value", message))
        }
    }
}

/// The file in a `data:` URL (RFC 2397) with strict base64 (RFC 4648, section 4, padded).
pub(crate) fn decode(url: &str, path: &str, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let bad = |code, what: String| Err(ApiError::param(path, code, format!("'{path}': {what}")));
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    if scheme == "http" || scheme == "https" {
        return bad("image_fetch_disabled", "fetching images is off on this server; send the image as a data: URL".to_owned());
    }
    let Some((head, data)) = url.get(5..).filter(|_| scheme == "data").and_then(|rest| rest.split_once(',')) else {
        return bad("invalid_image_url", format!("`{}` is not a data: URL such as data:image/jpeg;base64,...", excerpt(url)));
    };
    let head = head.to_ascii_lowercase();
    let Some(media_type) = head.strip_suffix(";base64") else {
        return bad("invalid_image_url", "the data: URL must be base64 (data:image/jpeg;base64,...)".to_owned());
    };
    if !matches!(media_type, "image/jpeg" | "image/jpg" | "image/png" | "image/gif" | "image/webp" | "image/bmp") {
        let message = format!(
            "media type `{}` is not supported; image/jpeg, image/png, image/gif, image/webp and image/bmp are",
            excerpt(media_type)
        );
        return bad("invalid_image_format", message);
    }
    if data.len() / 4 * 3 > max_bytes + 2 {
        return bad("image_too_large", format!("the image has more than the {max_bytes} bytes allowed"));
    }
    BASE64_STANDARD.decode(data).or_else(|e| bad("invalid_base64", format!("the data is not valid base64: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> (String, &'static str) {
        let error = decode(url, "p", 6).unwrap_err().body.error;
        assert_eq!(error.param.as_deref(), Some("p"));
        (error.message, error.code.unwrap())
    }

    #[test]
    fn data_urls_are_read_strictly() {
        assert_eq!(decode("data:image/png;base64,AAEC", "p", 6).unwrap(), [0, 1, 2]);
        assert_eq!(decode("DATA:Image/JPEG;BASE64,AA==", "p", 6).unwrap(), [0]);
        assert_eq!(decode("data:image/png;base64,AAECAAEC", "p", 6).unwrap().len(), 6);
        for (url, code) in [
            ("data:image/png;base64,AAECAAECAAEC", "image_too_large"),
            ("data:image/png;base64,AA", "invalid_base64"),
            ("data:image/png;base64,AA EC", "invalid_base64"),
            ("data:image/png;base64,AB==", "invalid_base64"),
            ("data:image/png;base64,-_==", "invalid_base64"),
            ("data:text/html;base64,AAEC", "invalid_image_format"),
            ("data:;base64,AAEC", "invalid_image_format"),
            ("data:image/png,AAEC", "invalid_image_url"),
            ("data:image/png;base64", "invalid_image_url"),
            ("file:///etc/passwd", "invalid_image_url"),
            ("dataß", "invalid_image_url"),
            ("", "invalid_image_url"),
            ("http://127.0.0.1/x.png", "image_fetch_disabled"),
            ("HTTPS://example.org/x.png", "image_fetch_disabled"),
        ] {
            assert_eq!(refused(url).1, code, "{url}");
        }
    }
}
