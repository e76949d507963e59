//! The writer where the system refuses: disks that fill up at any byte.

use std::sync::{Arc, Mutex};

use super::super::{Accel, Identity, Kind, Recording};
use super::*;

fn config() -> MachineConfig {
    MachineConfig {
        ram_bytes: 1 << 20,
        cpus: 1,
        cpu_vendor: "AuthenticAMD".into(),
        cpu_model: String::new(),
        cpuid: Vec::new(),
        rtc_epoch_s: 0,
        kernel: String::new(),
        initrd: None,
        cmdline: String::new(),
        boot_protocol: "multiboot".into(),
        accel: Accel::Emulate,
        program: "0.1.0".into(),
        created_unix_s: 0,
        identity: Identity([7; 16]),
        digest_distance_ticks: 1000,
        ns_per_tick: 8,
        untimed: false,
        counter: false,
        start: None,
    }
}

/// A disk with room for so many bytes, which may refuse to cut a file too.
struct SmallDisk {
    file: Arc<Mutex<Vec<u8>>>,
    room: usize,
    cuts: bool,
}

impl Sink for SmallDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().expect("the disk");
        let fits = bytes.len().min(self.room - file.len());
        file.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if !self.cuts {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.file.lock().expect("the disk").truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn event(tick: Tick) -> Event {
    // Values that do not compress, so that there are many places to fail at.
    Event {
        tick,
        cpu: 0,
        what: What::Random {
            value: tick.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        },
    }
}

const EVENTS: u64 = 60;

/// Records with room for `room` bytes. Gives the first error and what is on the disk.
fn record(room: usize, cuts: bool) -> (Option<Error>, Vec<u8>) {
    let file = Arc::new(Mutex::new(Vec::new()));
    let sink = Box::new(SmallDisk {
        file: Arc::clone(&file),
        room,
        cuts,
    });
    let path = Path::new("small.rvr");
    let outcome = Writer::start(sink, path, &config(), &config().encode().expect("a header"))
        .and_then(|mut writer| {
            writer.ram(0..4, |number, page| page.fill(number as u8))?;
            writer.state(1, b"state")?;
            let mut first = Ok(());
            for tick in 1..=EVENTS {
                let pushed = writer.push(&event(tick));
                let flushed = if tick % 10 == 0 {
                    writer.flush(tick)
                } else {
                    Ok(())
                };
                if first.is_err() {
                    assert!(pushed.is_err(), "an event was taken after a failure");
                }
                first = first.and(pushed).and(flushed);
            }
            let end = End {
                tick: EVENTS,
                reason: EndReason::PowerOff,
                guest_ns: None,
                wall_ms: 1,
                statistics: Default::default(),
            };
            let finished = writer.finish(&end);
            assert_eq!(
                finished.is_err() || first.is_err(),
                finished.is_err(),
                "finish forgets a failure"
            );
            first.and(finished)
        });
    let bytes = file.lock().expect("the disk").clone();
    (outcome.err(), bytes)
}

#[test]
fn a_full_disk_leaves_a_recording_up_to_the_last_whole_frame() {
    let (error, whole) = record(usize::MAX, true);
    assert!(error.is_none());
    let folder = std::env::temp_dir().join(format!("retrovisor-writer-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary directory");
    let path = folder.join("small.rvr");
    let (mut replayable, mut said_so) = (0, 0);
    for room in 0..whole.len() {
        for cuts in [true, false] {
            let (error, bytes) = record(room, cuts);
            let text = error.expect("an error").to_string();
            assert!(
                text.starts_with("small.rvr: cannot write the recording at byte "),
                "{text}"
            );
            fs::write(&path, &bytes).expect("written");
            let Ok(recording) = Recording::open(&path) else {
                assert!(
                    text.contains("nothing that could be replayed"),
                    "room for {room}: {text}"
                );
                continue;
            };
            replayable += 1;
            assert!(
                text.contains(&format!("up to tick {} is kept", recording.last_tick())),
                "{room}: {text}"
            );
            let events = recording.events();
            assert!(
                events % 10 == 0 && events == recording.last_tick(),
                "{events} events"
            );
            assert_eq!(
                recording.count_by_kind().expect("whole frames")[Kind::Random.index()],
                events
            );
            if cuts && let Some(end) = recording.end() {
                assert!(matches!(end.reason, EndReason::WriteFailed(_)));
                assert_eq!(recording.torn(), None);
                said_so += 1;
            }
            assert!(
                !cuts || recording.torn().is_none_or(|torn| torn.lost_bytes == 0),
                "a part of a frame is left"
            );
        }
    }
    assert!(
        replayable > 500 && said_so > 10,
        "{replayable} can be replayed, {said_so} say why they ended"
    );
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_device_that_is_full_is_an_error() {
    let error = Writer::create("/dev/full", &config())
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains("nothing that could be replayed"),
        "{error}"
    );
}
