//! The interrupt descriptor table, the two 8259s, the timer, and the way in and out of every interrupt.

use core::arch::{asm, global_asm};

use crate::console::{inb, outb};
use crate::scheduler;

/// Interrupts a second. The timer counts at 1,193,182 Hz.
pub const TIMER_HZ: u32 = 10_000;
/// Vector of the timer: the first of the first 8259.
const TIMER_VECTOR: u64 = 32;
/// Vector by which a task asks to be switched away from.
const YIELD_VECTOR: u64 = 0x80;
const PAGE_FAULT: u64 = 14;

const VECTORS: usize = 48;
const STACK_BYTES: usize = 16384;

/// The processor's registers as an interrupt finds them; the assembly below makes it on the interrupt stack.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Frame {
    /// What FXSAVE writes.
    pub vectors: [u8; 512],
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    pub general: [u64; 15],
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

global_asm!(
    r#"
    .text
    .balign 16
    .globl interrupt_entries
interrupt_entries:
    .set number, 0
    .rept 48
    .balign 16
    .if (number == 8) || (number >= 10 && number <= 14) || (number == 17) || (number == 21)
    .else
    push 0                          # where the processor pushes no error code
    .endif
    .byte 0x6a, number              # push number
    jmp interrupt_common
    .set number, number + 1
    .endr
    .balign 16
    .globl yield_entry
yield_entry:
    push 0
    push 0x80

interrupt_common:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
    sub rsp, 512
    fxsave64 [rsp]
    cld
    mov rdi, rsp
    call interrupt
    fxrstor64 [rsp]
    add rsp, 512
    pop rax
    pop rbx
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    add rsp, 16
    iretq
"#
);

unsafe extern "C" {
    static interrupt_entries: [[u8; 16]; VECTORS];
    static yield_entry: u8;
    static mut boot_gdt: [u64; 5];
}

/// Every interrupt comes through here, on the interrupt stack and with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn interrupt(frame: &mut Frame) {
    match frame.vector {
        TIMER_VECTOR => {
            outb(0x20, 0x20); // end of interrupt
            scheduler::tick(frame);
        }
        YIELD_VECTOR => scheduler::switch(frame),
        vector @ TIMER_VECTOR.. => panic!("interrupt {vector} from nowhere"),
        PAGE_FAULT => {
            let address: u64;
            // SAFETY: reading CR2 changes nothing.
            unsafe {
                asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags))
            }
            panic!(
                "page fault at {:#x} for address {address:#x}, error {:#x}",
                frame.rip, frame.error
            )
        }
        vector => panic!(
            "exception {vector} at {:#x}, error {:#x}",
            frame.rip, frame.error
        ),
    }
}

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

static mut INTERRUPT_STACK: Stack = Stack([0; STACK_BYTES]);
static mut EXCEPTION_STACK: Stack = Stack([0; STACK_BYTES]);

#[repr(C, align(16))]
struct TaskState([u32; 26]);

static mut TASK_STATE: TaskState = TaskState([0; 26]);
static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

/// Sets everything up; interrupts stay off until the first task runs.
pub fn init() {
    // SAFETY: one flow of control, and the tables live for ever.
    unsafe {
        let mut state = [0; 26];
        let stacks = [&raw const INTERRUPT_STACK, &raw const EXCEPTION_STACK];
        for (number, stack) in stacks.iter().enumerate() {
            let top = *stack as u64 + STACK_BYTES as u64;
            state[9 + 2 * number] = top as u32;
            state[10 + 2 * number] = (top >> 32) as u32;
        }
        state[25] = 104 << 16; // no I/O permission bitmap
        TASK_STATE = TaskState(state);
        let base = &raw const TASK_STATE as u64;
        boot_gdt[3] = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        boot_gdt[4] = base >> 32;
        asm!("ltr {:x}", in(reg) 0x18, options(nostack, preserves_flags));

        for vector in 0..VECTORS {
            let entry = &raw const interrupt_entries[vector] as u64;
            IDT[vector] = gate(entry, if (vector as u64) < TIMER_VECTOR { 2 } else { 1 });
        }
        IDT[YIELD_VECTOR as usize] = gate(&raw const yield_entry as u64, 1);
        let pointer: [u16; 5] = {
            let base = &raw const IDT as u64;
            [
                4095,
                base as u16,
                (base >> 16) as u16,
                (base >> 32) as u16,
                (base >> 48) as u16,
            ]
        };
        asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags));
    }
    start_timer();
}

/// An interrupt gate to `entry` on the given stack of the task state segment.
fn gate(entry: u64, stack: u64) -> [u64; 2] {
    [
        entry & 0xffff | 0x08 << 16 | stack << 32 | 0x8e << 40 | (entry >> 16 & 0xffff) << 48,
        entry >> 32,
    ]
}

/// The 8259s at vectors 32 and 40 with only the timer let through, and the timer as a rate generator.
fn start_timer() {
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 32),
        (0xa1, 40),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
    ] {
        outb(port, value);
    }
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    let divisor = (1_193_182 / TIMER_HZ) as u16;
    outb(0x43, 0x34);
    outb(0x40, divisor as u8);
    outb(0x40, (divisor >> 8) as u8);
    // The interrupt that may have been waiting since before is gone once the mask is read back.
    inb(0x21);
}

/// No interrupts from here on.
pub fn disable() {
    // SAFETY: only holds up what would come in.
    unsafe { asm!("cli", options(nomem, nostack)) }
}

/// Runs `body` with interrupts off, and then as they were.
pub fn without<T>(body: impl FnOnce() -> T) -> T {
    let flags: u64;
    // SAFETY: saves and restores the interrupt flag.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) }
    let result = body();
    if flags & 0x200 != 0 {
        // SAFETY: they were on.
        unsafe { asm!("sti") }
    }
    result
}
