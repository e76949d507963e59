//! The host's processor: runs a few instructions of any kind in this very process, and comes back whatever they do.
//!
//! The code under test owns all registers, the stack pointer and FS included, so that nothing of the host's may be
//! touched before they are put back: the way in and out is assembly that finds everything at fixed addresses, and
//! the signal handler writes to that same page, uses no thread-local data and calls nothing. After a fault the
//! handler redirects the interrupted context to the way out.
//!
//! This is the only file of the test with `unsafe` in it.

use crate::case::{Case, End, Outcome, Registers, VectorState, Window, XSAVE_BYTES};
use crate::layout::{self, CODE, CODE_BYTES, CONTEXT, EXIT_POINTERS, EXITS, PAGE};
use crate::segments;
use std::arch::global_asm;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

/// The page at `CONTEXT`.
#[repr(C, align(64))]
struct Context {
    input: Registers,
    output: Registers,
    /// A far pointer: offset and selector.
    start: [u32; 2],
    exit: u64,
    host_rsp: u64,
    host_fs_base: u64,
    host_gs_base: u64,
    /// Whether the code under test runs: a signal at any other time is a bug of the test.
    running: u64,
    faulted: u64,
    trap: u64,
    code: u64,
    cr2: u64,
    rip: u64,
    /// Cases begun, and how many there were at the last alarm.
    runs: u64,
    runs_at_alarm: u64,
}

const _: () = assert!(size_of::<Context>() <= PAGE);

const INPUT: u64 = CONTEXT + offset_of!(Context, input) as u64;
const OUTPUT: u64 = CONTEXT + offset_of!(Context, output) as u64;

