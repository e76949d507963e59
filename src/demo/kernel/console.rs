//! The serial console (a 16550 at COM1), port access, and the way out.

use core::arch::asm;
use core::fmt::{self, Write};

const COM1: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;

pub fn outb(port: u16, value: u8) {
    // SAFETY: the kernel owns the machine; no device that it uses writes to memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as for outb.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// 115200 baud, 8 bits, no parity, no interrupts.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        outb(COM1 + register, value);
    }
}

pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    while inb(COM1 + 5) & 0x20 == 0 {}
    outb(COM1, byte);
}

macro_rules! println {
    () => { $crate::console::print_line(format_args!("")) };
    ($($argument:tt)*) => { $crate::console::print_line(format_args!($($argument)*)) };
}
pub(crate) use println;

/// Prints a line in one piece: no task switch in the middle of it.
pub fn print_line(line: fmt::Arguments) {
    crate::interrupts::without(|| {
        // The console takes everything.
        let _ = writeln!(Console, "{line}");
    });
}

/// Ends the run: the machine's exit status is `(code << 1) | 1`.
pub fn exit(code: u32) -> ! {
    // SAFETY: the machine ends here.
    unsafe { asm!("out dx, eax", in("dx") DEBUG_EXIT, in("eax") code, options(nomem, nostack)) }
    loop {
        // Where there is no such device the machine stops instead.
        // SAFETY: interrupts are of no use any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
