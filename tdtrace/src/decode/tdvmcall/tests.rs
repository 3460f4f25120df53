use proptest::prelude::*;

use super::*;

fn call(registers: &[u64]) -> Tdvmcall {
    decode(&given(registers), None, None)
}

fn given(registers: &[u64]) -> Registers {
    let mut all = Registers::default();
    for (slot, value) in all.0.iter_mut().zip(registers) {
        *slot = Some(*value);
    }
    all
}

fn argument<'a>(call: &'a Tdvmcall, name: &str) -> &'a Argument {
    call.arguments.iter().find(|argument| argument.name == name).unwrap()
}

fn meaning<'a>(call: &'a Tdvmcall, name: &str) -> &'a str {
    argument(call, name).meaning.as_deref().unwrap()
}

#[test]
fn an_mmio_write_has_size_direction_address_and_value() {
    let write = call(&[0, 48, 4, 1, 1 << 51 | 0xfee0_0000, 0xff]);
    assert_eq!(write.name, Some("MMIO"));
    assert_eq!(meaning(&write, "size"), "4 bytes");
    assert_eq!(meaning(&write, "direction"), "write");
    assert_eq!(argument(&write, "gpa").sharing, Some(Sharing::Shared));
    assert_eq!(argument(&write, "value").value, Hex(0xff));
    assert!(write.host.is_some_and(|host| host.contains("49")));
}

#[test]
fn a_read_does_not_use_the_value_register() {
    let read = call(&[0, 48, 8, 0, 1 << 51, 0xff]);
    assert_eq!(read.arguments.len(), 3);
    assert_eq!(read.unused, [Unused { register: "r15", value: Hex(0xff) }]);
    assert!(call(&[0, 30, 1, 0, 0x3f8]).missing.is_empty());
    assert_eq!(call(&[0, 30, 1, 1, 0x3f8]).missing, ["r15"]);
}

#[test]
fn what_kvm_refuses_is_said_to_be_refused() {
    let io = call(&[0, 30, 8, 2, 0x1_03f8, 0]);
    assert_eq!(meaning(&io, "size"), "not 1, 2 or 4: INVALID_OPERAND");
    assert!(meaning(&io, "direction").contains("INVALID_OPERAND"));
    assert_eq!(argument(&io, "port").unknown_bits, Hex(0x1_0000));
    assert!(meaning(&call(&[0, 48, 4, 0, 0xfee0_0000]), "gpa").contains("INVALID_OPERAND"));
    assert!(meaning(&call(&[0, 0x10004, 31]), "vector").contains("INVALID_OPERAND"));
    assert_eq!(meaning(&call(&[0, 0x10004, 32]), "vector"), "vector 32");
    assert!(meaning(&call(&[0, 0x10000, 2]), "leaf").contains("INVALID_OPERAND"));
    assert!(meaning(&call(&[0, 0x10001, 0, 4095]), "size").contains("ALIGN_ERROR"));
    assert!(meaning(&call(&[0, 0x10001, 1, 4096]), "start").contains("ALIGN_ERROR"));
}

#[test]
fn the_shared_bit_of_the_start_is_the_direction_of_a_conversion() {
    let registers = [0, 0x10001, 1 << 47 | 0x1000_0000, 0x20_0000];
    assert_eq!(argument(&call(&registers), "start").sharing, Some(Sharing::Unknown));
    let known = decode(&given(&registers), Some(SharedBit::Bit47), Some(1));
    assert_eq!(meaning(&known, "start"), "to shared");
    assert_eq!(meaning(&known, "size"), "512 pages of 4 KiB");
    assert_eq!(known.status.unwrap().name, Some("RETRY"));
    assert_eq!(meaning(&call(&[0, 0x10001, 0x1000]), "start"), "to private");
}

