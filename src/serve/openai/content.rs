//! Conversion of messages to texts and images.

use std::{borrow::Cow, ops::RangeInclusive};

use super::{
    data_url,
    lenient::{FieldRequest, Object, TextOr},
    request::{ChatMessage, ImageField, MessagePart},
};
use crate::{
    config::Config,
    serve::{
        error::{ApiError, excerpt},
        fetch::HttpsUrl,
    },
    vlm::processor::message::{Message, PromptPart},
};

/// Most bytes of text in all messages together: more than any context holds, and cheap to tokenize.
const TEXT_BYTES: usize = 256 * 1024;

/// The image of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RequestImage {
    /// Content of the file.
    File(Vec<u8>),
    /// A file to fetch.
    Remote {
        /// The URL.
        link: HttpsUrl,
        /// Field of the URL, for errors.
        path: String,
    },
}

impl RequestImage {
    /// Returns the file's size in bytes; 0 for a remote file.
    pub(crate) fn file_bytes(&self) -> usize {
        match self {
            Self::File(file) => file.len(),
            Self::Remote { .. } => 0,
        }
    }
}

/// Limits on images in requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageUrlLimits {
    /// Largest file in bytes.
    pub(crate) max_bytes: usize,
    /// `true` if `https:` URLs are allowed.
    pub(crate) fetch: bool,
}

impl ImageUrlLimits {
    /// Returns the limits of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.images.max_bytes,
            fetch: config.fetch.enabled,
        }
    }
}

/// An image with the field that holds it, for errors.
#[derive(Debug, Clone)]
pub struct NamedImage {
    /// The image.
    pub image: RequestImage,
    /// Field of the request.
    pub field: String,
}

/// Returns the messages and their images in order, of which there may be `taken`.
///
/// # Errors
/// 400 naming the message and the part.
pub(crate) fn flatten(
    messages: Vec<Object<ChatMessage<'_>>>,
    limits: ImageUrlLimits,
    taken: &RangeInclusive<usize>,
) -> Result<(Vec<Message>, Vec<NamedImage>), ApiError> {
    if messages.is_empty() {
        return Err(ApiError::param(
            "messages",
            "empty_array",
            "'messages' is empty; it must have a user message",
        ));
    }
    let last = messages.len() - 1;
    if messages
        .last()
        .is_some_and(|Object(message)| message.role == "assistant")
    {
        let message = format!(
            "'messages[{last}]' is an assistant message, and continuing one (prefill) is not \
             supported; the last message must be the user's"
        );
        return Err(ApiError::unsupported(format!("messages[{last}]"), message));
    }
    let (mut flattened, mut links) = (Vec::with_capacity(messages.len()), Vec::new());
    for (i, Object(message)) in messages.into_iter().enumerate() {
        let path = format!("messages[{i}]");
        flattened.push(read_message(message, &path, &mut links, taken)?);
    }
    if flattened.iter().map(Message::text_bytes).sum::<usize>() > TEXT_BYTES {
        let message = format!("the messages have more than the {TEXT_BYTES} bytes of text allowed");
        return Err(ApiError::param(
            "messages",
            "context_length_exceeded",
            message,
        ));
    }
    if links.len() < *taken.start() {
        let number = match (taken.start(), taken.end()) {
            (1, 1) => "exactly one image_url part is needed".to_owned(),
            (1, _) => "at least one image_url part is needed".to_owned(),
            (least, _) => format!("at least {least} image_url parts are needed"),
        };
        let message = format!("'messages' have no image; {number}");
        return Err(ApiError::param("messages", "image_missing", message));
    }
    let image = |(field, url): (String, Cow<'_, str>)| {
        Ok::<_, ApiError>(NamedImage {
            image: parse_image_url(&url, field.clone(), limits)?,
            field,
        })
    };
    let images = links.into_iter().map(image).collect::<Result<_, _>>()?;
    Ok((flattened, images))
}

/// Fields and URLs of images in order.
type Links<'a> = Vec<(String, Cow<'a, str>)>;

