//! Page tables beyond those of the boot code, and the memory functions that the compiler calls.

use core::arch::asm;
use core::cell::UnsafeCell;

#[repr(C, align(4096))]
struct PageTable(UnsafeCell<[u64; 512]>);

// SAFETY: written once, before there are tasks.
unsafe impl Sync for PageTable {}

static FIRST_2_MIB: PageTable = PageTable(UnsafeCell::new([0; 512]));

unsafe extern "C" {
    static mut page_directory: [u64; 512];
}

/// Maps the first 2 MiB by 4 KiB pages without the first one, so that a null pointer faults.
pub fn unmap_null_page() {
    // SAFETY: still one flow of control; the mapping of all that is in use stays the same.
    unsafe {
        let table = &mut *FIRST_2_MIB.0.get();
        for (page, entry) in table.iter_mut().enumerate().skip(1) {
            *entry = (page as u64) << 12 | 3;
        }
        (&raw mut page_directory)
            .cast::<u64>()
            .write(FIRST_2_MIB.0.get() as u64 | 3);
        asm!("mov {scratch}, cr3", "mov cr3, {scratch}", scratch = out(reg) _, options(nostack, preserves_flags));
    }
}

// The compiler calls these by name. They must not be compiled into calls of themselves: hence the assembly.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
            options(nostack, preserves_flags))
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the caller's promise.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's promise; `to` lies within the source, so that the copy goes downwards.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, inout("rcx") len => _, options(nostack))
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") len => _,
            options(nostack, preserves_flags))
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller's promise.
        let (x, y) = unsafe { (a.add(at).read(), b.add(at).read()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, len) }
}

/// Named by the unwind tables of `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    loop {}
}