#[test]
fn instruction_leaves_have_their_arguments() {
    let cpuid = call(&[0, 10, 0x4000_0000, 0]);
    assert_eq!(meaning(&cpuid, "leaf"), "a hypervisor's leaf");
    assert!(meaning(&call(&[0, 10, 7, 0]), "leaf").contains("zeros"));
    assert_eq!(meaning(&call(&[0, 12, 1]), "interrupts-blocked"), "yes");
    assert_eq!(argument(&call(&[0, 31, 0x10]), "msr").value, Hex(0x10));
    assert_eq!(argument(&call(&[0, 32, 0x10, 5]), "value").value, Hex(5));
    assert_eq!(argument(&call(&[0, 0x10002, 1 << 51, 0x2_0000]), "size").value, Hex(0x2_0000));
}

#[test]
fn a_fatal_errors_message_is_read_from_its_registers() {
    let word = |text: &[u8; 8]| u64::from_le_bytes(*text);
    let fatal = call(&[0, 0x10003, 0, 0, word(b"out of m"), word(b"emory\n\x1b["), 0x7e]);
    assert_eq!(meaning(&fatal, "code"), "code 0");
    assert_eq!(fatal.message.as_deref(), Some("out of memory\\n\\x1b[~"));
    assert_eq!(call(&[0, 0x10003, 1]).message, None);
    let more = call(&[0, 0x10003, 1 << 63 | 2, 0x1000]);
    assert_eq!(meaning(&more, "code"), "code 2, more at the address in R13");
}

#[test]
fn unknown_leaves_keep_their_number_and_registers() {
    let unknown = call(&[0, 0x10006, 7]);
    assert_eq!((unknown.leaf, unknown.name), (Hex(0x10006), None));
    assert_eq!(unknown.unused, [Unused { register: "r12", value: Hex(7) }]);
    let wide = call(&[0, 1 << 32 | 48, 4]);
    assert_eq!((wide.leaf, wide.name), (Hex(1 << 32 | 48), None));
}

#[test]
fn a_kvm_hypercall_has_its_own_statuses() {
    let call = decode(&given(&[12, 0x1000, 1, 0, 0]), None, Some(u64::MAX - 21));
    assert_eq!((call.kind, call.name), (Kind::KvmHypercall, Some("MAP_GPA_RANGE")));
    assert_eq!((call.arguments[0].register, call.arguments.len()), ("r11", 4));
    assert_eq!(call.status.unwrap().name, Some("-EINVAL"));
    let standard = decode(&given(&[0, 31, 0x10]), None, Some(u64::MAX - 21));
    assert_eq!(standard.status.unwrap().name, None);
}

proptest! {
    #[test]
    fn every_register_that_was_given_is_accounted_for(
        leaf in prop_oneof![
            any::<u64>(),
            prop::sample::select(tdx::TDVMCALL_LEAVES).prop_map(|row| u64::from(row.0)),
        ],
        r10 in prop_oneof![Just(0), any::<u64>()],
        mut values in prop::array::uniform12(prop::option::of(prop_oneof![0..3_u64, any::<u64>()])),
        status: Option<u64>,
    ) {
        values[0] = Some(r10);
        values[1] = Some(leaf);
        let call = decode(&Registers(values), None, status);
        let fatal = call.kind == Kind::Standard && leaf == u64::from(tdx::REPORT_FATAL_ERROR);
        let gap = values[R14..].iter().position(Option::is_none).map_or(12, |at| at + R14);
        for (index, value) in values.iter().enumerate() {
            let (register, Some(value)) = (REGISTERS[index], *value) else { continue };
            let as_argument = call.arguments.iter().filter(|argument| {
                argument.register == register && argument.value == Hex(value)
            });
            let as_unused = call.unused.iter().filter(|unused| {
                unused.register == register && unused.value == Hex(value)
            });
            let in_message = fatal && (R14..gap).contains(&index);
            let is_leaf = index == 0 || index == 1 && call.kind == Kind::Standard;
            let places = as_argument.count()
                + as_unused.count()
                + usize::from(in_message)
                + usize::from(is_leaf);
            prop_assert!(places == 1 || places == 0 && value == 0, "{register} {call:?}");
        }
        if fatal {
            let bytes: usize = (gap - R14) * 8;
            prop_assert!(call.message.map_or(0, |message| message.len()) <= bytes * 4);
        }
    }
}