fn read_message<'a>(
    message: ChatMessage<'a>,
    path: &str,
    links: &mut Links<'a>,
    taken: &RangeInclusive<usize>,
) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        role @ ("tool" | "function") => {
            return Err(ApiError::unsupported(
                format!("{path}.role"),
                format!("'{path}.role': messages of role {role} are not supported"),
            ));
        }
        other => {
            let message = format!(
                "'{path}.role': `{}` is not system, developer, user or assistant",
                excerpt(other)
            );
            return Err(ApiError::param(
                format!("{path}.role"),
                "invalid_value",
                message,
            ));
        }
    };
    let unsupported = [
        ("tool_calls", message.tool_calls),
        ("function_call", message.function_call),
        ("prefix", message.prefix),
    ];
    if let Some((field, _)) = unsupported
        .into_iter()
        .find(|(_, asks)| *asks != FieldRequest::Nothing)
    {
        let path = format!("{path}.{field}");
        return Err(ApiError::unsupported(
            path.as_str(),
            format!("'{path}' is not supported by this server"),
        ));
    }
    let path = format!("{path}.content");
    let content = match message.content {
        // An earlier answer may have been a refusal, or empty.
        None if role == "assistant" => text_part(message.refusal.unwrap_or_default()),
        None => {
            return Err(ApiError::param(
                path.clone(),
                "missing_required_parameter",
                format!("'{path}' is missing"),
            ));
        }
        Some(TextOr::Text(text)) => text_part(text.into_owned()),
        Some(TextOr::List(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(i, Object(part))| read_part(part, role, &format!("{path}[{i}]"), links, taken))
            .collect::<Result<_, _>>()?,
    };
    Ok(Message {
        role: role.to_owned(),
        content,
    })
}

fn text_part(text: String) -> Vec<PromptPart> {
    vec![PromptPart::Text { text }]
}

/// Reads a part; the link of an image is added to `links`.
fn read_part<'a>(
    part: MessagePart<'a>,
    role: &str,
    path: &str,
    links: &mut Links<'a>,
    taken: &RangeInclusive<usize>,
) -> Result<PromptPart, ApiError> {
    let missing = |field: &str| {
        let path = format!("{path}.{field}");
        ApiError::param(
            path.clone(),
            "missing_required_parameter",
            format!("'{path}' is missing"),
        )
    };
    let (field, given) = match part.kind.as_str() {
        "text" | "input_text" | "output_text" => {
            let text = part.text.ok_or_else(|| missing("text"))?;
            return Ok(PromptPart::Text { text });
        }
        "refusal" => {
            let text = part.refusal.ok_or_else(|| missing("refusal"))?;
            return Ok(PromptPart::Text { text });
        }
        "image_url" | "input_image" => ("image_url", part.image_url),
        "image" => ("image", part.image),
        other => {
            let (path, kind) = (format!("{path}.type"), excerpt(other));
            return Err(ApiError::unsupported(
                path.clone(),
                format!(
                    "'{path}': parts of type `{kind}` are not supported; text and image_url are"
                ),
            ));
        }
    };
    let (url, field) = match given.ok_or_else(|| missing(field))? {
        ImageField::Url(url) => (url, format!("{path}.{field}")),
        ImageField::Object(image) => (image.url, format!("{path}.{field}.url")),
    };
    if role != "user" {
        return Err(ApiError::param(
            path,
            "invalid_value",
            format!("'{path}': only user messages can have an image"),
        ));
    }
    if links.len() >= *taken.end() {
        let message = match (links.first(), taken.end()) {
            (Some((first, _)), 1) => {
                format!("'{path}' is a second image beside '{first}'; exactly one is supported")
            }
            (_, 0) => format!("'{path}': the model takes text alone"),
            (_, most) => format!("'{path}': a request may have at most {most} images"),
        };
        return Err(ApiError::param("messages", "too_many_images", message));
    }
    links.push((field, url));
    Ok(PromptPart::Image)
}

