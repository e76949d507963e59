//! The demo kernel: a very small operating system that runs a very small bank.
//!
//! A timer switches between tasks: one brings orders, two tellers carry them out, an auditor looks on and closes the
//! books at the end of each day. Sooner or later the books do not balance, though every single transfer is right:
//! there is one bug in here, planted, and it does its damage long before anybody sees it. Find it backwards.
//!
//! Built by build.rs as a static ELF file with a PVH entry; runs in retrovisor and in QEMU
//! (`qemu-system-x86_64 -kernel demo-kernel -nographic -device isa-debug-exit,iobase=0xf4`).
#![no_std]
#![no_main]

mod bank;
mod boot;
mod console;
mod interrupts;
mod memory;
mod recorder;
mod scheduler;

use core::panic::PanicInfo;

use bank::{Bank, Ledger};
use console::println;
use recorder::{Recorder, What};

/// What the tasks and the interrupt handlers share.
#[repr(C)]
pub struct Kernel {
    pub recorder: Recorder,
    pub ledger: Ledger,
    pub bank: Bank,
}

#[unsafe(no_mangle)]
pub static mut KERNEL: Kernel = Kernel {
    recorder: Recorder::new(),
    ledger: Ledger::new(),
    bank: Bank::new(),
};

/// The kernel's shared state. Everything in it is either atomic or touched with interrupts off.
pub fn kernel() -> &'static Kernel {
    // SAFETY: a static lives as long as the machine runs.
    unsafe { &*&raw const KERNEL }
}

/// Called by the boot code, in long mode, with the address of hvm_start_info and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: &boot::StartInfo) -> ! {
    console::init();
    println!();
    println!("A very small bank, open all night.");
    println!(
        "memory: {} MiB usable",
        boot::usable_bytes(start_info) >> 20
    );
    memory::unmap_null_page();
    interrupts::init();
    bank::open();
    println!(
        "issued: {} to {} accounts",
        kernel().ledger.issued,
        bank::ACCOUNTS
    );
    scheduler::spawn("courier", bank::courier);
    scheduler::spawn("teller 1", bank::teller);
    scheduler::spawn("teller 2", bank::teller);
    scheduler::spawn("auditor", bank::auditor);
    scheduler::run()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    interrupts::disable();
    kernel().recorder.note(What::Panic);
    println!();
    println!(
        "kernel panic in task «{}»: {}",
        scheduler::current_name(),
        info.message()
    );
    if let Some(place) = info.location() {
        println!("  at {}:{}", place.file(), place.line());
    }
    console::exit(0x10)
}
