//! SHA-256 digests, as bytes, hexadecimal digits or a number.

use std::ops::Deref;

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of `bytes`.
pub fn sha256(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hex(&sha256(bytes))
}

/// Returns the first eight bytes of the SHA-256 of `bytes` as a big-endian number, uniform over
/// `u64` for all practical purposes.
pub fn sha256_u64(bytes: impl AsRef<[u8]>) -> u64 {
    sha256(bytes)
        .iter()
        .take(8)
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Returns `bytes` as lower-case hexadecimal digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content of a file with its SHA-256.
#[derive(Debug)]
pub struct HashedFile {
    bytes: Vec<u8>,
    hash: [u8; 32],
}

impl HashedFile {
    /// Computes the digest of a file, which takes time: call it on a blocking thread.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            hash: sha256(&bytes),
            bytes,
        }
    }

    /// Returns the SHA-256 of the content.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

impl Deref for HashedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_hex_agrees_with_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256_hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(sha256_u64("abc"), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn hex_writes_two_lower_case_digits_a_byte() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
        assert_eq!(hex(&[]), "");
    }
}
