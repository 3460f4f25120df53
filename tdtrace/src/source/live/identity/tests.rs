//! Command lines and cgroup texts as the VMMs and runtimes make them, and hostile ones.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::source::owner::SHOWN_MAX;

const ID: &str = "4f6e2b0c9d8a7f6e5d4c3b2a19080706f5e4d3c2b1a0918273645546372819a0";
const UID: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";

/// The identity of a process called `comm` with the arguments of `line`, split at spaces.
fn by_command(comm: &str, line: &str) -> (String, String) {
    let identity = identify(format!("{comm}\n").as_bytes(), &cmdline(line), "0::/\n");
    assert_eq!(identity.container, None);
    (identity.vmm.to_string(), identity.name.to_string())
}

fn cmdline(line: &str) -> Vec<u8> {
    line.split(' ').flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect()
}

fn container(cgroup: &str) -> Option<String> {
    identify(b"x\n", b"x\0", cgroup).container.map(|container| container.to_string())
}

fn check(comm: &str, line: &str, vmm: &str, name: &str) {
    assert_eq!(by_command(comm, line), (vmm.to_owned(), name.to_owned()), "{line}");
}

#[test]
fn qemu_is_named_by_its_name_option() {
    let libvirt = "/usr/bin/qemu-system-x86_64 -name guest=web-1,debug-threads=on -S \
                   -machine q35,accel=kvm -uuid 1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed -m 4096";
    check("qemu-system-x86", libvirt, "qemu", "web-1");
    check("qemu-kvm", "/usr/libexec/qemu-kvm -name td,process=x -m 1", "qemu", "td");
    check("qemu-kvm", "/usr/libexec/qemu-kvm -name debug-threads=on,guest=a,,b", "qemu", "a,b");
    check("kvm", "/usr/bin/kvm -id 100 -name vm100,debug-threads=on", "qemu", "vm100");
    check("renamed", "/usr/bin/qemu-system-x86_64 -name x,process=renamed", "qemu", "x");
    check("qemu-system-x86", &format!("qemu-system-x86_64 -uuid {UID}"), "qemu", UID);
    check("qemu-system-x86", "qemu-system-x86_64 -m 1G", "qemu", "qemu-system-x86");
    check("qemu-system-x86", "qemu-system-x86_64 -name", "qemu", "qemu-system-x86");
}

#[test]
fn the_other_vmms_are_named_by_their_options() {
    let clh = "/usr/bin/cloud-hypervisor --api-socket";
    check(
        "cloud-hyperviso",
        &format!("{clh} /run/ch/db.sock --cpus boot=2"),
        "cloud-hypervisor",
        "db",
    );
    check("cloud-hyperviso", &format!("{clh}=path=/run/td7"), "cloud-hypervisor", "td7");
    check("cloud-hyperviso", &format!("{clh} fd=3"), "cloud-hypervisor", "cloud-hyperviso");
    check(
        "cloud-hyperviso",
        &format!("{clh} /run/libvirt/ch/web-socket"),
        "cloud-hypervisor",
        "web",
    );
    check("firecracker", "/firecracker --id i-77 --start-time-us 1", "firecracker", "i-77");
    check("firecracker-v1.", "firecracker-v1.7.0-x86_64 --id=a-b", "firecracker", "a-b");
    check("firecracker", "firecracker --api-sock /tmp/fc.socket", "firecracker", "fc");
    check("firecracker", "firecracker --api-sock /tmp/fc.socket -- --id x", "firecracker", "fc");
    check("crosvm", "crosvm run --name arcvm --cpus 4 /vmlinux", "crosvm", "arcvm");
    check("crosvm", "crosvm run -s /run/vm/termina.sock /vmlinux", "crosvm", "termina");
    check("crosvm", "crosvm run --socket /run/a.sock --name b", "crosvm", "b");
    check("lkvm", "lkvm run --name test -c 2 -k bzImage", "kvmtool", "test");
    check("lkvm", "lkvm run -k bzImage", "kvmtool", "lkvm");
    check("my-vmm", "/opt/my-vmm --name not-ours", "", "my-vmm");
}

#[test]
fn kata_sandboxes_are_named_by_the_short_id() {
    let short = &ID[..12];
    let qemu = format!("/opt/kata/bin/qemu-system-x86_64 -name sandbox-{ID},debug-threads=on");
    check("qemu-system-x86", &qemu, "qemu", short);
    let clh = format!("/opt/kata/bin/cloud-hypervisor --api-socket /run/vc/vm/{ID}/clh-api.sock");
    check("cloud-hyperviso", &clh, "cloud-hypervisor", short);
    check("firecracker", &format!("/firecracker --id {ID}"), "firecracker", short);
}

#[test]
fn libvirts_machine_names_a_vm_that_its_command_line_does_not() {
    let scope = "0::/machine.slice/machine-qemu\\x2d12\\x2dold\\x2ddb.scope/libvirt/emulator\n";
    let named =
        |line: &str, cgroup: &str| identify(b"qemu-system-x86\n", &cmdline(line), cgroup).name;
    assert_eq!(&*named("qemu-system-x86_64 -uuid 1", scope), "old-db");
    assert_eq!(&*named("qemu-system-x86_64 -name cmd", scope), "cmd");
    let v1 = "4:cpu,cpuacct:/machine/qemu-3-a-b.libvirt-qemu/emulator\n1:name=systemd:/\n";
    assert_eq!(&*named("qemu-system-x86_64", v1), "a-b");
    for other in
        ["machine-x.scope", "machine-qemu\\x2dx\\x2da.scope", "machine-qemu\\x2d1\\x2d.scope"]
    {
        assert_eq!(&*named("qemu-system-x86_64", &format!("0::/{other}")), "qemu-system-x86");
    }
    // Half an escape is a name like any other.
    assert_eq!(&*named("qemu", "0::/machine-qemu\\x2d1\\x2da\\x2.scope"), "a\\x2");
}

