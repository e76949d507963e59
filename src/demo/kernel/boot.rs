//! From the PVH entry (32-bit, no paging) to long mode, and what the loader tells the kernel.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                  # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

    .section .text.boot, "ax", @progbits
    .code32
    .globl pvh_start
pvh_start:
    cli
    cld
    movl $boot_stack_top, %esp
    movl $page_directory_pointers + 3, page_map
    movl $page_directory + 3, page_directory_pointers
    xorl %ecx, %ecx
    movl $0x83, %eax                # present, writable, 2 MiB
1:  movl %eax, page_directory(, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $512, %ecx
    jne 1b
    movl $page_map, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    wrmsr
    movl %cr0, %eax
    andl $~0xc, %eax                # not EM, not TS
    orl $0x80010003, %eax           # PG, WP, MP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $0x08, $long_start

    .code64
long_start:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $boot_stack_top, %esp
    xorl %ebp, %ebp
    movl %ebx, %edi                 # hvm_start_info
    call kernel_main
    ud2

    .section .data.boot, "aw", @progbits
    .balign 8
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08: 64-bit code
    .quad 0x00cf93000000ffff        # 0x10: data
    .quad 0, 0                      # 0x18: the task state segment, filled in later
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .globl page_directory
page_map:                .skip 4096
page_directory_pointers: .skip 4096
page_directory:          .skip 4096
boot_stack:              .skip 16384
boot_stack_top:
"#,
    options(att_syntax)
);

/// hvm_start_info of the PVH boot protocol.
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// One line of the memory map.
#[repr(C)]
struct MemoryRange {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

/// Bytes of RAM that the loader says may be used.
pub fn usable_bytes(info: &StartInfo) -> u64 {
    assert_eq!(info.magic, 0x336e_c578, "not started by PVH");
    let map = info.memory_map as *const MemoryRange;
    // SAFETY: the loader's map lies in the identity-mapped first GiB.
    let map = unsafe { core::slice::from_raw_parts(map, info.memory_map_entries as usize) };
    map.iter()
        .filter(|range| range.kind == 1)
        .map(|range| range.len)
        .sum()
}
