//! Addresses, file names and the like in a run of characters without white space.

use std::ops::Range;

/// Extensions of file names. Sorted.
const FILES: [&str; 44] = [
    "avif", "bmp", "c", "cc", "conf", "cpp", "css", "csv", "docx", "exe", "gif", "gz", "heic",
    "heif", "htm", "html", "ico", "ini", "ipynb", "jpeg", "jpg", "js", "json", "jsonl", "log",
    "md", "mov", "mp3", "mp4", "parquet", "pdf", "php", "png", "pptx", "py", "svg", "tar", "tif",
    "tiff", "txt", "webp", "xml", "yaml", "yml",
];

/// Top-level domains that are not English words. Sorted.
const HOSTS: [&str; 18] = [
    "ai", "app", "au", "ca", "cn", "co", "com", "de", "dev", "edu", "eu", "fr", "gov", "io", "jp",
    "net", "org", "uk",
];

/// Prefixes of addresses without `://`.
const SCHEMES: [&str; 4] = ["www.", "mailto:", "data:image/", "tel:+"];

/// Returns the parts of a run that are not words, in order.
pub(super) fn atoms(run: &str) -> Vec<Range<usize>> {
    let url = url(run);
    let head = &run[..url.unwrap_or(run.len())];
    let mut atoms = spelled(head);
    let mut at = 0;
    for part in head.split_inclusive([',', ';', '(', ')', '!', '?', '\'', '’']) {
        atoms.extend(atom(part).map(|range| at + range.start..at + range.end));
        at += part.len();
    }
    atoms.extend(url.map(|start| start..start + trimmed(&run[start..]).len()));
    atoms.sort_by_key(|range| range.start);
    let mut end = 0;
    atoms.retain(|range| {
        range.start >= end && {
            end = range.end;
            !range.is_empty()
        }
    });
    atoms
}

/// Returns the offset of an address.
fn url(run: &str) -> Option<usize> {
    let scheme = run.find("://").and_then(|end| {
        let start = run[..end]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'))
            .map_or(0, |at| at + 1);
        let start = run.ceil_char_boundary(start);
        (start < end).then_some(start)
    });
    let lower = run.to_ascii_lowercase();
    let named = SCHEMES.iter().filter_map(|scheme| {
        let at = lower.find(scheme)?;
        let apart = !run[..at].ends_with(char::is_alphanumeric);
        (apart && run[at + scheme.len()..].starts_with(char::is_alphanumeric)).then_some(at)
    });
    scheme.into_iter().chain(named).min()
}

/// Returns an address without the punctuation of the sentence around it.
fn trimmed(url: &str) -> &str {
    let mut url = url;
    while let Some(last) = url.chars().next_back() {
        let unmatched = last == ')' && url.matches(')').count() > url.matches('(').count();
        if !unmatched && !matches!(last, '.' | ',' | ';' | ':' | '!' | '?' | '\'' | '’' | '_') {
            break;
        }
        url = &url[..url.len() - last.len_utf8()];
    }
    url
}

/// Returns the range of an address, a file name or the like in a part of a run.
fn atom(part: &str) -> Option<Range<usize>> {
    let edge = |c: char| !c.is_alphanumeric() && !matches!(c, '.' | '/' | '~' | '#' | '@');
    let start = part.len() - part.trim_start_matches(edge).len();
    let end = part
        .trim_end_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '/' | '%'))
        .len();
    let name = part.get(start..end)?;
    let joined = |mark: char| {
        name.match_indices(mark).any(|(at, _)| {
            name[..at].ends_with(char::is_alphanumeric)
                && name[at + mark.len_utf8()..].starts_with(char::is_alphanumeric)
        })
    };
    let is_mail = joined('@')
        && name
            .rsplit('@')
            .next()
            .is_some_and(|host| host.contains('.'));
    let path = ["/", "./", "../", "~/"].iter().any(|start| {
        name.strip_prefix(start).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_'))
        })
    });
    (is_mail || path || joined('=') || is_file(name) || is_host(name)).then_some(start..end)
}

fn is_file(name: &str) -> bool {
    let Some((_, ending)) = name.rsplit_once('.') else {
        return false;
    };
    let one_case = !ending.contains(|c: char| c.is_ascii_uppercase())
        || !ending.contains(|c: char| c.is_ascii_lowercase());
    one_case
        && FILES
            .binary_search(&ending.to_ascii_lowercase().as_str())
            .is_ok()
}

