//! Bytes on disk and between members: one byte for the format's version, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version written; another one is refused.
const VERSION: u8 = 1;

/// Bytes that are not what [`encode`] writes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("it has no content")]
    Empty,
    #[error("it has format version {0}, this program knows {VERSION}")]
    Version(u8),
    #[error("it does not decode: {0}")]
    Malformed(String),
    #[error("it does not encode: {0}")]
    Unencodable(String),
}

/// # Errors
/// [`CodecError::Unencodable`], which no type used here gives: sequences of unknown length and the like.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    postcard::to_extend(value, vec![VERSION]).map_err(|error| CodecError::Unencodable(error.to_string()))
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`CodecError`] for anything else, also for bytes after the end; never panics, whatever the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&VERSION, content)) => match postcard::take_from_bytes(content) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(CodecError::Malformed("bytes after the end".into())),
            Err(error) => Err(CodecError::Malformed(error.to_string())),
        },
        Some((version, _)) => Err(CodecError::Version(*version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against bytes of another version, cut bytes and appended ones taken for content.
    #[test]
    fn only_what_was_encoded_decodes() {
        let bytes = encode(&(7u64, "seven".to_owned())).unwrap();
        assert_eq!(decode::<(u64, String)>(&bytes), Ok((7, "seven".to_owned())));
        for cut in 0..bytes.len() {
            assert!(decode::<(u64, String)>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert!(decode::<(u64, String)>(&longer).is_err());
        let newer: Vec<u8> = [2].into_iter().chain(bytes[1..].iter().copied()).collect();
        assert_eq!(decode::<(u64, String)>(&newer), Err(CodecError::Version(2)));
    }
}