global_asm!(
    ".globl silicon_enter",
    "silicon_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "pushfq",
    "mov qword ptr ds:[{host_rsp}], rsp",
    "rdfsbase rax",
    "mov qword ptr ds:[{host_fs}], rax",
    "rdgsbase rax",
    "mov qword ptr ds:[{host_gs}], rax",
    "mov qword ptr ds:[{running}], 1",
    "mov eax, 7",
    "xor edx, edx",
    "xrstor64 ds:[{input} + {vector}]",
    "mov rax, qword ptr ds:[{input} + {selectors} + 0]",
    "mov es, eax",
    "mov rax, qword ptr ds:[{input} + {selectors} + 8]",
    "mov ss, eax",
    "mov rax, qword ptr ds:[{input} + {selectors} + 16]",
    "mov ds, eax",
    "mov rax, qword ptr ds:[{input} + {selectors} + 24]",
    "mov fs, eax",
    "mov rax, qword ptr ds:[{input} + {selectors} + 32]",
    "mov gs, eax",
    "mov rax, qword ptr ds:[{input} + {fs}]",
    "wrfsbase rax",
    "mov rax, qword ptr ds:[{input} + {gs}]",
    "wrgsbase rax",
    "lea rsp, ds:[{input} + {rflags}]",
    "popfq",
    "mov rax, qword ptr ds:[{input} + 0x00]",
    "mov rcx, qword ptr ds:[{input} + 0x08]",
    "mov rdx, qword ptr ds:[{input} + 0x10]",
    "mov rbx, qword ptr ds:[{input} + 0x18]",
    "mov rsp, qword ptr ds:[{input} + 0x20]",
    "mov rbp, qword ptr ds:[{input} + 0x28]",
    "mov rsi, qword ptr ds:[{input} + 0x30]",
    "mov rdi, qword ptr ds:[{input} + 0x38]",
    "mov r8,  qword ptr ds:[{input} + 0x40]",
    "mov r9,  qword ptr ds:[{input} + 0x48]",
    "mov r10, qword ptr ds:[{input} + 0x50]",
    "mov r11, qword ptr ds:[{input} + 0x58]",
    "mov r12, qword ptr ds:[{input} + 0x60]",
    "mov r13, qword ptr ds:[{input} + 0x68]",
    "mov r14, qword ptr ds:[{input} + 0x70]",
    "mov r15, qword ptr ds:[{input} + 0x78]",
    "jmp fword ptr ds:[{start}]",
    ".globl silicon_exit0",
    "silicon_exit0:",
    "mov qword ptr ds:[{exit}], 0",
    "jmp 2f",
    ".globl silicon_exit1",
    "silicon_exit1:",
    "mov qword ptr ds:[{exit}], 1",
    "2:",
    "mov qword ptr ds:[{output} + 0x00], rax",
    "mov qword ptr ds:[{output} + 0x08], rcx",
    "mov qword ptr ds:[{output} + 0x10], rdx",
    "mov qword ptr ds:[{output} + 0x18], rbx",
    "mov qword ptr ds:[{output} + 0x20], rsp",
    "mov qword ptr ds:[{output} + 0x28], rbp",
    "mov qword ptr ds:[{output} + 0x30], rsi",
    "mov qword ptr ds:[{output} + 0x38], rdi",
    "mov qword ptr ds:[{output} + 0x40], r8",
    "mov qword ptr ds:[{output} + 0x48], r9",
    "mov qword ptr ds:[{output} + 0x50], r10",
    "mov qword ptr ds:[{output} + 0x58], r11",
    "mov qword ptr ds:[{output} + 0x60], r12",
    "mov qword ptr ds:[{output} + 0x68], r13",
    "mov qword ptr ds:[{output} + 0x70], r14",
    "mov qword ptr ds:[{output} + 0x78], r15",
    "lea rsp, ds:[{output} + {rflags} + 8]",
    "pushfq",
    "mov rsp, qword ptr ds:[{host_rsp}]",
    "push 2",
    "popfq",
    "mov eax, 7",
    "xor edx, edx",
    "xsave64 ds:[{output} + {vector}]",
    "rdfsbase rax",
    "mov qword ptr ds:[{output} + {fs}], rax",
    "rdgsbase rax",
    "mov qword ptr ds:[{output} + {gs}], rax",
    "mov eax, es",
    "mov qword ptr ds:[{output} + {selectors} + 0], rax",
    "mov eax, ss",
    "mov qword ptr ds:[{output} + {selectors} + 8], rax",
    "mov eax, ds",
    "mov qword ptr ds:[{output} + {selectors} + 16], rax",
    "mov eax, fs",
    "mov qword ptr ds:[{output} + {selectors} + 24], rax",
    "mov eax, gs",
    "mov qword ptr ds:[{output} + {selectors} + 32], rax",
    ".globl silicon_back",
    "silicon_back:",
    "mov eax, {flat}",
    "mov ss, eax",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rsp, qword ptr ds:[{host_rsp}]",
    "mov rax, qword ptr ds:[{host_fs}]",
    "wrfsbase rax",
    "mov rax, qword ptr ds:[{host_gs}]",
    "wrgsbase rax",
    "fninit",
    "push 0x1f80",
    "ldmxcsr dword ptr [rsp]",
    "pop rax",
    "vzeroupper",
    "mov qword ptr ds:[{running}], 0",
    "popfq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    input = const INPUT,
    output = const OUTPUT,
    rflags = const offset_of!(Registers, rflags),
    fs = const offset_of!(Registers, fs_base),
    gs = const offset_of!(Registers, gs_base),
    vector = const offset_of!(Registers, vector),
    selectors = const offset_of!(Registers, selectors),
    flat = const segments::FLAT,
    start = const CONTEXT + offset_of!(Context, start) as u64,
    exit = const CONTEXT + offset_of!(Context, exit) as u64,
    host_rsp = const CONTEXT + offset_of!(Context, host_rsp) as u64,
    host_fs = const CONTEXT + offset_of!(Context, host_fs_base) as u64,
    host_gs = const CONTEXT + offset_of!(Context, host_gs_base) as u64,
    running = const CONTEXT + offset_of!(Context, running) as u64,
);

unsafe extern "C" {
    fn silicon_enter();
    fn silicon_exit0();
    fn silicon_exit1();
    fn silicon_back();
}

const SIGNALS: [libc::c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGALRM,
];

