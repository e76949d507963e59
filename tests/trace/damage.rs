//! Files that were cut, flipped, or made by somebody hostile.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use retrovisor::trace::{Error, Event, PAGE_BYTES, Recording};

use crate::sample::{
    FRAME_HEADER_BYTES, PREFIX_BYTES, Page, Random, Scratch, frame_offsets, mend, one_line,
    random_events, read_all, read_ram, record, sample_ram, u32_at,
};

/// Opens what may be damaged. What can be read has to be the beginning of what was written; `marks` are the ticks up
/// to which flushes made it whole. Gives whether the damage was noticed.
fn open_damaged(path: &Path, events: &[Event], ram: &[(u64, Page)], marks: &[u64]) -> bool {
    let recording = match Recording::open(path) {
        Ok(recording) => Arc::new(recording),
        Err(error) => {
            one_line(&error, path);
            return true;
        }
    };
    let mut noticed = false;
    if let Some(torn) = recording.torn() {
        assert_eq!(torn.valid_bytes + torn.lost_bytes, recording.bytes());
        assert!(!torn.why.is_empty() && !torn.why.contains('\n'));
        assert!(
            marks.contains(&recording.last_tick()),
            "replay would stop at tick {}",
            recording.last_tick()
        );
        noticed = true;
    }
    let (read, error) = read_all(&recording);
    assert!(
        read[..] == events[..read.len()],
        "other events than were written"
    );
    if let Some(error) = &error {
        one_line(error, path);
        assert!(recording.statistics().is_err());
        noticed = true;
    } else {
        // Nothing before the end may be missing.
        let complete = events
            .iter()
            .filter(|event| event.tick < recording.last_tick())
            .count();
        assert!(
            read.len() >= complete,
            "{} of {complete} events",
            read.len()
        );
        assert_eq!(recording.events(), read.len() as u64);
    }
    match read_ram(&recording) {
        Ok(read) => assert!(
            read.iter()
                .eq(ram.iter().filter(|page| page.1 != [0; PAGE_BYTES])),
            "other RAM"
        ),
        Err(error) => {
            one_line(&error, path);
            noticed = true;
        }
    }
    match recording.state() {
        Ok(state) => assert_eq!(state.bytes, b"the processors"),
        Err(error) => {
            one_line(&error, path);
            noticed = true;
        }
    }
    noticed
}

/// All marks that a recording of `record` has: those of flushes, of full frames, and of its end.
fn marks_of(path: &Path) -> Vec<u64> {
    let recording = Recording::open(path).expect("opens");
    recording
        .event_frames()
        .iter()
        .map(|frame| frame.mark)
        .chain([0, recording.last_tick()])
        .collect()
}

#[test]
fn a_small_recording_may_be_cut_at_every_byte() {
    let scratch = Scratch::new("cut-bytes");
    let path = scratch.file("a.rvr");
    let ram = &sample_ram()[..3];
    let events = random_events(&mut Random(21), 60);
    record(&path, ram, &events, 11);
    let marks = marks_of(&path);
    let whole = fs::read(&path).expect("the file");
    let cut = scratch.file("cut.rvr");
    for len in 0..whole.len() {
        fs::write(&cut, &whole[..len]).expect("written");
        assert!(
            open_damaged(&cut, &events, ram, &marks),
            "cut at {len} was not noticed"
        );
    }
    // What comes after the end is left out.
    let longer = [&whole[..], b"more"].concat();
    fs::write(&cut, longer).expect("written");
    assert!(open_damaged(&cut, &events, ram, &marks));
    let recording = Recording::open(&cut).expect("opens");
    assert_eq!(recording.torn().expect("torn").lost_bytes, 4);
    assert_eq!(
        recording.end().map(|end| end.tick),
        Some(recording.last_tick())
    );
}

