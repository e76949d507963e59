//! The recording file from outside: what is written comes back, and whatever happens to the bytes,
//! the answer is what was recorded or one clear line.

mod damage;
mod format;
mod sample;
mod size;

use std::fs;
use std::sync::Arc;

use retrovisor::trace::{
    Error, Event, KINDS, MachineConfig, PAGE_BYTES, Recording, Start, TRACE_VERSION, What, Writer,
    limits,
};

use sample::{
    PREFIX_BYTES, Page, Random, Scratch, config, end, random_events, read_all, read_ram, record,
    sample_ram, start,
};

#[test]
fn what_is_written_comes_back() {
    let scratch = Scratch::new("round-trip");
    for (seed, count, flush) in [
        (1, 0, 1),
        (2, 1, 9),
        (3, 1000, 7),
        (4, 60_000, usize::MAX),
        (5, 30_000, 5000),
    ] {
        let path = scratch.file("a.rvr");
        let ram = sample_ram();
        let events = random_events(&mut Random(seed), count);
        record(&path, &ram, &events, flush);

        let recording = Arc::new(Recording::open(&path).expect("opens"));
        assert_eq!(recording.torn(), None, "seed {seed}");
        assert_eq!(recording.config(), &config());
        assert_eq!(recording.version(), TRACE_VERSION);
        assert_eq!(recording.state().expect("state").bytes, b"the processors");
        assert_eq!(recording.state().expect("state").version, 3);
        let not_zero: Vec<_> = ram
            .into_iter()
            .filter(|page| page.1 != [0; PAGE_BYTES])
            .collect();
        assert_eq!(read_ram(&recording).expect("RAM"), not_zero);
        let (read, error) = read_all(&recording);
        assert!(error.is_none(), "seed {seed}: {error:?}");
        assert!(
            read == events,
            "seed {seed}: other events than were written"
        );
        let last = events.last().map_or(0, |event| event.tick);
        assert_eq!(recording.end(), Some(&end(last)));
        assert_eq!(recording.last_tick(), last);

        let statistics = recording.statistics().expect("statistics");
        assert_eq!(statistics.events.values().sum::<u64>(), count as u64);
        assert_eq!(statistics.events_total, count as u64);
        assert_eq!(statistics.ram_pages, not_zero.len() as u64);
        for row in KINDS {
            let expected = events
                .iter()
                .filter(|event| event.what.kind() == row.0)
                .count() as u64;
            assert_eq!(
                statistics.events.get(row.1).copied().unwrap_or(0),
                expected,
                "{}",
                row.1
            );
        }
        let header = statistics.bytes
            - statistics
                .frames
                .values()
                .map(|frames| frames.stored)
                .sum::<u64>();
        assert!(
            (PREFIX_BYTES as u64..2000).contains(&header),
            "the header has {header} bytes"
        );
    }
}

#[test]
fn equal_pages_take_the_room_of_one() {
    let scratch = Scratch::new("equal-pages");
    let path = scratch.file("a.rvr");
    let noise = Random(1).bytes(PAGE_BYTES);
    let mut writer = Writer::create(&path, &config()).expect("created");
    writer
        .ram(0..10_000, |_, page| page.copy_from_slice(&noise))
        .expect("RAM");
    writer.state(1, b"").expect("state");
    writer.finish(&end(0)).expect("finished");
    let recording = Recording::open(&path).expect("opens");
    assert!(
        recording.bytes() < 3 * PAGE_BYTES as u64,
        "{} bytes",
        recording.bytes()
    );
    let pages = read_ram(&recording).expect("RAM");
    assert!(pages.iter().map(|page| page.0).eq(0..10_000));
    assert!(pages.iter().all(|page| page.1[..] == noise[..]));
}

