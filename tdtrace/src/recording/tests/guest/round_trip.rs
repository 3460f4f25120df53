//! Any sequence of a guest's samples comes back as it was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{array::uniform16, collection::vec, option, prelude::*};
use tdtrace_common::{
    guest::{CallKey, CallValue, GuestLoss, OPERATIONS, VE_REASONS, VeKey, VeStats, VeValue},
    latency::BUCKETS,
};

use super::{
    super::round_trip::{number, shared, small, text},
    example, read,
    views::shown,
    written,
};
use crate::{
    decode::bits::Hex,
    model::guest::{
        sample::{ClockState, GuestLosses, GuestProbeState, GuestSample},
        shared_bit::SharedBit,
        snapshot::Object,
    },
    recording::{GuestWriter, TEXT_MAX},
    sites::{Site, devices::Device},
    verdict::Frame,
};

fn signed() -> impl Strategy<Value = i32> {
    prop_oneof![4 => -2_i32..3, 1 => any::<i32>()]
}

fn bytes() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![Just([0; 16]), Just(*b"kworker/0:1\0\0\0\0\0"), uniform16(any::<u8>())]
}

fn stats() -> impl Strategy<Value = VeStats> {
    (vec(number(), 7), vec((0..BUCKETS, number()), 0..4)).prop_map(|(n, filled)| {
        let mut stats = VeStats {
            count: n[0],
            failed: n[1],
            user: n[2],
            own: n[3],
            unpaired: n[4],
            ns: n[5],
            max_ns: n[6],
            ..VeStats::NOTHING
        };
        filled.into_iter().for_each(|(bucket, count)| stats.buckets[bucket] = count);
        stats
    })
}

fn place() -> impl Strategy<Value = (VeKey, VeValue)> {
    let reason =
        prop_oneof![4 => prop::sample::select(vec![10, 30, 31, 32, 48]), 1 => any::<u32>()];
    let ip = prop_oneof![Just(0), Just(7), Just(0xffff_ffff_8100_0010), any::<u64>()];
    let object = prop_oneof![number(), Just(1 << 51 | 0xfed0_0000), Just(0x3f8_0000)];
    let key = (reason, small(), ip, object).prop_map(|(reason, mode, ip, object)| VeKey {
        reason,
        mode,
        ip,
        object,
    });
    let value = (vec(number(), 7), signed(), signed(), small(), bytes(), bytes()).prop_map(
        |(n, stack, errno, bytes_len, bytes, comm)| VeValue {
            count: n[0],
            failed: n[1],
            timed: n[2],
            ns: n[3],
            qualification: n[4],
            gpa: n[5],
            thread: n[6],
            stack,
            errno,
            bytes_len,
            bytes,
            comm,
            reserved: 0,
        },
    );
    (key, value)
}

fn call() -> impl Strategy<Value = (CallKey, CallValue)> {
    let operation = prop_oneof![4 => 0..OPERATIONS as u32, 1 => any::<u32>()];
    let key = (operation, signed()).prop_map(|(operation, stack)| CallKey { operation, stack });
    let value = vec(number(), 7).prop_map(|n| CallValue {
        count: n[0],
        failed: n[1],
        bytes: n[2],
        timed: n[3],
        ns: n[4],
        last_failure: n[5],
        max_ns: n[6],
    });
    (key, value)
}

fn code() -> impl Strategy<Value = Arc<Site>> {
    let frame = (text(), option::of(text()), option::of(small()))
        .prop_map(|(function, file, line)| Frame { function, file, line });
    let path = vec(any::<u8>(), 0..8).prop_map(|bytes| {
        use std::os::unix::ffi::OsStringExt as _;
        std::ffi::OsString::from_vec(bytes).into()
    });
    (
        (number(), option::of(text()), number(), option::of(text())),
        (option::of(vec(frame, 0..3)), option::of(path), option::of(text())),
        (vec(any::<u8>(), 0..16), option::of(any::<bool>())),
    )
        .prop_map(
            |(
                (address, function, offset, module),
                (chain, debug_file, note),
                (bytes, in_exception_table),
            )| {
                let site = Site {
                    address,
                    function,
                    offset,
                    module,
                    chain,
                    debug_file,
                    bytes,
                    in_exception_table,
                    note,
                };
                Arc::new(site)
            },
        )
}

