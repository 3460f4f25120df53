//! What is printed.

use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::model::{
    aggregate::Aggregate,
    seam::SeamSample,
    snapshot::Snapshot,
    testing::{after, booting, on_tdx_host, samples, snapshot, software},
};

fn json(snapshot: &Snapshot, filter: Option<&str>) -> Value {
    let filter = filter.map(|text| Filter::parse(text).unwrap());
    to_json(snapshot, Show { hotspots: 20, filter: filter.as_ref(), boot: false })
}

fn text(snapshot: &Snapshot, filter: Option<&str>) -> String {
    let filter = filter.map(|text| Filter::parse(text).unwrap());
    to_text(snapshot, Show { hotspots: 20, filter: filter.as_ref(), boot: false })
}

#[test]
fn text_has_times_and_durations() {
    insta::assert_snapshot!("text", text(&snapshot(), None));
}

#[test]
fn the_timeline_of_a_td_is_text_if_it_is_asked_for_and_always_json() {
    let snapshot = after(booting());
    assert!(!text(&snapshot, None).contains("BOOT"));
    let show = Show { hotspots: 20, filter: None, boot: true };
    let text = to_text(&snapshot, show);
    let begin = text.find("BOOT").unwrap();
    let end = begin + text[begin..].find("\nVM ").unwrap();
    insta::assert_snapshot!("boot", text[begin..end]);
    let vms = json(&snapshot, None)["vms"].clone();
    assert!(vms[0]["boot"].is_null());
    let boot = &vms[1]["boot"];
    assert_eq!((&boot["began_ns"], &boot["seen_from_start"]), (&0.into(), &true.into()));
    assert_eq!(boot["settled_ns"], 46_000_000_000_u64);
    assert_eq!(boot["interval_ns"], 2_000_000_000_u64);
    let intervals = boot["intervals"].as_array().unwrap();
    assert_eq!(intervals.len(), 45);
    let sum = |of: &dyn Fn(&Value) -> &Value| {
        intervals.iter().map(|row| of(row).as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum(&|row| &row["exits"]), vms[1]["exits"].as_u64().unwrap());
    assert_eq!(sum(&|row| &row["groups"]["fw_cfg"]), 54_000);
    assert_eq!(sum(&|row| &row["groups"]["pio"]), 1_800);
    assert_eq!(sum(&|row| &row["mapped"]), vms[1]["mapped"].as_u64().unwrap());
    assert_eq!(sum(&|row| &row["converted"]["to_shared"]), 26 << 21);
    assert_eq!(
        sum(&|row| &row["times_ns"]["halted"]),
        vms[1]["times_ns"]["halted"].as_u64().unwrap()
    );
    assert_eq!(intervals[0]["leading"], "fw_cfg");
    let ends = [&intervals[3]["from_ns"], &intervals[3]["to_ns"]];
    assert_eq!(ends, [6_000_000_000_u64, 8_000_000_000]);
}

#[test]
fn text_says_what_the_filter_hides_and_totals_stay() {
    insta::assert_snapshot!("text_filtered", text(&snapshot(), Some("name=web* class=m*_write")));
}

#[test]
fn text_of_a_kvm_without_exit_events_does_not_tell_guest_from_kernel() {
    let software = text(&after(samples().into_iter().map(software)), None);
    assert!(software.contains("KVM_RUN%") && !software.contains("GUEST%"));
    let json = json(&after(samples().into_iter().map(self::software)), None);
    let times = &json["vms"][0]["times_ns"];
    assert!(times["guest"].is_null() && times["kernel"].is_null());
    assert!(times["kvm_run"].as_u64() > Some(0));
}

#[test]
fn a_thread_that_is_not_known_is_null() {
    let mut snapshot = snapshot();
    let tids = |snapshot: &Snapshot| {
        let json = json(snapshot, None);
        [&json["vms"][0]["vcpus"][0], &json["slow"]["newest"][0]].map(|row| row["tid"].clone())
    };
    assert!(tids(&snapshot).iter().all(Value::is_u64));
    snapshot.vms[0].vcpus[0].tid = 0;
    snapshot.slow.newest.iter_mut().for_each(|slow| slow.tid = 0);
    assert_eq!(tids(&snapshot), [Value::Null, Value::Null]);
}

#[test]
fn json_has_times_and_durations_in_nanoseconds() {
    let snapshot = snapshot();
    let json = json(&snapshot, None);
    assert_eq!(json["schema"], 1);
    let vm = &json["vms"][0];
    let times = snapshot.vms[0].times.unwrap().total;
    assert_eq!(vm["times_ns"]["guest"], times.guest);
    assert_eq!(vm["times_ns"]["halted"], times.parts[2]);
    assert!(vm["times_ns"]["kvm_run"].is_null());
    assert_eq!(vm["demo"], false);
    let rows = vm["latency"].as_array().unwrap();
    let misconfig = rows.iter().find(|row| row["name"] == "EPT_MISCONFIG").unwrap();
    let latency = snapshot.vms[0].latency.iter().find(|row| row.name == "EPT_MISCONFIG").unwrap();
    assert_eq!(misconfig["span"], "exit");
    assert_eq!(misconfig["class"], 49);
    assert_eq!(misconfig["p99"], latency.percentile(0.99).unwrap());
    assert_eq!(misconfig["ns"]["vmm"], latency.ns[1]);
    assert_eq!(
        (&misconfig["max"], &misconfig["max_is_bound"]),
        (&latency.max.into(), &false.into())
    );
    let buckets = misconfig["buckets"].as_array().unwrap();
    let sum: u64 = buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(sum, latency.histogram.count());
    assert!(buckets.is_sorted_by_key(|bucket| bucket[0].as_u64()));
    assert!(rows.iter().any(|row| row["span"] == "return" && row["name"] == "MMIO"));
    assert_eq!(vm["l2_exit_reasons"]["EPT_VIOLATION"], 19_200);
    assert!(json["filter"].is_null() && json["since_reset_s"].is_null());
}

#[test]
fn json_keeps_a_vm_of_which_a_row_stays_and_totals_of_everything() {
    let snapshot = snapshot();
    let all = json(&snapshot, None);
    let web = json(&snapshot, Some("name=web*"));
    assert_eq!(web["vms"].as_array().unwrap().len(), 1);
    assert_eq!((&web["counts"], &web["lost"]), (&all["counts"], &all["lost"]));
    assert_eq!((&web["filter"]["vms_shown"], &web["filter"]["vms"]), (&1.into(), &2.into()));
    assert_eq!(web["vms"][0], all["vms"][0]);

    let nested = json(&snapshot, Some("nested_exit"));
    let vm = &nested["vms"][0];
    assert_eq!(nested["vms"].as_array().unwrap().len(), 1);
    assert_eq!(vm["hotspots"].as_array().unwrap().len(), 1);
    assert_eq!(vm["vcpus"].as_array().unwrap().len(), 0);
}

#[test]
fn json_has_conversions_of_a_td_and_none_of_a_vm_that_cannot_convert() {
    let snapshot = snapshot();
    let json = json(&snapshot, None);
    let of = |vm: usize| &json["vms"][vm]["conversions"];
    assert!(of(0).is_null());
    let td = of(1);
    assert_eq!(td["to_shared"]["bytes"], (64 << 20) + (640 << 20));
    assert_eq!(td["to_private"]["bytes"], 640 << 20);
    assert_eq!(td["net_shared_bytes"], 64 << 20);
    assert_eq!(td["to_shared"]["bytes_per_s"], f64::from(240 << 20));
    assert_eq!((&td["to_shared"]["calls_of_2m"], &td["retries"]), (&321.into(), &32.into()));
    assert_eq!((&td["to_shared"]["calls_of_4k"], &td["ping_pong"]), (&0.into(), &639.into()));
    let set = &td["attributes"];
    assert_eq!(set["to_shared"], serde_json::json!({ "calls": 640, "bytes": 1_342_177_280 }));
    assert_eq!(set["to_private"]["calls"], 0);
    assert_eq!(td["punched"], serde_json::json!({ "calls": 32, "bytes": 64 << 20 }));
    let mapped = &td["mapped_private"];
    assert_eq!(mapped["bytes"], 320_000 * 4096 + 320 * (2 << 20));
    assert_eq!((&mapped["pages_4k"], &mapped["pages_2m"]), (&320_000.into(), &320.into()));
    assert_eq!(mapped["memory_bytes"], 4_u64 << 30);
    // It began before tdtrace.
    assert_eq!((&mapped["seen_from_start"], &mapped["eta_s"]), (&false.into(), &Value::Null));
    assert_eq!(td["memory_faults"]["last"]["gpa"], 0x1_2345_6000_u64);
    let regions = td["regions"].as_array().unwrap();
    assert_eq!((regions.len(), &td["without_region"]), (2, &3.into()));
    assert_eq!(regions[0]["gpa"], 0x8020_0000_u64);
    assert_eq!(regions[0]["last"], "to_private");
    assert!(regions[0].get("vm").is_none());
}

#[test]
fn losses_of_durations_are_told() {
    let mut sample = samples().remove(0);
    sample.losses.unpaired = 4;
    sample.losses.durations = 6;
    sample.losses.outside = vec![(tdtrace_common::counters::Class::InterruptPosted, 9)];
    let snapshot = Aggregate::new().apply(sample);
    let json = json(&snapshot, None);
    assert_eq!(json["lost"]["unpaired_durations"], 4);
    assert_eq!(json["lost"]["durations_without_room"], 6);
    assert_eq!(json["outside"]["interrupt_posted"], 9);
    let text = text(&snapshot, None);
    for part in ["4 whose beginning", "6 without room", "of no vCPU: 9 interrupt_posted"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn names_of_a_recording_cannot_steer_the_terminal() {
    let samples = samples().into_iter().map(|mut sample| {
        sample.vms.iter_mut().for_each(|vm| vm.name = "web\u{1b}[2J".into());
        sample
    });
    let text = text(&after(samples), None);
    assert!(text.contains("web?[2J") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn seamcalls_are_a_table_with_every_status_below_it() {
    let text = text(&after(on_tdx_host()), None);
    let begin = text.find("SEAMCALLS").unwrap();
    insta::assert_snapshot!("seamcalls", &text[begin..]);
    assert!(
        text.contains("not seen: calls of tdh_phymem_page_wbinvd_tdr (this kernel has no tdh_")
    );
    assert!(text.contains("lost: 16 returns of tdh_mem_page_remove"), "{text}");
}

#[test]
fn seamcalls_in_json_have_their_statuses_and_times() {
    let snapshot = after(on_tdx_host());
    let json = json(&snapshot, None);
    let rows = json["seamcalls"].as_array().unwrap();
    // Seven, without the one that this kernel does not have.
    assert_eq!(rows.len(), 6);
    let remove = rows.iter().find(|row| row["function"] == "tdh_mem_page_remove").unwrap();
    assert_eq!(
        (&remove["leaf"], &remove["leaf_name"]),
        (&29.into(), &"TDH.MEM.PAGE.REMOVE".into())
    );
    assert_eq!((&remove["calls"], &remove["failed"]), (&(700 * 8).into(), &80.into()));
    assert_eq!(
        (&remove["busy"], &remove["kicks"], &remove["retried"]),
        (&80.into(), &80.into(), &72.into())
    );
    let statuses = remove["by_status"].as_array().unwrap();
    assert_eq!(statuses[0]["name"], "SUCCESS");
    assert_eq!(
        (&statuses[1]["name"], &statuses[1]["operand"]),
        (&"OPERAND_BUSY".into(), &"SEPT".into())
    );
    assert_eq!(statuses[1]["status"], 0x8000_0200_0000_0092_u64);
    let row = snapshot.seamcalls.iter().find(|row| row.total.leaf == 29).unwrap();
    assert_eq!(remove["p99_ns"], row.percentile(0.99).unwrap());
    assert_eq!(remove["max_ns"], row.total.max);
    assert_eq!(
        (&remove["missed"], &remove["last_failure"]["gpa"]),
        (&16.into(), &0x7f00_0000.into())
    );
    let init = rows.iter().find(|row| row["function"] == "tdh_vp_init").unwrap();
    assert!(init["p50_ns"].is_null() && init["max_ns"].is_null() && init["kicks"].is_null());
    assert!(json["seamcalls_not_seen"]["tdh_phymem_page_wbinvd_tdr"].is_string());
    assert_eq!(json["lost"]["total"], 3 + 12 + 16);
}

#[test]
fn a_host_without_wrappers_says_so_once() {
    let mut samples = samples();
    for sample in &mut samples {
        sample.seam =
            Arc::new(SeamSample { absent: Some("no TDs here".into()), functions: Vec::new() });
    }
    let snapshot = after(samples);
    assert_eq!(text(&snapshot, None).matches("not seen: SEAMCALLs (no TDs here)").count(), 1);
    let json = json(&snapshot, None);
    assert_eq!(
        (&json["seamcalls"], &json["seamcalls_not_seen"]),
        (&Value::Array(Vec::new()), &"no TDs here".into())
    );
}

#[test]
fn a_filter_chooses_seamcalls_too() {
    let snapshot = after(on_tdx_host());
    let rows = &json(&snapshot, Some("busy>50"))["seamcalls"];
    let names: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| row["function"].as_str().unwrap()).collect();
    assert_eq!(names, ["tdh_mem_page_aug", "tdh_mem_page_remove"]);
    assert!(!text(&snapshot, Some("busy>50")).contains("tdh_vp_rd"));
}
