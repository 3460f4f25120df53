//! The options that say where debug files are.

use std::path::PathBuf;

use crate::sites::Options;

/// Where debug files are, beside the usual places.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Files {
    /// The kernel's file with debug information
    #[arg(long, value_name = "FILE")]
    pub(super) vmlinux: Option<PathBuf>,
    /// A module's file with debug information; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(super) module: Vec<PathBuf>,
    /// Directory laid out as /usr/lib/debug is; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(super) debug_dir: Vec<PathBuf>,
}

impl Files {
    /// The same for the machine whose root is `root`.
    pub(super) fn options(&self, root: impl Into<PathBuf>) -> Options {
        Options {
            root: root.into(),
            vmlinux: self.vmlinux.clone(),
            modules: self.module.clone(),
            debug_dirs: self.debug_dir.clone(),
        }
    }
}
