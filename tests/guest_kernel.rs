//! The guest's kernel found by itself: symbols, types and processes from the RAM of a Debian guest with KASLR, compared
//! with what the guest itself says of them.
//!
//! Skipped, loudly, where there is no kernel to be had.

mod support;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use retrovisor::demo::{debian_kernel, initramfs};
use retrovisor::guest::linux::{Kernel, btf, kallsyms, tasks};
use retrovisor::guest::{Guest, Physical, symbol_file};
use retrovisor::machine::Machine;
use retrovisor::timeline::api::Registers;
use support::recording::{plain, record_linux, run_to};

/// Says what the kernel's symbols and processes are. No modules are loaded: what is in brackets is not the kernel's.
const INIT: &str = "#!/bin/sh
mount -t proc proc /proc
sleep 1000 &
grep -v '\\[' /proc/kallsyms > /symbols
echo SUM $(md5sum < /symbols)
awk 'NR % 100 == 1 { print \"SYMBOL\", $0 }' /symbols
ps | awk '{ print \"PROCESS\", $1, $3 }'
poweroff -f
";

/// A machine without a timeline.
struct Still<'a>(&'a Machine);

impl Physical for Still<'_> {
    fn read_physical(&self, address: u64, out: &mut [u8]) -> usize {
        self.0.cpu.memory.read(address, out)
    }
}

impl Guest for Still<'_> {
    fn registers(&self, _cpu: usize) -> Registers {
        let state = &self.0.cpu.state;
        Registers {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            k_gs_base: state.kernel_gs_base,
            ..Registers::default()
        }
    }

    fn cpus(&self) -> usize {
        1
    }

    fn current_cpu(&self) -> usize {
        0
    }
}

/// The lines of the guest's output that begin with a word, without it.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let lines = text.lines().map(str::trim_end);
    lines.filter_map(|line| line.strip_prefix(word)).collect()
}

fn md5(text: &str) -> Option<String> {
    let mut child = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().map(str::to_string)
}

#[test]
fn what_is_found_in_ram_is_what_the_guest_says() {
    const NAME: &str = "what_is_found_in_ram_is_what_the_guest_says";
    let mut linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => return support::skip(NAME, &why),
    };
    let directory = support::scratch("guest-kernel");
    let debian = debian_kernel(&support::cache(), &mut |_| {}).unwrap();
    linux.initrd = directory.join("initramfs.cpio");
    let busybox = fs::read(&debian.busybox).unwrap();
    fs::write(&linux.initrd, initramfs(&busybox, INIT, &[])).unwrap();
    let recorded = record_linux(&linux, &directory.join("kernel.rvr"), |_| {});
    let said = recorded.text();
    let mut replayer = plain(&recorded.recording);
    run_to(&mut replayer, recorded.recording.last_tick());
    let guest = Still(&replayer.machine);
    let kernel = Kernel::find(&guest).unwrap();

    assert!(said.contains(&kernel.banner), "{}", kernel.banner);
    assert_eq!(kernel.version(), linux.version);
    assert_ne!(
        kernel.kaslr_offset(),
        Some(0),
        "this is to be tested with KASLR"
    );
    symbols_are(&kernel, &said);
    let types = kernel.types().unwrap();
    processes_are(&guest, &kernel, &types, &said);
    let made = symbol_file::find(&guest).unwrap();
    assert!(made.summary.contains(&linux.version), "{}", made.summary);
    damage_is_survived(kernel);
}

fn symbols_are(kernel: &Kernel, said: &str) {
    let mut all = String::new();
    for symbol in kernel.symbols.iter() {
        all += &format!(
            "{:016x} {} {}\n",
            symbol.address, symbol.kind as char, symbol.name
        );
    }
    let sample = lines(said, "SYMBOL ");
    assert!(sample.len() > 500, "{} symbols", sample.len());
    for (ours, theirs) in all.lines().step_by(100).zip(&sample) {
        assert_eq!(ours, *theirs);
    }
    assert_eq!(all.lines().step_by(100).count(), sample.len());
    // One sum over all of them.
    let sum = lines(said, "SUM ")[0].split(' ').next().map(str::to_string);
    if let Some(ours) = md5(&all) {
        assert_eq!(Some(ours), sum);
    }
    let open = kernel.symbol("do_sys_openat2").unwrap();
    assert_eq!(kernel.symbols.by_address(open.address + 1), Some(open));
}

fn processes_are(guest: &dyn Guest, kernel: &Kernel, types: &btf::Types, said: &str) {
    let found = tasks::list(guest, kernel, types).unwrap();
    // What `ps` and `awk` were is over; what the kernel's workers call themselves changes.
    let lasting = [
        "{init}",
        "[kthreadd]",
        "sleep",
        "[ksoftirqd/0]",
        "[kswapd0]",
    ];
    let mut compared = 0;
    for line in lines(said, "PROCESS ") {
        let Some((pid, name)) = line.split_once(' ') else {
            continue;
        };
        if lasting.contains(&name) {
            let pid: u32 = pid.parse().unwrap();
            let task = found.iter().find(|task| task.pid == pid);
            let task = task.unwrap_or_else(|| panic!("{line} is not in {found:?}"));
            assert_eq!(task.name, name.trim_matches(['{', '}', '[', ']']));
            assert_eq!(task.mm == 0, name.starts_with('['));
            compared += 1;
        }
    }
    assert_eq!(compared, lasting.len(), "{said}");
    let current = tasks::current(guest, kernel, types, 0).unwrap();
    let current = tasks::at(guest, kernel, types, current).unwrap();
    assert_eq!(current.name, "poweroff");
    let list_head = types.by_name("list_head").unwrap();
    assert_eq!(types.size(list_head), Some(16));
    assert_eq!(types.offset("list_head", &["prev"]), Ok(8));
}

/// Whatever stands in the tables, looking for them comes to an end without a panic.
fn damage_is_survived(mut kernel: Kernel) {
    let seed = 20_261_121;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for name in [
        "kallsyms_names",
        "kallsyms_markers",
        "kallsyms_token_table",
        "__start_BTF",
    ] {
        let Some(address) = kernel.symbols.by_name(name).map(|s| s.address) else {
            continue;
        };
        for _ in 0..10 {
            let segment = kernel
                .image
                .segments
                .iter_mut()
                .rfind(|segment| segment.address <= address)
                .unwrap();
            let at = (address - segment.address) as usize + random.usize(..4096);
            let byte = std::mem::replace(&mut segment.bytes[at], random.u8(..));
            let _ = kallsyms::find(&kernel.image);
            let _ = kernel.types();
            let end = kernel.image.segments.len();
            let segment = kernel.image.segments[..end]
                .iter_mut()
                .rfind(|segment| segment.address <= address)
                .unwrap();
            segment.bytes[at] = byte;
        }
    }
}