/// A case that runs for longer than this, or at most twice this, is stuck.
const STUCK: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 300_000_000,
};

/// Order of the general registers in a signal frame, by their encoding.
const FRAME_ORDER: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

fn segment_base(fs: bool) -> u64 {
    let base: u64;
    // SAFETY: only reads a register; `Native::new` has checked that the kernel permits it.
    unsafe {
        if fs {
            std::arch::asm!("rdfsbase {}", out(reg) base, options(nomem, nostack));
        } else {
            std::arch::asm!("rdgsbase {}", out(reg) base, options(nomem, nostack));
        }
    }
    base
}

/// ES, DS, FS, GS.
fn selectors() -> [u64; 4] {
    let (es, ds, fs, gs): (u64, u64, u64, u64);
    // SAFETY: only reads registers.
    unsafe {
        std::arch::asm!(
            "mov {0:e}, es",
            "mov {1:e}, ds",
            "mov {2:e}, fs",
            "mov {3:e}, gs",
            out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags)
        );
    }
    [es, ds, fs, gs]
}

extern "C" fn on_signal(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid frame; `CONTEXT` was mapped before the handler was installed, and the
    // thread that runs the code under test is the one interrupted, so that nobody else uses it.
    unsafe {
        let frame = &mut *context.cast::<libc::ucontext_t>();
        let shared = &mut *(CONTEXT as *mut Context);
        let registers = &mut frame.uc_mcontext.gregs;
        if signal == libc::SIGALRM {
            let stuck = shared.running == 1 && shared.runs == shared.runs_at_alarm;
            shared.runs_at_alarm = shared.runs;
            if !stuck {
                return;
            }
        } else if shared.running != 1 {
            // Not ours: die of it in the usual way when the instruction runs again.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        shared.running = 2;
        let mut n = 0;
        while n < 16 {
            shared.output.gpr[n] = registers[FRAME_ORDER[n] as usize] as u64;
            n += 1;
        }
        shared.output.rflags = registers[libc::REG_EFL as usize] as u64;
        shared.output.fs_base = segment_base(true);
        shared.output.gs_base = segment_base(false);
        // CS, and in the uppermost word SS.
        let code_and_stack = &mut registers[libc::REG_CSGSFS as usize];
        let [es, ds, fs, gs] = selectors();
        shared.output.selectors = [es, *code_and_stack as u64 >> 48, ds, fs, gs];
        *code_and_stack = segments::CODE_64 as i64 | (segments::FLAT as i64) << 48;
        ptr::copy_nonoverlapping(
            frame.uc_mcontext.fpregs.cast::<u8>(),
            shared.output.vector.0.as_mut_ptr(),
            XSAVE_BYTES,
        );
        shared.faulted = 1 + (signal == libc::SIGALRM) as u64;
        shared.trap = registers[libc::REG_TRAPNO as usize] as u64;
        shared.code = registers[libc::REG_ERR as usize] as u64;
        shared.cr2 = registers[libc::REG_CR2 as usize] as u64;
        shared.rip = registers[libc::REG_RIP as usize] as u64;
        registers[libc::REG_RIP as usize] = silicon_back as *const () as i64;
        registers[libc::REG_EFL as usize] = 0x202;
    }
}

/// Maps pages at an address where nothing may be yet.
fn map(address: u64, bytes: usize, protection: libc::c_int) -> Result<(), String> {
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
    let got = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            bytes,
            protection,
            libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_FIXED_NOREPLACE
                | libc::MAP_POPULATE,
            -1,
            0,
        )
    };
    if got as u64 == address {
        return Ok(());
    }
    Err(format!(
        "cannot map {bytes:#x} bytes at {address:#x}: {}",
        std::io::Error::last_os_error()
    ))
}

/// What `modify_ldt` takes (Linux, asm/ldt.h).
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

