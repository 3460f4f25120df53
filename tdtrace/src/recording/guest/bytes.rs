//! Bytes in a text: as hex, or as characters where they are any.

use std::fmt::Write as _;

use super::super::row::Malformed;

/// Two hex digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of [`hex`].
pub(super) fn from_hex(text: &str) -> Result<Vec<u8>, Malformed> {
    let bytes = text.as_bytes();
    let pairs = bytes.chunks(2).map(|pair| byte(pair).ok_or(Malformed("bytes that are not hex")));
    pairs.collect()
}

fn byte(digits: &[u8]) -> Option<u8> {
    let [high, low] = *digits else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Printable ASCII as it is, other bytes and the backslash as `\` and two hex digits.
pub(super) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if matches!(byte, b' '..=b'~') && *byte != b'\\' {
            text.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "\\{byte:02x}");
        }
        text
    })
}

/// The bytes of [`escaped`].
pub(super) fn unescaped(text: &str) -> Result<Vec<u8>, Malformed> {
    let odd = Malformed("a text whose escapes make no sense");
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'\\' {
            let (digits, behind) = behind.split_at_checked(2).ok_or(odd)?;
            bytes.push(byte(digits).ok_or(odd)?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_readable_and_what_is_no_character_is_escaped() {
        assert_eq!(escaped(b"kworker/0:1"), "kworker/0:1");
        assert_eq!(escaped(b"a\\\0\xff"), "a\\5c\\00\\ff");
        for odd in ["\\", "\\0", "\\zz", "\\0\u{e9}"] {
            assert!(unescaped(odd).is_err(), "{odd}");
        }
        for odd in ["0", "0g", "+1"] {
            assert!(from_hex(odd).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(&from_hex(&hex(&bytes)).unwrap(), &bytes);
            prop_assert_eq!(&unescaped(&escaped(&bytes)).unwrap(), &bytes);
        }

        #[test]
        fn any_text_gives_bytes_or_is_refused(text in any::<String>()) {
            drop((from_hex(&text), unescaped(&text)));
        }
    }
}
