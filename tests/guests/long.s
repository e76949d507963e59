# What guests in long mode share. A guest that wants it has `enter_long_mode` at `main` (64-bit code follows, at CPL 0),
# `start_timer`, `enter_ring`, `gate_to`, `mix` where it needs them, and `long_mode_support` once, at its end.
    .equ KERNEL_CODE, 0x10          # as Linux has them
    .equ KERNEL_DATA, 0x18
    .equ USER_DATA, 0x2b
    .equ USER_CODE, 0x33
    .equ TASK, 0x40
    .equ DEMAND, 0x800000           # 8 to 10 MiB: pages of 4 KiB that are not there; `demand_table` is theirs
    .equ ALIAS, 0x40000000          # from here the same 16 MiB again

    # From 32-bit code to 64-bit code: pages for both rings, the descriptors, a stack, a task with a stack for CPL 0.
    .macro enter_long_mode
    movl $pdpt + 7, pml4
    movl $pd + 7, pdpt
    movl $pd + 7, pdpt + 8
    movl $0, %ecx                   # 16 MiB by pages of 2 MiB
1:  movl %ecx, %eax
    shll $21, %eax
    orl $0x87, %eax
    movl %eax, pd(, %ecx, 8)
    incl %ecx
    cmpl $8, %ecx
    jb 1b
    movl $demand_table + 7, pd + 8 * 4
    movl $0x20, %eax                # PAE
    orl $0x600, %eax                # OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010022, %eax           # PG, WP, NE, MP
    andl $~0xc, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $KERNEL_CODE, $2f

    .code64
2:  movl $KERNEL_DATA, %eax
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl $kernel_stack, %esp
    fninit
    movl $tss, %eax                 # the task's descriptor has a base of 64 bits
    movw %ax, gdt + TASK + 2
    shrl $16, %eax
    movb %al, gdt + TASK + 4
    movb %ah, gdt + TASK + 7
    movl $kernel_stack, tss + 4
    movw $104, tss + 102            # all ports up to 7FFF are for everybody
    movl $TASK, %eax
    ltr %ax
    lidt idt_pointer
    .endm

    # Sends a vector to a handler; from ring 3 as well.
    .macro gate_to vector, handler
    movl $\vector, %edi
    movl $\handler, %esi
    call gate
    .endm

    # The 8259 at vector 32 with line 0 alone, and the 8254 with an interrupt every so many of its counts.
    .macro start_timer counts
    movb $0x11, %al
    outb %al, $0x20
    movb $32, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0x34, %al                 # mode 2
    outb %al, $0x43
    movl \counts, %eax
    outb %al, $0x40
    movb %ah, %al
    outb %al, $0x40
    .endm

    # To a place in ring 0 or 3, with interrupts on.
    .macro enter_ring code, data, flags, to
    pushq $\data
    pushq $user_stack
    pushq $\flags
    pushq $\code
    pushq \to
    iretq
    .endm

    # EAX into the sum.
    .macro mix
    roll $5, sum
    xorl %eax, sum
    .endm

    .macro long_mode_support
gate:                               # vector EDI to ESI
    shll $4, %edi
    movw %si, idt(%rdi)
    movw $KERNEL_CODE, idt + 2(%rdi)
    movw $0xee00, idt + 4(%rdi)
    shrl $16, %esi
    movw %si, idt + 6(%rdi)
    ret

print_sum:                          # in hex, to COM1
    movl $8, %ecx
2:  roll $4, sum
    movl sum, %eax
    andl $15, %eax
    movb digits(%rax), %bl
    movl $0x3fd, %edx
3:  inb %dx, %al
    testb $0x20, %al
    jz 3b
    movb %bl, %al
    movl $0x3f8, %edx
    outb %al, %dx
    loop 2b
    ret

    .section .rodata
digits:
    .ascii "0123456789abcdef"

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0
    .quad 0x0000890000001068
    .quad 0
gdt_pointer:
    .word 79
    .long gdt
    .balign 8
idt_pointer:
    .word 4095
    .quad idt

    .bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4096
demand_table:
    .skip 4096
idt:
    .skip 4096
tss:
    .skip 8192
    .skip 4096
kernel_stack:
    .skip 4096
user_stack:
    .skip 64
    .globl ticks, counter, sum
ticks:
    .skip 8
counter:
    .skip 8
sum:
    .skip 8
    .endm