fn object() -> impl Strategy<Value = Object> {
    let direction = prop::sample::select(vec!["in", "out"]);
    prop_oneof![
        (any::<u16>(), direction, option::of(any::<u8>()), any::<bool>()).prop_map(
            |(port, direction, size, string)| Object::Port { port, direction, size, string }
        ),
        (number(), option::of(any::<bool>()))
            .prop_map(|(gpa, shared)| Object::Page { gpa: Hex(gpa), shared }),
        (small(), any::<bool>()).prop_map(|(index, write)| Object::Msr { index, write }),
        (small(), small()).prop_map(|(leaf, subleaf)| Object::Cpuid { leaf, subleaf }),
    ]
}

fn device() -> impl Strategy<Value = Arc<Device>> {
    let texts = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let rest = (option::of(any::<u8>()), option::of(number()), option::of(text()), any::<bool>());
    (number(), texts, rest, vec(text(), 0..3)).prop_map(
        |(address, (pci, id, class, driver), (bar, offset, known, ram), ranges)| {
            let (address, offset) = (Hex(address), offset.map(Hex));
            Device { address, pci, id, class, driver, bar, offset, ranges, known, ram }.into()
        },
    )
}

fn losses() -> impl Strategy<Value = GuestLosses> {
    let cause = (prop::sample::select(GuestLoss::ALL.to_vec()), number());
    let missed = (text().prop_map(Into::into), number());
    (vec(cause, 0..4), vec(missed, 0..3))
        .prop_map(|(causes, misses)| GuestLosses { causes, misses })
}

/// What there is one of.
fn facts() -> impl Strategy<Value = GuestSample> {
    let probe = (text(), option::of(text()), option::of(text()), text());
    let probe = probe.prop_map(|(name, how, missing, hides)| GuestProbeState {
        name: name.into(),
        how: how.map(Into::into),
        missing,
        hides: hides.into(),
    });
    let clock = (text(), any::<bool>(), small()).prop_map(|(name, used, changes)| ClockState {
        name,
        used,
        changes,
    });
    let shared_bit = prop_oneof![
        Just(SharedBit::Unknown),
        small().prop_map(SharedBit::Kernel),
        small().prop_map(SharedBit::Given),
    ];
    (any::<u64>(), shared(), any::<[bool; 2]>(), vec(probe, 0..3), clock, shared_bit, shared())
        .prop_map(|(at, release, [is_td, assumed], probes, clock, shared_bit, symbols)| {
            GuestSample {
                at: Duration::from_nanos(at),
                release,
                is_td,
                probes: probes.into(),
                clock,
                layout_assumed: assumed,
                shared_bit,
                symbols,
                ..GuestSample::default()
            }
        })
}

fn map<K: Ord + Clone + std::fmt::Debug, V: Clone + std::fmt::Debug>(
    key: impl Strategy<Value = K>,
    value: impl Strategy<Value = V>,
) -> impl Strategy<Value = BTreeMap<K, V>> {
    prop::collection::btree_map(key, value, 0..4)
}

fn sample() -> impl Strategy<Value = GuestSample> {
    let frames = vec(number(), 0..4).prop_map(Into::into);
    (
        facts(),
        (vec((0..VE_REASONS, stats()), 0..3), vec(place(), 0..4), vec(call(), 0..3)),
        (map(signed(), frames), map(number(), shared())),
        (map(number(), code()), map(object(), device()), losses()),
    )
        .prop_map(
            |(facts, (reasons, places, calls), (stacks, names), (code, devices, losses))| {
                GuestSample {
                    reasons,
                    places,
                    calls,
                    stacks,
                    names,
                    code,
                    devices,
                    losses,
                    ..facts
                }
            },
        )
}

