//! Recordings of a guest that somebody made: checksums are right, everything else is a lie.

use proptest::prelude::*;

use super::{
    super::hostile::{of_batches, of_rows},
    example, read,
    views::shown,
    written,
};
use crate::recording::{GuestReader, Reader, Side, kind::Kind, schema::Cells, side};

fn failure(bytes: &[u8]) -> String {
    let (samples, end) = read(bytes);
    assert!(samples.is_empty());
    end.unwrap_err().to_string()
}

#[test]
fn whose_a_recording_is_is_known_and_the_other_command_refuses_it() {
    let guests = written(&example::few());
    let hosts = written(&super::super::example::few());
    assert_eq!((side(&guests[..]).unwrap(), side(&hosts[..]).unwrap()), (Side::Guest, Side::Host));
    let told = Reader::new(&guests[..]).err().unwrap().to_string();
    let expected =
        "this is the recording of a guest; show it with `tdtrace guest stat --replay FILE`";
    assert_eq!(told, expected);
    let told = GuestReader::new(&hosts[..]).err().unwrap().to_string();
    assert_eq!(told, "this is the recording of a host; show it with `tdtrace top --replay FILE`");
    assert!(side(&b"hello"[..]).is_err());
}

fn row(kind: Kind) -> Cells<'static> {
    Cells { kind: kind.name(), record: "fact", ..Cells::default() }
}

#[test]
fn rows_that_make_no_guest_are_refused_with_what_is_wrong() {
    let guest = row(Kind::Td);
    let odd = |index| Cells { index, ..row(Kind::StackFrame) };
    for (rows, why) in [
        (vec![], "no guest"),
        (vec![row(Kind::Release)], "neither TD nor none"),
        (vec![row(Kind::Kvm)], "a probe without its name"),
        (vec![row(Kind::Probe), row(Kind::Vms)], "a row that no guest has"),
        (vec![Cells { kind: "colour", ..guest }], "a kind that is not known"),
        (vec![row(Kind::PlaceCount)], "something that is not listed"),
        (vec![row(Kind::VePlaces), row(Kind::VePlace), row(Kind::VePlace)], "one thing twice"),
        (
            vec![row(Kind::VePlace), row(Kind::VePlaces), Cells { value: 1, ..row(Kind::VePlace) }],
            "one number for two things",
        ),
        (vec![Cells { index: 96, ..row(Kind::VeReason) }], "a reason that is not known"),
        (vec![Cells { value: 1 << 32, ..row(Kind::Call) }], "a number that is too large"),
        (vec![row(Kind::VePlace), row(Kind::PlaceBytes)], "other bytes than there can be"),
        (vec![row(Kind::VePlace), Cells { text: "\\", ..row(Kind::PlaceComm) }], "escapes"),
        (vec![row(Kind::Stack), odd(1)], "a frame of another stack"),
        (vec![row(Kind::Stack), row(Kind::Stack), guest], "something said twice"),
        (vec![row(Kind::Code), row(Kind::CodeFrame)], "a chain of functions"),
        (vec![row(Kind::Code), row(Kind::CodeChain), row(Kind::CodeLine)], "a chain of functions"),
        (vec![row(Kind::Code), Cells { address: 1, ..row(Kind::CodeNote) }], "other code"),
        (vec![Cells { address: 1 << 16, ..row(Kind::DevicePort) }], "no #VE is about"),
        (vec![row(Kind::DevicePage), Cells { value: 256, ..row(Kind::DeviceBar) }], "too large"),
        (vec![Cells { index: 8, ..row(Kind::GuestLost) }, guest], "a cause that does not exist"),
    ] {
        let error = failure(&of_rows(Side::Guest, rows));
        assert!(error.contains("damaged at byte 0") && error.contains(why), "{why}: {error}");
    }
}

#[test]
fn what_grows_beyond_any_guest_is_refused() {
    // Each row is small in the file and large in memory.
    let reasons = (1..400_000_u32).map(|slot| Cells { slot, ..row(Kind::VeReason) });
    let mut bytes = Vec::new();
    for part in reasons.collect::<Vec<_>>().chunks(crate::recording::ROWS_MAX) {
        bytes.push(part.to_vec());
    }
    let error = failure(&of_batches(Side::Guest, bytes));
    assert!(error.contains("a sample that is larger than any guest's"), "{error}");
}

fn cells() -> impl Strategy<Value = Cells<'static>> {
    let guests: Vec<Kind> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| {
            matches!(kind, Kind::Td | Kind::Probe | Kind::DurationMax | Kind::DurationCount)
                || (Kind::Td..=Kind::DeviceRam).contains(kind)
                || (Kind::VeCount..=Kind::CallNs).contains(kind)
        })
        .collect();
    let text =
        prop::sample::select(vec!["", "acme", "00112233445566778899aabbccddeeff", "\u{1b}["]);
    let value = prop_oneof![0_u64..4, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
    let index = prop::sample::select(vec![0, 1, 10, 30, 31, 48, 95]);
    (prop::sample::select(guests), text, value, index, 0_u32..3, any::<u32>(), 0_u64..2).prop_map(
        |(kind, text, value, index, slot, size, address)| Cells {
            text,
            value,
            index,
            slot,
            size,
            address,
            ..row(kind)
        },
    )
}

proptest! {
    #[test]
    fn rows_at_random_are_refused_or_shown_without_a_panic(
        rows in prop::collection::vec(cells(), 0..12),
    ) {
        let listed = [Kind::VeReason, Kind::VePlace, Kind::Call].map(row);
        let rows = [Kind::Td].map(row).into_iter().chain(listed).chain(rows);
        let (samples, _) = read(&of_rows(Side::Guest, rows));
        for text in shown(&samples) {
            prop_assert!(!text.contains('\u{1b}'), "{}", text);
        }
    }
}