#[test]
fn a_recording_cut_at_a_frame_has_all_events_up_to_its_last_mark() {
    let scratch = Scratch::new("cut-frames");
    let path = scratch.file("a.rvr");
    let ram = sample_ram();
    let events = random_events(&mut Random(22), 40_000);
    record(&path, &ram, &events, 3000);
    let marks = marks_of(&path);
    let whole = fs::read(&path).expect("the file");
    let offsets = frame_offsets(&whole);
    assert!(offsets.len() > 14, "{} frames", offsets.len());
    let cut = scratch.file("cut.rvr");
    for (index, &offset) in offsets.iter().enumerate() {
        for around in [
            offset,
            offset + 1,
            offset.saturating_sub(1),
            offset + FRAME_HEADER_BYTES,
        ] {
            fs::write(&cut, &whole[..around.min(whole.len())]).expect("written");
            assert!(open_damaged(&cut, &events, &ram, &marks));
        }
        fs::write(&cut, &whole[..offset]).expect("written");
        // RAM and state are the first two frames.
        if index < 2 {
            assert!(matches!(Recording::open(&cut), Err(Error::NoStart { .. })));
        } else {
            let recording = Recording::open(&cut).expect("opens");
            assert_eq!(recording.torn().expect("torn").lost_bytes, 0);
            assert_eq!(
                recording.events(),
                (events.len() as u64).min((index as u64 - 2) * 3000)
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let scratch = Scratch::new("flips");
    let path = scratch.file("a.rvr");
    let ram = &sample_ram()[..4];
    let events = random_events(&mut Random(23), 3000);
    record(&path, ram, &events, 500);
    let marks = marks_of(&path);
    let whole = fs::read(&path).expect("the file");
    let cut = scratch.file("flipped.rvr");
    let mut random = Random(24);
    // All of the header's prefix and the first frame's header, then anywhere.
    let first_frame = frame_offsets(&whole)[0];
    let fixed = (0..PREFIX_BYTES).chain(first_frame..first_frame + FRAME_HEADER_BYTES);
    let mut positions: Vec<usize> = fixed.collect();
    positions.extend((0..1500).map(|_| random.below(whole.len() as u64) as usize));
    for position in positions {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << random.below(8);
        fs::write(&cut, flipped).expect("written");
        assert!(
            open_damaged(&cut, &events, ram, &marks),
            "a flip at byte {position} was not noticed"
        );
    }
}

#[test]
fn a_hostile_file_with_right_checksums_is_refused() {
    let scratch = Scratch::new("hostile");
    let path = scratch.file("a.rvr");
    record(
        &path,
        &sample_ram()[..4],
        &random_events(&mut Random(31), 300),
        100,
    );
    let whole = fs::read(&path).expect("the file");
    let offsets = frame_offsets(&whole);
    let hostile = scratch.file("hostile.rvr");
    let try_with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = whole.clone();
        change(&mut file);
        mend(&mut file);
        fs::write(&hostile, file).expect("written");
        let recording = match Recording::open(&hostile) {
            Ok(recording) => Arc::new(recording),
            Err(error) => {
                one_line(&error, &hostile);
                return error.to_string();
            }
        };
        let outcomes = [
            read_all(&recording).1,
            read_ram(&recording).err(),
            recording.state().err(),
            recording.statistics().err(),
        ];
        if let Some(error) = outcomes.into_iter().flatten().next() {
            one_line(&error, &hostile);
            return error.to_string();
        }
        recording
            .torn()
            .map(|torn| torn.why.clone())
            .expect("the change is noticed")
    };
    let mut said = Vec::new();
    // Lengths, counts, ticks, sequence and kinds of the frames.
    for &frame in &offsets {
        for at in [12, 16, 20] {
            for value in [u32::MAX, 1 << 31, 16 << 20, 1] {
                said.push(try_with(&|file| {
                    file[frame + at..frame + at + 4].copy_from_slice(&value.to_le_bytes())
                }));
            }
        }
        said.push(try_with(&|file| file[frame + 8] ^= 1));
        said.push(try_with(&|file| file[frame + 4] = 99));
        said.push(try_with(&|file| file[frame + 40] ^= 0x80));
        said.push(try_with(&|file| file[frame + 31] ^= 0x80));
        said.push(try_with(&|file| file.truncate(frame + 70)));
    }
    for part in [
        "is larger than any",
        "cannot be decompressed",
        "belongs",
        "the unknown kind 99",
        "ends within",
    ] {
        assert!(
            said.iter().any(|line| line.contains(part)),
            "nothing says {part:?}: {said:#?}"
        );
    }
    let huge_config = try_with(&|file| file[12..16].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert!(huge_config.contains("longer than any"), "{huge_config}");
    // Frames in another order.
    let swapped = try_with(&|file| {
        let (first, second, third) = (offsets[2], offsets[3], offsets[4]);
        file[first..third].rotate_left(second - first);
    });
    assert!(swapped.contains("belongs"), "{swapped}");
}

#[test]
fn a_hostile_payload_never_panics() {
    let scratch = Scratch::new("payload");
    let path = scratch.file("a.rvr");
    let events = random_events(&mut Random(41), 200);
    record(&path, &sample_ram()[..4], &events, 1000);
    let whole = fs::read(&path).expect("the file");
    let offsets = frame_offsets(&whole);
    let hostile = scratch.file("hostile.rvr");
    let mut random = Random(42);
    let mut refused = 0;
    for round in 0..4000 {
        // A changed payload, compressed again, with right checksums and lengths: only its decoder can tell.
        let frame = offsets[round % offsets.len()];
        let stored_end = frame + FRAME_HEADER_BYTES + u32_at(&whole, frame + 12) as usize;
        let raw_bytes = u32_at(&whole, frame + 16) as usize;
        let mut raw =
            zstd::bulk::decompress(&whole[frame + FRAME_HEADER_BYTES..stored_end], raw_bytes)
                .expect("zstd");
        for _ in 0..=random.below(3) {
            let at = random.below(raw.len() as u64) as usize;
            match random.below(4) {
                0 => raw[at] = random.next() as u8,
                1 => raw[at] ^= 1 << random.below(8),
                2 => raw[at] = 0xff,
                _ => raw.truncate(at.max(1)),
            }
        }
        let stored = zstd::bulk::compress(&raw, 1).expect("zstd");
        let mut file = whole[..frame + FRAME_HEADER_BYTES].to_vec();
        file[frame + 12..frame + 16].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        file[frame + 16..frame + 20].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        file.extend_from_slice(&stored);
        file.extend_from_slice(&whole[stored_end..]);
        mend(&mut file);
        fs::write(&hostile, file).expect("written");
        match Recording::open(&hostile).map(Arc::new) {
            Err(error) => {
                one_line(&error, &hostile);
                refused += 1;
            }
            Ok(recording) => {
                let error = read_all(&recording)
                    .1
                    .or(read_ram(&recording).err())
                    .or(recording.state().err());
                refused += usize::from(error.inspect(|error| one_line(error, &hostile)).is_some());
            }
        }
    }
    // Changes of bytes that stand for themselves (a page's content) cannot be told.
    assert!(refused > 1000, "only {refused} were refused");
}
