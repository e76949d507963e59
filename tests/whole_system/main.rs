//! The whole system against the host: a Debian kernel boots, runs programs that compute in every way that compilers
//! and libraries know, and what they print is what the same files print on the host. Then the recording replays
//! with all digests.
//!
//! The programs: a static C program of floating point and SIMD (gcc, -mavx2 -mfma), Perl, OpenSSL. Perl and OpenSSL are
//! the host's own files with the libraries that they load, copied into the guest, so that both sides run the same
//! code. What is not there is skipped, loudly.

#[path = "../support/mod.rs"]
mod support;

use retrovisor::demo::initramfs;
use retrovisor::replay::Replayer;
use retrovisor::trace::{EndReason, What};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::recording::{self, events};

/// Where the guest and the host find the files of a program.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/whole_system");

/// Files to put into the guest, by path.
type Files = BTreeMap<String, Vec<u8>>;

/// What to run: a name, the files that it needs, the command in the guest, and what it printed on the host.
struct Program {
    name: &'static str,
    files: Files,
    command: String,
    expected: String,
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, String> {
    let path = path.as_ref();
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a command on the host and gives what it prints.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{name}: {}: {}", output.status, why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program of a name on the host's path.
fn find(name: &str) -> Result<PathBuf, String> {
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join(name))
        // Not a script that stands in for it.
        .find(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")))
        .ok_or_else(|| format!("no {name} on this machine (package {name})"))
}

/// A program or library and all shared libraries that it is linked with, at their own paths.
fn add_with_libraries(files: &mut Files, path: &Path) -> Result<(), String> {
    files.insert(path.display().to_string(), read(path)?);
    let list = output(Command::new("ldd").arg(path))?;
    for word in list.split_whitespace().filter(|word| word.starts_with('/')) {
        if !files.contains_key(word) {
            files.insert(word.to_string(), read(word)?);
        }
    }
    Ok(())
}

fn floating(directory: &Path) -> Result<Program, String> {
    let program = directory.join("floating");
    let features = std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
        && std::is_x86_feature_detected!("bmi2");
    if !features {
        return Err("the host is below x86-64-v3".to_string());
    }
    output(
        Command::new("gcc")
            .args([
                "-O2",
                "-static",
                "-frounding-math",
                "-mavx2",
                "-mfma",
                "-mf16c",
            ])
            .args([
                "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt", "-maes", "-mpclmul", "-msse4.2",
            ])
            .arg("-o")
            .arg(&program)
            .arg(format!("{SOURCES}/floating.c"))
            .arg("-lm"),
    )?;
    Ok(Program {
        name: "floating",
        files: Files::from([("/job/floating".to_string(), read(&program)?)]),
        command: "/job/floating".to_string(),
        expected: output(&mut Command::new(&program))?,
    })
}

fn perl() -> Result<Program, String> {
    let perl = find("perl")?;
    let script = format!("{SOURCES}/work.pl");
    let mut files = Files::new();
    add_with_libraries(&mut files, &perl)?;
    // What it loads, as it says itself.
    let list = output(Command::new(&perl).args([
        "-MDynaLoader",
        "-e",
        "my $s = shift; { local *STDOUT; open STDOUT, '>', '/dev/null'; do $s; die $@ if $@ } \
         print STDERR ''; print \"$_\\n\" for values %INC, @DynaLoader::dl_shared_objects;",
        &script,
    ]))?;
    for path in list
        .lines()
        .filter(|path| path.starts_with('/') && **path != script)
    {
        if path.ends_with(".so") {
            add_with_libraries(&mut files, Path::new(path))?;
        } else {
            files.insert(path.to_string(), read(path)?);
        }
    }
    files.insert("/job/work.pl".to_string(), read(&script)?);
    Ok(Program {
        name: "perl",
        files,
        command: format!("{} /job/work.pl", perl.display()),
        expected: output(Command::new(&perl).arg(&script))?,
    })
}

fn openssl(directory: &Path) -> Result<Program, String> {
    let openssl = find("openssl")?;
    let mut files = Files::new();
    add_with_libraries(&mut files, &openssl)?;
    let data: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    let place = directory.join("ssl");
    fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    fs::write(place.join("data"), data).map_err(|error| error.to_string())?;
    let kinds: [(&str, &[&str]); 3] = [
        (
            "rsa",
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ),
        (
            "ec",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ),
        ("ed", &["-algorithm", "ED25519"]),
    ];
    for (name, arguments) in kinds {
        let key = place.join(format!("{name}.pem"));
        output(
            Command::new(&openssl)
                .arg("genpkey")
                .args(arguments)
                .arg("-out")
                .arg(&key),
        )?;
    }
    for name in ["data", "rsa.pem", "ec.pem", "ed.pem"] {
        files.insert(format!("/job/ssl/{name}"), read(place.join(name))?);
    }
    let script = format!("{SOURCES}/work.sh");
    files.insert("/job/work.sh".to_string(), read(&script)?);
    // It looks for this, and can do without what is in it.
    files.insert("/usr/lib/ssl/openssl.cnf".to_string(), Vec::new());
    let expected = output(
        Command::new("sh")
            .args([
                &script,
                &place.display().to_string(),
                &directory.display().to_string(),
            ])
            .env("OPENSSL_CONF", "/dev/null"),
    )?;
    Ok(Program {
        name: "openssl",
        files,
        command: "PATH=$PATH:/usr/bin OPENSSL_CONF=/dev/null sh /job/work.sh /job/ssl /tmp"
            .to_string(),
        expected,
    })
}

/// Boots, runs the programs, and gives what each has printed.
fn boot(test: &str, programs: &[Program], directory: &Path) -> Option<recording::Recorded> {
    let linux = match support::linux() {
        Ok(linux) => linux,
        Err(why) => {
            support::skip(test, &why);
            return None;
        }
    };
    let mut init = "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n\
        mount -t devtmpfs devtmpfs /dev\nmount -t tmpfs tmpfs /tmp\ndmesg -n 1\nexport LC_ALL=C\n"
        .to_string();
    let mut files = Files::new();
    for program in programs {
        let name = program.name;
        // To a file first: the kernel's own lines would come in between.
        init += &format!(
            "{} > /tmp/{name}.out 2> /tmp/{name}.err\n\
             echo \"BEGIN {name} $?\"; cat /tmp/{name}.out; echo \"END {name}\"; cat /tmp/{name}.err\n",
            program.command
        );
        files.extend(program.files.clone());
    }
    init += "poweroff -f\n";
    let extra: Vec<(&str, u32, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), 0o755, &bytes[..]))
        .collect();
    let busybox = retrovisor::demo::debian_kernel(&support::cache(), &mut |_| {})
        .ok()
        .and_then(|found| fs::read(found.busybox).ok())
        .expect("the Debian guest has a busybox");
    let initrd = initramfs(&busybox, &init, &extra);
    let kernel = read(&linux.kernel).expect("the kernel is there");
    let mut plan = recording::plan(&kernel, test, 256 << 20);
    plan.initrd = Some(&initrd);
    plan.cmdline = "console=ttyS0 quiet".to_string();
    plan.ticks_max = Some(60_000_000_000);
    Some(recording::record_plan(
        &plan,
        &directory.join("system.rvr"),
        b"",
    ))
}

