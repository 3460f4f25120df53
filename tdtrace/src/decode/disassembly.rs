//! Instructions as text, for people to read. What becomes of an instruction is decided by
//! [`super::insn`], which decodes as the kernel does; this decodes as the CPU does.

use iced_x86::{Decoder, DecoderOptions, Formatter as _, IntelFormatter};

/// The instruction at the beginning of `bytes`, which lies at `ip`, in Intel's syntax, and how many
/// bytes it has. `None` if there is none.
#[must_use]
pub fn first(bytes: &[u8], ip: u64) -> Option<(String, usize)> {
    let mut decoder = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(false);
    let mut text = String::new();
    formatter.format(&instruction, &mut text);
    Some((text, instruction.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_as_a_disassembler_prints_them() {
        let cases: [(&[u8], &str); 6] = [
            (&[0xf7, 0x47, 0x14, 1, 0, 0, 0], "test dword ptr [rdi+0x14],1"),
            (&[0x0f, 0xb6, 0x42, 0x10], "movzx eax,byte ptr [rdx+0x10]"),
            (&[0xf3, 0xa4], "rep movsb [rdi],[rsi]"),
            (&[0x89, 0x02], "mov [rdx],eax"),
            (&[0xe4, 0x71], "in al,0x71"),
            (&[0x0f, 0xa2], "cpuid"),
        ];
        for (bytes, text) in cases {
            // What follows does not belong to it.
            let padded = [bytes, &[0x90; 8]].concat();
            assert_eq!(first(&padded, 0), Some((text.to_owned(), bytes.len())));
        }
    }

    #[test]
    fn what_is_cut_off_or_no_instruction_has_no_text() {
        for bytes in [&[][..], &[0xf7, 0x47], &[0x06]] {
            assert_eq!(first(bytes, u64::MAX), None, "{bytes:x?}");
        }
    }
}
