//! Finds a Debian kernel (amd64 or i386) and a static busybox, or fetches their packages without installing them.
//!
//! Looked for in this order: the cache, the host's /boot and /bin, the host's apt (which needs no root to download).
//! What was found once is kept in the cache, so that a machine's guest stays the same from run to run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use object::LittleEndian;
use object::elf::{EM_386, EM_X86_64, FileHeader32, FileHeader64, Machine, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use thiserror::Error;

const BUSYBOX_PACKAGE: &str = "busybox-static";
/// A System.map smaller than this is Debian's placeholder, which says where to find the real one.
const REAL_SYSTEM_MAP: u64 = 100_000;

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The 64-bit one for virtual machines.
    CloudAmd64,
    /// The 32-bit one without PAE.
    I686,
    /// The 32-bit one with PAE.
    I686Pae,
}

impl Flavour {
    /// The package whose dependency is the newest kernel.
    fn package(self) -> &'static str {
        match self {
            Flavour::CloudAmd64 => "linux-image-cloud-amd64",
            Flavour::I686 => "linux-image-686",
            Flavour::I686Pae => "linux-image-686-pae",
        }
    }

    /// How the versions of its kernels end.
    fn ending(self) -> &'static str {
        match self {
            Flavour::CloudAmd64 => "-amd64",
            Flavour::I686 => "-686",
            Flavour::I686Pae => "-686-pae",
        }
    }

    fn is_32bit(self) -> bool {
        self != Flavour::CloudAmd64
    }
}

/// A kernel and what is needed to make an initramfs for it. All paths are in the cache or the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebianKernel {
    pub bzimage: PathBuf,
    /// As `uname -r` says: "6.1.0-56-cloud-amd64".
    pub version: String,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The kernel's symbols; Debian ships them apart, so that there rarely are any.
    pub system_map: Option<PathBuf>,
}

/// Why there is no kernel or no busybox.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("cannot use the cache directory {}: {source}", path.display())]
    Cache { path: PathBuf, source: io::Error },
    #[error(
        "{what} is not on this machine and cannot be fetched: {program} is not here (this needs Debian or Ubuntu)"
    )]
    NoProgram { what: String, program: &'static str },
    #[error("{what} is not on this machine and fetching it failed: {why}")]
    Failed { what: String, why: String },
}

/// Where things that were fetched are kept: `$XDG_CACHE_HOME/retrovisor`, else `~/.cache/retrovisor`, else a
/// directory for temporary files.
pub fn default_cache() -> PathBuf {
    let given = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = given("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    base.or_else(|| given("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("retrovisor")
}

/// Finds a Debian kernel and a static busybox, fetching what is missing into `cache`. `progress` is told in a few
/// words what is being done whenever that takes more than a moment.
pub fn debian_kernel(
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<DebianKernel, FetchError> {
    debian_kernel_of(Flavour::CloudAmd64, cache, progress)
}

/// Likewise for one of Debian's flavours. A 32-bit one comes with a 32-bit busybox; its packages are looked for in
/// lists of their own, so that nothing has to be changed on an amd64 host.
pub fn debian_kernel_of(
    flavour: Flavour,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<DebianKernel, FetchError> {
    // apt's lists and the packages in `cache` take one at a time.
    static FETCHING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _alone = FETCHING.lock();
    let directory = if flavour.is_32bit() {
        "debian-i386"
    } else {
        "debian"
    };
    let packages = cache.join(directory);
    let unusable = |source| FetchError::Cache {
        path: packages.clone(),
        source,
    };
    fs::create_dir_all(&packages).map_err(unusable)?;
    let archive = Archive {
        options: if flavour.is_32bit() {
            i386_options(&packages).map_err(unusable)?
        } else {
            Vec::new()
        },
        packages: &packages,
        flavour,
    };
    let host = (!flavour.is_32bit())
        .then(|| newest_kernel(Path::new("/boot"), flavour))
        .flatten();
    let (bzimage, version) = match newest_kernel(&packages, flavour).or(host) {
        Some(found) => found,
        None => archive.fetch_kernel(progress)?,
    };
    let hosts = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let fits = |path: &PathBuf| is_static_program(path, flavour.is_32bit());
    let busybox = match hosts.into_iter().find(fits) {
        Some(found) => found,
        None => archive.cached_or_fetched_busybox(progress)?,
    };
    let system_map = bzimage.with_file_name(format!("System.map-{version}"));
    let has_symbols = fs::metadata(&system_map).is_ok_and(|data| data.len() >= REAL_SYSTEM_MAP);
    Ok(DebianKernel {
        bzimage,
        version,
        busybox,
        system_map: has_symbols.then_some(system_map),
    })
}

/// Where packages come from.
struct Archive<'a> {
    /// Options of apt's programs.
    options: Vec<OsString>,
    packages: &'a Path,
    flavour: Flavour,
}

/// Options that make apt work with i386 packages in a directory of its own, with the host's sources.
fn i386_options(packages: &Path) -> io::Result<Vec<OsString>> {
    let state = packages.join("apt");
    fs::create_dir_all(state.join("lists/partial"))?;
    fs::create_dir_all(state.join("archives/partial"))?;
    let status = state.join("status");
    if !status.exists() {
        fs::write(&status, b"")?;
    }
    let mut options = Vec::new();
    let mut add = |name: &str, value: &OsStr| {
        options.push(OsString::from("-o"));
        let mut option = OsString::from(name);
        option.push("=");
        option.push(value);
        options.push(option);
    };
    add("APT::Architecture", OsStr::new("i386"));
    add("APT::Architectures", OsStr::new("i386"));
    add("Acquire::Languages", OsStr::new("none"));
    add("Dir::State::lists", state.join("lists").as_os_str());
    add("Dir::State::status", status.as_os_str());
    add("Dir::Cache", state.as_os_str());
    Ok(options)
}

/// The newest readable `vmlinuz-*` of a flavour in a directory, one made for virtual machines before others.
fn newest_kernel(directory: &Path, flavour: Flavour) -> Option<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(version) = name
            .strip_prefix("vmlinuz-")
            .filter(|version| version.ends_with(flavour.ending()))
        else {
            continue;
        };
        // A kernel that only root can read is of no use.
        if fs::File::open(entry.path()).is_ok() {
            let key = (version.contains("cloud"), version_key(version));
            found.push((key, entry.path(), version.to_string()));
        }
    }
    found
        .into_iter()
        .max()
        .map(|(_, path, version)| (path, version))
}