/// Makes the LDT of this process. The 32-bit code segment of Linux is tried, too.
fn install_segments() -> Result<(), String> {
    for (entry, segment) in (0..).zip(&segments::LDT) {
        let request = UserDesc {
            entry,
            base: segment.base as u32,
            limit: segment.limit,
            flags: segment.wide as u32
                | segment.contents << 1
                | (!segment.more as u32) << 3
                | (segment.pages as u32) << 4
                | (!segment.present as u32) << 5,
        };
        // SAFETY: the kernel reads the structure, and segments for user mode that nothing has loaded yet change.
        let failed = unsafe {
            libc::syscall(libc::SYS_modify_ldt, 1, &request, size_of::<UserDesc>()) as i32 != 0
        };
        if failed {
            let why = std::io::Error::last_os_error();
            return Err(format!("the host's kernel permits no LDT: {why}"));
        }
    }
    let mut there = 0u8;
    // SAFETY: only asks whether the selector can be loaded.
    unsafe {
        std::arch::asm!(
            "verr {0:x}", "setz {1}",
            in(reg) segments::CODE_32 as u32, inout(reg_byte) there, options(nomem, nostack)
        );
    }
    if there == 0 {
        return Err("the host's kernel has no 32-bit user code".to_string());
    }
    Ok(())
}

fn protect(address: u64, protection: libc::c_int) {
    // SAFETY: only called for pages that `Native::new` has mapped.
    let failed = unsafe { libc::mprotect(address as *mut libc::c_void, PAGE, protection) };
    assert_eq!(failed, 0, "mprotect: {}", std::io::Error::last_os_error());
}

/// The host's processor. One at a time: it owns fixed addresses and the signal handlers of the process.
pub struct Native {
    alternate: Vec<u8>,
    timer: libc::timer_t,
    /// Why the host cannot have the segments of the LDT, if it cannot.
    pub no_segments: Option<String>,
}

