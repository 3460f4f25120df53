//! What the numeric kinds of `tdtrace decode` share: numbers from arguments, and how what was
//! decoded goes to standard output.

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::decode::{
    bits::Hex,
    exit::VmxExit,
    gpa::{Gpa, SharedBit},
};

/// The most that an error repeats of an argument, in characters.
const MAX_QUOTE: usize = 40;

/// How to print
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// One JSON object a value instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Width of a TD's guest physical addresses.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GpaWidth {
    /// The shared bit is bit 47
    #[value(name = "48")]
    Bits48,
    /// The shared bit is bit 51
    #[value(name = "52")]
    Bits52,
}

impl From<GpaWidth> for SharedBit {
    fn from(width: GpaWidth) -> Self {
        match width {
            GpaWidth::Bits48 => Self::Bit47,
            GpaWidth::Bits52 => Self::Bit51,
        }
    }
}

/// Reads a number: decimal, or with 0x or 0b; underscores between the digits are skipped.
///
/// # Errors
/// What is no number, or has more than 64 bits, by name.
pub(super) fn parse(text: &str) -> Result<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        _ => (text, 10),
    };
    let mut number = Some(0_u64);
    let mut any = false;
    for digit in digits.chars().filter(|digit| *digit != '_') {
        let Some(digit) = digit.to_digit(radix) else {
            bail!("{} is not a number; give decimal digits, 0x and hex or 0b", quote(text));
        };
        any = true;
        number = number
            .and_then(|number| number.checked_mul(radix.into()))
            .and_then(|number| number.checked_add(digit.into()));
    }
    if !any {
        bail!("{} is not a number; give decimal digits, 0x and hex or 0b", quote(text));
    }
    number.with_context(|| format!("{} does not fit into 64 bits", quote(text)))
}

/// Reads a number of no more than 32 bits, called `what` in errors.
///
/// # Errors
/// As [`parse`], and what needs more bits.
pub(super) fn parse_u32(text: &str, what: &str, next: &str) -> Result<u32> {
    u32::try_from(parse(text)?)
        .map_err(|_| anyhow!("{what} {} does not fit into 32 bits; {next}", quote(text)))
}

/// The argument in quotes, without control characters and cut where it is very long.
fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Decodes all `values`, then prints them.
///
/// # Errors
/// The first value that is no number: nothing is printed then.
pub(super) fn run_each<T: Serialize>(
    values: &[String],
    output: &Output,
    decode: impl Fn(&str) -> Result<T>,
    text: impl Fn(&T) -> Vec<String>,
) -> Result<ExitCode> {
    let decoded = values.iter().map(|value| decode(value)).collect::<Result<Vec<_>>>()?;
    print(&decoded, output, text)
}

/// Prints one JSON object or some lines of text a value: the first line whole, the others indented.
///
/// # Errors
/// Standard output cannot be written; a reader that has enough is no error.
pub(super) fn print<T: Serialize>(
    decoded: &[T],
    output: &Output,
    text: impl Fn(&T) -> Vec<String>,
) -> Result<ExitCode> {
    let mut out = String::new();
    for value in decoded {
        if output.json {
            out += &serde_json::to_string(value)?;
        } else {
            out += &text(value).join("\n  ");
        }
        out += "\n";
    }
    match io::stdout().lock().write_all(out.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// `NAME`, or that there is none.
pub(super) fn name_or_unknown(name: Option<&'static str>) -> &'static str {
    name.unwrap_or("unknown")
}

/// `, unknown bits 0x…` if there are any.
pub(super) fn unknown(bits: Hex) -> String {
    if bits.is_zero() { String::new() } else { format!(", unknown bits {bits}") }
}

/// Flags and unknown bits of a word on one line.
pub(super) fn flags(names: &[&str], unknown_bits: Hex) -> String {
    let names = if names.is_empty() { "no flags".into() } else { names.join(" ") };
    names + &unknown(unknown_bits)
}

/// `48 EPT_VIOLATION` with its flags.
pub(super) fn exit(exit: &VmxExit) -> String {
    let flags = exit.flags.iter().fold(String::new(), |text, flag| text + ", " + flag);
    let (basic, name) = (exit.basic, name_or_unknown(exit.name));
    format!("{basic} {name}{flags}{}", unknown(exit.unknown_bits))
}

/// An address and whose memory it is.
pub(super) fn gpa(gpa: &Gpa) -> String {
    format!("{} {}{}", gpa.value, gpa.sharing.name(), unknown(gpa.unknown_bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_decimal_hex_or_binary_with_underscores() {
        for (text, number) in [
            ("48", 48),
            ("0x30", 48),
            ("0X3_0", 48),
            ("0b11_0000", 48),
            ("1_000", 1000),
            ("010", 10),
            ("0xffff_ffff_ffff_ffff", u64::MAX),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        for text in ["", "_", "0x", "0b_", "0b2", "dead", "-1", "+1", "0x-1", "1.0", "4 8", "é"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a number")), "{error}");
        }
        for text in ["0x10000000000000000", "18446744073709551616"] {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} does not fit into 64 bits"));
        }
        assert!(parse(&"é".repeat(1000)).unwrap_err().to_string().len() < 200);
        assert_eq!(
            parse_u32("0x1_0000_0000", "leaf", "look again").unwrap_err().to_string(),
            "leaf \"0x1_0000_0000\" does not fit into 32 bits; look again"
        );
    }

    proptest! {
        #[test]
        fn any_argument_is_a_number_or_an_error(text in any::<String>()) {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }

        #[test]
        fn every_number_is_read_back(number: u64) {
            prop_assert_eq!(parse(&number.to_string()).unwrap(), number);
            prop_assert_eq!(parse(&format!("{number:#x}")).unwrap(), number);
            prop_assert_eq!(parse(&format!("{number:#b}")).unwrap(), number);
        }
    }
}
