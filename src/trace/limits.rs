//! Limits of the recording file: what the writer never exceeds and what the reader refuses before it allocates.
//!
//! A file may come from anybody. No length in it is believed before it was compared with one of these.

/// Bytes of the MessagePack configuration in the header. A CPUID table of 256 rows with a command line of 4 KiB is
/// below 16 KiB.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Bytes of a frame's payload before compression: bounds what one frame can make the reader allocate.
pub const FRAME_RAW_BYTES_MAX: usize = 16 << 20;

/// Bytes of a frame's payload as stored. zstd makes what it cannot compress longer by less than 1 %.
pub const FRAME_STORED_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + (FRAME_RAW_BYTES_MAX >> 6);

/// Events after which the writer closes a frame. Larger frames compress better; smaller ones cost less memory and
/// time when a debugger jumps into the middle of one (8192 events decode in well under a millisecond).
pub const FRAME_EVENTS: usize = 8192;

/// Events that the reader accepts in one frame: room for writers with other settings.
pub const FRAME_EVENTS_MAX: usize = 1 << 16;

/// Bytes of DMA and console input after which the writer closes a frame.
pub const FRAME_BLOB_BYTES: usize = 1 << 20;

/// Bytes of one DMA or console event. A longer one is written as several with the same tick.
pub const BLOB_BYTES_MAX: usize = 1 << 20;

/// Pages of distinct content in one RAM frame (4 MiB).
pub const RAM_FRAME_PAGES: usize = 1024;

/// Page numbers in one RAM frame: many may have the same content.
pub const RAM_FRAME_NUMBERS_MAX: usize = 1 << 20;

/// Bytes of the starting processor state: a few KiB a processor, 255 processors.
pub const STATE_BYTES_MAX: usize = 8 << 20;

/// Guest RAM in bytes (1 TiB): beyond that no host could replay it.
pub const RAM_BYTES_MAX: u64 = 1 << 40;

/// Processors of a machine: an event names its processor in 8 bits, as xAPIC does.
pub const CPUS_MAX: u16 = 255;

/// Rows of the CPUID table.
pub const CPUID_ROWS_MAX: usize = 4096;

/// Decoded event frames that are kept in memory, beyond those that cursors stand in (below 400 KiB each as our
/// writer makes them, plus the DMA that they carry).
pub const CACHED_FRAMES: usize = 16;

const _: () = {
    // The largest event costs at most: code 5, tick 10, two values of 10, site 14, digest 40 bytes.
    let columns = FRAME_EVENTS * (5 + 10 + 20 + 14 + 40);
    assert!(columns + FRAME_BLOB_BYTES + BLOB_BYTES_MAX < FRAME_RAW_BYTES_MAX);
    assert!(RAM_FRAME_PAGES * super::PAGE_BYTES + RAM_FRAME_NUMBERS_MAX * 10 < FRAME_RAW_BYTES_MAX);
    assert!(STATE_BYTES_MAX < FRAME_RAW_BYTES_MAX);
    assert!(FRAME_EVENTS <= FRAME_EVENTS_MAX);
};
