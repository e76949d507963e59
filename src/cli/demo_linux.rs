//! `retrovisor demo --linux`: a Debian kernel with busybox, in which somebody renames the machine.

use crate::record::emulated::Processor;
use crate::record::live::Random;
use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::demo::{RTC, Scene, console_on_stdout, record_with};
use super::output;
use super::record::{random_identity, unix_seconds};
use crate::demo::debian::default_cache;
use crate::demo::symbols::{self, Symbol, address_of};
use crate::demo::{debian_kernel, initramfs};
use crate::record::console::{Command, Console};
use crate::record::emulated::Plan;
use crate::timeline::cache::CacheOptions;

/// What the guest does. Its kernel has no symbols on disk and lies elsewhere at every boot (KASLR), so the guest
/// itself says where a few things are.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo 0 > /proc/sys/kernel/kptr_restrict
hostname alice
echo
echo \"This is $(hostname), with Linux $(uname -r). Where a few things are, for GDB:\"
names='_text|_etext|_end|init_uts_ns|entry_SYSCALL_64|__x64_sys_sethostname|__do_sys_sethostname'
names=\"$names|memcpy|memcpy_orig|memset|memset_orig|up_write|down_write\"
grep -A1 -E \" ($names)$\" /proc/kallsyms
/bin/tidy &
echo 'At work.'
md5sum /bin/busybox
usleep 400000
echo \"Done. This is $(hostname).\"
[ \"$(hostname)\" = alice ] || echo 'What? I was called alice!'
poweroff -f
";
/// Who it was.
const TIDY: &str = "#!/bin/sh
usleep 200000
hostname mallory
";
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";
/// RAM in bytes.
const RAM_BYTES: u64 = 256 << 20;
/// Where in `init_uts_ns` the name is: behind `sysname` (struct new_utsname, include/uapi/linux/utsname.h).
const NODENAME: u64 = 65;
/// Number of the system call sethostname on x86-64.
const SETHOSTNAME: u64 = 170;

/// Records it.
pub fn record(directory: &Path, cache: &CacheOptions) -> Result<Option<Scene>> {
    let kernel = debian_kernel(&default_cache(), &mut |what| output::note(what))?;
    let busybox = super::read(&kernel.busybox, "busybox")?;
    let archive = initramfs(&busybox, INIT, &[("bin/tidy", 0o755, TIDY.as_bytes())]);
    let initrd = directory.join("initramfs.cpio");
    fs::write(&initrd, &archive)
        .with_context(|| format!("{}: cannot be written", initrd.display()))?;
    let image = super::read(&kernel.bzimage, "the kernel")?;
    let recording = directory.join("linux.rvr");
    let plan = Plan {
        kernel: &image,
        kernel_name: kernel.bzimage.display().to_string(),
        initrd: Some(&archive),
        initrd_name: Some(initrd.display().to_string()),
        cmdline: CMDLINE.to_string(),
        ram_bytes: RAM_BYTES,
        cpu: Processor::default(),
        protocol: None,
        ticks_max: None,
        guest_ns_max: None,
        rtc_epoch_s: RTC,
        created_unix_s: unix_seconds(),
        random: Random::System,
        identity: random_identity()?,
    };
    output::note(&format!("booting Linux {}", kernel.version));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let console = Box::new(Listener {
        shown: console_on_stdout()?,
        heard: heard.clone(),
    });
    if !record_with(&plan, &recording, console, cache)? {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&heard.lock()).into_owned();
    let found = symbols::from_kallsyms(&text);
    let symbol_file = directory.join("linux-symbols");
    fs::write(&symbol_file, symbol_file_bytes(&found)?)
        .with_context(|| format!("{}: cannot be written", symbol_file.display()))?;
    Ok(Some(Scene {
        recording,
        symbols: symbol_file,
        session: Box::new(session),
        proof: vec![format!("= {SETHOSTNAME}\n"), "\"mallory\"".to_string()],
        story: "A Linux machine is called alice, and suddenly mallory. Nothing is known of its kernel but a few\n\
                symbols. Watch the name in the kernel's memory and run backwards to the store that changed it; from\n\
                there back to the system call, where the registers are still those of the program that made it.",
    }))
}

fn session(remote: &str) -> Vec<String> {
    vec![
        format!("target remote {remote}"),
        format!("x/s (char *)&init_uts_ns + {NODENAME}"),
        format!("watch *((char *)&init_uts_ns + {NODENAME})"),
        "reverse-continue".into(),
        "x/i $rip".into(),
        "delete".into(),
        "break *&entry_SYSCALL_64".into(),
        "reverse-continue".into(),
        "print $rax".into(),
        "x/s $rdi".into(),
        "x/2i $rcx - 2".into(),
        "monitor when".into(),
    ]
}

/// The symbols as a file for GDB.
fn symbol_file_bytes(found: &[Symbol]) -> Result<Vec<u8>> {
    let of = |name: &str| {
        address_of(found, name)
            .with_context(|| format!("the guest's kernel names no symbol {name}"))
    };
    let (start, behind_text, end) = (of("_text")?, of("_etext")?, of("_end")?);
    of("init_uts_ns")?;
    of("entry_SYSCALL_64")?;
    if !(start < behind_text && behind_text < end) {
        bail!("the guest's kernel names impossible symbols");
    }
    Ok(symbols::elf(
        found,
        (start, behind_text),
        (behind_text, end),
    ))
}

/// A console that keeps what it hears.
struct Listener {
    shown: Box<dyn Console>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Console for Listener {
    fn output(&mut self, bytes: &[u8]) {
        self.heard.lock().extend_from_slice(bytes);
        self.shown.output(bytes);
    }
    fn poll(&mut self) -> Option<Command> {
        self.shown.poll()
    }
    fn input(&mut self) -> &[u8] {
        self.shown.input()
    }
    fn consume(&mut self, bytes: usize) {
        self.shown.consume(bytes);
    }
    fn is_interactive(&self) -> bool {
        self.shown.is_interactive()
    }
    fn input_ended(&self) -> bool {
        self.shown.input_ended()
    }
    fn wait(&mut self, at_most: Duration) {
        self.shown.wait(at_most);
    }
}