impl Native {
    /// Maps everything and installs the handlers for the calling thread, which must stay the only user.
    pub fn new() -> Result<Native, String> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a query without side effects. Bit 1 of HWCAP2: RDFSBASE and its kin are permitted.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 == 0 {
            return Err("the host's kernel does not permit WRFSBASE".to_string());
        }
        if !std::is_x86_feature_detected!("avx") {
            return Err("the host has no AVX state to save".to_string());
        }
        map(CODE, CODE_BYTES, writable | libc::PROT_EXEC)?;
        map(EXIT_POINTERS, PAGE, writable)?;
        map(EXITS, PAGE, writable | libc::PROT_EXEC)?;
        map(CONTEXT, PAGE, writable)?;
        for (page, _) in layout::present() {
            map(page, PAGE, writable)?;
        }
        let exits = [
            silicon_exit0 as *const () as u64,
            silicon_exit1 as *const () as u64,
        ];
        // SAFETY: the pages were just mapped.
        unsafe {
            ptr::write(EXIT_POINTERS as *mut [u64; 2], exits);
            ptr::write_bytes(EXITS as *mut u8, 0xcc, PAGE);
            for n in 0..2 {
                let code = layout::leave(64, n);
                let at = EXITS + 16 * n;
                ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len());
                let far = at | (segments::CODE_64 as u64) << 32;
                ptr::write((layout::FAR_POINTERS + 8 * n) as *mut u64, far);
            }
            ptr::write_bytes(CODE as *mut u8, 0xcc, CODE_BYTES);
        }
        protect(EXIT_POINTERS, libc::PROT_READ);
        let mut native = Native {
            alternate: vec![0; 1 << 16],
            timer: ptr::null_mut(),
            no_segments: install_segments().err(),
        };
        native.install_handlers()?;
        Ok(native)
    }

    fn install_handlers(&mut self) -> Result<(), String> {
        let stack = libc::stack_t {
            ss_sp: self.alternate.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: self.alternate.len(),
        };
        // SAFETY: the stack lives as long as `self`, whose `drop` takes it away again; the handler keeps the
        // rules that the head of this file states.
        unsafe {
            if libc::sigaltstack(&stack, ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error().to_string());
            }
            for signal in SIGNALS {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags =
                    libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
                if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
                    return Err(std::io::Error::last_os_error().to_string());
                }
            }
            // Alarms for this very thread: it is the one that may get stuck.
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut self.timer) != 0 {
                return Err(std::io::Error::last_os_error().to_string());
            }
            let period = libc::itimerspec {
                it_interval: STUCK,
                it_value: STUCK,
            };
            libc::timer_settime(self.timer, 0, &period, ptr::null_mut());
        }
        Ok(())
    }

    fn context(&mut self) -> &mut Context {
        // SAFETY: mapped in `new`, plain data, and borrowed only through `&mut self`.
        unsafe { &mut *(CONTEXT as *mut Context) }
    }

    /// Sets the content of the window. Gives back what must stay the same: the read-only page.
    pub fn fill(&mut self, window: &Window, read_only_too: bool) {
        for ((page, writable), bytes) in layout::present().zip(window) {
            if !writable {
                if !read_only_too {
                    continue;
                }
                protect(page, libc::PROT_READ | libc::PROT_WRITE);
            }
            // SAFETY: the page was mapped in `new` and is writable now.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), page as *mut u8, PAGE) };
            if !writable {
                protect(page, libc::PROT_READ);
            }
        }
    }

    /// Places bytes into the window's writable pages or the code pages; others are left alone.
    pub fn poke(&mut self, address: u64, bytes: &[u8]) {
        for (at, &byte) in (address..).zip(bytes) {
            if self.writable(at) {
                // SAFETY: just checked to lie on a page that `new` has mapped for writing.
                unsafe { ptr::write(at as *mut u8, byte) };
            }
        }
    }

    fn writable(&self, address: u64) -> bool {
        let code = (CODE..CODE + CODE_BYTES as u64).contains(&address);
        let page = address & !(PAGE as u64 - 1);
        code || layout::present().any(|(at, writable)| writable && at == page)
    }

    /// The bytes of a page of the window or the code.
    pub fn page(&self, address: u64) -> &[u8; PAGE] {
        let known = (CODE..CODE + CODE_BYTES as u64).contains(&address)
            || layout::present().any(|(at, _)| at == address);
        assert!(known && address.is_multiple_of(PAGE as u64));
        // SAFETY: mapped in `new`, and nobody writes while `&self` is held.
        unsafe { &*(address as *const [u8; PAGE]) }
    }

    /// Runs what lies in the code pages.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let context = self.context();
        context.input = case.input;
        context.output.vector = VectorState([0; XSAVE_BYTES]);
        let code = segments::code(case.bits) as u32;
        context.start = [case.pointer(case.start) as u32, code];
        context.faulted = 0;
        context.runs += 1;
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the assembly puts back every register that the convention wants kept; what the code under test
        // can reach is the window, the code pages and unmapped addresses, by how cases are made.
        unsafe { silicon_enter() };
        compiler_fence(Ordering::SeqCst);
        let context = self.context();
        let end = if context.faulted == 2 {
            End::Lost(context.rip)
        } else if context.faulted != 0 {
            let vector = context.trap as u8;
            End::Fault {
                vector,
                code: context.code,
                cr2: if vector == 14 { context.cr2 } else { 0 },
                rip: context.rip,
            }
        } else {
            End::Exit(context.exit)
        };
        Outcome {
            end,
            registers: context.output,
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: takes back what `new` has set up; nothing refers to it any more.
        unsafe {
            libc::timer_delete(self.timer);
            for signal in SIGNALS {
                libc::signal(signal, libc::SIG_DFL);
            }
            let off = libc::stack_t {
                ss_sp: ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: 0,
            };
            libc::sigaltstack(&off, ptr::null_mut());
            libc::munmap(CODE as *mut libc::c_void, CODE_BYTES);
            libc::munmap(EXIT_POINTERS as *mut libc::c_void, PAGE);
            libc::munmap(EXITS as *mut libc::c_void, PAGE);
            libc::munmap(CONTEXT as *mut libc::c_void, PAGE);
            for (page, _) in layout::present() {
                libc::munmap(page as *mut libc::c_void, PAGE);
            }
        }
    }
}
