# A timer interrupt every millisecond through the 8259 and the 8254, 100 of them, counted by the handler while the
# main loop halts between them; then exit status 9.
    .globl main
    .type main, @function
main:
    lgdt gdt_pointer
    ljmp $8, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $tick, %eax
    movw %ax, idt + 32 * 8
    movw $8, idt + 32 * 8 + 2
    movw $0x8e00, idt + 32 * 8 + 4
    shrl $16, %eax
    movw %ax, idt + 32 * 8 + 6
    lidt idt_pointer

    movb $0x11, %al                 # the 8259 at vector 32, only line 0 let through
    outb %al, $0x20
    movb $32, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0x34, %al                 # the 8254: mode 2, 1193 counts
    outb %al, $0x43
    movb $0xa9, %al
    outb %al, $0x40
    movb $0x04, %al
    outb %al, $0x40

2:  sti
    hlt
    cli
    cmpl $100, ticks
    jb 2b
    print "100 ticks\n"
    exit 4
    .size main, . - main

    .globl tick
    .type tick, @function
tick:
    pushl %eax
    incl ticks
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    iretl
    .size tick, . - tick

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .balign 4
idt_pointer:
    .word 33 * 8 - 1
    .long idt

    .bss
    .balign 8
idt:
    .skip 33 * 8
    .globl ticks
    .type ticks, @object
    .size ticks, 4
ticks:
    .skip 4
