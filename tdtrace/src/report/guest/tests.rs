use std::time::Duration;

use tdtrace_common::guest::{GuestLoss, VeInfo};

use super::*;
use crate::model::guest::{
    sample::{GuestLosses, GuestProbeState},
    snapshot::{Object, ObjectCount, Total},
};

fn snapshot() -> GuestSnapshot {
    GuestSnapshot {
        at: Duration::from_secs(2),
        release: "6.12.1".into(),
        probes: vec![GuestProbeState {
            name: "ve".into(),
            how: None,
            missing: Some("this kernel has no tdx_handle_virt_exception".into()),
            hides: "every #VE".into(),
        }]
        .into(),
        total: Total { count: 7, failed: 2, user: 1, own: 3, unpaired: 0 },
        missed: 5,
        objects: vec![ObjectCount {
            object: Object::Port { port: 0x60, direction: "in", size: Some(1), string: true },
            count: 2,
            failed: 2,
            rate: None,
            device: None,
        }],
        losses: GuestLosses {
            causes: vec![(GuestLoss::Places, 4)],
            misses: vec![("ve_fexit".into(), 5), ("ve_fentry".into(), 0)],
        },
        ..GuestSnapshot::default()
    }
}

#[test]
fn the_text_says_what_was_seen_what_was_missed_and_why_a_probe_is_not_there() {
    let text = to_text(&snapshot(), 10);
    assert!(text.contains("12 #VEs in 2.0 s: 7 seen, 5 missed; 2 failed"), "{text}");
    assert!(text.contains("without ve: this kernel has no tdx_handle_virt_exception"), "{text}");
    assert!(text.contains("lost: places 4, ve_fexit missed 5\n"), "{text}");
    assert!(text.contains("in 0x60/1 string"), "{text}");
    assert!(text.contains("no times"), "{text}");
}

#[test]
fn the_json_has_the_same_numbers() {
    let json = to_json(&snapshot(), 10);
    assert_eq!((json["ve"]["all"].as_u64(), json["ve"]["missed"].as_u64()), (Some(12), Some(5)));
    assert_eq!(json["ve"]["seen"]["own"], 3);
    assert_eq!(json["lost"]["causes"]["places"], 4);
    assert_eq!(json["objects"][0]["object"]["kind"], "port");
    assert_eq!(json["probes"][0]["hides"], "every #VE");
}

#[test]
fn an_event_is_one_line() {
    let event = VeEvent {
        sequence: 1,
        ve: VeInfo { reason: 30, qualification: 0x60_0008, ..VeInfo::default() },
        comm: [b'\n'; 16],
        ..VeEvent::default()
    };
    let line = event_line(&event, SharedBit::Unknown);
    assert_eq!(line.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (value["sequence"].as_u64(), value["qualification"].as_str()),
        (Some(1), Some("0x600008"))
    );
}

#[test]
fn tables_are_cut_at_the_limit_and_say_so() {
    let rows: Vec<Vec<String>> = (0..5).map(|n| vec![n.to_string()]).collect();
    let text = aligned(&["n"], &rows, 2);
    assert_eq!(text, "  n\n  0\n  1\n  … and 3 more\n");
}
