//! What the whole-program tests share: guests to run, GDB, and an honest way of not running a test.
//!
//! A test that lacks something on this machine calls [`skip`] and returns. That is loud: the line goes past the
//! capture of the test harness, and `.ci/run` counts it. With `RETROVISOR_NO_SKIP=1` it is a failure.

// Every test program takes what it needs of this.
#![allow(dead_code)]

pub mod phases;
pub mod recording;
pub mod vmlinux;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use retrovisor::demo::initramfs::BENCHMARK_INIT;
use retrovisor::demo::{debian_kernel, initramfs};

/// Tests of this program that were skipped.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that a test does not run here, and why.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    if std::env::var_os("RETROVISOR_NO_SKIP").is_some_and(|value| value == "1") {
        panic!("{}, and RETROVISOR_NO_SKIP=1 forbids that", line.trim_end());
    }
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    // Not through eprint!, which the harness captures. If stderr is gone there is nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// How many tests of this program were skipped so far.
pub fn skipped() -> usize {
    SKIPPED.load(Ordering::Relaxed)
}

/// A directory under target/ for what tests make and keep from run to run.
pub fn cache() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    path
}

/// A fresh, empty directory under target/ for whoever asks; `name` says who. What programs that are gone have left is
/// cleared away.
pub fn scratch(name: &str) -> PathBuf {
    static CLEARED: Once = Once::new();
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scratch");
    CLEARED.call_once(|| clear_away(&place));
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = place.join(format!("{}-{number}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    path
}

/// Removes the directories of processes that do not run any more.
fn clear_away(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !process.is_empty() && !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The Debian guest: a kernel, and an initramfs that prints, runs md5sum over busybox, and powers off.
#[derive(Clone, Debug)]
pub struct Linux {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// As `uname -r` says.
    pub version: String,
    /// MD5 sum that the guest prints for /bin/busybox, in hex.
    pub busybox_md5: Option<String>,
}

/// The kernel command line that goes with [`linux`].
pub const LINUX_CMDLINE: &str = "console=ttyS0";

/// The Debian guest, made once a test program; the reason in one line where it cannot be had.
pub fn linux() -> Result<Linux, String> {
    static GUEST: OnceLock<Result<Linux, String>> = OnceLock::new();
    GUEST.get_or_init(make_linux).clone()
}

fn make_linux() -> Result<Linux, String> {
    let cache = cache();
    let mut progress = |what: &str| {
        let _ = std::io::stderr().write_all(format!("tests: {what}\n").as_bytes());
    };
    let kernel = debian_kernel(&cache, &mut progress).map_err(|e| e.to_string())?;
    let busybox =
        fs::read(&kernel.busybox).map_err(|e| format!("{}: {e}", kernel.busybox.display()))?;
    let initrd = cache.join("initramfs.cpio");
    write_whole(&initrd, &initramfs(&busybox, BENCHMARK_INIT, &[]))
        .map_err(|e| format!("{}: {e}", initrd.display()))?;
    let sum = Command::new("md5sum")
        .stdin(Stdio::null())
        .arg(&kernel.busybox)
        .output()
        .ok();
    let busybox_md5 = sum
        .filter(|output| output.status.success())
        .and_then(|output| {
            String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .next()
                .map(str::to_string)
        });
    Ok(Linux {
        kernel: kernel.bzimage,
        initrd,
        version: kernel.version,
        busybox_md5,
    })
}

/// Writes a file so that another test program sees it whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

/// A GDB that starts and knows x86-64: `$GDB`, else `gdb` on the path, else `gdb-multiarch`.
pub fn gdb() -> Result<PathBuf, String> {
    static GDB: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = GDB.get_or_init(|| {
        let named = std::env::var_os("GDB").map(PathBuf::from);
        named
            .into_iter()
            .chain(["gdb".into(), "gdb-multiarch".into()])
            .find(|program| {
                let mut command = Command::new(program);
                command.args(["-nx", "-batch", "-ex", "set architecture i386:x86-64"]);
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            })
    });
    found
        .clone()
        .ok_or_else(|| "no gdb on this machine (package gdb)".to_string())
}

/// Builds the guest `tests/guests/NAME.s`, once a test program, and gives its ELF file; how such a guest is written
/// says the README there.
pub fn guest(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built
        .entry(name.to_string())
        .or_insert_with(|| build_guest(name))
        .clone()
}

fn build_guest(name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let directory = scratch(&format!("guest-{name}"));
    let frame = format!(
        "#![no_std]\n#![no_main]\n\
         core::arch::global_asm!(include_str!({:?}), include_str!({:?}), include_str!({:?}), \
         options(att_syntax, raw));\n\
         #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! {{ loop {{}} }}\n",
        sources.join("start.s"),
        sources.join("long.s"),
        sources.join(format!("{name}.s")),
    );
    let main = directory.join("main.rs");
    fs::write(&main, frame).expect("target/ can be written to");
    let output = directory.join(name);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .arg(&main)
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=guest"]);
    rustc.args([
        "--target=x86_64-unknown-linux-gnu",
        "-Cpanic=abort",
        "-Crelocation-model=static",
    ]);
    rustc.args([
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none",
    ]);
    rustc
        .arg(format!(
            "-Clink-arg=-Wl,-T,{}",
            sources.join("link.ld").display()
        ))
        .arg("-o")
        .arg(&output);
    let built = rustc
        .output()
        .unwrap_or_else(|e| panic!("cannot start rustc for the guest {name}: {e}"));
    assert!(
        built.status.success(),
        "the guest {name} does not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    output
}

/// The address of a symbol of an ELF file.
pub fn symbol(elf: &[u8], name: &str) -> u64 {
    use object::{Object, ObjectSymbol};
    let file = object::File::parse(elf).expect("an ELF file");
    file.symbols()
        .find(|symbol| symbol.name() == Ok(name))
        .unwrap_or_else(|| panic!("there is no symbol {name}"))
        .address()
}

/// Makes writing beyond a length fail, as on a full disk (EFBIG instead of ENOSPC).
pub fn limit_file_size(command: &mut Command, bytes: u64) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only these two system calls are made.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}