fn is_host(name: &str) -> bool {
    let host = name.split(['/', ':']).next().unwrap_or_default();
    let label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.rsplit_once('.').is_some_and(|(before, ending)| {
        HOSTS.binary_search(&ending).is_ok() && before.split('.').all(label)
    })
}

/// Returns the words with letters spelled as entities or escapes: `caf&eacute;`, `caf\u00e9`.
fn spelled(run: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in run.match_indices(['&', '\\']) {
        let len = entity(&run[at..])
            .filter(|&len| is_letter(&run[at..at + len]))
            .or_else(|| escaped_letter(&run[at..]));
        let Some(len) = len else { continue };
        let letters = |c: char| c.is_alphanumeric();
        let end = run.len() - run[at + len..].trim_start_matches(letters).len();
        match found.last_mut().filter(|last| last.end >= at) {
            Some(last) => last.end = end,
            None => found.push(run[..at].trim_end_matches(letters).len()..end),
        }
    }
    found
}

/// Returns the length of the entity with which a text begins.
pub(super) fn entity(text: &str) -> Option<usize> {
    let name = text.strip_prefix('&')?;
    let name = &name[..name.bytes().take(32).position(|b| b == b';')?];
    let decimal = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let fits = match name.strip_prefix('#') {
        Some(number) => decimal(number) || number.strip_prefix(['x', 'X']).is_some_and(hexadecimal),
        None => {
            name.len() > 1
                && name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.bytes().all(|b| b.is_ascii_alphanumeric())
        }
    };
    fits.then_some(name.len() + 2)
}

/// Returns the character of a numeric entity.
pub(super) fn numbered(entity: &str) -> Option<char> {
    let number = entity.strip_prefix("&#")?.strip_suffix(';')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => number.parse().ok(),
    };
    char::from_u32(code?)
}

/// Returns `true` if an entity stands for a letter.
fn is_letter(entity: &str) -> bool {
    let name = entity.trim_matches(['&', ';']);
    let accents = [
        "acute", "grave", "circ", "uml", "tilde", "cedil", "ring", "slash", "lig", "caron",
    ];
    let accented = name.len() > 3
        && accents.iter().any(|accent| {
            name.strip_suffix(accent)
                .is_some_and(|letter| matches!(letter.len(), 1 | 2))
        });
    accented
        || matches!(name, "eth" | "ETH" | "thorn" | "THORN")
        || numbered(entity).is_some_and(char::is_alphanumeric)
}

/// Returns the length of an escape such as `\u00e9` with which a text begins, if it is a letter.
pub(super) fn escaped_letter(text: &str) -> Option<usize> {
    let code = text
        .strip_prefix("\\u")?
        .get(..4)
        .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
    char::from_u32(u32::from_str_radix(code, 16).ok()?).filter(|c| c.is_alphanumeric())?;
    Some(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(run: &str) -> Vec<&str> {
        atoms(run).into_iter().map(|range| &run[range]).collect()
    }

    #[test]
    fn lists_are_sorted_for_binary_search() {
        assert!(FILES.is_sorted() && HOSTS.is_sorted());
    }

    #[test]
    fn atoms_are_addresses_and_file_names() {
        for (run, expected) in [
            (
                "(https://example.org/a_(b)?q=1&amp;r).",
                vec!["https://example.org/a_(b)?q=1&amp;r"],
            ),
            ("photo:https://example.org,", vec!["https://example.org"]),
            ("www.example.org!", vec!["www.example.org"]),
            ("mailto:me@example.org", vec!["mailto:me@example.org"]),
            (
                "data:image/png;base64,iVBORw0KGgo=",
                vec!["data:image/png;base64,iVBORw0KGgo="],
            ),
            (
                "first.last@example.co.uk,",
                vec!["first.last@example.co.uk"],
            ),
            ("a.jpg,b.PNG;", vec!["a.jpg", "b.PNG"]),
            ("example.org/dogs/", vec!["example.org/dogs/"]),
            ("/home/dog/photo", vec!["/home/dog/photo"]),
            ("score=0.9", vec!["score=0.9"]),
            ("caf&eacute;s,", vec!["caf&eacute;s"]),
            ("na\\u00efve", vec!["na\\u00efve"]),
            ("dogs&nbsp;and", vec![]),
            ("white/black,brown", vec![]),
            ("t-shirt's", vec![]),
            ("grass.A", vec![]),
            ("3.5", vec![]),
            ("U.S.", vec![]),
        ] {
            assert_eq!(found(run), expected, "{run}");
        }
    }
}