#[test]
fn containers_are_shown_by_their_short_id() {
    let pod = "kubepods-burstable-pod1b9d6bcd_bbfd_4b2d_9b5d_ab8dfbbd4bed.slice";
    let v2 = [
        format!("/system.slice/docker-{ID}.scope"),
        format!("/kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{ID}.scope"),
        format!("/kubepods.slice/{pod}/crio-{ID}.scope/container"),
        format!("/kubepods/besteffort/pod{UID}/{ID}"),
        format!("/system.slice/containerd.service/{pod}:cri-containerd:{ID}"),
        format!(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
        ),
        format!("/docker/{ID}/system.slice/inner.service"),
        format!("/kata_{ID}"),
        // The outer one is the machine's own; the inner one may be anybody's.
        format!("/docker/{ID}/docker/{}", "0".repeat(64)),
    ];
    for path in v2 {
        assert_eq!(container(&format!("0::{path}\n")).as_deref(), Some(&ID[..12]), "{path}");
    }
    let v1 = format!(
        "12:pids:/docker/{ID}\n11:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n"
    );
    assert_eq!(container(&v1).as_deref(), Some(&ID[..12]));
}

#[test]
fn without_a_container_it_is_the_pod_then_the_service() {
    let pod = format!("pod/{UID}");
    let slice = "kubepods-pod1b9d6bcd_bbfd_4b2d_9b5d_ab8dfbbd4bed.slice";
    assert_eq!(container(&format!("0::/kubepods.slice/{slice}/sandbox")), Some(pod.clone()));
    assert_eq!(container(&format!("3:cpu:/kubepods/pod{UID}\n0::/\n")), Some(pod));
    assert_eq!(container("0::/lxc.payload.build/init.scope\n").as_deref(), Some("build"));
    assert_eq!(
        container("0::/system.slice/libvirtd.service\n").as_deref(),
        Some("libvirtd.service")
    );
    let escaped = "0::/system.slice/vm@a\\x2db.service/vcpus\n";
    assert_eq!(container(escaped).as_deref(), Some("vm@a-b.service"));
    let monitor = format!("0::/machine.slice/libpod-conmon-{ID}.scope\n");
    let user = "0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n";
    for none in
        [&monitor, user, "0::/user.slice/user-0.slice/session-3.scope\n", "0::/\n", "", "::"]
    {
        assert_eq!(container(none), None, "{none}");
    }
    for none in ["0::/podium", "0::/pod12", "0::/kubepods-pod.slice", "0::/.service"] {
        assert_eq!(container(none), None, "{none}");
    }
}

#[test]
fn what_is_shown_cannot_move_the_cursor_nor_fill_the_screen() {
    let line = "qemu-system-x86_64 -name a\x1b[2J\u{202e}b\u{7}\n";
    check("qemu-system-x86", line, "qemu", "a?[2J?b??");
    let long = format!("qemu-system-x86_64 -name {}", "ä".repeat(5000));
    assert_eq!(by_command("qemu-system-x86", &long).1, "ä".repeat(39) + "…");
    assert_eq!(printable(&"x".repeat(40)), "x".repeat(40));
    let service = format!("0::/system.slice/\\x1b{}.service", "x".repeat(100));
    assert_eq!(container(&service), Some(format!("?{}…", "x".repeat(38))));
}

#[test]
fn files_are_read_up_to_a_bound_and_may_be_missing() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(read(root.path(), 7), Identity::default());
    let dir = root.path().join("7");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("comm"), "qemu-system-x86\n").unwrap();
    let mut line = cmdline("qemu-system-x86_64 -name first");
    line.extend(vec![b'x'; 1 << 20]);
    line.extend(cmdline(" -name beyond"));
    fs::write(dir.join("cmdline"), &line).unwrap();
    assert_eq!(bounded(&dir.join("cmdline")).len(), 64 << 10);
    let identity = read(root.path(), 7);
    assert_eq!((&*identity.vmm, &*identity.name), ("qemu", "first"));
    assert_eq!(identity.container, None);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_nothing_shown_is_long_or_a_control_character(
        comm in prop::sample::select(vec!["qemu-kvm", "cloud-hyperviso", "firecracker", "crosvm", "lkvm", "\x1b"]),
        args in prop::collection::vec(prop::sample::select(vec![
            "-name", "--name", "guest=", ",,", "--id", "--id=", "--api-socket", "path=/", "-s", "\u{9b}",
        ]), 0..8),
        noise in prop::collection::vec(any::<u8>(), 0..64),
        cgroup in "(0::|1:a:|)(/|pod|kubepods-|machine-qemu|\\\\x2d|\\\\x|ä|[0-9a-f]{64}|\\.scope|\\.service|\n){0,9}",
    ) {
        let mut line = args.join("\0").into_bytes();
        line.extend(noise);
        let identity = identify(comm.as_bytes(), &line, &cgroup);
        let container = identity.container.as_deref().unwrap_or("");
        for text in [&identity.name, &identity.vmm, container] {
            prop_assert!(text.chars().count() <= SHOWN_MAX);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
