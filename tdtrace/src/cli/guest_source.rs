//! Options of every command that counts in a guest.

use super::files::Files;
use crate::source::guest::{Options, Prefer};

/// How a guest is counted. Debug files are options of their own, since a group of options cannot hold
/// another one.
#[derive(Debug, clap::Args)]
pub(super) struct GuestSourceArgs {
    /// Count as in a TD guest even if this is none
    #[arg(long)]
    pub(super) guest: bool,
    /// Attach by kprobe even where fentry is to be had
    #[arg(long)]
    kprobe: bool,
    /// The bit of a guest physical address that says shared, where the kernel does not say
    #[arg(long, value_name = "BIT", value_parser = clap::value_parser!(u32).range(32..52))]
    shared_bit: Option<u32>,
    /// Places that can be counted
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    max_places: u32,
}

impl GuestSourceArgs {
    /// The same as the source wants it, with the places of debug files.
    pub(super) fn options(&self, files: &Files) -> Options {
        Options {
            force: self.guest,
            prefer: if self.kprobe { Prefer::Kprobe } else { Prefer::Fentry },
            stream: false,
            max_places: self.max_places,
            shared_bit: self.shared_bit,
            files: files.options("/"),
        }
    }
}
