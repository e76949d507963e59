//! Bookmarks: names that a user gives to ticks, kept in a small file beside the recording (`boot.rvb` beside
//! `boot.rvr`).
//!
//! The file is JSON with the recording's identity and a checksum. It is written whole to another name, synced and
//! renamed, so that there is always an old or a new one. It is read again before each change, because another server
//! of the same recording may have changed it. A file that is damaged, or somebody else's, is never overwritten.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::tick::Tick;

/// What the file begins with says what it is.
const FORMAT: &str = "retrovisor bookmarks 1";
/// More bookmarks than anybody sets.
const COUNT_MAX: usize = 10_000;
/// Characters of a name.
const NAME_MAX: usize = 64;
/// Longer than any file of [`COUNT_MAX`] bookmarks.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// The bookmarks of a recording.
#[derive(Debug, Default)]
pub struct Bookmarks {
    /// Where they are kept. `None`: in memory only.
    path: Option<PathBuf>,
    /// The recording's.
    identity: [u8; 16],
    /// As they were read or written last.
    named: BTreeMap<String, Tick>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: String,
    recording: String,
    bookmarks: BTreeMap<String, Tick>,
    check: String,
}

impl Bookmarks {
    /// Those of a recording, beside it.
    pub fn beside(recording: &Path, identity: [u8; 16]) -> Bookmarks {
        Bookmarks {
            path: Some(recording.with_extension("rvb")),
            identity,
            named: BTreeMap::new(),
        }
    }

    /// All of them, by name.
    pub fn all(&mut self) -> Result<&BTreeMap<String, Tick>, String> {
        self.load()?;
        Ok(&self.named)
    }

    /// The tick of a name.
    pub fn get(&mut self, name: &str) -> Result<Tick, String> {
        let found = self.all()?.get(name).copied();
        found.ok_or_else(|| format!("there is no bookmark \"{name}\""))
    }

    /// Gives a tick a name; gives the tick that had it before.
    pub fn set(&mut self, name: &str, tick: Tick) -> Result<Option<Tick>, String> {
        check_name(name)?;
        self.load()?;
        if self.named.len() >= COUNT_MAX && !self.named.contains_key(name) {
            return Err(format!("there are {COUNT_MAX} bookmarks already"));
        }
        let old = self.named.insert(name.to_string(), tick);
        self.store()?;
        Ok(old)
    }

    /// Takes a name away; gives its tick.
    pub fn delete(&mut self, name: &str) -> Result<Tick, String> {
        let tick = self.get(name)?;
        self.named.remove(name);
        self.store()?;
        Ok(tick)
    }

    fn load(&mut self) -> Result<(), String> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let say = |why: &str| format!("{}: {why}", path.display());
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => {
                file.take(FILE_BYTES_MAX + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| say(&error.to_string()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.named.clear();
                return Ok(());
            }
            Err(error) => return Err(say(&error.to_string())),
        }
        self.named = read(&bytes, &self.identity).map_err(say)?;
        Ok(())
    }

    fn store(&self) -> Result<(), String> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let contents = Contents {
            format: FORMAT.to_string(),
            recording: hex(&self.identity),
            check: checksum(&self.named),
            bookmarks: self.named.clone(),
        };
        let text = serde_json::to_string_pretty(&contents)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        write_whole(path, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A name is a word that is no tick.
fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty()
        || name.len() > NAME_MAX
        || !name.chars().all(good)
        || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    {
        return Err(format!(
            "a bookmark's name is a letter and up to {} letters, digits and _ - .",
            NAME_MAX - 1
        ));
    }
    if matches!(name, "start" | "end" | "here") {
        return Err(format!("{name} is the name of a place already"));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checksum(named: &BTreeMap<String, Tick>) -> String {
    let lines: String = named
        .iter()
        .map(|(name, tick)| format!("{name} {tick}\n"))
        .collect();
    format!("{:016x}", xxh3_64(lines.as_bytes()))
}

fn read(bytes: &[u8], identity: &[u8; 16]) -> Result<BTreeMap<String, Tick>, &'static str> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("too long for a file of bookmarks; it is left alone");
    }
    let contents: Contents = serde_json::from_slice(bytes)
        .map_err(|_| "no file of bookmarks, or a damaged one; it is left alone")?;
    if contents.format != FORMAT {
        return Err("no file of bookmarks that this version knows; it is left alone");
    }
    if contents.recording != hex(identity) {
        return Err("the bookmarks of another recording; the file is left alone");
    }
    if contents.check != checksum(&contents.bookmarks)
        || contents.bookmarks.len() > COUNT_MAX
        || contents
            .bookmarks
            .keys()
            .any(|name| check_name(name).is_err())
    {
        return Err("a damaged file of bookmarks; it is left alone");
    }
    Ok(contents.bookmarks)
}

/// There is always the old file or the new one, whole.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(format!("rvb-{}", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&partial, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&partial);
        return renamed;
    }
    // The name itself is on the disk when the directory is.
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!(
            "retrovisor-bookmarks-{}-{name}",
            std::process::id()
        ));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn bookmarks_are_there_for_the_next_server() {
        let directory = place("kept");
        let recording = directory.join("boot.rvr");
        let mut one = Bookmarks::beside(&recording, [7; 16]);
        assert!(one.all().unwrap().is_empty());
        assert_eq!(one.set("panic", 12), Ok(None));
        // Another server of the same recording.
        let mut two = Bookmarks::beside(&recording, [7; 16]);
        assert_eq!(two.get("panic"), Ok(12));
        assert_eq!(two.set("before", 5), Ok(None));
        assert_eq!(one.set("panic", 13), Ok(Some(12)));
        assert_eq!(two.all().unwrap().len(), 2);
        assert_eq!(one.get("before"), Ok(5));
        assert_eq!(one.delete("before"), Ok(5));
        assert!(two.get("before").is_err() && two.delete("before").is_err());
        for bad in ["", "12", "a b", "end", "here", "-x", &"x".repeat(65)] {
            assert!(one.set(bad, 1).is_err(), "{bad:?}");
        }
        // Nothing is left lying about.
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_foreign_or_damaged_file_is_refused_and_left_alone() {
        let directory = place("foreign");
        let recording = directory.join("boot.rvr");
        let path = recording.with_extension("rvb");
        Bookmarks::beside(&recording, [7; 16])
            .set("panic", 12)
            .unwrap();
        let good = fs::read(&path).unwrap();
        let mut others = Bookmarks::beside(&recording, [8; 16]);
        assert!(others.all().unwrap_err().contains("another recording"));
        assert!(others.set("mine", 1).is_err());
        let mut files: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        files.push(
            String::from_utf8(good.clone())
                .unwrap()
                .replace("12", "13")
                .into_bytes(),
        );
        files.push(vec![b' '; FILE_BYTES_MAX as usize + 1]);
        files.push(b"\x7fELF".to_vec());
        for bytes in files {
            fs::write(&path, &bytes).unwrap();
            let mut bookmarks = Bookmarks::beside(&recording, [7; 16]);
            let why = bookmarks.set("mine", 1).unwrap_err();
            assert_eq!(why.lines().count(), 1);
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