/// Returns the image in a data URL, or the remote one that a URL names.
///
/// # Errors
/// 400 naming `path`.
pub(crate) fn parse_image_url(
    url: &str,
    path: String,
    limits: ImageUrlLimits,
) -> Result<RequestImage, ApiError> {
    // Templates and text fields may add leading whitespace; within base64 it is handled by the
    // decoder.
    let start = url.trim_ascii_start();
    let url = if start
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
    {
        start
    } else {
        url
    };
    let scheme = url
        .split(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let invalid = |what: String| {
        Err(ApiError::param(
            path.as_str(),
            "invalid_image_url",
            format!("'{path}': {what}"),
        ))
    };
    match scheme.as_str() {
        "data" => Ok(RequestImage::File(data_url::decode(
            url,
            &path,
            limits.max_bytes,
        )?)),
        "http" | "https" if !limits.fetch => Err(ApiError::fetch_disabled(&path)),
        "http" | "https" => match HttpsUrl::parse(url) {
            Ok(link) => Ok(RequestImage::Remote { link, path }),
            // The message omits the URL, which may contain a password.
            Err(why) => invalid(why.to_owned()),
        },
        _ if limits.fetch => invalid(format!(
            "`{}` is neither an https: URL nor a data: URL such as data:image/jpeg;base64,...",
            excerpt(url)
        )),
        _ => invalid(format!(
            "`{}` is not a data: URL such as data:image/jpeg;base64,...",
            excerpt(url)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_with(url: &str, fetch: bool) -> (String, &'static str) {
        let error = parse_image_url(
            url,
            "p".to_owned(),
            ImageUrlLimits {
                max_bytes: 6,
                fetch,
            },
        )
        .unwrap_err()
        .body
        .error;
        assert_eq!(error.param.as_deref(), Some("p"));
        (error.message, error.code.unwrap())
    }

    #[test]
    fn without_fetching_only_data_urls_are_accepted() {
        for url in [
            "data:image/png;base64,AAEC",
            " \n\tDATA:image/png;base64,AAEC\n",
        ] {
            let read = parse_image_url(
                url,
                "p".to_owned(),
                ImageUrlLimits {
                    max_bytes: 6,
                    fetch: false,
                },
            )
            .unwrap();
            assert_eq!(read, RequestImage::File(vec![0, 1, 2]), "{url}");
        }
        for (url, code) in [
            ("file:///etc/passwd", "invalid_image_url"),
            ("dataß", "invalid_image_url"),
            ("", "invalid_image_url"),
            ("http://127.0.0.1/x.png", "image_fetch_disabled"),
            ("HTTPS://example.org/x.png", "image_fetch_disabled"),
        ] {
            assert_eq!(refused_with(url, false).1, code, "{url}");
        }
    }

    #[test]
    fn remote_urls_must_be_https() {
        let limits = ImageUrlLimits {
            max_bytes: 6,
            fetch: true,
        };
        for good in [
            "https://example.org/x.png",
            "HTTPS://example.org",
            "https://127.0.0.1/",
            "https://[::1]:8443/x?y#z",
        ] {
            assert!(
                matches!(parse_image_url(good, "p".to_owned(), limits),
                    Ok(RequestImage::Remote { path, .. }) if path == "p"),
                "{good}"
            );
        }
        assert!(
            matches!(parse_image_url("data:image/png;base64,AAEC", "p".to_owned(), limits),
                Ok(RequestImage::File(file)) if file == [0, 1, 2])
        );
        for (url, why) in [
            ("http://example.org/x.png", "https: URLs only"),
            ("https://", "valid URL"),
            ("https://user:pw@example.org/", "no user name"),
            ("file:///etc/passwd", "neither"),
            ("ftp://example.org/x.png", "neither"),
            (" https://example.org/", "neither"),
            ("", "neither"),
        ] {
            let (message, code) = refused_with(url, true);
            assert!(
                code == "invalid_image_url" && message.contains(why),
                "{url}: {message}"
            );
        }
    }
}
