//! Makes an initramfs (cpio "newc", Documentation/driver-api/early-userspace/buffer-format.rst) of busybox and an
//! init script. The same arguments give the same bytes: no times, no owners.

use std::collections::BTreeSet;

use cpio::newc::{Builder, trailer};

const TYPE_MASK: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Programs that are links to busybox.
const APPLETS: &[&str] = &[
    "ash",
    "awk",
    "basename",
    "cat",
    "chmod",
    "clear",
    "cp",
    "cttyhack",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "halt",
    "head",
    "hexdump",
    "hostname",
    "id",
    "ifconfig",
    "init",
    "ip",
    "kill",
    "less",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mknod",
    "more",
    "mount",
    "mv",
    "ping",
    "poweroff",
    "printf",
    "ps",
    "pwd",
    "reboot",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "time",
    "top",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "usleep",
    "vi",
    "wc",
    "which",
    "xargs",
    "yes",
    "zcat",
];

/// The benchmark's and the tests' init: a boot that ends by itself.
pub const BENCHMARK_INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo
echo 'retrovisor: the guest is up'
uname -a
md5sum /bin/busybox
poweroff -f
";

/// An init for people: a shell on the console; leaving it powers off.
pub const SHELL_INIT: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
export PS1='guest:\\w# ' HOME=/root TERM=linux
cd /root
echo
echo 'A busybox shell in the guest. «exit» powers it off.'
setsid cttyhack sh
poweroff -f
";

/// Makes the archive: `busybox` (a static binary) as /bin/busybox with links to it, `init_script` as /init, the
/// usual directories, /dev/console, /dev/null and /dev/ttyS0, and `extra` files as (path, mode, contents).
///
/// A mode without a file type is a regular file's; with the type of a symbolic link the contents are its target.
/// Directories on the way to an extra file are made.
pub fn initramfs(busybox: &[u8], init_script: &str, extra: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Archive {
        bytes: Vec::new(),
        inode: 1,
        directories: BTreeSet::new(),
    };
    for directory in ["bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp"] {
        archive.directory(directory);
    }
    for (name, major, minor) in [
        ("dev/console", 5, 1),
        ("dev/null", 1, 3),
        ("dev/ttyS0", 4, 64),
    ] {
        archive.add(name, CHARACTER | 0o600, (major, minor), &[]);
    }
    archive.add("bin/busybox", REGULAR | 0o755, (0, 0), busybox);
    for applet in APPLETS {
        archive.add(
            &format!("bin/{applet}"),
            SYMLINK | 0o777,
            (0, 0),
            b"busybox",
        );
    }
    archive.add("init", REGULAR | 0o755, (0, 0), init_script.as_bytes());
    for (path, mode, contents) in extra {
        let path = path.trim_matches('/');
        for (slash, _) in path.match_indices('/') {
            archive.directory(&path[..slash]);
        }
        let mode = if mode & TYPE_MASK == 0 {
            REGULAR | mode
        } else {
            *mode
        };
        archive.add(path, mode, (0, 0), contents);
    }
    trailer(archive.bytes).expect("writing to memory does not fail")
}

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    fn directory(&mut self, path: &str) {
        if self.directories.insert(path.to_string()) {
            self.add(path, DIRECTORY | 0o755, (0, 0), &[]);
        }
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        let (major, minor) = device;
        let entry = Builder::new(path)
            .ino(self.inode)
            .mode(mode)
            .nlink(1)
            .rdev_major(major)
            .rdev_minor(minor);
        self.inode += 1;
        let len =
            u32::try_from(contents.len()).expect("a file of an initramfs is smaller than 4 GiB");
        let mut writer = entry.write(&mut self.bytes, len);
        std::io::Write::write_all(&mut writer, contents).expect("writing to memory does not fail");
        writer.finish().expect("writing to memory does not fail");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What an archive holds, as (path, mode, contents).
    fn list(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut rest = bytes;
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let (name, mode) = (reader.entry().name().to_string(), reader.entry().mode());
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents).unwrap();
            found.push((name, mode, contents));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn holds_what_was_given() {
        let bytes = initramfs(
            b"ELF",
            "#!/bin/sh\n",
            &[
                ("/lib/modules/a.ko", 0o644, b"xyz"),
                ("l", SYMLINK, b"init"),
            ],
        );
        let found = list(&bytes);
        let of = |path: &str| {
            found
                .iter()
                .find(|(name, ..)| name == path)
                .map(|(_, mode, c)| (*mode, c.as_slice()))
        };
        assert_eq!(of("bin/busybox"), Some((0o100_755, &b"ELF"[..])));
        assert_eq!(of("init"), Some((0o100_755, &b"#!/bin/sh\n"[..])));
        assert_eq!(
            of("bin/md5sum").map(|(_, target)| target),
            Some(&b"busybox"[..])
        );
        assert_eq!(of("lib"), Some((0o040_755, &b""[..])));
        assert_eq!(of("lib/modules"), Some((0o040_755, &b""[..])));
        assert_eq!(of("lib/modules/a.ko"), Some((0o100_644, &b"xyz"[..])));
        assert_eq!(of("l"), Some((SYMLINK, &b"init"[..])));
        assert_eq!(of("dev/console").map(|(mode, _)| mode), Some(0o020_600));
    }

    #[test]
    fn a_directory_stands_before_what_is_in_it_and_once() {
        let bytes = initramfs(b"", "", &[("a/b/c", 0o600, b""), ("a/b/d", 0o600, b"")]);
        let names: Vec<String> = list(&bytes).into_iter().map(|(name, ..)| name).collect();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(
                names.iter().filter(|other| *other == name).count(),
                1,
                "{name} is there once"
            );
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(
                    names[..at].iter().any(|other| other == parent),
                    "{parent} stands before {name}"
                );
            }
        }
    }
}