/// Samples of which each is the one before, or differs from it a little, or altogether.
fn samples() -> impl Strategy<Value = Vec<GuestSample>> {
    vec((sample(), 0..6), 1..6).prop_map(|steps| {
        let mut samples: Vec<GuestSample> = Vec::new();
        for (fresh, step) in steps {
            let next = match (samples.last().cloned(), step) {
                (Some(before), 0) => before,
                (Some(before), 1) => GuestSample { places: fresh.places, ..before },
                (Some(mut before), 2) => {
                    // As live: what is known stays, and more comes.
                    before.code.extend(fresh.code);
                    before.stacks.extend(fresh.stacks);
                    before.devices.extend(fresh.devices);
                    before.places.extend(fresh.places);
                    before
                }
                (Some(mut before), 3) => {
                    for ((_, old), (_, new)) in before.places.iter_mut().zip(&fresh.places) {
                        *old = *new;
                    }
                    before.places.reverse();
                    GuestSample { losses: fresh.losses, ..before }
                }
                _ => fresh,
            };
            samples.push(next);
        }
        samples
    })
}

proptest! {
    #[test]
    fn samples_come_back_equal(samples in samples()) {
        let (back, end) = read(&written(&samples));
        prop_assert_eq!(&back, &samples);
        prop_assert!(matches!(end, Ok(None)), "{:?}", end);
        // Whatever they say, it can be shown, and is the same.
        prop_assert_eq!(shown(&back), shown(&samples));
    }
}

#[test]
fn the_examples_come_back_equal() {
    for samples in [example::samples(), example::few()] {
        assert_eq!(read(&written(&samples)).0, samples);
    }
}

#[test]
fn what_did_not_move_is_not_written_again() {
    let sample = example::samples().remove(1);
    let mut writer = GuestWriter::new(Vec::new(), Duration::ZERO).unwrap();
    let mut sizes = Vec::new();
    let mut write = |sample: &GuestSample| {
        let before = writer.bytes();
        writer.write(sample).unwrap();
        sizes.push(writer.bytes() - before);
    };
    for second in 0..3 {
        write(&GuestSample { at: Duration::from_secs(second), ..sample.clone() });
    }
    let mut moved = sample.clone();
    moved.places[3].1.count += 1;
    write(&moved);
    assert!(sizes[1] < sizes[0] / 2 && sizes[1] < 3_000, "{sizes:?}");
    assert_eq!(sizes[1], sizes[2]);
    assert!(sizes[3] < sizes[2] + 300, "{sizes:?}");
}

#[test]
fn a_sample_that_fills_several_batches_comes_back_equal() {
    let mut samples = example::few();
    let (key, value) = samples[0].places[0];
    let many = (0..8_192).map(|ip| (VeKey { ip, ..key }, value));
    samples[1].places = many.collect();
    samples.push(samples[0].clone());
    assert_eq!(read(&written(&samples)).0, samples);
}

#[test]
fn what_does_not_fit_is_refused_with_what_it_is() {
    let refused = |change: &dyn Fn(&mut GuestSample)| {
        let mut sample = example::few().remove(0);
        change(&mut sample);
        let mut writer = GuestWriter::new(Vec::new(), Duration::ZERO).unwrap();
        writer.write(&sample).unwrap_err().to_string()
    };
    let error = refused(&|sample| sample.symbols = "x".repeat(TEXT_MAX + 1).into());
    assert!(error.contains("symbols has 1048577 bytes"), "{error}");
    let error = refused(&|sample| sample.reasons[0].0 = VE_REASONS);
    assert!(error.contains("it has reason 96"), "{error}");
    let error = refused(&|sample| {
        let object = Object::Port { port: 1, direction: "up", size: None, string: false };
        sample.devices.insert(object, Arc::default());
    });
    assert!(error.contains("a port's direction is up"), "{error}");
    let error = refused(&|sample| sample.at = Duration::MAX);
    assert!(error.contains("too long"), "{error}");
}
