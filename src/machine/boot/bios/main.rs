//! The BIOS that Linux's 16-bit setup code calls: 16-bit code of less than 1 KiB, position 0 of its segment.
//!
//! Services: INT 10h teletype (to COM1; there is no screen), 11h, 12h, 15h memory maps (E820h, E801h, 88h) and A20,
//! 16h (no key is ever pressed), 1Ah ticks (always 0). Everything else, disks above all, reports failure. There is no
//! interrupt-driven part: all lines of the 8259s are masked before the kernel starts, and the kernel sets up its own.
//!
//! build.rs makes a flat binary of this; src/machine/boot/bios.rs knows the layout of its first bytes.
#![no_std]
#![no_main]

core::arch::global_asm!(
    r#"
    .section .bios, "ax", @progbits
    .code16
    .byte 1, 0                      # the extended BIOS data area starts with its size in KiB
    .word start, ignore, int10, int11, int12, int13, int15, int16, int1a

    .org 0x20                       # from here filled in by the loader
below_16m:  .word 0                 # KiB between 1 and 16 MiB
above_16m:  .word 0                 # 64 KiB blocks above 16 MiB
above_1m:   .word 0                 # KiB above 1 MiB, at most 65535
ranges:     .word 0                 # number of the ranges that follow
range:      .skip 8 * 20            # address, length, kind

    .org 0xd0
start:
    movb $0x11, %al                 # both 8259s: vectors 8 and 70h as ever
    outb %al, $0x20
    outb %al, $0xa0
    movb $0x08, %al
    outb %al, $0x21
    movb $0x70, %al
    outb %al, $0xa1
    movb $0x04, %al
    outb %al, $0x21
    movb $0x02, %al
    outb %al, $0xa1
    movb $0x01, %al
    outb %al, $0x21
    outb %al, $0xa1
    movb $0xff, %al                 # and all lines masked
    outb %al, $0x21
    outb %al, $0xa1
    ljmp $0x1020, $0                # the setup code, one sector into its segment

fail:                               # returns with the carry flag set
    pushw %bp
    movw %sp, %bp
    orb $1, 6(%bp)
    popw %bp
    iretw

succeed:                            # returns with the carry flag clear
    pushw %bp
    movw %sp, %bp
    andb $0xfe, 6(%bp)
    popw %bp
ignore:
    iretw

int10:
    cmpb $0x0e, %ah
    je teletype
    cmpb $0x0f, %ah
    je get_mode
    cmpb $0x03, %ah
    jne ignore
    movw $0x0607, %cx               # the cursor: its shape, at the top left
    xorw %dx, %dx
    iretw
get_mode:
    movw $0x5003, %ax               # 80 columns, mode 3
    movb $0, %bh
    iretw
teletype:
    pushw %ax
    pushw %dx
    movw $0x3fd, %dx
    movb %al, %ah
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movw $0x3f8, %dx
    outb %al, %dx
    popw %dx
    popw %ax
    iretw

int11:
    movw $0x0200, %ax               # equipment: one serial port
    iretw

int12:
    movw $639, %ax                  # KiB of conventional memory
    iretw

int13:
    movb $1, %ah                    # invalid function: there are no disks
    jmp fail

int15:
    cmpw $0xe820, %ax
    je memory_map
    cmpw $0xe801, %ax
    je memory_sizes
    cmpb $0x88, %ah
    je memory_size
    cmpw $0x2401, %ax               # A20 is on and stays on
    je a20
    movb $0x86, %ah                 # not supported
    jmp fail
a20:
    movb $0, %ah
    jmp succeed
memory_size:
    movw %cs:above_1m, %ax
    jmp succeed
memory_sizes:
    movw %cs:below_16m, %ax
    movw %cs:above_16m, %bx
    movw %ax, %cx
    movw %bx, %dx
    jmp succeed
memory_map:
    cmpl $0x534d4150, %edx          # "SMAP"
    jne no_map
    cmpl $20, %ecx
    jb no_map
    cmpw %cs:ranges, %bx
    jae no_map
    pushw %ds
    pushw %si
    pushw %di
    imulw $20, %bx, %si
    addw $range, %si
    pushw %cs
    popw %ds
    movw $10, %cx
    cld
    rep movsw
    popw %di
    popw %si
    popw %ds
    incw %bx
    cmpw %cs:ranges, %bx
    jb 1f
    xorw %bx, %bx                   # this was the last one
1:  movzwl %bx, %ebx
    movl $20, %ecx
    movl $0x534d4150, %eax
    jmp succeed
no_map:
    movb $0x86, %ah
    jmp fail

int16:
    cmpb $0x01, %ah
    je no_key
    cmpb $0x11, %ah
    je no_key
    xorw %ax, %ax                   # no key, no shift state
    iretw
no_key:
    pushw %bp
    movw %sp, %bp
    orb $0x40, 6(%bp)               # the zero flag
    popw %bp
    iretw

int1a:
    cmpb $0, %ah
    jne 1f
    xorw %cx, %cx                   # ticks since midnight
    xorw %dx, %dx
    xorw %ax, %ax
    iretw
1:  movb $0x81, %ah                 # no clock, no PCI BIOS
    jmp fail
"#,
    options(att_syntax)
);

/// Never called: a program of assembly does not panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