/// The numbers of a version, for comparing: 6.1.0-9 is older than 6.1.0-56.
fn version_key(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Whether the file is an x86 program, of 32 or of 64 bits, that needs no dynamic linker.
fn is_static_program(path: &Path, bits32: bool) -> bool {
    fn is_static<H: FileHeader<Endian = LittleEndian>>(bytes: &[u8], machine: Machine) -> bool {
        let endian = LittleEndian;
        H::parse(bytes).is_ok_and(|header| {
            header.e_machine(endian) == machine
                && header.program_headers(endian, bytes).is_ok_and(|all| {
                    all.iter()
                        .all(|program| program.p_type(endian) != PT_INTERP)
                })
        })
    }
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    if bits32 {
        is_static::<FileHeader32<LittleEndian>>(&bytes, EM_386)
    } else {
        is_static::<FileHeader64<LittleEndian>>(&bytes, EM_X86_64)
    }
}

impl Archive<'_> {
    fn fetch_kernel(
        &self,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(PathBuf, String), FetchError> {
        let what = "a Debian kernel";
        progress("asking apt for the newest Debian kernel");
        if !self.options.is_empty() {
            // Lists that cannot be fetched may not be the ones that are needed: what counts is what apt knows then.
            let _ = run(self.apt("apt-get").args(["-q", "update"]), "apt-get", what);
        }
        let package = self.kernel_dependency(what)?;
        let version = package
            .trim_start_matches("linux-image-")
            .trim_end_matches("-unsigned")
            .to_string();
        progress(&format!("fetching the package {package}"));
        let members = [
            format!("./boot/vmlinuz-{version}"),
            format!("./boot/System.map-{version}"),
        ];
        let scratch = self.fetch_package(&package, what, &members)?;
        for name in [
            format!("System.map-{version}"),
            format!("vmlinuz-{version}"),
        ] {
            keep(
                &scratch.path.join("boot").join(&name),
                &self.packages.join(&name),
                what,
            )?;
        }
        Ok((self.packages.join(format!("vmlinuz-{version}")), version))
    }

    fn cached_or_fetched_busybox(
        &self,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, FetchError> {
        let what = "a static busybox";
        let kept = self.packages.join("busybox");
        let bits32 = self.flavour.is_32bit();
        if is_static_program(&kept, bits32) {
            return Ok(kept);
        }
        progress(&format!("fetching the package {BUSYBOX_PACKAGE}"));
        // It moved from /bin to /usr/bin in Debian 13.
        let scratch = self.fetch_package(
            BUSYBOX_PACKAGE,
            what,
            &[String::from("--wildcards"), "*/busybox".into()],
        )?;
        let found = ["bin/busybox", "usr/bin/busybox"].map(|name| scratch.path.join(name));
        let Some(found) = found.iter().find(|path| is_static_program(path, bits32)) else {
            let why = format!("the package {BUSYBOX_PACKAGE} has no static busybox in it");
            return Err(FetchError::Failed {
                what: what.to_string(),
                why,
            });
        };
        keep(found, &kept, what)?;
        Ok(kept)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// What the flavour's package depends on: the package that has the kernel.
    fn kernel_dependency(&self, what: &str) -> Result<String, FetchError> {
        let package = self.flavour.package();
        let mut command = self.apt("apt-cache");
        command.args(["depends", "--important", package]);
        let output = run(&mut command, "apt-cache", what)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        let kernel = names
            .find(|name| name.starts_with("linux-image-") && name.ends_with(self.flavour.ending()));
        kernel
            .map(str::to_string)
            .ok_or_else(|| FetchError::Failed {
                what: what.to_string(),
                why: format!("apt knows no package {package} («apt-get update» as root may help)"),
            })
    }
}

/// A directory that goes away with its owner, so that what is half done is never taken for done.
struct Scratch {
    path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory left behind does no harm.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Archive<'_> {
    /// Downloads a package and unpacks the named members of it into a scratch directory.
    fn fetch_package(
        &self,
        package: &str,
        what: &str,
        members: &[String],
    ) -> Result<Scratch, FetchError> {
        let scratch = Scratch {
            path: self
                .packages
                .join(format!(".{package}-{}", std::process::id())),
        };
        fs::create_dir_all(&scratch.path).map_err(|source| FetchError::Cache {
            path: scratch.path.clone(),
            source,
        })?;
        let mut command = self.apt("apt-get");
        command.args([
            "-q",
            "-o",
            "Acquire::Retries=2",
            "-o",
            "Acquire::http::Timeout=30",
            "download",
            package,
        ]);
        run(command.current_dir(&scratch.path), "apt-get", what)?;
        let failed = |why: String| FetchError::Failed {
            what: what.to_string(),
            why,
        };
        let files = fs::read_dir(&scratch.path)
            .map_err(|e| failed(format!("reading the download: {e}")))?;
        let file = files
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("deb")));
        let file = file.ok_or_else(|| failed(format!("apt-get fetched no file for {package}")))?;

        // Only what is asked for is unpacked: a kernel package has 100 MB of modules.
        let mut unpack = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn();
        let tarball = match &mut unpack {
            Ok(child) => child
                .stdout
                .take()
                .ok_or_else(|| failed("dpkg-deb gives no output".to_string()))?,
            Err(e) => return Err(failed(format!("cannot start dpkg-deb: {e}"))),
        };
        let mut tar = Command::new("tar");
        tar.args(["-x", "-f", "-", "-C"])
            .arg(&scratch.path)
            .args(members)
            .stdin(tarball);
        let unpacked = run(&mut tar, "tar", what);
        // tar may leave its input before the end; what counts is that it found its members.
        let _ = unpack.and_then(|mut child| child.wait());
        unpacked.map(|_| scratch)
    }
}

/// Moves a file to its place in the cache, whole or not at all.
fn keep(from: &Path, to: &Path, what: &str) -> Result<(), FetchError> {
    fs::rename(from, to).map_err(|e| FetchError::Failed {
        what: what.to_string(),
        why: format!(
            "the package lacks {}: {e}",
            from.file_name().unwrap_or_default().to_string_lossy()
        ),
    })
}

/// Runs a program to its end; when it fails, the last line that it wrote to stderr says why.
fn run(command: &mut Command, program: &'static str, what: &str) -> Result<Output, FetchError> {
    let output = command
        .env("LC_ALL", "C")
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => FetchError::NoProgram {
                what: what.to_string(),
                program,
            },
            _ => FetchError::Failed {
                what: what.to_string(),
                why: format!("cannot start {program}: {e}"),
            },
        })?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.starts_with("W:"));
    let why = match last {
        Some(line) => format!("{program}: {}", line.trim()),
        None => format!("{program}: {}", output.status),
    };
    Err(FetchError::Failed {
        what: what.to_string(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_chosen_by_number_and_cloud_before_others() {
        let directory =
            std::env::temp_dir().join(format!("retrovisor-kernels-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(newest_kernel(&directory, Flavour::CloudAmd64), None);
        for name in [
            "vmlinuz-6.1.0-9-cloud-amd64",
            "vmlinuz-6.1.0-56-cloud-amd64",
            "vmlinuz-6.12.1-amd64",
            "config-7",
        ] {
            fs::write(directory.join(name), b"").unwrap();
        }
        let found = newest_kernel(&directory, Flavour::CloudAmd64).map(|(_, version)| version);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found.as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn a_missing_program_is_one_line() {
        let error = run(
            &mut Command::new("/nowhere/apt-get"),
            "apt-get",
            "a Debian kernel",
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("apt-get is not here") && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn a_failing_program_says_its_last_line() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo first >&2; echo 'E: no such package' >&2; exit 100",
        ]);
        let text = run(&mut command, "apt-get", "a Debian kernel")
            .unwrap_err()
            .to_string();
        assert!(text.ends_with("apt-get: E: no such package"), "{text}");
    }
}
