//! Stock distribution kernels: which there are, where they come from, where they are kept.
//!
//! A kernel is fetched once and then taken from the cache without any network. To add a series, add
//! a [`Series`] and its row in [`Series::origin`].

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum as _;

use super::apt::Apt;

/// The kernels that a scenario can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian's 6.12 cloud kernel, from the suites that this machine follows.
    #[value(name = "6.12")]
    V6_12,
    /// The newest 7.x cloud kernel of Debian's trixie-backports.
    #[value(name = "7")]
    V7,
}

/// Where a series comes from.
struct Origin {
    /// How its version begins; also its name in the cache.
    version: &'static str,
    /// The suite to look in, if not in those of the machine.
    suite: Option<&'static str>,
}

impl Series {
    /// Its name on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn origin(self) -> Origin {
        match self {
            Self::V6_12 => Origin { version: "6.12", suite: None },
            Self::V7 => Origin { version: "7", suite: Some("trixie-backports") },
        }
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// What `uname -r` says when it runs.
    pub(super) release: String,
    /// The bzImage.
    pub(super) vmlinuz: PathBuf,
    /// Its `lib/modules/<release>/kernel`.
    pub(super) modules: PathBuf,
    /// The suite that it is from, if not one of those of the machine.
    pub(super) suite: Option<&'static str>,
}

/// The packages of one kernel release.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    version: Vec<u32>,
    packages: Vec<String>,
}

/// The kernel of `series` under `cache`, fetched if it is not there or if `refresh` asks for it.
pub(super) fn fetch(series: Series, cache: &Path, refresh: bool) -> Result<Image> {
    let origin = series.origin();
    let dir = cache.join("kernels").join(origin.version);
    if dir.exists() && !refresh {
        return Image::find(&dir, origin.suite);
    }
    let apt_dir = cache.join("apt").join(origin.version);
    match origin.suite {
        Some(suite) => fetch_from(&Apt::of_suites(&[suite], &apt_dir)?, &origin, &dir),
        None => Apt::try_lists(&apt_dir, |apt| fetch_from(apt, &origin, &dir)),
    }?;
    Image::find(&dir, origin.suite)
}

/// Fetches the newest kernel of `origin` that `apt` has.
fn fetch_from(apt: &Apt, origin: &Origin, dir: &Path) -> Result<()> {
    let series = origin.version;
    let names = apt.names(&format!(r"^linux-.*-{series}\.[0-9].*-cloud-amd64"))?;
    let release = newest(&names, series).ok_or_else(|| {
        let place = origin.suite.unwrap_or("this machine's apt");
        anyhow!("{place} has no linux-image-{series}.*-cloud-amd64; add a Debian suite that has it")
    })?;
    eprintln!("lab: fetching {}", release.packages.join(", "));
    apt.unpack(&release.packages, dir)
}

/// The newest release of `series` of which `names` hold an image and modules.
///
/// Debian has one package a release (`linux-image-R`, perhaps only `-unsigned`) up to 7.0 and then
/// one each for the image (`linux-binary-R` or `linux-binary-unsigned-R`), the modules and the rest.
fn newest(names: &[String], series: &str) -> Option<Release> {
    let has = |name: &str| names.iter().any(|known| known == name).then(|| name.to_owned());
    let releases = names.iter().filter_map(|name| {
        let release = ["linux-image-", "linux-modules-"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))?
            .trim_end_matches("-unsigned");
        let version = version(release).filter(|_| release.ends_with("-cloud-amd64"))?;
        release.strip_prefix(series)?.strip_prefix('.')?;
        let image = has(&format!("linux-image-{release}"))
            .or_else(|| has(&format!("linux-image-{release}-unsigned")));
        let binary = has(&format!("linux-binary-{release}"))
            .or_else(|| has(&format!("linux-binary-unsigned-{release}")));
        let packages = match has(&format!("linux-modules-{release}")) {
            Some(modules) => vec![binary?, modules],
            None => vec![image?],
        };
        Some(Release { version, packages })
    });
    releases.max_by(|one, other| one.version.cmp(&other.version))
}

/// The numbers that a release such as `7.3.4+deb13-cloud-amd64` begins with.
fn version(release: &str) -> Option<Vec<u32>> {
    let numbers = release.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    numbers.split('.').map(|number| number.parse().ok()).collect()
}

impl Image {
    /// The kernel that was unpacked into `root`, in the layout before or since 7.1.
    fn find(root: &Path, suite: Option<&'static str>) -> Result<Self> {
        for lib in ["usr/lib/modules", "lib/modules"] {
            let Ok(mut entries) = root.join(lib).read_dir() else { continue };
            let Some(entry) = entries.next() else { continue };
            let entry = entry.with_context(|| format!("{} cannot be read", root.display()))?;
            let release = entry.file_name().to_string_lossy().into_owned();
            let vmlinuz = [
                root.join(format!("boot/vmlinuz-{release}")),
                entry.path().join("vmlinuz"),
                entry.path().join("vmlinuz.unsigned"),
            ]
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| anyhow!("{} has no vmlinuz", root.display()))?;
            return Ok(Self { release, vmlinuz, modules: entry.path().join("kernel"), suite });
        }
        bail!("{} holds no kernel; `--refresh` fetches it anew", root.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_release_is_found_by_number_and_not_by_spelling() {
        let known = names(&[
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.200+deb12-rt-amd64",
            "linux-image-6.120.1+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.300+deb12-cloud-amd64-dbg",
        ]);
        let release = newest(&known, "6.12").unwrap();
        assert_eq!(release.packages, ["linux-image-6.12.117+deb12-cloud-amd64"]);
    }

    #[test]
    fn an_unsigned_image_is_taken_where_there_is_no_signed_one() {
        let known = names(&["linux-image-6.12.8+deb13-cloud-amd64-unsigned"]);
        let release = newest(&known, "6.12").unwrap();
        assert_eq!(release.packages, ["linux-image-6.12.8+deb13-cloud-amd64-unsigned"]);
    }

    #[test]
    fn a_split_release_needs_its_image_and_its_modules() {
        let mut known = names(&[
            "linux-image-7.2.12+deb13-cloud-amd64",
            "linux-binary-7.2.12+deb13-cloud-amd64",
            "linux-binary-unsigned-7.2.12+deb13-cloud-amd64",
            "linux-modules-7.2.12+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ]);
        let signed =
            ["linux-binary-7.2.12+deb13-cloud-amd64", "linux-modules-7.2.12+deb13-cloud-amd64"];
        assert_eq!(newest(&known, "7").unwrap().packages, signed);
        known.push("linux-binary-unsigned-7.3.4+deb13-cloud-amd64".into());
        let unsigned = [
            "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ];
        assert_eq!(newest(&known, "7").unwrap().packages, unsigned);
    }

    #[test]
    fn a_series_without_packages_has_no_release() {
        assert_eq!(newest(&names(&["linux-image-6.1.0-40-cloud-amd64"]), "6.12"), None);
    }
}