#[test]
fn ram_of_many_frames_comes_back() {
    let scratch = Scratch::new("large-ram");
    let path = scratch.file("a.rvr");
    // Every third page zero, every third equal to its neighbours', across frames.
    let fill = |number: u64, page: &mut Page| match number % 3 {
        0 => page.fill(0),
        1 => page.fill((number / 900) as u8 + 1),
        _ => page
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .for_each(|word| *word = number.to_le_bytes()),
    };
    let mut writer = Writer::create(&path, &config()).expect("created");
    writer.ram(0..9000, fill).expect("RAM");
    writer.state(1, b"").expect("state");
    writer.finish(&end(0)).expect("finished");
    let pages = read_ram(&Recording::open(&path).expect("opens")).expect("RAM");
    let mut expected = [0; PAGE_BYTES];
    assert_eq!(pages.len(), 6000);
    for (number, page) in pages {
        fill(number, &mut expected);
        assert!(page == expected, "page {number}");
    }
}

#[test]
fn a_long_transfer_becomes_several_events_with_all_bytes() {
    let scratch = Scratch::new("long-dma");
    let path = scratch.file("a.rvr");
    let bytes = Random(9).bytes(limits::BLOB_BYTES_MAX * 2 + 5);
    let mut writer = start(&path, &config(), &[]);
    writer
        .push(&Event {
            tick: 7,
            cpu: 1,
            what: What::Dma {
                gpa: 0x1000,
                bytes: bytes.clone(),
            },
        })
        .expect("pushed");
    writer.finish(&end(8)).expect("finished");
    let (events, error) = read_all(&Arc::new(Recording::open(&path).expect("opens")));
    assert!(error.is_none());
    let mut joined = Vec::new();
    for event in events {
        let What::Dma { gpa, bytes } = event.what else {
            panic!("not DMA: {event}")
        };
        assert_eq!(
            (event.tick, event.cpu, gpa),
            (7, 1, 0x1000 + joined.len() as u64)
        );
        joined.extend_from_slice(&bytes);
    }
    assert!(joined[..] == bytes[..]);
}

#[test]
fn a_cursor_goes_anywhere_in_any_thread() {
    let scratch = Scratch::new("cursor");
    let path = scratch.file("a.rvr");
    let events = random_events(&mut Random(11), 50_000);
    record(&path, &[], &events, 1234);
    let recording = Arc::new(Recording::open(&path).expect("opens"));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (recording, events) = (&recording, &events);
            scope.spawn(move || {
                let mut random = Random(seed);
                let mut cursor = recording.cursor();
                for _ in 0..300 {
                    let position = random.below(events.len() as u64 + 3);
                    cursor.seek(position);
                    for offset in 0..random.below(40) {
                        let expected = events.get((position + offset) as usize);
                        assert_eq!(cursor.peek().expect("peek"), expected);
                        assert_eq!(cursor.next().expect("next"), expected);
                    }
                }
                cursor.seek(u64::MAX);
                assert_eq!(cursor.next().expect("next"), None);
                assert_eq!(cursor.position(), u64::MAX);
            });
        }
    });
    let mut random = Random(77);
    let ends = [
        0,
        recording.last_tick(),
        recording.last_tick() + 1,
        u64::MAX,
    ];
    let ticks =
        (0..200).map(|_| events[random.below(events.len() as u64) as usize].tick + random.below(2));
    for tick in ticks.chain(ends) {
        let expected = events.partition_point(|event| event.tick < tick) as u64;
        assert_eq!(
            recording.position_at(tick).expect("position"),
            expected,
            "tick {tick}"
        );
    }
}

