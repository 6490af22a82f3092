//! Which networks have not seen a photograph: five parts by the photographs' content.
//!
//! A photograph's part depends on its file alone, so that training and evaluation agree without a
//! list, and a copy under another name stays in its part.

use crate::util::digest::sha256_u64;

/// Number of parts.
pub const FOLDS: usize = 5;

/// Returns what a photograph is known by: the first eight bytes of its file's SHA-256, as a
/// big-endian number.
pub fn digest_of(file: &[u8]) -> u64 {
    sha256_u64(file)
}

/// Returns the part of a photograph, from 0, by its [digest](digest_of).
pub fn fold_of(digest: u64) -> usize {
    (digest % FOLDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_content() {
        // int.from_bytes(hashlib.sha256(b).digest()[:8], "big") % 5
        for (file, fold) in [(&b""[..], 2), (b"a", 0), (b"candor", 1), (b"photograph", 2)] {
            assert_eq!(fold_of(digest_of(file)), fold, "{file:?}");
        }
        let mut counts = [0; FOLDS];
        (0..5000u32).for_each(|i| counts[fold_of(digest_of(&i.to_le_bytes()))] += 1);
        assert!(
            counts.iter().all(|count| (880..1120).contains(count)),
            "{counts:?}"
        );
    }
}