/// What a program printed in the guest: exit status, and lines.
fn printed<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = text.split_once(&format!("BEGIN {name} "))?;
    let (status, rest) = rest.split_once('\n')?;
    let (lines, _) = rest.split_once(&format!("END {name}\n"))?;
    Some((status, lines))
}

#[test]
fn programs_print_in_the_guest_what_they_print_on_the_host() {
    const TEST: &str = "programs_print_in_the_guest_what_they_print_on_the_host";
    let directory = support::scratch("whole-system");
    let mut programs = Vec::new();
    for made in [floating(&directory), perl(), openssl(&directory)] {
        match made {
            Ok(program) => programs.push(program),
            Err(why) => support::skip(TEST, &why),
        }
    }
    if programs.is_empty() {
        return;
    }
    let Some(recorded) = boot(TEST, &programs, &directory) else {
        return;
    };
    let text = recorded.text().replace("\r\n", "\n");
    assert_eq!(recorded.outcome.reason, EndReason::PowerOff, "{text}");
    for program in &programs {
        let (status, lines) = printed(&text, program.name)
            .unwrap_or_else(|| panic!("{} has printed nothing:\n{text}", program.name));
        assert!(program.expected.lines().count() > 5, "{}", program.expected);
        assert_eq!(
            (status, lines),
            ("0", program.expected.as_str()),
            "{}:\n{text}",
            program.name
        );
    }
    let mut replayer = Replayer::new(&recorded.recording).expect("what was recorded is replayed");
    let mut checked = 0;
    while replayer.tick() < replayer.end() {
        if let Err(divergence) = replayer.run_to_digest() {
            panic!("{divergence}");
        }
        checked += 1;
    }
    let digests = events(&recorded.recording)
        .iter()
        .filter(|event| matches!(event.what, What::Digest(_)))
        .count();
    assert_eq!(checked, digests, "every digest is met");
    println!(
        "{} programs, {} ticks, {digests} digests",
        programs.len(),
        replayer.end()
    );
}