#[test]
fn only_recordings_are_replaced() {
    let scratch = Scratch::new("replace");
    let path = scratch.file("a.rvr");
    record(&path, &[], &random_events(&mut Random(1), 10), 1);
    let old = Recording::open(&path).expect("opens");
    record(&path, &[], &[], 1);
    assert_eq!(Recording::open(&path).expect("opens").events(), 0);
    assert_eq!(
        old.count_by_kind()
            .expect("the old one is still whole")
            .iter()
            .sum::<u64>(),
        10
    );

    let precious = scratch.file("vmlinuz");
    fs::write(&precious, b"a kernel").expect("written");
    let error = Writer::create(&precious, &config()).err().expect("refused");
    assert!(matches!(error, Error::WouldOverwrite { .. }), "{error}");
    assert_eq!(fs::read(&precious).expect("read"), b"a kernel");
    assert!(matches!(
        Writer::create(&scratch.0, &config()),
        Err(Error::Directory { .. })
    ));
    assert!(matches!(
        Writer::create(scratch.file("no/where"), &config()),
        Err(Error::Open { .. })
    ));
    let none = MachineConfig {
        cpus: 0,
        ..config()
    };
    let start = Start {
        task_priority: 16,
        ..Start::default()
    };
    let priority = MachineConfig {
        start: Some(start),
        ..config()
    };
    let counter = MachineConfig {
        counter: true,
        ..config()
    };
    for impossible in [none, priority, counter] {
        assert!(matches!(
            Writer::create(&path, &impossible),
            Err(Error::Misuse { .. })
        ));
    }
    assert!(Recording::open(&path).is_ok(), "the old recording is lost");
}

#[test]
fn a_recorder_that_is_killed_leaves_what_it_flushed() {
    let scratch = Scratch::new("killed");
    let path = scratch.file("a.rvr");
    let events = random_events(&mut Random(51), 500);
    let last = events[499].tick;
    let mut writer = start(&path, &config(), &[]);
    for event in &events {
        writer.push(event).expect("pushed");
    }
    writer.flush(last + 1000).expect("flushed");
    let quiet = writer.bytes();
    writer.flush(last + 1000).expect("flushed");
    assert_eq!(writer.bytes(), quiet, "a flush of nothing takes no room");
    writer.flush(last + 2000).expect("flushed");
    writer
        .push(&Event {
            tick: last + 3000,
            cpu: 0,
            what: What::Nmi,
        })
        .expect("pushed");
    // As a process that is killed does: nothing runs any more.
    std::mem::forget(writer);

    let recording = Arc::new(Recording::open(&path).expect("opens"));
    assert_eq!(recording.end(), None);
    assert_eq!(
        recording.last_tick(),
        last + 2000,
        "quiet time after the last event is replayed too"
    );
    let torn = recording.torn().expect("torn");
    assert_eq!(torn.lost_bytes, 0);
    assert!(torn.why.contains("killed"), "{}", torn.why);
    assert!(read_all(&recording).0 == events);
}

#[test]
fn the_writer_refuses_what_could_not_be_read() {
    let scratch = Scratch::new("misuse");
    let path = scratch.file("a.rvr");
    let event = |tick, cpu| Event {
        tick,
        cpu,
        what: What::Nmi,
    };
    let mut writer = Writer::create(&path, &config()).expect("created");
    let refused = |outcome: Result<(), Error>, part: &str| {
        let text = outcome.expect_err(part).to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(writer.push(&event(0, 0)), "before the starting state");
    refused(
        writer.state(1, &vec![0; limits::STATE_BYTES_MAX + 1]),
        "a state of 8388609 bytes",
    );
    writer.state(1, b"").expect("state");
    refused(writer.state(1, b""), "twice");
    refused(writer.ram([0], |_, _| {}), "RAM after");
    writer.push(&event(10, 0)).expect("pushed");
    refused(writer.push(&event(9, 0)), "tick 9 after tick 10");
    refused(writer.push(&event(11, 2)), "processor 2");
    refused(writer.flush(9), "up to tick 9");
    writer.flush(20).expect("flushed");
    refused(writer.push(&event(19, 0)), "tick 19 after tick 20");
    refused(writer.finish(&end(19)), "ended at tick 19");
    writer.finish(&end(20)).expect("finished");
    refused(writer.push(&event(30, 0)), "went on after the end");
    refused(writer.finish(&end(40)), "went on after the end");
    drop(writer);
    let recording = Recording::open(&path).expect("opens");
    assert_eq!(
        (recording.events(), recording.last_tick(), recording.torn()),
        (1, 20, None)
    );
}
